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
cargo bench --quiet -p rkvm-vmm --bench boot -- "$@"
# Options are those of the boots.
[ $# -gt 0 ] || dev/vm-io.sh
