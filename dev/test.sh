#!/usr/bin/env bash
# Installs what the tests need, makes the test images, builds, and runs every test. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

need_root "./x test"
need_cargo
need_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
dev/images.sh
dev/kernel.sh
dev/guest.sh
say "Building"
cargo build --workspace --all-targets
say "Testing"
[ $# -gt 0 ] || set -- --workspace --no-fail-fast
exec cargo test "$@"
