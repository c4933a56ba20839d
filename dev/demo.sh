#!/usr/bin/env bash
# Runs Debian's nginx in a container and in a microVM as a user would, asks both for a page, shows what each start took, and proves that
# nothing of them is left.
# All state is in a folder of its own, so the demo neither sees nor touches the containers of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

# The web servers: a name, its isolation and its port, side by side.
NAMES=(web)
declare -A ISOLATION=([web]=container [web-vm]=vm) PORT=([web]=8080 [web-vm]=8081)

main() {
    need_root "./x demo"
    need_cargo
    need_packages "${BUILD_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}" "${DEMO_PACKAGES[@]}"
    dev/images.sh nginx
    if [ -e /dev/kvm ]; then
        NAMES+=(web-vm)
        ./x guest
    else
        say "This host has no /dev/kvm, so only the container is shown"
    fi
    # Optimized: it shows figures.
    say "Building (the first time takes a few minutes)"
    cargo build --quiet --release --workspace --bins
    PATH=$(bin_dir):$PATH
    mkdir -p "$CACHE"
    # The real path: the cache may be a link, and mounts are listed by where they are.
    RKVM_ROOT=$(realpath "$(mktemp -d "$CACHE/demo.XXXXXX")")
    export RKVM_ROOT
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    say "An image, made from Debian's packages"
    show rkvm load -i "$CACHE/images/nginx.tar"
    show rkvm images

    local name
    for name in "${NAMES[@]}"; do
        say "A web server: --isolation=${ISOLATION[$name]}"
        run_web "$name"
        wait_for_page "$name"
    done
    show rkvm ps
    for name in "${NAMES[@]}"; do
        show_page "$name"
        show rkvm logs "$name"
        show rkvm exec "$name" uname -r
    done
    show rkvm stats --no-stream
    show_timings
    note_traces

    say "Their end"
    show rkvm stop "${NAMES[@]}"
    show rkvm ps -a
    show rkvm rm "${NAMES[@]}"
    show rkvm system prune --all --force

    say "What is left of them"
    prove_nothing_is_left
    trap - EXIT
    rm -rf "$RKVM_ROOT"
    say "Done in $SECONDS seconds"
}

# Prints a command as a user would type it, then runs it.
show() {
    printf '\n$ %s\n' "${*/"$PWD/"/}"
    "$@"
}

run_web() {
    local output status=0 command=(rkvm run -d --isolation="${ISOLATION[$1]}" --name "$1" --timings=json)
    printf '\n$ rkvm run -d --isolation=%s --name %s -p %s:80 nginx\n' "${ISOLATION[$1]}" "$1" "${PORT[$1]}"
    output=$("${command[@]}" -p "${PORT[$1]}:80" nginx 2>&1) || status=$?
    if [ $status != 0 ]; then
        echo "$output"
        case $output in
            *"is used by"*) ;;
            *) exit 1 ;;
        esac
        rkvm rm -f "$1" >/dev/null 2>&1 || true
        echo "Then any free port:"
        printf '\n$ rkvm run -d --isolation=%s --name %s -p 80 nginx\n' "${ISOLATION[$1]}" "$1"
        output=$("${command[@]}" -p 80 nginx 2>&1) || die "$output"
        PORT[$1]=$(rkvm port "$1" 80 | sed -n 's/.*://p' | head -1)
    fi
    TIMINGS[$1]=$(grep '^{' <<<"$output")
    grep -v '^{' <<<"$output"
}
declare -A TIMINGS

# The phases of each start, beside one another. The first microVM of an image also makes the file that all later ones share, and the first
# after a pause takes memory that its host may have given back to a hypervisor: so the first is not counted.
show_timings() {
    say "What a start of each takes, in milliseconds (the middle one of three, after one more; rkvm compare has intervals)"
    local name phase
    for name in "${NAMES[@]}"; do
        TIMINGS[$name]=$(for _ in 1 2 3 4; do
            rkvm run --rm --isolation="${ISOLATION[$name]}" --timings=json nginx true 2>&1 >/dev/null | grep '^{'
        done | jq --slurp --compact-output '.[1:] | sort_by(.total_ns)[1]')
    done
    printf '%-10s' ''
    for name in "${NAMES[@]}"; do printf '%12s' "${ISOLATION[$name]}"; done
    echo
    for phase in image rootfs network sandbox boot process exec total; do
        printf '%-10s' $phase
        for name in "${NAMES[@]}"; do
            printf '%12s' "$(jq -r --arg phase $phase '
                if $phase == "total" then .total_ns else [.phases[] | select(.phase == $phase) | .ns] | first end
                | if . == null then "-" else . / 1e4 | round / 100 end' <<<"${TIMINGS[$name]}")"
        done
        echo
    done
}

wait_for_page() {
    local deadline=$((SECONDS + 10))
    until curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:${PORT[$1]}/"; do
        [ $SECONDS -lt $deadline ] || die "$1 does not answer: $(rkvm logs "$1" 2>&1 | tail -5)"
        sleep 0.05
    done
}

