#!/usr/bin/env bash
# Builds what runs inside a microVM: the guest kernel that this host needs and the initramfs with our init. Both are kept by a hash of
# what they are made of, and linked to where the binaries look for them: the folder `guest` beside them.
# Arguments go to guest/kernel/build.sh; --initramfs-only leaves the kernel alone.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

# Largest init, bytes: it lies in the memory of every microVM, and is copied and relocated at every start.
MAX_INIT=$((1536 * 1024))
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
TARGET=x86_64-unknown-linux-gnu
# The C library is half a megabyte smaller than the one of the other binaries.
INIT_TARGET=x86_64-unknown-linux-musl
# A program at a fixed address needs no relocation, and one that aborts needs no tables to unwind its stack.
INIT_FLAGS=(-C target-feature=+crt-static -C relocation-model=static -C force-unwind-tables=no)

# One entry of a newc archive (cpio(5)): name, mode, size, device numbers; content follows from a file.
inode=0
entry() {
    local name=$1 mode=$2 size=$3 major=$4 minor=$5
    inode=$((inode + 1))
    printf '070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x' \
        $inode "$mode" 0 0 1 0 "$size" 0 0 "$major" "$minor" $((${#name} + 1)) 0
    printf '%s\0' "$name"
    pad $((110 + ${#name} + 1))
}
pad() { head -c $(((4 - $1 % 4) % 4)) /dev/zero; }

archive() {
    local size
    size=$(stat -c %s "$1")
    entry dev $((0040755)) 0 0 0
    # The kernel's console for init's first words, and what the Rust runtime opens where there is none.
    entry dev/console $((0020600)) 0 5 1
    entry dev/null $((0020666)) 0 1 3
    for folder in proc sys run; do entry $folder $((0040755)) 0 0 0; done
    entry init $((0100755)) "$size" 0 0
    cat "$1"
    pad "$size"
    entry TRAILER!!! 0 0 0 0
}

# The standard library for the init's target; rustup has it, or gets it. Without it init is built for the target of the other binaries:
# it works the same, half a megabyte larger.
need_init_target() {
    [ ! -d "$(rustc --print sysroot)/lib/rustlib/$INIT_TARGET" ] || return 0
    say "Adding $INIT_TARGET to the toolchain"
    if command -v rustup >/dev/null && rustup -q target add $INIT_TARGET; then return 0; fi
    say "No standard library for $INIT_TARGET to be had: building the guest's init for $TARGET, above its usual size"
    INIT_TARGET=$TARGET
    MAX_INIT=$((2560 * 1024))
}

initramfs() {
    local build=$TARGET_DIR/guest-init init size key result
    # Its own target folder: other flags in the common one would have everything built anew at each turn.
    RUSTFLAGS="${INIT_FLAGS[*]}" cargo build -q -p rkvm-guest-init --profile guest --target $INIT_TARGET --target-dir "$build" >&2
    init=$build/$INIT_TARGET/guest/rkvm-guest-init
    size=$(stat -c %s "$init")
    [ "$size" -le $MAX_INIT ] || die "the guest's init has $size bytes; at most $MAX_INIT are allowed (see guest/init/Cargo.toml)"
    key=$(cat "$init" dev/guest.sh | sha256sum | cut -c1-16)
    result=$CACHE/guest-initramfs/$key.cpio
    if [ ! -e "$result" ]; then
        mkdir -p "$CACHE/guest-initramfs"
        archive "$init" >"$result.$$"
        mv "$result.$$" "$result"
    fi
    echo "$result"
}

# Puts a file where the binaries of both profiles look for it.
install_guest() {
    local profile folder
    for profile in debug release; do
        folder=$TARGET_DIR/$TARGET/$profile/guest
        mkdir -p "$folder"
        # mv refuses to put a file in its own place.
        [ ! "$1" -ef "$folder/$2" ] || continue
        ln -f "$1" "$folder/.$2.$$" 2>/dev/null || cp "$1" "$folder/.$2.$$"
        mv "$folder/.$2.$$" "$folder/$2"
    done
    echo "$TARGET_DIR/$TARGET/debug/guest/$2"
}

main() {
    need_cargo
    need_packages "${BUILD_PACKAGES[@]}"
    need_init_target
    local file
    file=$(initramfs) # on its own line: a failed build ends the script
    install_guest "$file" initramfs.cpio
    [ "${1:-}" != --initramfs-only ] || return 0
    local kernel variant
    guest/kernel/build.sh "$@" | while read -r kernel; do
        variant=$(basename "$(dirname "$kernel")")
        install_guest "$kernel" "vmlinux-${variant%%-*}"
    done
}

main "$@"
