#!/usr/bin/env bash
# Criterion benchmarks of every operation of a container's and a microVM's life and of the hot paths below. Arguments go to criterion.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

need_root "the benchmark"
need_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
need_cargo
# Programs that the benchmark starts are release builds too.
cargo build --quiet --release --workspace --bins
[ ! -w /dev/kvm ] || dev/guest.sh
out=${CARGO_TARGET_DIR:-$PWD/target}/x86_64-unknown-linux-gnu
if [ ! -e "$out/release/guest" ] && [ -e "$out/debug/guest" ]; then export RKVM_GUEST=$out/debug/guest; fi
cargo bench --quiet --bench lifecycle -- "$@"
exec cargo bench --quiet -p rkvm-vmm --bench paths -- "$@"
