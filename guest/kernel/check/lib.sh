# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# What check.sh and stress.sh share. They set `here`, this folder's parent, and `die`.
: "${here:?}"

# QEMU takes over a processor's capability register (MSR 0x10a) where KVM offers one, and gives up where KVM does not let it be set: on
# a PVM host with an AMD processor, which has no such register.
qemu_cpu='host,migratable=off,+invtsc'
grep -q GenuineIntel /proc/cpuinfo || qemu_cpu+=,-arch-capabilities

need_tools() {
    local tool
    for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static openssl:openssl perl:perl gcc:gcc; do
        command -v "${tool%%:*}" >/dev/null || die "${tool%%:*} is missing: apt-get install ${tool#*:}"
    done
}

# make_initramfs FOLDER FILE: our probe, busybox, and three dynamic programs with their libraries.
make_initramfs() {
    local root=$1 program library
    mkdir -p "$root/bin" "$root/usr/lib/ssl"
    gcc -O2 -Wall -Wextra -static -pthread -o "$root/bin/probe" "$here/check/probe.c"
    cp "$here/check/init" "$root/init"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for program in bash openssl perl; do
        cp "$(command -v $program)" "$root/bin/"
        ldd "$(command -v $program)" | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"
        done
    done
    : >"$root/usr/lib/ssl/openssl.cnf"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2"
}
