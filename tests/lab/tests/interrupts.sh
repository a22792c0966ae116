# shellcheck shell=sh source=lib.sh
# Interrupts of a device to a stock driver, and its doorbells, never leave the kernel:
# a thousand pings, one at a time, each of them both, and the exits of the vCPU to user
# space that KVM counts meanwhile.
# lab: --timeout 600
. /lab/lib.sh

tap=vm0
mac=02:00:00:00:09:02
here=10.9.0.1 there=10.9.0.2
ip=/sbin/ip ping=/sbin/ping
PATH=/bin:/sbin
pings=1000
exits=/sys/kernel/tracing/events/kvm/kvm_userspace_exit

mkfifo /tmp/never /tmp/console
$ip tuntap add dev $tap mode tap
$ip address add $here/24 dev $tap
$ip link set $tap up
$ip neigh replace $there lladdr $mac dev $tap
exec 3<>/tmp/console
mote run --kernel /lab/vmlinux --initrd /lab/init-shell.cpio --memory 256M --net tap=$tap,mac=$mac,poll_us=0 \
    --cmdline "console=ttyS0 panic=-1 quiet loglevel=1" <&3 >>/tmp/out 2>/tmp/err &
vm=$!

number=0
# guest COMMAND: runs it there; what it said is in /tmp/said.
guest() {
    number=$((number + 1))
    echo "BEGIN $number" >>/tmp/out
    echo "$number $1" >&3
    wait_for 120 grep -q "^DONE $number 0" /tmp/out || return 1
    sed -n "/^BEGIN $number\$/,/^DONE $number /p" /tmp/out | sed '1d;$d' >/tmp/said
}
# interrupts: sets $seen to how many the guest has had from its network device.
interrupts() {
    guest "cat /proc/interrupts"
    seen=$(awk '/virtio0/ { print $2 }' /tmp/said)
}
hits() { awk '/Hits:/ { print $2 }' $exits/hist; }

mount -t tracefs none /sys/kernel/tracing
check "KVM's exits can be counted" sh -c "echo hist:keys=reason >$exits/trigger"
check "the guest takes orders" wait_for 200 grep -q '^READY' /tmp/out
check "its network comes up" guest "$ip address add $there/24 dev eth0; $ip link set eth0 up; sleep 2"
check "it answers" $ping -q -c 5 -i 0.2 $there

interrupts
first=$seen
check "exits are counted" [ "$(hits)" -gt 0 ]
before=$(hits)
check "$pings pings" sh -c "$ping -q -c $pings -i 0.005 $there >/tmp/ping && grep -q ' $pings received' /tmp/ping"
counted=$(($(hits) - before))
interrupts
seen=$((seen - first))
cat $exits/hist
echo "$seen interrupts, $counted exits to user space"
check "each ping is an interrupt" [ "$seen" -ge $((pings * 9 / 10)) ]
# The guest's own doings, such as a line of its log, are a few.
check "an interrupt costs no exit" [ "$counted" -lt $((pings / 20)) ]
guest "poweroff -f" &
check "the guest powers off" wait_for 60 sh -c "! kill -0 $vm 2>/dev/null"
finish