show_page() {
    local address page
    address=$(ip -4 -brief address show scope global up | awk '$1 !~ /^(rkv|docker|virbr|cni|podman)/ {split($3, a, "/"); print a[1]; exit}')
    for address in 127.0.0.1 $address; do
        printf '\n$ curl -i http://%s:%s/\n' "$address" "${PORT[$1]}"
        page=$(curl --silent --show-error --include --max-time 5 "http://$address:${PORT[$1]}/")
        grep -E '^HTTP/|^Server:|<title>' <<<"$page"
        grep -q 'Welcome to nginx' <<<"$page" || die "this is not nginx's page"
    done
}

# Remembers what the running containers have on the host: the proof is that each of these is gone, so there must be some.
note_traces() {
    local name pid
    IDS=() CGROUPS=
    for name in "${NAMES[@]}"; do
        IDS+=("$(rkvm inspect --format '{{.Id}}' "$name")")
        pid=$(rkvm inspect --format '{{.State.Pid}}' "$name")
        CGROUPS+=$(cgroups_of "$pid")$'\n'
    done
    CGROUPS=$(sort -u <<<"$CGROUPS" | sed '/^$/d')
    PROCESSES=$(processes)
    LINKS=$(find "$RKVM_ROOT/lib/net/leases" -type f -name '*@*' -exec jq -r .hostLink {} +)
    BRIDGE=$(ip -json link show "$(head -1 <<<"$LINKS")" | jq -r '.[0].master')
    MOUNTS=$(mounts)
    for name in PROCESSES LINKS BRIDGE CGROUPS MOUNTS; do
        [ -n "${!name}" ] || die "the running containers have no $name: the proof would prove nothing"
    done
    rules >/dev/null || die "the running containers have no rules: the proof would prove nothing"
}

# Processes in the containers' cgroups, and their monitors, which are started with the engine's folders as arguments.
processes() {
    local proc command id
    for proc in /proc/[0-9]*; do
        command=$(tr '\0' ' ' <"$proc/cmdline") || continue
        if [[ $command == *"rkvm-monitor $RKVM_ROOT/run "* ]]; then
            echo "${proc#/proc/} $(cat "$proc/comm")"
            continue
        fi
        for id in "${IDS[@]}"; do
            if grep -qs "$id" "$proc/cgroup"; then echo "${proc#/proc/} $(cat "$proc/comm")"; fi
        done
    done 2>/dev/null
}

# The cgroup folders that a process is in and this script is not.
cgroups_of() {
    local list
    find /sys/fs/cgroup -name cgroup.procs | while read -r list; do
        if grep -qsx "$1" "$list" && ! grep -qsx $$ "$list"; then dirname "$list"; fi
    done
}

# Mounts of the engine's folder in any mount namespace.
mounts() { grep -sF "$RKVM_ROOT" /proc/[0-9]*/mountinfo || true; }

rules() { nft list table ip "$BRIDGE" 2>/dev/null; }

prove_nothing_is_left() {
    local deadline=$((SECONDS + 5)) left name
    while true; do
        left=$(
            processes | sed 's/^/process /'
            mounts | sed 's/^/mount /'
            for name in $LINKS $BRIDGE; do if [ -e "/sys/class/net/$name" ]; then echo "link $name"; fi; done
            for folder in $CGROUPS; do if [ -e "$folder" ]; then echo "cgroup $folder"; fi; done
            if rules >/dev/null; then echo "nft table $BRIDGE"; fi
            for name in "${NAMES[@]}"; do
                if (exec 3<>"/dev/tcp/127.0.0.1/${PORT[$name]}") 2>/dev/null; then echo "port ${PORT[$name]} still answers"; fi
            done
        )
        [ -n "$left" ] || break
        # The kernel ends namespaces and their links a moment after their last process.
        [ $SECONDS -lt $deadline ] || die "this is left:"$'\n'"$left"
        sleep 0.05
    done
    printf '\n%-60s %s\n' "while they ran" "now"
    printf '%-60s %s\n' "$(wc -l <<<"$PROCESSES") processes ($(awk '{print $2}' <<<"$PROCESSES" | sort -u | paste -sd,))" none \
        "$(wc -l <<<"$MOUNTS") mounts, in their namespaces" none \
        "links $(paste -sd' ' <<<"$LINKS") on bridge $BRIDGE" none \
        "$(wc -l <<<"$CGROUPS") cgroups" none \
        "nft table $BRIDGE, ports ${PORT[*]}" none
}

# Whatever went wrong: end what was started, and say so.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [ $status != 0 ]; then say "Cleaning up"; fi
    rkvm rm -f "${NAMES[@]}" >/dev/null 2>&1 || true
    rkvm system prune --all --force >/dev/null 2>&1 || true
    rm -rf "$RKVM_ROOT"
    exit $status
}

main "$@"
