#!/usr/bin/env bash
# Fetches Debian's cloud kernel into .cache/kernel: vmlinuz, and its modules in modules/, for tests that boot one in QEMU. It is
# unpacked, not installed.
# A newer one is fetched when apt knows of it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

KERNEL=$CACHE/kernel

main() {
    need_package_lists
    local package version work
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
    [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64; run apt-get update, and look at /etc/apt/sources.list"
    version=$(apt-cache policy "$package" | awk '$1 == "Candidate:" { print $2 }')
    [ "$(cat "$KERNEL/version" 2>/dev/null)" != "$package $version" ] || [ ! -e "$KERNEL/modules/modules.dep" ] || return 0
    need_packages kmod
    say "Fetching $package $version"
    mkdir -p "$KERNEL"
    exec 9>"$KERNEL/.lock"
    flock 9
    work=$(mktemp -d "$KERNEL/fetch.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    dpkg-deb --fsys-tarfile "$work"/*.deb | tar -xf - -C "$work" --wildcards './boot/vmlinuz-*' './lib/modules/*'
    depmod -b "$work" "${package#linux-image-}"
    rm -rf "$KERNEL/modules"
    mv "$work/lib/modules/${package#linux-image-}" "$KERNEL/modules"
    mv "$work"/boot/vmlinuz-* "$KERNEL/vmlinuz"
    echo "$package $version" >"$KERNEL/version"
}

main
