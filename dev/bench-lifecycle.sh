#!/usr/bin/env bash
# Criterion benchmarks of every operation of a container's life and of the hot paths below. Arguments go to criterion.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

need_root "the benchmark"
need_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
need_cargo
exec cargo bench --quiet --bench lifecycle -- "$@"
