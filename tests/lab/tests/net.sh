# shellcheck shell=sh source=lib.sh
# A stock kernel uses a network: the lab host is at the other end of its tap. Pings,
# checksummed bulk transfers and iperf3 both ways, with offloads and without; floods, also
# at a guest that takes nothing; the driver taken away and given back; a reboot; the tap
# set down, and removed while the VM runs.
. /lab/lib.sh

tap=vm0
mac=02:00:00:00:09:02
here=10.9.0.1 there=10.9.0.2
here6=fd00:9::1 there6=fd00:9::2
# busybox has its own.
ip=/sbin/ip ping=/sbin/ping
PATH=/bin:/sbin
# Input that does not end.
mkfifo /tmp/never

$ip tuntap add dev $tap mode tap
$ip address add $here/24 dev $tap
$ip address add $here6/64 dev $tap nodad
$ip link set $tap up
# A guest that is off for a while is not forgotten.
$ip neigh replace $there lladdr $mac dev $tap

mkfifo /tmp/console
exec 3<>/tmp/console
mote run --kernel /lab/vmlinux --initrd /lab/init-shell.cpio --cpus 2 --memory 256M --net tap=$tap,mac=$mac \
    --cmdline "console=ttyS0 panic=-1 reboot=k quiet loglevel=1" <&3 >>/tmp/out 2>/tmp/err &
vm=$!

said() { guest "$1" && grep -q "$2" /tmp/said; }
configure() {
    guest "$ip address add $there/24 dev eth0; $ip address add $there6/64 dev eth0 nodad; $ip link set eth0 up"
    wait_for 20 carrier 1
}
carrier() { said "cat /sys/class/net/eth0/carrier" "^$1\$"; }
reaches() { $ping -q -c 3 -i 0.2 -W 5 $there >/tmp/ping; }

# The tap as the guest sees it: what it transmits is received there.
count() { cat "/sys/class/net/$tap/statistics/$1"; }
sum() { sha256sum "$1" | cut -d' ' -f1; }
processor() { awk '{print $14 + $15}' "/proc/$vm/stat"; }

bulk=$((6 << 20))
head -c $bulk /dev/urandom >/tmp/bulk

# bulk_in, bulk_out ADDRESS: BYTES by TCP, compared at the other end.
bulk_in() {
    guest "test -e /tmp/never || mkfifo /tmp/never" || return
    guest "(nc -l -p 5001 <>/tmp/never >/tmp/in; echo done >/tmp/in.done) >/dev/null 2>&1 &" || return
    wait_for 20 said "netstat -lnt" ":5001 " || return
    nc -w 60 "$1" 5001 </tmp/bulk || return
    wait_for 60 guest "test -e /tmp/in.done && rm /tmp/in.done" >/dev/null || return
    said "sha256sum /tmp/in" "^$(sum /tmp/bulk)"
}
bulk_out() {
    nc -l -p 5002 <>/tmp/never >/tmp/arrived &
    receiver=$!
    guest "test -e /tmp/out-bulk || head -c $bulk /dev/urandom >/tmp/out-bulk" || return
    guest "nc -w 60 $1 5002 </tmp/out-bulk" || return
    wait $receiver || return
    said "sha256sum /tmp/out-bulk" "^$(sum /tmp/arrived)"
}

# speed NAME OPTION...: iperf3, with its own verdict, for the log.
speed() {
    label=$1
    shift
    guest "iperf3 -s -1 -D >/dev/null" || return
    wait_for 20 said "netstat -lnt" ":5201 " || return
    iperf3 -c $there --connect-timeout 20000 "$@" >/tmp/iperf 2>&1 || { cat /tmp/iperf; return 1; }
    grep -E 'sender|receiver' /tmp/iperf | sed "s/^/NOTE $label: /"
}

# average DIRECTION COMMAND: the mean size of a frame at the tap while it runs, in $mean.
average() {
    direction=$1
    shift
    packets=$(count "${direction}_packets") bytes=$(count "${direction}_bytes")
    "$@" || return
    packets=$(($(count "${direction}_packets") - packets)) bytes=$(($(count "${direction}_bytes") - bytes))
    mean=$((bytes / packets))
    echo "NOTE $packets frames of $mean bytes"
}
large_in() { average tx bulk_in "$1" && [ "$mean" -gt 1514 ]; }
# What nc sends in small pieces makes large frames only while the guest waits for something;
# iperf3 sends in large ones.
large_out() { bulk_out "$1" && average rx speed "TCP out" -n 4M -R && [ "$mean" -gt 1514 ]; }
small_in() { average tx bulk_in "$1" && [ "$mean" -le 1514 ]; }
small_out() { average rx bulk_out "$1" && [ "$mean" -le 1514 ]; }

sizes() {
    for size in 0 1 13 100 1471 1472 1473 2000 4000 9000 30000 65507; do
        $ping -q -c 2 -i 0.05 -W 5 -s $size -p a5 $there >/tmp/ping || { echo "size $size"; return 1; }
    done
    # Not fragmented.
    $ping -q -c 2 -i 0.05 -W 5 -M "do" -s 1472 $there >/tmp/ping
}
no_loss() {
    "$@" >/tmp/ping 2>&1
    grep -q ' 0% packet loss' /tmp/ping && return
    tail -n 3 /tmp/ping
    return 1
}

check "the guest boots" wait_for 300 grep -q '^READY' /tmp/out
check "it has the address it was given" said "cat /sys/class/net/eth0/address" "^$mac\$"
check "and a link" configure
check "a ping arrives" reaches
check "of every size" sizes
check "and by IPv6" $ping -q -c 3 -i 0.2 -W 10 -s 3000 $there6
check "the guest pings" guest "$ping -q -c 3 -i 0.2 -W 5 -s 20000 $here"

