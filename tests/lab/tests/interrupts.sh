# shellcheck shell=sh source=lib.sh
# Interrupts of a device to a stock driver, and its doorbells, never leave the kernel:
# a thousand pings, and a thousand reads of a disk, one at a time, each of them both, and
# the exits of the vCPU to user space for a register that KVM counts meanwhile.
. /lab/lib.sh

tap=vm0
mac=02:00:00:00:09:02
here=10.9.0.1 there=10.9.0.2
ip=/sbin/ip ping=/sbin/ping
PATH=/bin:/sbin
requests=1000
exits=/sys/kernel/tracing/events/kvm/kvm_userspace_exit

mkfifo /tmp/never /tmp/console
$ip tuntap add dev $tap mode tap
$ip address add $here/24 dev $tap
$ip link set $tap up
$ip neigh replace $there lladdr $mac dev $tap
exec 3<>/tmp/console
head -c $((requests * 4096)) /dev/urandom >/tmp/disk
mote run --kernel /lab/vmlinux --initrd /lab/init-shell.cpio --memory 256M --net tap=$tap,mac=$mac,poll_us=0 \
    --disk /tmp/disk,poll_us=0 \
    --cmdline "console=ttyS0 panic=-1 quiet loglevel=1" <&3 >>/tmp/out 2>/tmp/err &
vm=$!

# hits: accesses to registers that were handed to user space (KVM_EXIT_MMIO). The
# console, by which the guest gets its orders, has ports instead.
hits() { awk '/reason: *6 }/ { n = $NF } END { print n + 0 }' $exits/hist; }
# interrupts DEVICE: sets $seen to how many the guest has had from it.
interrupts() {
    guest "cat /proc/interrupts"
    seen=$(awk -v device="$1" '$NF == device { print $2 }' /tmp/said)
}
# free DEVICE COMMAND: there are as many interrupts as requests, and no exit.
free() {
    interrupts "$1"
    first=$seen
    before=$(hits)
    check "$requests requests of $1" "$2"
    counted=$(($(hits) - before))
    interrupts "$1"
    seen=$((seen - first))
    cat $exits/hist
    echo "$1: $seen interrupts, $counted exits to user space"
    check "each request is an interrupt of $1" [ "$seen" -ge $((requests * 9 / 10)) ]
    check "an interrupt of $1 costs no exit" [ "$counted" = 0 ]
}
pings() {
    $ping -q -c $requests -i 0.005 $there >/tmp/ping && grep -q " $requests received" /tmp/ping
}
# Without looking ahead every page is a request of its own.
reads() {
    guest "echo 0 >/sys/block/vda/queue/read_ahead_kb; dd if=/dev/vda bs=4096 2>/dev/null | sha256sum" &&
        grep -q "^$(sha256sum /tmp/disk | cut -d' ' -f1)" /tmp/said
}

mount -t tracefs none /sys/kernel/tracing
check "KVM's exits can be counted" sh -c "echo hist:keys=reason >$exits/trigger"
check "the guest takes orders" wait_for 200 grep -q '^READY' /tmp/out
check "its disk comes up" guest "modprobe virtio_blk; sleep 1"
check "its network comes up" guest "$ip address add $there/24 dev eth0; $ip link set eth0 up; sleep 2"
check "it answers" $ping -q -c 5 -i 0.2 $there
check "exits are counted" [ "$(hits)" -gt 0 ]

# Disks come first in the row of windows.
free virtio0 reads
free virtio1 pings
guest "poweroff -f" &
check "the guest powers off" wait_for 60 sh -c "! kill -0 $vm 2>/dev/null"
finish
