#!/usr/bin/env bash
# Starts in both isolations beside runc, crun, Podman and QEMU's microvm, as `rkvm compare` measures them, and writes
# its section of docs/benchmarks.md with pictures from this machine. Usage: dev/bench-compare.sh [RUNS], default 50, or 3 with
# RKVM_BENCH_QUICK=1.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

RUNS=${1:-${RKVM_BENCH_QUICK:+3}}
RUNS=${RUNS:-50}
DENSITY=${RKVM_BENCH_QUICK:+3}
PEERS=runc,crun,podman,docker,qemu-microvm,firecracker

main() {
    [[ $RUNS =~ ^[0-9]+$ ]] || die "the number of runs must be a number, not $RUNS"
    need_root "the benchmark"
    need_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" qemu-system-x86 podman
    need_cargo
    dev/images.sh busybox nginx
    [ ! -w /dev/kvm ] || dev/guest.sh
    cargo build --quiet --release --workspace --bins
    # As it is typed: reports keep the command line.
    local out=${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu
    RKVM=$out/release/rkvm
    # The guest's kernel and init are the same in every build.
    if [ ! -e "$out/release/guest" ] && [ -e "$out/debug/guest" ]; then RKVM_GUEST=$(realpath "$out/debug/guest") && export RKVM_GUEST; fi
    # Short: Podman takes no longer path than 50 characters for what it keeps below it.
    RKVM_ROOT=$(mktemp -d /tmp/rkvmb.XXXXXX)
    export RKVM_ROOT
    trap 'leave' EXIT
    "$RKVM" load -q -i .cache/images/busybox.tar
    "$RKVM" load -q -i .cache/images/nginx.tar
    mkdir -p "$BENCH_DOCS"
    measure exit "A program that ends at once" busybox --ready exit --boot --with $PEERS -- true
    measure http "A web server that answers" nginx --ready http:80 --boot --with $PEERS
    measure parallel "Four at once" busybox --ready exit --parallel 4 -- true
    measure cold "With cold caches" busybox --ready exit --cold -- true
    measure density "As instances grow" busybox --ready exec --density "${DENSITY:-20}" -- sleep 1000000
    write_sections | write_bench_section compare
}

NAMES=()
declare -A TITLES
# measure NAME TITLE ARGS...
measure() {
    local name=$1
    TITLES[$name]=$2
    NAMES+=("$name")
    shift 2
    say "${TITLES[$name]}"
    "$RKVM" compare --runs "$RUNS" --seed 1 --json "$BENCH_DOCS/$name.json" --svg "$BENCH_DOCS/$name.svg" \
        --markdown "$RKVM_ROOT/$name.md" "$@"
    # Of paths in the repository, what does not depend on where it lies.
    # In Markdown an underscore has backslashes: one in the text, one more in the pattern.
    local plain=$PWD/ marked
    marked=${plain//_/\\\\_}
    sed -i -e "s|$plain||g" -e "s|$marked||g" "$BENCH_DOCS/$name.json" "$RKVM_ROOT/$name.md"
}

write_sections() {
    local name first=
    for name in "${NAMES[@]}"; do
        [ -z "$first" ] || printf '\n'
        first=no
        printf '## %s\n\n![%s](benchmarks/%s.svg)\n\n' "${TITLES[$name]}" "${TITLES[$name]}" "$name"
        cat "$RKVM_ROOT/$name.md"
    done
}

leave() {
    "$RKVM" system prune --all --force >/dev/null 2>&1 || true
    rm -rf "$RKVM_ROOT"
}

main
