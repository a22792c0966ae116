# shellcheck shell=sh source=lib.sh
# The power button of a stock kernel: a signal presses it, the button driver tells whoever
# listens, and the VM ends as the guest does. A guest that does not react is ended when its
# time is over, or by a second signal. Last by the control API, and with it a disk that grows.
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

# The same by the control API, and a disk that grows under its driver.
rm -f /tmp/out
dd if=/dev/zero of=/tmp/disk bs=1M count=16 2>/dev/null
cat >/tmp/vm.json <<'END'
{"boot-source": {"kernel_image_path": "/lab/vmlinux", "initrd_path": "/lab/init-shell.cpio",
                 "boot_args": "console=ttyS0 panic=-1 quiet loglevel=1"},
 "drives": [{"drive_id": "data", "path_on_host": "/tmp/disk", "is_root_device": false}]}
END
mote api --socket /tmp/vm.sock --config-file /tmp/vm.json <&3 >>/tmp/out 2>/tmp/err &
vm=$!
ctl() { mote ctl --socket /tmp/vm.sock "$@"; }
check "a guest boots" wait_for 200 grep -q '^READY' /tmp/out
check "it finds its drivers" guest "modprobe -a button evdev virtio_blk && cat /sys/block/vda/size"
check "and its disk" grep -q '^32768' /tmp/said
dd if=/dev/zero of=/tmp/disk bs=1M seek=39 count=1 2>/dev/null
check "the disk grows" ctl grow data
check "its driver knows" wait_for 20 guest "grep -q '^81920' /sys/block/vda/size"
check "and writes there" guest "echo new | dd of=/dev/vda bs=512 seek=81919 count=1 conv=sync,fsync"
check "into the image" sh -c 'tail -c 512 /tmp/disk | grep -q new'
check "it waits for its button" guest "($off) >/dev/console 2>/dev/null &"
sleep 1
check "the API presses it" ctl power
check "and the guest powers off" ends 0
finish
