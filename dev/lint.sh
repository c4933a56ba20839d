#!/usr/bin/env bash
# Everything that can be checked without running the program. Goes on after a failure, and ends with the number of them.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

# Lines of code that a file may have: no blank lines, comments or tests.
MAX_LINES=420
failures=0

check() {
    local name=$1
    shift
    say "$name"
    "$@" || {
        failures=$((failures + 1))
        printf 'x: %s failed\n' "$name" >&2
    }
}

sources() { git ls-files --cached --others --exclude-standard -- '*.rs'; }

unsafe_is_kept_apart() {
    local found
    found=$(sources | grep -Ev '(^|/)sys(/|\.rs$)' | xargs grep -nE '\bunsafe[[:space:]]*(\{|fn\b|impl\b|extern\b|trait\b)' || true)
    [ -z "$found" ] || {
        printf 'unsafe outside of sys.rs and sys/:\n%s\n' "$found"
        return 1
    }
}

files_are_short() {
    local file lines status=0
    while read -r file; do
        case $file in */tests.rs | */tests/* | tests/* | benches/* | */benches/*) continue ;; esac
        lines=$(awk '/^#\[cfg\(test\)\]/ {exit} !/^[[:space:]]*(\/\/|$)/ {n++} END {print n + 0}' "$file")
        if [ "$lines" -gt $MAX_LINES ]; then
            echo "$file has $lines lines of code; split it (at most $MAX_LINES)"
            status=1
        fi
    done < <(sources)
    return $status
}

documentation() { RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps; }

scripts() {
    if command -v shellcheck >/dev/null; then
        shellcheck -x x .ci/run dev/*.sh guest/kernel/*.sh guest/kernel/check/init
    else
        echo "shellcheck is not installed (./x deps all installs it); scripts are not checked"
    fi
}

need_cargo
need_packages "${BUILD_PACKAGES[@]}"
check "Format" cargo fmt --all --check
check "Clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
check "Documentation" documentation
check "Scripts" scripts
check "unsafe only in sys" unsafe_is_kept_apart
check "Length of files" files_are_short
[ $failures = 0 ] || die "$failures checks failed"
say "All checks passed"
