#!/usr/bin/env bash
# rkvm-oci, crun and runc side by side, `rkvm run`, a monitor's memory, unpacking against umoci. Arguments go to the
# benchmark; `--help` lists them.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

need_root "the benchmark"
need_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
need_cargo
dev/images.sh python
# Arguments choose among its parts: then this is not the whole.
[ $# -eq 0 ] || exec cargo bench --quiet --bench container_compare -- "$@"
quick=()
[ -z "${RKVM_BENCH_QUICK:-}" ] || quick=(--runs 5 --warmup 1)
cargo bench --quiet --bench container_compare -- "${quick[@]}" | tee "$(log_file bench-container)"
bench_text "OCI runtimes side by side" bench-container | write_bench_section container
