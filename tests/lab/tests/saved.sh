# shellcheck shell=sh source=lib.sh
# A stock kernel writes to an ext4 and sends to a network, is saved at a random moment of
# both, its monitor ends, and it is restored: every byte arrives on the disk and at the
# other end of its TCP connection, and the file system is whole, then and at the end. An
# argument is the number of rounds on each bus. Each boots anew:
# the emulator refuses a restored guest's user programs their ports (see the README).
. /lab/lib.sh

tap=vm0
mac=02:00:00:00:09:02
here=10.9.0.1 there=10.9.0.2
ip=/sbin/ip
PATH=/bin:/sbin
mkfifo /tmp/never

$ip tuntap add dev $tap mode tap
$ip address add $here/24 dev $tap
$ip link set $tap up
$ip neigh replace $there lladdr $mac dev $tap
# What writes the boot marker: the guest's kernel has no /dev/port.
cp /bin/port /tmp/tool
truncate -s 2M /tmp/tool

mkfifo /tmp/console
exec 3<>/tmp/console
devices="--net tap=$tap,mac=$mac --disk /tmp/disk --disk /tmp/tool,ro"
# shellcheck disable=SC2086
start() { mote "$@" $devices --snapshot /tmp/saved --then exit <&3 >>/tmp/out 2>>/tmp/err & vm=$!; }

load='for n in 1 2 3; do dd if=/tmp/data of=/mnt/$n bs=64k conv=fsync 2>/dev/null && echo $n >/mnt/last && sync; done'
# boot BUS
boot() {
    rm -rf /tmp/saved
    mkdir /tmp/saved
    : >/tmp/out
    rm -f /tmp/disk
    truncate -s 48M /tmp/disk
    /sbin/mke2fs -q -F -t ext4 /tmp/disk
    start run --kernel /lab/vmlinux --initrd /lab/init-shell.cpio --memory 256M --bus "$1" \
        --cmdline "console=ttyS0 panic=-1 quiet loglevel=1"
    check "the guest boots" wait_for 200 grep -q '^READY' /tmp/out
    check "its disk comes up" guest "modprobe -a virtio_blk ext4 crc32c_generic; sleep 1; mkdir /mnt; mount -t ext4 /dev/vda /mnt"
    check "it can write the boot marker" guest "cat /dev/vdb >/tmp/port; chmod +x /tmp/port"
    check "its network comes up" guest "$ip address add $there/24 dev eth0; $ip link set eth0 up; sleep 2"
    check "it has something to say" guest "head -c 8388608 /dev/urandom >/tmp/data"
}
round() {
    rm -f /tmp/arrived
    nc -l -p 5002 <>/tmp/never >/tmp/arrived &
    receiver=$!
    guest "rm -f /tmp/*.done; ($load; touch /tmp/disk.done) >/dev/null 2>&1 &" || return
    guest "(nc -w 60 $here 5002 </tmp/data; touch /tmp/net.done) >/dev/null 2>&1 &" || return
    # The boot marker, within the next second.
    delay=0.$(($(od -An -N1 -tu1 /dev/urandom) % 90 + 10))
    echo "0 sleep $delay; /tmp/port 0x604 '{'" >&3
    wait $vm || return
    [ -e /tmp/saved/state ] || return
    mv /tmp/saved /tmp/from
    mkdir /tmp/saved
    # As after a loss of power: the journal is all that has to be done again.
    cp /tmp/disk /tmp/copy
    /sbin/e2fsck -p /tmp/copy >/tmp/fsck 2>&1
    [ $? -le 1 ] && /sbin/e2fsck -fn /tmp/copy >/tmp/fsck 2>&1 || { cat /tmp/fsck; return 1; }
    rm /tmp/copy
    echo "NOTE saved after $delay s, $(stat -c %s /tmp/arrived) bytes had arrived"
    start restore /tmp/from
    wait_for 100 guest "test -e /tmp/disk.done && test -e /tmp/net.done" >/dev/null || return
    wait $receiver
    rm -r /tmp/from
    guest "sha256sum </tmp/data; for n in 1 2 3; do sha256sum </mnt/\$n; done" || return
    [ "$(sort -u /tmp/said | wc -l)" = 1 ] || { cat /tmp/said; return 1; }
    sum=$(head -n 1 /tmp/said | tr -d '\r')
    guest "umount /mnt && test ! -e /mnt/1" || return
    /sbin/e2fsck -fn /tmp/disk >/tmp/fsck 2>&1 || { cat /tmp/fsck; return 1; }
    [ "$(sha256sum </tmp/arrived)" = "$sum" ]
}
for turn in $(seq "${1:-1}"); do for bus in mmio pci; do
    boot $bus
    check "round $turn, $bus" round
    guest "dmesg | grep -E 'WARNING:|BUG:|timed out|I/O error|stall|lockup|Call Trace'; true"
    check "nothing is amiss in its log" [ ! -s /tmp/said ]
    guest "dmesg -c >/dev/null"
    kill $vm
    wait $vm
done; done
finish
