#!/usr/bin/env bash
# Boots of our VMM and of QEMU's microvm, interleaved, with the same kernel and initramfs. Arguments go to the
# benchmark; `--help` lists them. Without any, disk and network follow (dev/vm-io.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

[ -w /dev/kvm ] || die "/dev/kvm is missing or not writable: no virtual machine can run here"
need_packages "${BUILD_PACKAGES[@]}" qemu-system-x86
need_cargo
guest/kernel/build.sh >/dev/null
# Options choose what is booted: then this is not the whole.
[ $# -eq 0 ] || exec cargo bench --quiet -p rkvm-vmm --bench boot -- "$@"
quick=()
[ -z "${RKVM_BENCH_QUICK:-}" ] || quick=(--boots 5)
cargo bench --quiet -p rkvm-vmm --bench boot -- "${quick[@]}" | tee "$(log_file bench-vm)"
[ -n "${RKVM_BENCH_QUICK:-}" ] || dev/vm-io.sh | tee -a "$(log_file bench-vm)"
bench_text "A microVM beside QEMU's: boots, disk and network" bench-vm | write_bench_section vm
