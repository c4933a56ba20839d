#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Boots a guest kernel under QEMU and checks that it does its work right, see README.md in this folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    cat <<USAGE
usage: check.sh [--variant plain|pvm] [--kernel FILE] [--accel kvm|tcg] [--cpus "1 2"] [--seconds N]

  --variant   what to build and boot (default: what this host's /dev/kvm needs)
  --kernel    boot this vmlinux instead of building one
  --accel     tcg boots without KVM, and then runs no stress (plain only)
  --cpus      the vCPU counts to boot with (default "1 2")
  --seconds   how long each stress test runs (default 10)
USAGE
}
die() { echo "check.sh: $*" >&2; exit 1; }
# shellcheck source=guest/kernel/check/lib.sh
. "$here/check/lib.sh"

variant='' kernel='' accel=kvm cpus='1 2' seconds=10
while [ $# -gt 0 ]; do
    case $1 in
        --variant) variant=${2:?}; shift 2 ;;
        --kernel) kernel=${2:?}; shift 2 ;;
        --accel) accel=${2:?}; shift 2 ;;
        --cpus) cpus=${2:?}; shift 2 ;;
        --seconds) seconds=${2:?}; shift 2 ;;
        -h | --help) usage; exit ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done
if [ -z "$variant" ]; then
    if [ -e /sys/module/kvm_pvm ] && [ "$accel" = kvm ]; then variant=pvm; else variant=plain; fi
fi
need_tools
[ "$accel" = tcg ] || [ -w /dev/kvm ] || die "/dev/kvm is missing or not writable: try --accel tcg --variant plain"
[ -n "$kernel" ] || kernel=$("$here/build.sh" --variant "$variant" | tail -1)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_initramfs "$work/root" "$work/initrd"

# boot CPUS TIMEOUT TEST...: boots and lets the guest's init run the tests.
boot() {
    local n=$1 limit=$2 began ended first last log=$work/console
    shift 2
    local -a accelerate=(-M 'microvm,acpi=off,pit=off,pic=off,rtc=off' -accel kvm -cpu "$qemu_cpu")
    # Without KVM's clock the kernel needs the PIT to find out how fast its TSC is.
    [ "$accel" = kvm ] || accelerate=(-M 'microvm,acpi=off' -accel tcg -cpu max)
    began=$EPOCHREALTIME
    timeout "$limit" qemu-system-x86_64 "${accelerate[@]}" \
        -smp "$n" -m 512 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
        -kernel "$kernel" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet reboot=t panic=-1 $*" </dev/null >"$log" 2>&1 || true
    ended=$EPOCHREALTIME
    grep '^check:\|^probe:' "$log" | sed "s/^/  /" || true
    if ! grep -q '^check: done' "$log"; then
        tail -20 "$log"
        die "the guest with $n vCPUs did not come to its end within $limit s ($*)"
    fi
    ! grep -q 'FAIL' "$log" || die "the guest with $n vCPUs failed ($*)"
    grep -q "on $n CPUs" "$log" || die "the guest has not found $n vCPUs"
    # The guest's clock goes as the host's: no second is lost or won between its first line and its last.
    first=$(sed -n 's/.* date \([0-9]*\).*/\1/p' "$log" | head -1)
    last=$(sed -n 's/^check: end date \([0-9]*\).*/\1/p' "$log")
    awk -v b="$began" -v e="$ended" -v f="$first" -v l="$last" 'BEGIN { exit !(f >= int(b) - 1 && l <= e + 1 && l >= f) }' ||
        die "the guest's clock is wrong: $first to $last, host $began to $ended"
}

s=$seconds
for n in $cpus; do
    echo "$variant kernel, $accel, $n vCPUs:"
    if [ "$accel" = tcg ]; then
        boot "$n" 300 features=1 probe.privileged=1 probe.cpus=1
    else
        boot "$n" $((120 + s * 40)) features=1 probe.privileged=1 probe.returns=1 probe.cpus=1 \
            probe.vectors="$s" probe.timers="$s" probe.wakeups="$s" probe.mappings="$s" probe.forks="$s" \
            shells="$s" workers="$s"
    fi
done
echo "all checks passed"
