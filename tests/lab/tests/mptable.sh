# shellcheck shell=sh source=lib.sh
# A kernel without ACPI finds its processors and interrupts by the MP table, and its
# devices on the command line: all CPUs come up, disks and network work by interrupts,
# and a reset is one. It has no serial port either, so what it finds is on a disk.
# lab: --extra vmlinux-mptable --silence 300 --timeout 600
. /lab/lib.sh

/sbin/ip tuntap add dev vm0 mode tap
/sbin/ip address add 10.9.0.1/24 dev vm0
/sbin/ip link set vm0 up

mkdir -p /tmp/root/bin /tmp/root/dev /tmp/root/proc /tmp/root/sys
cp /bin/busybox /tmp/root/bin
cat >/tmp/root/init <<'EOF'
#!/bin/busybox sh
export PATH=/bin
# busybox finds itself by /proc.
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
{
    echo "cpus $(grep -c ^processor /proc/cpuinfo)"
    echo "acpi $(ls /sys/firmware/acpi 2>/dev/null)"
    ifconfig eth0 10.9.0.2 up
    ping -c 3 -W 5 10.9.0.1
    timeout 20 nc 10.9.0.1 5001 </dev/null | sha256sum
    cat /proc/interrupts /proc/cmdline
    echo END
} >/tmp/found 2>&1
dd if=/tmp/found of=/dev/vdb bs=64k conv=sync 2>/dev/null
sync
reboot -f
EOF
mkdir /tmp/root/tmp
chmod 755 /tmp/root/init

# boots CPUS: with so many, and what it found is in /tmp/found.
boots() {
    rm -f /tmp/root.img /tmp/found.img
    truncate -s 32M /tmp/root.img
    /sbin/mke2fs -q -t ext4 -d /tmp/root /tmp/root.img
    truncate -s 1M /tmp/found.img
    head -c 1000000 /dev/urandom >/tmp/bulk
    nc -l -p 5001 -e cat /tmp/bulk &
    timeout 180 mote run --kernel /lab/vmlinux-mptable --cpus "$1" --memory 256M --disk /tmp/root.img \
        --disk /tmp/found.img --net tap=vm0 --on-reset exit --cmdline-devices \
        --cmdline "root=/dev/vda rw rootfstype=ext4 init=/init panic=-1 reboot=k" </dev/null >/tmp/out 2>/tmp/err
    code=$?
    kill $! 2>/dev/null
    tr -d '\000' </tmp/found.img >/tmp/found
    grep -q '^END' /tmp/found && [ $code = 7 ] && return
    echo "code $code"
    cat /tmp/out /tmp/err /tmp/found
    return 1
}
found() { grep -q "$1" /tmp/found; }
# interrupts NAME: the device has had some, over the I/O APIC.
interrupts() { found "^ *[0-9]*:.* [1-9][0-9]* .*IO-APIC .*edge.* $1"; }

for cpus in 1 4; do
    check "$cpus CPUs: boots and resets" boots $cpus
    check "$cpus CPUs: all are there" found "^cpus $cpus\$"
    check "$cpus CPUs: without ACPI" found '^acpi $'
    check "$cpus CPUs: a disk's interrupts" interrupts virtio1
    check "$cpus CPUs: the network's interrupts" interrupts virtio2
    check "$cpus CPUs: ping" found ' 3 packets received'
    check "$cpus CPUs: bulk data" found "$(sha256sum </tmp/bulk | cut -d' ' -f1)"
done
[ "$failures" = 0 ] || cat /tmp/found
finish
