#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Builds the guest kernel from Debian's source package, see README.md in this folder.
set -euo pipefail

SOURCE_PACKAGE=linux-source-6.1
SOURCE_VERSION=6.1.192-2
SOURCE_SHA256=ae95fe63d4c553f8d0e6c86cb1ab566f3894a43743eb19ab585cd97d82f26514
PACKAGES=(bc binutils bison dpkg flex gcc libc6-dev libelf-dev make patch xz-utils)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${RKVM_CACHE:-$here/../../.cache}/guest-kernel

usage() {
    cat <<USAGE
usage: build.sh [--variant auto|plain|pvm|all] [--out DIR] [--jobs N]

Builds vmlinux-plain (hardware virtualization) and vmlinux-pvm (KVM hosts without it).
  --variant   auto (default): the one that this host's /dev/kvm needs
  --out DIR   also link the result into DIR, as vmlinux-<variant>
  --jobs N    parallel compilers (default: the CPUs this process may use)
The last line of the output for each variant is the path of its kernel.
USAGE
}

die() { echo "build.sh: $*" >&2; exit 1; }

# The variant that this host needs: kvm_pvm is KVM without hardware virtualization.
host_variant() { if [ -e /sys/module/kvm_pvm ]; then echo pvm; else echo plain; fi; }

install_packages() {
    local missing=() p
    for p in "${PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return
    [ "$(id -u)" = 0 ] || die "these packages are missing, as root: apt-get install ${missing[*]}"
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}: run 'apt-get update' and try again"
}

# Leaves the pinned source package in the cache.
fetch_source() {
    deb=$cache/${SOURCE_PACKAGE}_${SOURCE_VERSION}_all.deb
    if [ ! -e "$deb" ]; then
        (cd "$cache" && apt-get download -qq -o APT::Sandbox::User=root "$SOURCE_PACKAGE=$SOURCE_VERSION") || die \
            "Debian's archive has no $SOURCE_PACKAGE $SOURCE_VERSION (any more), or is out of reach." \
            "Run 'apt-get update' first. If the version is gone, fetch the .deb from snapshot.debian.org into $cache," \
            "or move SOURCE_VERSION and SOURCE_SHA256 in build.sh to: $(apt-cache madison $SOURCE_PACKAGE | awk '{print $3}' | head -3 | xargs)"
    fi
    echo "$SOURCE_SHA256  $deb" | sha256sum --check --status || die \
        "$deb is not the pinned source (sha256 differs from SOURCE_SHA256): remove it and try again"
}

# The patches of a variant in their order: those of both, then its own.
patches_of() {
    local folder
    for folder in common "$1"; do
        if [ -d "$here/patches/$folder" ]; then find "$here/patches/$folder" -name '*.patch' | sort; fi
    done
}

# What decides about the result: source, configuration, patches, compiler, linker, and this script.
key_of() {
    {
        echo "$SOURCE_VERSION $SOURCE_SHA256"
        gcc --version | head -1
        ld --version | head -1
        cat "$here/config/common.config" "$here/config/$1.config" "$here/build.sh"
        patches_of "$1" | xargs -r cat
    } | sha256sum | cut -c1-16
}

# Debian's tree without what no build of ours reads.
unpack() {
    dpkg-deb --fsys-tarfile "$deb" | tar -xO "./usr/src/$SOURCE_PACKAGE.tar.xz" | tar -xJ -C "$1" --strip-components=1 \
        --exclude='*/Documentation/*/*' --exclude='*/arch/[a-tv-w]*/*.[cShd]*' --exclude='*/tools/testing/*' \
        --exclude='*/drivers/gpu/drm/amd/include' --exclude='*/sound/*/*/*.c' --exclude='*/drivers/staging/*/*.c'
}

# Every line of the fragments must be what the configuration says in the end.
check_config() {
    local line option wrong=0
    while read -r line; do
        case $line in
            '# CONFIG_'*' is not set')
                option=${line#\# } && option=${option% is not set}
                if grep -q "^$option=" "$1"; then
                    echo "wanted: $line; got: $(grep "^$option=" "$1")" && wrong=1
                fi ;;
            CONFIG_*)
                if ! grep -qxF "$line" "$1"; then
                    echo "wanted: $line; got: $(grep "${line%%=*}[= ]" "$1" || echo nothing)" && wrong=1
                fi ;;
        esac
    done < <(cat "${@:2}") >&2
    [ $wrong = 0 ] || die "the configuration does not hold what the fragments ask for (see above)"
}

build() {
    local variant=$1 key tree result p fragments
    key=$(key_of "$variant")
    result=$cache/$variant-$key
    fragments=("$here/config/common.config" "$here/config/$variant.config")
    if [ ! -e "$result/vmlinux" ]; then
        fetch_source
        tree=$(mktemp -d "$cache/build-$variant.XXXXXX")
        trap 'rm -rf "$tree"' EXIT
        unpack "$tree"
        for p in $(patches_of "$variant"); do
            patch -d "$tree" -p1 -F0 -s --no-backup-if-mismatch <"$p" ||
                die "${p#"$here"/} does not apply to $SOURCE_PACKAGE $SOURCE_VERSION: rebase it"
        done
        cat "${fragments[@]}" >"$tree/fragment"
        local make=(make -s -C "$tree" -j "$jobs" LOCALVERSION= CC="$(command -v ccache >/dev/null && echo 'ccache ')gcc"
            KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=rkvm KBUILD_BUILD_HOST=rkvm KBUILD_BUILD_VERSION=1)
        "${make[@]}" KCONFIG_ALLCONFIG="$tree/fragment" allnoconfig >"$tree/config.log" 2>&1 || { cat "$tree/config.log"; exit 1; }
        check_config "$tree/.config" "${fragments[@]}"
        "${make[@]}" vmlinux
        mkdir "$tree/result"
        strip -s -o "$tree/result/vmlinux" "$tree/vmlinux"
        cp "$tree/System.map" "$tree/result/System.map"
        cp "$tree/.config" "$tree/result/config"
        rm -rf "$result" && mv "$tree/result" "$result"
        rm -rf "$tree"
        trap - EXIT
    fi
    if [ -n "$out" ]; then
        mkdir -p "$out"
        install -m 0644 "$result/vmlinux" "$out/.vmlinux-$variant.$$" && mv "$out/.vmlinux-$variant.$$" "$out/vmlinux-$variant"
        echo "$out/vmlinux-$variant"
    else
        echo "$result/vmlinux"
    fi
}

variant=auto out='' jobs=$(nproc)
while [ $# -gt 0 ]; do
    case $1 in
        --variant) variant=${2:?--variant needs a value}; shift 2 ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
        -h | --help) usage; exit ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done
case $variant in
    auto) variants=("$(host_variant)") ;;
    all) variants=(plain pvm) ;;
    plain | pvm) variants=("$variant") ;;
    *) die "unknown variant: $variant (auto, plain, pvm or all)" ;;
esac

[ "$(uname -m)" = x86_64 ] || die "the guest kernel is built on x86_64 only, this is $(uname -m)"
install_packages
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock 9 # one build at a time: a second caller then finds the result
for v in "${variants[@]}"; do build "$v"; done
