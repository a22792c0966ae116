# shellcheck shell=sh source=lib.sh
# A stock kernel without a driver for virtio-mmio: 1 and 4 CPUs, or as many as the arguments
# say, find all disks, CD and interfaces on the PCI bus, work by MSI-X, and unbind and bind
# drivers. With 16 the emulator hangs now and then while they come up.
# lab: --mem 3072
. /lab/lib.sh

for tap in vm0 vm1; do
    /sbin/ip tuntap add dev $tap mode tap
    /sbin/ip link set $tap up
done
/sbin/ip address add 10.9.0.1/24 dev vm0
for number in 1 2 3; do head -c 1048576 /dev/urandom >/tmp/disk$number; done

# finds CPUS: the guest's own findings must be good, and all data the disks' own.
finds() {
    timeout 300 mote run --kernel /lab/vmlinux --initrd /lab/init-check.cpio --cpus "$1" --memory 384M \
        --bus pci --disk /tmp/disk1 --disk /tmp/disk2 --cdrom /tmp/disk3 --net tap=vm0 --net tap=vm1 \
        --on-reset exit --serial stdio </dev/null >/tmp/out 2>/tmp/err \
        --cmdline "console=ttyS0 panic=-1 quiet mote.test=pci expect_cpus=$1"
    code=$?
    for number in 1 2 3; do
        grep -q "^data $(sha256sum </tmp/disk$number | cut -d' ' -f1)" /tmp/out || code=disk$number
    done
    [ $code = 0 ] && grep -q '^RESULT ok' /tmp/out && return
    echo "code $code"
    tail -n 30 /tmp/out /tmp/err
    return 1
}

for cpus in ${*:-1 4}; do check "$cpus CPUs" finds $cpus; done
finish