check "bulk to the guest, in large frames" large_in $there
check "bulk from the guest, in large frames" large_out $here
check "bulk to the guest by IPv6" large_in $there6
check "bulk from the guest by IPv6" large_out $here6
check "iperf3 to the guest" speed "TCP in" -n 16M
check "iperf3 from the guest" speed "TCP out" -n 16M -R
check "iperf3 both ways at once" speed "TCP both" -n 8M --bidir
check "iperf3 UDP to the guest" speed "UDP in" -u -b 20M -t 3
check "iperf3 UDP from the guest" speed "UDP out" -u -b 20M -t 3 -R
check "iperf3 UDP in fragments" speed "UDP 16K" -u -b 20M -l 16000 -t 2

check "the guest leaves its offloads off" guest "ethtool -K eth0 tx off sg off tso off gso off gro off"
check "bulk to the guest" large_in $there
check "bulk from the guest, in small frames" small_out $here
check "iperf3 from the guest" speed "TCP out, no offload there" -n 8M -R
check "the host leaves them off too" ethtool -K $tap tx off tso off gso off
check "bulk to the guest, in small frames" small_in $there
check "bulk from the guest, in small frames" small_out $here
check "iperf3 to the guest" speed "TCP in, no offload" -n 8M
check "offloads are on again" guest "ethtool -K eth0 tx on sg on tso on gso on gro on"
check "here too" ethtool -K $tap tx on tso on gso on
check "bulk to the guest, in large frames" large_in $there

# As fast as answers come, with 8 on their way. `-f` sends a hundred a second to a machine
# that answers fewer, too, and then loses answers in its own socket.
check "ping flood to the guest" no_loss timeout 120 $ping -q -A -l 8 -c 1500 $there
check "with large packets" no_loss timeout 120 $ping -q -A -l 8 -c 200 -s 8000 $there
check "ping flood from the guest" guest "timeout 120 $ping -q -A -l 8 -c 1000 $here | grep ' 0% packet loss'"

# Nobody takes frames from the ring: the host drops them, and the VM does not work on it.
flood() {
    guest "$ip link set eth0 down" || return
    dropped=$(count tx_dropped)
    # More than the tap's queue holds.
    $ping -q -l 5000 -c 5000 -s 1400 -W 1 $there >/dev/null
    dropped=$(($(count tx_dropped) - dropped))
    before=$(processor)
    sleep 3
    echo "NOTE $dropped dropped, $(($(processor) - before)) ticks in 3 s of rest"
    [ $dropped -gt 1000 ] && [ $(($(processor) - before)) -lt 60 ]
}
check "a flood while the guest takes nothing" flood
check "its link again" configure
check "a ping arrives" wait_for 20 reaches
check "bulk to the guest" bulk_in $there

# rebind BUS DRIVER DEVICE
rebind() {
    guest "echo $3 >/sys/bus/$1/drivers/$2/unbind && ! test -e /sys/class/net/eth0" || return
    $ping -q -f -w 3 $there >/dev/null
    guest "echo $3 >/sys/bus/$1/drivers/$2/bind" || return
    wait_for 20 guest "test -e /sys/class/net/eth0" && configure && wait_for 20 reaches
}
# device PATH: the name of a directory there.
device() { guest "basename \$(readlink -f /sys/class/net/eth0/$1)" && head -n 1 /tmp/said; }
check "virtio_net unbound and bound" rebind virtio virtio_net "$(device device)"
check "bulk from the guest" bulk_out $here
check "virtio-mmio unbound and bound" rebind platform virtio-mmio "$(device device/..)"
check "bulk to the guest" bulk_in $there

log() {
    bad='WARNING:|BUG:|[Uu]nable to|timed out|nobody cared|Call Trace|eth0.*(checksum|hang)|virtio.*(error|failed|bad)'
    guest "dmesg | grep -E '$bad'; true"
    [ ! -s /tmp/said ] || { cat /tmp/said; return 1; }
}
check "nothing is amiss in its log" log

# In the middle of a transfer, with frames on their way.
restart() {
    $ping -q -f -w 5 $there >/dev/null 2>&1 &
    flooding=$!
    echo "0 reboot -f" >&3
    wait_for 300 occurs 2 '^READY' /tmp/out || return
    wait $flooding
    configure && wait_for 20 reaches
}
check "a reboot in place" restart
check "bulk to the guest" large_in $there
check "bulk from the guest" large_out $here

# Its next frame shows it.
lost() { guest "$ping -c 1 -W 1 $here >/dev/null; true" && carrier 0; }
$ip link set $tap down
check "the tap is down, and the link" wait_for 30 lost
$ip link set $tap up
check "the tap is up, and the link" wait_for 30 carrier 1
$ip neigh replace $there lladdr $mac dev $tap
check "a ping arrives" wait_for 30 reaches
check "bulk from the guest" bulk_out $here

rest() {
    before=$(processor)
    sleep 3
    echo "NOTE $(($(processor) - before)) ticks in 3 s of rest"
    [ $(($(processor) - before)) -lt 60 ]
}
check "the tap is removed" $ip link delete $tap
check "and the link is down" wait_for 30 carrier 0
check "the VM lives" guest "uname -r"
check "and rests" rest
echo "0 poweroff -f" >&3
check "the guest powers off" wait $vm
check "mote has nothing to say" [ ! -s /tmp/err ]
finish
