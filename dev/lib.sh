# What the scripts in this folder share. Sourced with the repository as current folder.
# shellcheck shell=bash disable=SC2034

# What building needs besides a Rust toolchain.
BUILD_PACKAGES=(gcc libc6-dev make pkg-config libseccomp-dev)
# What making the test images needs.
IMAGE_PACKAGES=(jq dpkg xz-utils zstd ca-certificates)
# What the demo needs.
DEMO_PACKAGES=(erofs-utils curl iproute2 nftables procps)
# What the tests and benchmarks run or compare with: other runtimes as oracles, a registry on loopback, engines that call
# rkvm-oci, and tools that look at the host from outside.
TEST_PACKAGES=(
    "${IMAGE_PACKAGES[@]}" "${DEMO_PACKAGES[@]}"
    runc crun umoci skopeo docker-registry podman conmon containerd docker.io
    busybox-static qemu-system-x86 strace socat kmod netcat-openbsd iputils-ping util-linux openssl libcap2-bin attr python3 shellcheck chromium
)
# Folder of everything that can be made again.
CACHE=$PWD/.cache

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() {
    printf 'x: %s\n' "$*" >&2
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root (namespaces, mounts, the network); run it with sudo"; }

# The optimized binaries; every build is for an explicit target (.cargo/config.toml).
bin_dir() { echo "${CARGO_TARGET_DIR:-$PWD/target}/x86_64-unknown-linux-gnu/release"; }

bench_names() {
    local script
    for script in dev/bench-*.sh; do
        [ -e "$script" ] || continue
        script=${script#dev/bench-}
        echo "${script%.sh}"
    done
}

need_cargo() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    command -v cargo >/dev/null || die "no Rust toolchain found; install one as https://rustup.rs says, then run this again"
}

# Installs the packages that are missing, and says which. Services stay stopped: a policy-rc.d forbids the packages'
# scripts to start any while this runs.
need_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "these packages are missing, and installing them needs root: ${missing[*]}"
    say "Installing ${missing[*]}"
    need_package_lists
    local policy=/usr/sbin/policy-rc.d own_policy=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        own_policy=1
    fi
    local status=0
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 "${missing[@]}" >"$(log_file apt)" 2>&1 || status=$?
    [ -z "$own_policy" ] || rm -f $policy
    if [ $status != 0 ]; then
        tail -20 "$(log_file apt)" >&2
        die "apt-get could not install: ${missing[*]}"
    fi
}

# Fetches apt's lists when there are none, or when a package is not in them.
need_package_lists() {
    if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || [ -n "$(find /var/lib/apt/lists -maxdepth 0 -mtime +7)" ]; then
        apt-get update -qq
    fi
}

log_file() {
    mkdir -p "$CACHE/log"
    echo "$CACHE/log/$1.log"
}

# What the benchmarks have written: a file for each, and the page that joins them.
BENCH_DOCS=docs/benchmarks

# What a section was measured on, and when.
machine() {
    local processor kernel=Linux kvm='no KVM'
    processor=$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
    kernel+=" $(uname -r | grep -oE '^[0-9.]+')"
    if [ -e /sys/module/kvm_pvm ]; then kvm='KVM without hardware support (PVM)'; elif [ -e /dev/kvm ]; then kvm=KVM; fi
    printf 'Measured on %s, %s processors, %s, %s; rkvm %s, %s.\n' "${processor:-an unnamed processor}" "$(nproc)" "$kernel" "$kvm" \
        "$(git rev-parse --short HEAD 2>/dev/null || echo 'of unknown commit')" "$(date -u +%F)"
}

# Standard input becomes the section of benchmark $1.
write_bench_section() {
    mkdir -p "$BENCH_DOCS"
    { cat && printf '\n' && machine; } >"$BENCH_DOCS/$1.md.new"
    mv "$BENCH_DOCS/$1.md.new" "$BENCH_DOCS/$1.md"
    write_bench_page
    say "$BENCH_DOCS/$1.md and $BENCH_DOCS.md are written"
}

# bench_text TITLE LOG: a section of what a benchmark has printed.
bench_text() {
    printf '## %s\n\n```text\n' "$1"
    sed 's/\x1b\[[0-9;]*m//g' "$(log_file "$2")"
    printf '```\n'
}

write_bench_page() {
    local name
    {
        cat <<'TEXT'
# Benchmarks

Written by `./x bench` on one machine, which the sections name; the ratios hold from run to run, the milliseconds do not hold for yours.
`./x bench NAME` makes one section anew. Each picture has its samples beside it: `rkvm compare --replay docs/benchmarks/NAME.json`
draws it again, and `rkvm compare docs/benchmarks/NAME.json YOURS.json` tells whether yours differ.
TEXT
        for name in $(bench_names); do
            printf '\n'
            if [ -e "$BENCH_DOCS/$name.md" ]; then
                cat "$BENCH_DOCS/$name.md"
            else
                # shellcheck disable=SC2016 # backquotes are Markdown's.
                printf '## %s\n\nNot measured on this machine: `./x bench %s` does.\n' "$name" "$name"
            fi
        done
    } >"$BENCH_DOCS.md.new"
    mv "$BENCH_DOCS.md.new" "$BENCH_DOCS.md"
}
