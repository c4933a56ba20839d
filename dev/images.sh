#!/usr/bin/env bash
# Makes the test images from Debian's packages, without a registry: .cache/images/NAME.tar, which are OCI layouts that
# `rkvm load`, `docker load`, `podman load` and `skopeo` all read. The Debian images share their base layer.
# An image is made again when this script or a package that goes into it has changed.
# Usage: dev/images.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

ALL=(busybox nginx python postgres)
IMAGES=$CACHE/images
DEBS=$CACHE/debs
# Time stamp of all files: that of the newest package, so that the same packages give the same digests.
EPOCH=0

BASE_PACKAGES=(base-files base-passwd libc-bin dash bash coreutils grep sed findutils hostname)
# Each image NAME has its packages in NAME_PACKAGES.
# shellcheck disable=SC2034
BUSYBOX_PACKAGES=(busybox-static)
NGINX_PACKAGES=("${BASE_PACKAGES[@]}" nginx-light)
PYTHON_PACKAGES=("${BASE_PACKAGES[@]}" python3)
POSTGRES_PACKAGES=("${BASE_PACKAGES[@]}" postgresql-15)

main() {
    [ $# -gt 0 ] || set -- "${ALL[@]}"
    need_packages "${IMAGE_PACKAGES[@]}"
    [ "$(id -u)" = 0 ] || die "making images needs root: their files belong to several users"
    mkdir -p "$IMAGES" "$DEBS/partial"
    WORK=$(mktemp -d "$CACHE/image.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    exec 9>"$IMAGES/.lock"
    flock 9
    local name
    for name in "$@"; do
        case " ${ALL[*]} " in
            *" $name "*) ;;
            *) die "there is no image $name; there are: ${ALL[*]}" ;;
        esac
        make_if_changed "$name"
    done
}

make_if_changed() {
    local name=$1 key
    local -n packages="${name^^}_PACKAGES"
    key=$({ cat dev/images.sh; closure "${packages[@]}"; } | sha256sum | cut -d' ' -f1)
    if [ -e "$IMAGES/$name.tar" ] && [ "$(cat "$IMAGES/$name.key" 2>/dev/null)" = "$key" ]; then
        return
    fi
    say "Making image $name"
    "image_$name"
    mv "$WORK/$name.tar" "$IMAGES/$name.tar"
    echo "$key" >"$IMAGES/$name.key"
}

# apt as it would see an empty system, so that it names every package that is needed; its first argument is the folder of
# packages that it has already.
apt_empty() {
    local archives=$1
    shift
    : >"$WORK/status"
    apt-get -qq -o Dir::State::status="$WORK/status" -o Dir::Cache::archives="$archives" -o Debug::NoLocking=1 \
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Dir::Etc::preferences= "$@"
}

# Addresses, file names, sizes and checksums of the packages given and of all that they depend on.
closure() {
    mkdir -p "$WORK/empty/partial"
    apt_empty "$WORK/empty" --print-uris install "$@" 2>/dev/null || {
        apt-get update -qq
        apt_empty "$WORK/empty" --print-uris install "$@"
    }
}

