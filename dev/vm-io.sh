#!/usr/bin/env bash
# Disk and network of our VMM and of QEMU's microvm with the same kernel, guest, disk image and settings (QEMU: aio=threads,
# cache=writeback, no vhost), interleaved. `./x bench vm` ends with it.
#
# Two tables: what the guest got done in a second, and in a second of the VMM's processor time, which says the same on a machine that
# others use too (so does `chrt -r 5 dev/vm-io.sh`). Medians of the rounds, the median of the rounds' ratios, and the interval in which
# that median lies with 95% certainty.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=dev/lib.sh
. dev/lib.sh

usage() { echo "usage: dev/vm-io.sh [--rounds N] [--seconds N] [--cpus N] [--kernel FILE] (default: 11 rounds of 0.6 s a test, 1 vCPU)"; }
rounds=11 seconds=0.6 cpus=1 kernel=''
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number}; shift 2 ;;
        --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
        --cpus) cpus=${2:?--cpus needs a number}; shift 2 ;;
        --kernel) kernel=${2:?--kernel needs a file}; shift 2 ;;
        -h | --help) usage; exit ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done

need_root "measuring the network of virtual machines"
[ -w /dev/kvm ] || die "/dev/kvm is missing or not writable: no virtual machine can run here"
need_packages "${BUILD_PACKAGES[@]}" qemu-system-x86 busybox-static iproute2 jq
need_cargo
[ -n "$kernel" ] || kernel=$(guest/kernel/build.sh | tail -1)
cargo build --quiet --release -p rkvm-vmm --example boot --example io_load
examples=$(bin_dir)/examples

