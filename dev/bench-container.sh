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
exec cargo bench --quiet --bench container_compare -- "$@"
