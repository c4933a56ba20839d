#!/usr/bin/env bash
# Feeds hostile input to devices and parsers, guided by coverage: libFuzzer, on the stable toolchain.
# New inputs go to .cache/fuzz/TARGET, beside the small corpus in fuzz/corpus/TARGET, which `./x test` replays; what fails is kept in
# fuzz/artifacts/.
# Usage: ./x fuzz [TARGET...] [--seconds N] [--keep]
#   TARGET       one or more of fuzz/corpus/*; default: all
#   --seconds N  for each target, 5 if not given
#   --keep       afterwards add the smallest inputs with ways of their own to the committed corpus
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

SECONDS_EACH=5
KEEP=no
# Bytes of an input that is added to the committed corpus, and of how many a target has.
KEPT_BYTES=2048
KEPT_INPUTS=40

# What the counters of coverage are made of: the passes that cargo-fuzz asks of a nightly compiler by -Zsanitizer. Comparisons with constants
# are traced, so that magic numbers are found.
COUNTERS=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares)

main() {
    local targets=() target failed=()
    while [ $# -gt 0 ]; do
        case $1 in
            --seconds)
                SECONDS_EACH=${2:?--seconds needs a number}
                shift
                ;;
            --keep) KEEP=yes ;;
            -*) die "unknown option $1; see dev/fuzz.sh" ;;
            *)
                [ -d "fuzz/corpus/$1" ] || die "there is no target $1; there are: $(echo fuzz/corpus/*/ | sed "s:fuzz/corpus/::g; s:/::g")"
                targets+=("$1")
                ;;
        esac
        shift
    done
    [ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls fuzz/corpus)
    need_cargo
    need_packages "${BUILD_PACKAGES[@]}" g++
    say "Building with counters of coverage"
    (cd fuzz && RUSTFLAGS="${COUNTERS[*]}" cargo build --target-dir target --target x86_64-unknown-linux-gnu)
    mkdir -p fuzz/artifacts
    for target in "${targets[@]}"; do
        say "Fuzzing $target for $SECONDS_EACH s"
        fuzz "$target" || failed+=("$target")
    done
    [ ${#failed[@]} = 0 ] || die "these targets fail: ${failed[*]}; the inputs are in fuzz/artifacts/." \
        "Repeat one with: RKVM_FUZZ_TARGET=NAME fuzz/target/x86_64-unknown-linux-gnu/debug/rkvm-fuzz FILE"
}

fuzz() {
    local target=$1 found=$CACHE/fuzz/$1
    mkdir -p "$found"
    run "$target" -max_total_time="$SECONDS_EACH" -max_len=16384 -timeout=60 -rss_limit_mb=4096 \
        -artifact_prefix="fuzz/artifacts/$target-" "$found" "fuzz/corpus/$target" >"$found.log" 2>&1 || {
        tail -40 "$found.log"
        return 1
    }
    grep -E '^#[0-9]+.*DONE' "$found.log" || tail -3 "$found.log"
    [ "$KEEP" = no ] || keep "$target" "$found"
}

# The inputs that together go all ways which small inputs go.
keep() {
    local target=$1 small file
    small=$(mktemp -d "$CACHE/fuzz/small.XXXXXX")
    find "$2" -type f -size "-${KEPT_BYTES}c" -printf '%s %p\n' | sort -n | head -"$((KEPT_INPUTS * 20))" |
        while read -r _ file; do cp "$file" "$small/"; done
    run "$target" -merge=1 "fuzz/corpus/$target" "$small" >"$2.merge.log" 2>&1
    rm -rf "$small"
    find "fuzz/corpus/$target" -type f -printf '%s %p\n' | sort -n | tail -n "+$((KEPT_INPUTS + 1))" |
        while read -r _ file; do git ls-files --error-unmatch "$file" >/dev/null 2>&1 || rm -f "$file"; done
}

run() {
    local target=$1
    shift
    RKVM_FUZZ_TARGET=$target fuzz/target/x86_64-unknown-linux-gnu/debug/rkvm-fuzz "$@"
}

main "$@"
