#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Loads a guest with everything that a virtual machine can get wrong, for minutes, see README.md in this folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    cat <<USAGE
usage: stress.sh [--minutes N] [--cpus N] [--variant plain|pvm] [--kernel FILE]

Boots the guest kernel under QEMU with KVM and runs in it, all at the same time: vector registers, periodic timers, wakeups
of idle CPUs, page table changes, forks, shells, OpenSSL, Perl, disk reads and writes. Each checks its own results, and
the guest's clock is compared with the host's once a second. It uses all CPUs that it may, at nice 10.
  --minutes   how long (default 10)
  --cpus      vCPUs of the guest (default 2)
  --variant   what to build and boot (default: what this host's /dev/kvm needs)
  --kernel    boot this vmlinux instead of building one
USAGE
}
die() { echo "stress.sh: $*" >&2; exit 1; }
# shellcheck source=guest/kernel/check/lib.sh
. "$here/check/lib.sh"

minutes=10 cpus=2 variant=auto kernel=''
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?}; shift 2 ;;
        --cpus) cpus=${2:?}; shift 2 ;;
        --variant) variant=${2:?}; shift 2 ;;
        --kernel) kernel=${2:?}; shift 2 ;;
        -h | --help) usage; exit ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done
need_tools
[ -w /dev/kvm ] || die "/dev/kvm is missing or not writable"
[ -n "$kernel" ] || kernel=$("$here/build.sh" --variant "$variant" | tail -1)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make_initramfs "$work/root" "$work/initrd"
openssl enc -aes-128-ctr -pass pass:rkvm -nosalt -pbkdf2 -in /dev/zero 2>/dev/null | head -c 33554432 >"$work/disk" || true
seconds=$((minutes * 60))

# The guest's ticks come through the virtio console, each noted with the time at which it arrived.
timeout $((seconds * 2 + 120)) nice -n 10 qemu-system-x86_64 \
    -M 'microvm,acpi=off,pit=off,pic=off,rtc=off' -accel kvm -cpu "$qemu_cpu" \
    -smp "$cpus" -m 512 -nodefaults -no-user-config -display none -no-reboot -serial "file:$work/console" \
    -chardev stdio,id=ticks,signal=off -device virtio-serial-device -device virtconsole,chardev=ticks \
    -drive "id=disk,file=$work/disk,format=raw,if=none,cache=none,aio=threads" -device virtio-blk-device,drive=disk \
    -kernel "$kernel" -initrd "$work/initrd" \
    -append "console=ttyS0 quiet reboot=t panic=-1 stress=$seconds" </dev/null 2>"$work/errors" |
    while IFS=$' \t\r' read -r word time uptime; do
        [ "$word" != tick ] || echo "$EPOCHREALTIME $time $uptime"
    done >"$work/ticks" || true

grep '^check:\|^probe:' "$work/console" | tr -d '\r' | sed 's/^/  /' || true
if ! grep -q '^check: done' "$work/console"; then
    tail -20 "$work/console" "$work/errors"
    die "the guest did not come to its end"
fi
! grep -q FAIL "$work/console" || die "a check in the guest failed, see above"
grep -q "on $cpus CPUs" "$work/console" || die "the guest has not found $cpus vCPUs"
# The guest's time is never ahead of the host's. How far it is behind depends on how long a guest with so much to do takes to
# print it, so the least in each half counts: they are small, and the same. The uptime has gone on as the host's clock has.
awk -v seconds="$seconds" '
    { half = NR == 1 || $1 - first < seconds / 2 ? 1 : 2; if (NR == 1) first = $1
      late = $1 - $2; behind = $1 - first - $3
      if (!(half in least) || late < least[half]) least[half] = late
      if (!(half in slow) || behind < slow[half]) slow[half] = behind
      if (NR > 1 && $1 - last > gap) gap = $1 - last
      last = $1 }
    END {
        drift = slow[2] - slow[1]
        printf "  %d ticks, longest gap %.1f s; guest behind host by at least %.2f s, then %.2f s; drift of the uptime %.2f s\n", NR, gap, least[1], least[2], drift
        exit !(NR >= seconds / 20 && gap < 60 && least[1] > -0.1 && least[2] > -0.1 && least[1] < 4 && least[2] < 4 && drift < 2 && drift > -2)
    }' "$work/ticks" || die "the guest's clock or timers are wrong: see the line above"
echo "no fault in $minutes minutes on $cpus vCPUs"
