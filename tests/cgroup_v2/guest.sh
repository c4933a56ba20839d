#!/bin/busybox sh
# Runs as PID 1 of a virtual machine with cgroup v2 alone. Each case is a function; its bundle is /cases/NAME. Prints one line
# `RESULT NAME ok` or `RESULT NAME FAIL: why` per case, which tests/cgroup_v2.rs reads from the console.
export PATH=/bin

main() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs dev /dev
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /run /tmp
    for name in limits pids memory quota freezer devices update stats kill nested namespace refused nothing_left; do
        group=/sys/fs/cgroup/test/$name
        if why=$("case_$name" 2>&1); then
            echo "RESULT $name ok"
        else
            echo "RESULT $name FAIL:" $why
        fi
        [ ! -d "/run/oci/$name" ] || oci delete --force "$name"
    done
    echo "RESULTS END"
    poweroff -f
}

oci() { rkvm-oci --root /run/oci "$@"; }

up() {
    oci create --bundle "/cases/$name" "$name" </dev/null >"/tmp/$name" 2>&1 && oci start "$name" ||
        die "does not start: $(cat "/tmp/$name")"
}

die() {
    echo "$*"
    exit 1
}

is() { [ "$(cat "$group/$1")" = "$2" ] || die "$1 is '$(cat "$group/$1")', not '$2'"; }

says() { grep -q "$1" "/tmp/$name" || die "'$1' is not in its output: $(cat "/tmp/$name")"; }

# Runs a test until it succeeds, for at most 15 seconds.
soon() {
    local tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || die "never came true: $*"
        sleep 0.1
    done
}

gone() {
    oci delete --force "$name" || die "cannot be deleted"
    [ ! -e "$group" ] || die "its cgroup is left"
}

case_limits() {
    up
    is memory.max 67108864
    is memory.low 33554432
    is memory.swap.max 16777216
    is memory.high 60817408
    is cpu.weight 59
    is cpu.max "50000 200000"
    is cpu.max.burst 10000
    is cpuset.cpus 0
    is pids.max 50
    is hugetlb.2MB.max 4194304
    is io.weight "default 4950"
    gone
}

case_pids() {
    up
    soon grep -q "can't fork" "/tmp/$name"
    is pids.max 5
    gone
}

case_memory() {
    up
    soon grep -q "code 137" "/tmp/$name"
    grep -q "^oom_kill [1-9]" "$group/memory.events" || die "no kill is counted"
    oci events --stats "$name" | grep -q 67108864 && die "wrong limit"
    gone
}

throttled() { [ "$(sed -n 's/^nr_throttled //p' "$group/cpu.stat")" -ge 3 ]; }

case_quota() {
    up
    soon throttled
    gone
}

case_freezer() {
    up
    oci pause "$name"
    is cgroup.freeze 1
    oci state "$name" | grep -q '"paused"' || die "$(oci state "$name")"
    oci resume "$name"
    is cgroup.freeze 0
    oci state "$name" | grep -q '"running"' || die "$(oci state "$name")"
    oci pause "$name"
    gone
}

case_devices() {
    up
    soon grep -q end "/tmp/$name"
    says "written"
    says "zeros"
    says "made"
    ! grep -q "was-read\|was-opened" "/tmp/$name" || die "$(cat "/tmp/$name")"
    gone
}

case_update() {
    up
    oci update --pids-limit 55 --memory 41943040 --cpu-quota 30000 "$name"
    is pids.max 55
    is memory.max 41943040
    is cpu.max "30000 100000"
    echo '{"memory": {"limit": -1}, "unified": {"memory.high": "33554432"}}' | oci update --resources - "$name"
    is memory.max max
    is memory.swap.max max
    is memory.high 33554432
    is pids.max 55
    gone
}

case_stats() {
    up
    soon grep -q busy-end "/tmp/$name"
    oci events --stats "$name" >/tmp/json
    grep -q '"limit":67108864' /tmp/json || die "$(cat /tmp/json)"
    grep -q '"current":1' /tmp/json || die "$(cat /tmp/json)"
    grep -q '"total":[1-9]' /tmp/json || die "$(cat /tmp/json)"
    gone
}

six() { [ "$(wc -l <"$group/cgroup.procs")" -ge 6 ]; }
empty() { [ ! -s "$group/cgroup.procs" ]; }

case_kill() {
    up
    soon six
    oci kill --all "$name" KILL
    soon empty
    gone
}

case_nested() {
    up
    mkdir -p "$group/a/b"
    gone
}

case_namespace() {
    up
    soon grep -q end "/tmp/$name"
    says "^0::/$"
    says "seen"
    gone
}

case_refused() {
    oci run --bundle "/cases/$name" "$name" >"/tmp/$name" 2>&1 && die "was accepted"
    says "network.classID"
    [ ! -e "$group" ] || die "its cgroup is left"
}

case_nothing_left() {
    left=$(find /sys/fs/cgroup -mindepth 1 -type d; ls -A /run/oci)
    case $left in
        "" | @seccomp) ;;
        *) die "$left" ;;
    esac
    ! pidof sleep || die "processes are left: $(ps)"
}

if [ "$1" != inside ]; then
    # pivot_root(2) refuses the initial root file system: a tmpfs becomes the root.
    /bin/busybox mount -t tmpfs -o mode=755 tmpfs /new
    /bin/busybox cp -a /bin /cases /init /new/
    /bin/busybox --install -s /new/bin
    /bin/busybox mkdir -p /new/proc /new/sys /new/dev
    exec /bin/busybox switch_root /new /init inside
fi
main
