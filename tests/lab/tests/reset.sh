# shellcheck shell=sh source=lib.sh
# A guest that reboots finds itself in the same VM, started again, and --on-reset exit
# ends it instead (code 7). A triple fault is a crash and ends it always (code 5).
. /lab/lib.sh

# guest TEST WAY OPTION...: runs init-check; WAY is the kernel's: k i8042, a ACPI, t triple fault.
guest() {
    test=$1 way=$2
    shift 2
    exec mote run --kernel /lab/vmlinux --initrd /lab/init-check.cpio --memory 256M --cpus 2 "$@" \
        --cmdline "console=ttyS0 panic=-1 quiet ${way:+reboot=$way} mote.test=$test" </dev/null
}

restarts() {
    (guest reboot "$1" >/tmp/out 2>/tmp/err) &
    pid=$!
    wait_for 300 occurs 3 'init: reboot' /tmp/out
    found=$?
    # A VM that was to end itself at the first reset has not waited for this.
    kill -TERM "$pid" || found=1
    wait "$pid"
    [ $found = 0 ] || tail -n 5 /tmp/out /tmp/err
    return $found
}

# exits CODE TEST WAY OPTION...
exits() {
    expected=$1
    shift
    (guest "$@" >/tmp/out 2>/tmp/err) &
    pid=$!
    wait_for 300 not_running "$pid" || kill -KILL "$pid"
    wait "$pid"
    code=$?
    [ "$code" = "$expected" ] && [ "$(grep -c "^init: " /tmp/out)" = 1 ] && return
    echo "code $code"
    tail -n 5 /tmp/out /tmp/err
    return 1
}
not_running() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }

for way in k a; do
    check "reboot=$way: starts again, twice" restarts $way
    check "reboot=$way: --on-reset exit ends the VM" exits 7 reboot $way --on-reset exit
done
# Left alone, a kernel on a hardware-reduced machine without EFI jumps to the BIOS.
check "no reboot=: starts again, twice" restarts ""
check "a kernel that panics resets too" exits 7 panic k --on-reset exit
check "a triple fault ends the VM" exits 5 reboot t
finish
