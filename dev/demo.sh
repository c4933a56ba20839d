#!/usr/bin/env bash
# Runs Debian's nginx in a container as a user would, asks it for a page, and proves that nothing of it is left.
# All state is in a folder of its own, so the demo neither sees nor touches the containers of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

PORT=8080

main() {
    need_root "./x demo"
    need_cargo
    need_packages "${BUILD_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}" "${DEMO_PACKAGES[@]}"
    dev/images.sh nginx
    say "Building (the first time takes a few minutes)"
    cargo build --quiet --bins
    PATH=$(bin_dir):$PATH
    mkdir -p "$CACHE"
    RKVM_ROOT=$(mktemp -d "$CACHE/demo.XXXXXX")
    export RKVM_ROOT
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    say "An image, made from Debian's packages"
    show rkvm load -i "$CACHE/images/nginx.tar"
    show rkvm images

    say "A web server"
    run_web
    wait_for_page "http://127.0.0.1:$PORT/"
    show rkvm ps
    show_page
    show rkvm logs web
    show rkvm exec web cat /proc/1/comm
    note_traces

    say "Its end"
    show rkvm stop web
    show rkvm ps -a
    show rkvm rm web
    show rkvm system prune --all --force

    say "What is left of it"
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
    local output
    printf '\n$ rkvm run -d --name web -p %s:80 nginx\n' $PORT
    if output=$(rkvm run -d --name web -p $PORT:80 nginx 2>&1); then
        echo "$output"
        return
    fi
    echo "$output"
    case $output in
        *"is used by"*) ;;
        *) exit 1 ;;
    esac
    rkvm rm -f web >/dev/null 2>&1 || true
    echo "Then any free port:"
    show rkvm run -d --name web -p 80 nginx
    PORT=$(rkvm port web 80 | sed -n 's/.*://p' | head -1)
}

wait_for_page() {
    local deadline=$((SECONDS + 10))
    until curl --silent --fail --max-time 2 --output /dev/null "$1"; do
        [ $SECONDS -lt $deadline ] || die "$1 does not answer: $(rkvm logs web 2>&1 | tail -5)"
        sleep 0.05
    done
}

show_page() {
    local address page
    address=$(ip -4 -brief address show scope global up | awk '$1 !~ /^(rkv|docker|virbr|cni|podman)/ {split($3, a, "/"); print a[1]; exit}')
    for address in 127.0.0.1 $address; do
        printf '\n$ curl -i http://%s:%s/\n' "$address" "$PORT"
        page=$(curl --silent --show-error --include --max-time 5 "http://$address:$PORT/")
        grep -E '^HTTP/|^Server:|<title>' <<<"$page"
        grep -q 'Welcome to nginx' <<<"$page" || die "this is not nginx's page"
    done
}

# Remembers what the running container has on the host: the proof is that each of these is gone, so there must be some.
note_traces() {
    local pid lease
    pid=$(rkvm inspect --format '{{.State.Pid}}' web)
    PID_NAMESPACE=$(readlink "/proc/$pid/ns/pid")
    PROCESSES=$(processes)
    lease=$(find "$RKVM_ROOT/lib/net/leases" -type f -name '*@*')
    LINK=$(jq -r .hostLink "$lease")
    BRIDGE=$(ip -json link show "$LINK" | jq -r '.[0].master')
    CGROUPS=$(cgroups_of "$pid")
    MOUNTS=$(mounts)
    local name
    for name in PROCESSES LINK BRIDGE CGROUPS MOUNTS; do
        [ -n "${!name}" ] || die "the running container has no $name: the proof would prove nothing"
    done
    rules >/dev/null || die "the running container has no rules: the proof would prove nothing"
}

# Processes in the container's process namespace, and its monitor, which is started with the engine's folders as arguments.
processes() {
    local proc command
    for proc in /proc/[0-9]*; do
        command=$(tr '\0' ' ' <"$proc/cmdline") || continue
        if [ "$(readlink "$proc/ns/pid")" = "$PID_NAMESPACE" ] || [[ $command == *"rkvm-monitor $RKVM_ROOT/run "* ]]; then
            echo "${proc#/proc/} $(cat "$proc/comm")"
        fi
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
    local deadline=$((SECONDS + 5)) left
    while true; do
        left=$(
            processes | sed 's/^/process /'
            mounts | sed 's/^/mount /'
            if [ -e "/sys/class/net/$LINK" ]; then echo "link $LINK"; fi
            if [ -e "/sys/class/net/$BRIDGE" ]; then echo "bridge $BRIDGE"; fi
            for folder in $CGROUPS; do if [ -e "$folder" ]; then echo "cgroup $folder"; fi; done
            if rules >/dev/null; then echo "nft table $BRIDGE"; fi
            if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then echo "port $PORT still answers"; fi
        )
        [ -n "$left" ] || break
        # The kernel ends namespaces and their links a moment after their last process.
        [ $SECONDS -lt $deadline ] || die "this is left:"$'\n'"$left"
        sleep 0.05
    done
    printf '\n%-44s %s\n' "while it ran" "now"
    printf '%-44s %s\n' "$(wc -l <<<"$PROCESSES") processes ($(awk '{print $2}' <<<"$PROCESSES" | sort -u | paste -sd,))" none \
        "$(wc -l <<<"$MOUNTS") mounts, in its namespaces" none \
        "link $LINK on bridge $BRIDGE" none \
        "$(wc -l <<<"$CGROUPS") cgroups" none \
        "nft table $BRIDGE, port $PORT" none
}

# Whatever went wrong: end what was started, and say so.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [ $status != 0 ]; then say "Cleaning up"; fi
    rkvm rm -f web >/dev/null 2>&1 || true
    rkvm system prune --all --force >/dev/null 2>&1 || true
    rm -rf "$RKVM_ROOT"
    exit $status
}

main "$@"
