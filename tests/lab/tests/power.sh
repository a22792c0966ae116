# shellcheck shell=sh source=lib.sh
# The power button of a stock kernel: a signal presses it, the button driver tells whoever
# listens, and the VM ends as the guest does. A guest that does not react is ended when its
# time is over, or by a second signal.
# lab: --timeout 600
. /lab/lib.sh

mkfifo /tmp/console
exec 3<>/tmp/console
start() {
    rm -f /tmp/out
    mote run --kernel /lab/vmlinux --initrd /lab/init-shell.cpio --graceful "$1" \
        --cmdline "console=ttyS0 panic=-1 quiet loglevel=1" <&3 >/tmp/out 2>/tmp/err &
    vm=$!
    wait_for 200 grep -q '^READY' /tmp/out && guest "modprobe -a button evdev"
}
# ends CODE: the VM is over.
ends() {
    wait $vm
    code=$?
    [ $code = "$1" ] && return
    echo "code $code"
    tail -n 5 /tmp/out /tmp/err
    return 1
}
term() { kill -TERM $vm; }

check "a guest boots" start 100
check "it has a power button" guest "grep -q 'PNP0C0C' /proc/bus/input/devices"
check "its interrupt comes by the I/O APIC" guest "grep -q 'IO-APIC *5-edge *ACPI:Ged' /proc/interrupts"
# An event: time (16 bytes), type, code (KEY_POWER, 116), value (pressed).
off='dd if=/dev/input/event0 of=/tmp/event bs=24 count=1; od -t d2 -j 16 -N 4 /tmp/event; poweroff -f'
check "it waits for it" guest "($off) >/dev/console 2>/dev/null &"
sleep 1
term
check "a signal presses it, and the guest powers off" ends 0
check "the guest has seen the key" grep -q ' 1 *116\r*$' /tmp/out

check "a guest boots" start 3
began=$(now)
term
check "without reaction it ends when its time is over" ends 143
check "which it had" [ $(($(now) - began)) -ge 3 ]

check "a guest boots" start 500
term
sleep 1
check "it still runs" kill -0 $vm
term
check "a second signal ends it" ends 143
finish
