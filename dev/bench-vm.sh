#!/usr/bin/env bash
# Boots of our VMM and of QEMU's microvm, interleaved, with the same kernel and initramfs. Arguments go to the
# benchmark; `--help` lists them. Without any, a whole `rkvm run` is measured in between, and disk and network follow (dev/vm-io.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

[ -w /dev/kvm ] || die "/dev/kvm is missing or not writable: no virtual machine can run here"
need_packages "${BUILD_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}" "${DEMO_PACKAGES[@]}" qemu-system-x86 busybox-static
need_cargo
guest/kernel/build.sh >/dev/null
# Options choose what is booted: then this is not the whole.
[ $# -eq 0 ] || exec cargo bench --quiet -p rkvm-vmm --bench boot -- "$@"
need_root "a whole start"
dev/images.sh busybox
dev/guest.sh
cargo build --quiet --release --workspace --bins
rkvm=$(bin_dir)/rkvm
RKVM_ROOT=$(mktemp -d /tmp/rkvmb.XXXXXX)
export RKVM_ROOT
trap '"$rkvm" system prune --all --force >/dev/null 2>&1 || true; rm -rf "$RKVM_ROOT"' EXIT
"$rkvm" load -q -i .cache/images/busybox.tar
quick=()
[ -z "${RKVM_BENCH_QUICK:-}" ] || quick=(--boots 5)
cargo bench --quiet -p rkvm-vmm --bench boot -- --run "$rkvm" "${quick[@]}" | tee "$(log_file bench-vm)"
[ -n "${RKVM_BENCH_QUICK:-}" ] || dev/vm-io.sh | tee -a "$(log_file bench-vm)"
bench_text "A microVM beside QEMU's: boots, disk and network" bench-vm | write_bench_section vm
