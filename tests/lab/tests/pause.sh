# shellcheck shell=sh source=lib.sh
# A stock kernel of eight CPUs, some of them busy, is paused for longer than its watchdogs
# wait, saved meanwhile, resumed, and restored: it takes none of that for a lockup, a stall
# or a clock that cannot be relied on. An argument is the seconds of the pause.
# lab: --timeout 600
. /lab/lib.sh

mkfifo /tmp/console
exec 3<>/tmp/console
cat >/tmp/vm.json <<'CONFIG'
{"boot-source": {"kernel_image_path": "/lab/vmlinux", "initrd_path": "/lab/init-shell.cpio",
                 "boot_args": "console=ttyS0 panic=-1 quiet loglevel=1 watchdog_thresh=5"},
 "machine-config": {"vcpu_count": 8, "mem_size_mib": 256}}
CONFIG
ctl() { mote ctl --socket /tmp/vm.sock "$@" >/tmp/ctl 2>&1 || { cat /tmp/ctl; return 1; }; }
content() {
    # Twice the watchdogs' period: what they have to say they have said.
    guest "sleep 12; dmesg; echo the end" || return
    # What is urgent goes to the console by itself, in the middle of anything.
    ! grep -hE 'lockup|stall|clocksource.*(unstable|skew|watchdog)|Marking clocksource|TSC.*unstable|BUG:|WARNING:' /tmp/said /tmp/out &&
        grep -q '^the end' /tmp/said
}
# Not in a subshell, which would count the guest's orders for itself.
clock() { guest "cat /sys/devices/system/clocksource/clocksource0/current_clocksource" && cp /tmp/said /tmp/clock."$1"; }
same() { clock "$1" && [ -s /tmp/clock.first ] && cmp /tmp/clock.first /tmp/clock."$1"; }

mote --api-sock /tmp/vm.sock --allow-path /lab --allow-path /tmp --config-file /tmp/vm.json <&3 >>/tmp/out 2>/tmp/err &
vm=$!
check "the guest boots" wait_for 100 grep -q "^READY" /tmp/out || cat /tmp/err
check "its watchdogs run" guest "grep -q 1 /proc/sys/kernel/soft_watchdog && grep -q 5 /proc/sys/kernel/watchdog_thresh"
guest "for n in 1 2 3; do (while :; do :; done) & done"
clock first
# An emulated processor without an invariant counter is told of at boot.
guest "dmesg -c >/dev/null"
check "it is paused" ctl pause
sleep "${1:-30}"
mkdir /tmp/saved
check "it is saved" ctl snapshot /tmp/saved/state /tmp/saved/memory
check "it is resumed" ctl resume
check "it is content" content
check "its clock is the same" same resumed
kill $vm
wait $vm
mote restore /tmp/saved <&3 >>/tmp/out 2>>/tmp/err &
vm=$!
check "restored, it is content, too" content
check "its clock is the same" same restored
kill $vm
wait $vm
[ "$failures" = 0 ] || tail -n 5 /tmp/err
finish
