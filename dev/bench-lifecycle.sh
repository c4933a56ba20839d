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
quick=()
[ -z "${RKVM_BENCH_QUICK:-}" ] || quick=(--sample-size 10 --warm-up-time 0.5 --measurement-time 1)
began=$(mktemp)
trap 'rm -f "$began"' EXIT
cargo bench --quiet --bench lifecycle -- "${quick[@]}" "$@"
cargo bench --quiet -p rkvm-vmm --bench paths -- "${quick[@]}" "$@"

# A table of what was measured now, from criterion's files.
rows() {
    local file
    find "${CARGO_TARGET_DIR:-target}/criterion" -path '*/new/estimates.json' -newer "$began" | sort | while read -r file; do
        jq -r --slurpfile what "${file%estimates.json}benchmark.json" \
            '[$what[0].full_id, .median.point_estimate, .median.confidence_interval.lower_bound, .median.confidence_interval.upper_bound] | @tsv' "$file"
    done | awk -F '\t' '
        function show(ns) { return ns < 1e3 ? sprintf("%.0f ns", ns) : ns < 1e6 ? sprintf("%.2f us", ns / 1e3) : sprintf("%.2f ms", ns / 1e6) }
        { printf "| `%s` | %s | %s to %s |\n", $1, show($2), show($3), show($4) }'
}

# Options choose among the groups: then this is not the whole.
[ $# -eq 0 ] || exit 0
{
    # shellcheck disable=SC2016 # backquotes are Markdown's.
    printf '## Operations and paths\n\n`what/backend/size`, medians with 95 %% intervals, criterion%s.\n\n' "${RKVM_BENCH_QUICK:+, a quick run}"
    printf '| what | median | 95 %% |\n| --- | ---: | ---: |\n'
    rows
} | write_bench_section lifecycle
