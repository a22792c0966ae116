# shellcheck shell=sh source=lib.sh
# Seconds of the lab's deterministic clock from exec to the first byte of a stock
# kernel's init, and to the monitor's exit. For comparison: Firecracker 1.16.1 took
# 1.64 s to its exit, with the shared command line. Medians of five runs: the clock is
# deterministic, but the end of a VM waits for grace periods, which go by 4 ms ticks.
# Arguments are one more command line to measure.
# lab: --icount --silence 1500 --timeout 1500
. /lab/lib.sh

seconds() { awk "BEGIN { printf \"%.3f\", $1 / 1000000 }"; }

# once NAME COMMAND...: its first byte, init's line and exit, into /tmp/times.
# Now and then the emulator hangs a guest (see the README), which is no result.
once() {
    name=$1
    shift
    for _ in 1 2 3; do
        result=$(stopwatch 5 init "$@" </dev/null 2>/tmp/output)
        [ "${result##* }" = 137 ] || break
        echo "$name: the guest hung, once more"
    done
    # first F string S exit E code C
    # shellcheck disable=SC2086
    set -- $result
    if [ "$8" != 0 ] || [ "$4" = -1 ]; then
        tail -n 5 /tmp/output
        return 1
    fi
    echo "$2 $4 $6" >>/tmp/times
}

# median COLUMN: of /tmp/times, in seconds.
median() { seconds "$(cut -d' ' -f"$1" /tmp/times | sort -n | sed -n 3p)"; }

# measure NAME COMMAND...
measure() {
    name=$1
    rm -f /tmp/times
    for _ in 1 2 3 4 5; do
        if ! once "$@"; then
            check "$name: $result" false
            return
        fi
    done
    printf '%-24s first byte %s  init %s  exit %s\n' "$name" "$(median 1)" "$(median 2)" "$(median 3)"
}

result=$(stopwatch 5 ok kvm-least 2>/dev/null)
printf '%-24s %s\n' "a least monitor (us)" "$result"
measure "shared command line" mote run --kernel /lab/vmlinux --initrd /lab/init-tiny.cpio --memory 128M \
    --cmdline "console=ttyS0 reboot=k panic=-1 quiet"
measure "Mote's own" mote run --kernel /lab/vmlinux --initrd /lab/init-tiny.cpio --memory 128M
measure "Mote's own, bzImage" mote run --kernel /lab/vmlinuz --initrd /lab/init-tiny.cpio --memory 128M
[ -z "$*" ] || measure "$*" mote run --kernel /lab/vmlinux --initrd /lab/init-tiny.cpio --memory 128M --cmdline "$*"
finish