# Unpacks the closure of the packages into a folder, without those of an earlier layer: unpack DIR BASE-LIST PACKAGE...
# Maintainer scripts are not run; what matters of them is done by the functions below.
unpack() {
    local dir=$1 base=$2 file
    shift 2
    apt_empty "$DEBS" --download-only -y install "$@" >/dev/null
    closure "$@" | awk '{print $2}' | sort >"$WORK/list"
    EPOCH=$(while read -r file; do built "$DEBS/$file"; done <"$WORK/list" | sort -n | tail -1)
    comm -23 "$WORK/list" "$base" | while read -r file; do
        # Debian's folders are links into /usr; a package that still has the old ones must not replace the links.
        dpkg-deb --fsys-tarfile "$DEBS/$file" | tar -x --keep-directory-symlink -C "$dir"
    done
    rm -rf "$dir"/usr/share/{doc,man,info,lintian,locale,bash-completion}/*
}

# When a package was built: the time stamp of its first member (ar(5)).
built() { head -c 36 "$1" | tail -c 12 | awk '{print $1}'; }

usr_links() {
    local dir=$1 name
    mkdir -p "$dir/usr"
    for name in bin sbin lib lib64; do
        mkdir -p "$dir/usr/$name"
        ln -sfn "usr/$name" "$dir/$name"
    done
}

# The Debian base layer in $WORK/base, made once a run; its package list is $WORK/base.list.
base_layer() {
    [ ! -e "$WORK/base.list" ] || return 0
    : >"$WORK/none"
    usr_links "$WORK/base"
    unpack "$WORK/base" "$WORK/none" "${BASE_PACKAGES[@]}"
    cp "$WORK/list" "$WORK/base.list"
    cp "$WORK/base/usr/share/base-passwd/passwd.master" "$WORK/base/etc/passwd"
    cp "$WORK/base/usr/share/base-passwd/group.master" "$WORK/base/etc/group"
    ln -sf dash "$WORK/base/usr/bin/sh"
    mkdir -p "$WORK/base"/{root,tmp,proc,sys,dev,run,var/lib,var/log}
    rm -rf "$WORK"/base/var/{run,lock}
    ln -s /run "$WORK/base/var/run"
    ln -s /run/lock "$WORK/base/var/lock"
    chmod 1777 "$WORK/base/tmp"
    chmod 700 "$WORK/base/root"
    ldconfig -r "$WORK/base"
}

# Starts a layer on top of the base: its folder has only what differs, but programs see both.
new_layer() {
    base_layer
    usr_links "$1"
}

image_busybox() {
    local root=$WORK/busybox applet
    mkdir -p "$root"/{bin,etc,tmp,root,proc,sys,dev,home,var/www}
    chmod 1777 "$root/tmp"
    # The program alone: it is static, so nothing that the package depends on is needed.
    apt_empty "$DEBS" --download-only -y install busybox-static >/dev/null
    EPOCH=$(built "$DEBS"/busybox-static_*.deb)
    dpkg-deb --fsys-tarfile "$DEBS"/busybox-static_*.deb | tar -xO ./bin/busybox >"$root/bin/busybox"
    chmod 755 "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nwheel:x:10:root\nwww-data:x:33:\nnogroup:x:65534:\n' >"$root/etc/group"
    write_image busybox '{"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}' "$root"
}

image_nginx() {
    local root=$WORK/nginx config
    new_layer "$root"
    unpack "$root" "$WORK/base.list" "${NGINX_PACKAGES[@]}"
    # What nginx's package does when it is installed, for IPv4: a host may have no IPv6.
    mkdir -p "$root/etc/nginx/sites-enabled" "$root/var/lib/nginx" "$root/var/log/nginx" "$root/var/www/html"
    sed -i '/listen \[::\]/d' "$root/etc/nginx/sites-available/default"
    ln -sf ../sites-available/default "$root/etc/nginx/sites-enabled/default"
    cp "$root/usr/share/nginx/html/index.html" "$root/var/www/html/index.nginx-debian.html"
    # Logs go to where a container's logs are read.
    ln -sf /dev/stdout "$root/var/log/nginx/access.log"
    ln -sf /dev/stderr "$root/var/log/nginx/error.log"
    config='{"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}'
    write_image nginx "$config" "$WORK/base" "$root"
}

image_python() {
    local root=$WORK/python
    new_layer "$root"
    unpack "$root" "$WORK/base.list" "${PYTHON_PACKAGES[@]}"
    write_image python '{"Cmd": ["python3"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED=1", "LANG=C.UTF-8"]}' "$WORK/base" "$root"
}

image_postgres() {
    local root=$WORK/postgres path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    new_layer "$root"
    unpack "$root" "$WORK/base.list" "${POSTGRES_PACKAGES[@]}"
    # The compiler of queries is half of the image, and no test needs it.
    rm -rf "$root"/usr/lib/postgresql/15/lib/{llvmjit*,bitcode} "$root"/usr/lib/x86_64-linux-gnu/libLLVM*
    mkdir -p "$root/etc" "$root/var/lib/postgresql/data" "$root/run/postgresql" "$root/usr/local/bin"
    { cat "$WORK/base/etc/passwd"; echo 'postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/bash'; } >"$root/etc/passwd"
    { cat "$WORK/base/etc/group"; echo 'postgres:x:999:'; } >"$root/etc/group"
    chown -R 999:999 "$root/var/lib/postgresql" "$root/run/postgresql"
    chmod 700 "$root/var/lib/postgresql/data"
    cat >"$root/usr/local/bin/start-postgres" <<'SCRIPT'
#!/bin/sh
# Makes the database cluster on the first start, then becomes the server.
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --auth-local=trust --auth-host="${POSTGRES_HOST_AUTH_METHOD:-trust}" --encoding=UTF8 --locale=C
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-trust}" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' "$@"
SCRIPT
    chmod 755 "$root/usr/local/bin/start-postgres"
    write_image postgres "{\"Entrypoint\": [\"start-postgres\"], \"User\": \"postgres\", \"StopSignal\": \"SIGINT\",
        \"ExposedPorts\": {\"5432/tcp\": {}}, \"Volumes\": {\"/var/lib/postgresql/data\": {}},
        \"Env\": [\"PATH=/usr/lib/postgresql/15/bin:$path\", \"PGDATA=/var/lib/postgresql/data\"]}" "$WORK/base" "$root"
}

# Packs layer folders into an image: write_image NAME CONFIG-JSON DIR...
write_image() {
    local name=$1 config=$2 layout=$WORK/$1.oci layers=() diffs=() digest size diff dir
    shift 2
    mkdir -p "$layout/blobs/sha256"
    for dir in "$@"; do
        tar -c --sort=name --mtime=@"$EPOCH" --numeric-owner --xattrs --format=posix \
            --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$dir" . >"$WORK/layer.tar"
        diff=$(sha256sum "$WORK/layer.tar" | cut -d' ' -f1)
        gzip -n -6 -f "$WORK/layer.tar"
        digest=$(add_blob "$layout" "$WORK/layer.tar.gz")
        size=$(stat -c %s "$layout/blobs/sha256/$digest")
        layers+=("$(jq -n --arg d "sha256:$digest" --argjson s "$size" \
            '{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: $d, size: $s}')")
        diffs+=("sha256:$diff")
    done
    jq -n --argjson config "$config" --arg created "$(date -u -d @"$EPOCH" +%Y-%m-%dT%H:%M:%SZ)" \
        --arg arch "$(dpkg --print-architecture)" '{created: $created, architecture: $arch, os: "linux", config: $config,
            rootfs: {type: "layers", diff_ids: $ARGS.positional},
            history: [$ARGS.positional[] | {created: $created, created_by: "dev/images.sh"}]}' \
        --args "${diffs[@]}" >"$WORK/config.json"
    digest=$(add_blob "$layout" "$WORK/config.json")
    size=$(stat -c %s "$layout/blobs/sha256/$digest")
    printf '%s\n' "${layers[@]}" | jq -s --arg d "sha256:$digest" --argjson s "$size" '{schemaVersion: 2,
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $d, size: $s}, layers: .}' >"$WORK/manifest.json"
    # manifest.json at the top makes it a docker-archive too.
    jq --arg name "$name:latest" --arg config "blobs/sha256/$digest" '[{Config: $config, RepoTags: [$name],
        Layers: [.layers[].digest | sub("sha256:"; "blobs/sha256/")]}]' "$WORK/manifest.json" >"$layout/manifest.json"
    digest=$(add_blob "$layout" "$WORK/manifest.json")
    size=$(stat -c %s "$layout/blobs/sha256/$digest")
    jq -n --arg d "sha256:$digest" --argjson s "$size" --arg name "docker.io/library/$name:latest" '{schemaVersion: 2,
        mediaType: "application/vnd.oci.image.index.v1+json", manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json",
        digest: $d, size: $s, annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": "latest"}}]}' \
        >"$layout/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
    tar -c --sort=name --mtime=@"$EPOCH" --owner=0 --group=0 --numeric-owner -C "$layout" . >"$WORK/$name.tar"
    rm -rf "$layout"
}

# Moves a file into the layout under its digest, which it prints.
add_blob() {
    local digest
    digest=$(sha256sum "$2" | cut -d' ' -f1)
    mv "$2" "$1/blobs/sha256/$digest"
    echo "$digest"
}

main "$@"
