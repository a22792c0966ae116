# shellcheck shell=sh source=lib.sh
# A whole Debian: installed from its CD to an empty disk, booted from there in the same VM
# by what grub-mkconfig wrote, used, powered off; booted again, now by what u-boot-menu
# wrote, and shut down by the power button. Its file systems are clean afterwards. With the
# argument `install` only up to the first power-off, for rounds of it.
# lab: --silence 300 --mem 3072 --cpu max,-xsave,-aes,-pclmulqdq --extra debian.iso
. /lab/lib.sh
. /lab/console.sh

here=10.9.0.1 there=10.9.0.2
ip=/sbin/ip ping=/sbin/ping
PATH=/bin:/sbin

clean() {
    losetup -o $((65 * 1048576)) /dev/loop0 /tmp/disk && losetup -o 1048576 /dev/loop1 /tmp/disk || return
    e2fsck -fn /dev/loop0 >/tmp/fsck 2>&1 && fsck.vfat -n /dev/loop1 >>/tmp/fsck 2>&1 && return
    cat /tmp/fsck
    return 1
}

$ip tuntap add dev vm0 mode tap
$ip address add $here/24 dev vm0
$ip link set vm0 up
modprobe loop
start_console

machine --net tap=vm0 --disk /tmp/disk,size=1G,create --cdrom /lab/debian.iso
for step in 'installer: partitions' 'installer: unpacking' 'installer: boot conf' 'installer: reboot' 'mote: disk0: GNU/Linux'; do
    check "$step" says 400 "$step"
done
check "a login on the console" log_in
check "the disk can be written" debian "echo written >/root/note && sync /root/note && findmnt -no SOURCE / | grep -x /dev/vda2"
if [ "${1:-}" = install ]; then
    type_in poweroff
    check "it powers off" ends
    check "the file systems are clean" clean
    finish
fi
check "the CD cannot" debian "! dd if=/dev/zero of=/dev/vdb count=1 2>/dev/null"
check "it can be mounted" debian "mount -r /dev/vdb /mnt && cmp /mnt/boot/vmlinuz /boot/vmlinuz-* && umount /mnt"
check "the EFI partition is mounted" debian "findmnt /boot/efi"
check "the network is up" debian "ping -c 3 -W 10 $here"
check "from here too" $ping -q -c 3 -W 10 $there
check "no unit has failed" debian "systemctl --failed --no-legend | cat; ! systemctl --failed --no-legend | grep ."
check "u-boot-menu writes its configuration" debian "u-boot-update && rm /boot/grub/grub.cfg && grep -q root= /boot/extlinux/extlinux.conf"
type_in poweroff
check "it powers off" ends

machine --net tap=vm0 --disk /tmp/disk
check "it boots again, by the other configuration" says 60 'mote: disk0: Debian GNU/Linux 12'
check "a login on the console" log_in
check "what was written is there" debian "grep -x written /root/note"
kill -TERM $vm
check "the power button shuts it down" ends
check "in good order" grep -q 'reboot: Power down' /tmp/out
check "the file systems are clean" clean
finish
