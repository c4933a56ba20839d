#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Measures a boot of the guest kernel from its first instruction to its init's first one, see README.md in this folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "boottime.sh: $*" >&2; exit 1; }

kernel='' cpus=1 boots=15 memory=256 extra=''
while [ $# -gt 0 ]; do
    case $1 in
        --kernel) kernel=${2:?}; shift 2 ;;
        --cpus) cpus=${2:?}; shift 2 ;;
        --boots) boots=${2:?}; shift 2 ;;
        --memory) memory=${2:?}; shift 2 ;;
        --cmdline) extra=${2?}; shift 2 ;;
        *) die "usage: boottime.sh [--kernel FILE] [--cpus N] [--boots N] [--memory MIB] [--cmdline WORDS]" ;;
    esac
done
[ -w /dev/kvm ] || die "/dev/kvm is missing or not writable"
command -v busybox >/dev/null || die "busybox is missing: apt-get install busybox-static"
[ -n "$kernel" ] || kernel=$("$here/build.sh" | tail -1)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gcc -O2 -Wall -Wextra -pthread -o "$work/boottime" "$here/check/boottime.c"
mkdir "$work/root"
gcc -O2 -Wall -Wextra -static -o "$work/root/init" "$here/check/marker.c"
strip "$work/root/init"
(cd "$work/root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
run=("$work/boottime" "$kernel" "$work/initrd" "$cpus" "$memory" "quiet 8250.nr_uarts=0 panic=-1 reboot=t $extra")

for ((i = 0; i < boots; i++)); do timeout 60 "${run[@]}"; done >"$work/lines"
median() { sed "s/.*$1 \([0-9.]*\) ms.*/\1/" "$work/lines" | sort -n | awk '{ v[NR] = $1 } END { printf "median %s, least %s, most %s ms", v[int((NR + 1) / 2)], v[1], v[NR] }'; }
echo "$boots boots, $cpus vCPUs, $memory MiB, kernel entry to init's first store:"
echo "  wall time        $(median wall)"
echo "  processor time   $(median processor) (first vCPU's thread)"
echo "  last boot        $(tail -1 "$work/lines")"
if command -v perf >/dev/null; then
    echo "what KVM did for it (one more boot):"
    perf stat -x ' ' -e kvm:kvm_emulate_insn,kvm:kvm_msr,kvm:kvm_cpuid,kvm:kvm_mmio,kvm:kvm_pio,kvm:kvm_inj_exception,kvm:kvm_inj_virq,kvmmmu:kvm_mmu_set_spte,kvmmmu:kvm_mmu_get_page \
        "${run[@]}" 2>&1 >/dev/null | awk '$2 ~ /^kvm/ { printf "  %-28s %s\n", $2, $1 } $3 ~ /^kvm/ { printf "  %-28s %s\n", $3, $1 }'
fi