# QEMU takes over a processor's capability register (MSR 0x10a) where KVM offers one, and gives up where KVM does not let it be set: on
# a PVM host with an AMD processor, which has no such register.
qemu_cpu=host,migratable=off,+invtsc
grep -q GenuineIntel /proc/cpuinfo || qemu_cpu+=,-arch-capabilities
DISK_MIB=512
TESTS=8
MEMORY_MIB=256
MAC=02:00:00:00:00:02
HOST=10.77.0.1
GUEST=10.77.0.2
work=$(mktemp -d "${CARGO_TARGET_DIR:-$PWD/target}/vm-io.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Both machines have the same guest: busybox and the load.
guest=$work/guest
mkdir -p "$guest"/{bin,dev,proc,sys}
cp /bin/busybox "$guest/bin/busybox"
cp "$examples/io_load" "$guest/bin/io_load"
cat >"$guest/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox ip addr add $GUEST/24 dev eth0
/bin/busybox ip link set eth0 up
echo ready
load=/bin/io_load
\$load disk /dev/vda read sequential 1048576 1 $seconds
\$load disk /dev/vda read random 4096 1 $seconds
\$load disk /dev/vda read random 4096 16 $seconds
\$load disk /dev/vda write sequential 1048576 1 $seconds
\$load disk /dev/vda write random 4096 16 $seconds
\$load send $HOST:7000 $seconds
\$load receive $HOST:7000 $seconds
\$load round-trips $HOST:7000 $seconds
# What the console has not sent yet would be lost.
/bin/busybox sleep 0.3
/bin/busybox reboot -f
END
chmod +x "$guest/init"
(cd "$guest" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
head -c "${DISK_MIB}M" /dev/urandom >"$work/disk"

# Adds the VMM's processor time since the line before, in seconds, to each result of the guest.
with_cpu() {
    local pid=$1 line before=0 now ticks
    ticks=$(getconf CLK_TCK)
    cpu() { awk '{ print $14 + $15 }' "/proc/$pid/stat" 2>/dev/null || echo "$before"; }
    while IFS= read -r line; do
        now=$(cpu)
        line=${line%$'\r'}
        echo "$line" >>"$work/console.log"
        if [[ $line == '{"test"'* ]]; then
            echo "${line%\}},\"vmm\":\"$2\",\"cpu\":$(awk "BEGIN { print ($now - $before) / $ticks }")}"
        fi
        before=$now
    done
}

# Runs in a network namespace of its own, which goes with it.
run_machine() {
    local server vmm limit=$((60 + 16 * ${seconds%.*})) # a guest that hangs must not hang this
    ip tuntap add tap0 mode tap vnet_hdr
    ip addr add $HOST/24 dev tap0
    ip link set tap0 up
    "$examples/io_load" serve $HOST:7000 &
    server=$!
    rm -f "$work/console" "$work/console.log"
    mkfifo "$work/console"
    if [ "$1" = rkvm ]; then
        BOOT_DISK=$work/disk BOOT_TAP=tap0 \
            "$examples/boot" "$kernel" "$work/initrd" "$cpus" $MEMORY_MIB quiet >"$work/console" 2>"$work/log" &
    else
        qemu-system-x86_64 -M microvm,acpi=off,pit=off,pic=off,rtc=off -accel kvm \
            -cpu "$qemu_cpu" -smp "$cpus" -m $MEMORY_MIB -nodefaults -no-user-config -display none \
            -no-reboot -serial stdio -kernel "$kernel" -initrd "$work/initrd" \
            -append "console=ttyS0 quiet reboot=t panic=-1" \
            -drive "if=none,id=disk,file=$work/disk,format=raw,aio=threads,cache=writeback" -device virtio-blk-device,drive=disk \
            -netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=off -device "virtio-net-device,netdev=net,mac=$MAC" \
            </dev/null >"$work/console" 2>"$work/log" &
    fi
    vmm=$!
    (sleep $limit && kill $vmm) &
    limit=$!
    with_cpu $vmm "$1" <"$work/console"
    kill $limit $server
    wait $vmm || true
}
export -f run_machine with_cpu
export work examples kernel cpus seconds qemu_cpu MEMORY_MIB MAC HOST

for round in $(seq "$rounds"); do
    [ ! -t 2 ] || printf "round %s of %s\r" "$round" "$rounds" >&2
    # In turns, and without what the one before has left to be written.
    order=(rkvm qemu)
    [ $((round % 2)) = 1 ] || order=(qemu rkvm)
    for vmm in "${order[@]}"; do
        sync "$work/disk"
        unshare --net bash -euc "run_machine $vmm" >"$work/round"
        [ "$(wc -l <"$work/round")" = "$TESTS" ] ||
            { tail -n 20 "$work/log" "$work/console.log" >&2; die "the guest in $vmm did not finish its tests"; }
        sed "s/}$/,\"round\":$round}/" "$work/round" >>"$work/results"
    done
done

# Small blocks and round trips by number, the rest by MB; more is better in each. The interval is that of the sign test: the number of
# rounds below the median is binomial, whatever the figures' distribution.
table() {
    jq -r --arg per "$1" '
        (.test | test(" 4096 |round-trips")) as $small
        | [.test, (if $small then "number" else "MB" end), .vmm, .round,
            (if $small then .operations else .bytes / 1e6 end) / ([.[$per], 0.01] | max)]
        | @tsv' "$work/results" | sort -s -t $'\t' -k1,1 -k4,4n | awk -F '\t' -v title="$2" -v rounds="$rounds" '
        function median(values, n) { sort(values, n); return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2 }
        function sort(values, n, i, j, value) {
            for (i = 2; i <= n; i++) {
                value = values[i]
                for (j = i - 1; j > 0 && values[j] > value; j--) values[j + 1] = values[j]
                values[j + 1] = value
            }
        }
        # How many values at each end are outside of the interval.
        function outside(n, i, share, sum) {
            share = 0.5 ^ n
            for (i = 0; sum + share <= 0.025; i++) { sum += share; share *= (n - i) / (i + 1) }
            return i > 0 ? i - 1 : 0
        }
        function line(test, unit, i, ratios, ours, theirs, cut, middle) {
            for (i = 1; i <= rounds; i++) {
                ours[i] = figure["rkvm", i]; theirs[i] = figure["qemu", i]; ratios[i] = ours[i] / theirs[i]
            }
            cut = outside(rounds); middle = median(ratios, rounds)
            printf "%-34s %6s %10.1f %10.1f %6.2fx  %.2f to %.2f\n", test, unit, median(ours, rounds), median(theirs, rounds),
                middle, ratios[1 + cut], ratios[rounds - cut]
        }
        BEGIN { printf "%-34s %6s %10s %10s %7s  %s\n", title, "", "rkvm", "qemu", "ratio", "95% interval" }
        NR > 1 && $1 != test { line(test, unit) }
        { test = $1; unit = $2; figure[$3, $4] = $5 }
        END { line(test, unit) }'
}
say "disk and network, $rounds rounds each, interleaved, $cpus vCPU, $MEMORY_MIB MiB; aim: ratios of at least 1.00"
table seconds "per second"
table cpu "per second of processor time"
