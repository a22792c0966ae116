# shellcheck shell=sh source=lib.sh
# A whole Debian on the volumes and file systems that distributions install to: put there
# from its CD, booted from there in the same VM, used, rebooted by its own means, used again
# and powered off. Arguments: the layouts (guest/init-debian), all of them by default.
# Without AVX, which Linux's RAID module would try out though the lab's processor has no XSAVE.
# lab: --silence 400 --timeout 7200 --mem 5120 --cpu max,-xsave,-avx,-aes,-pclmulqdq --cd layouts.iso
. /lab/lib.sh
. /lab/console.sh

install() {
    layout=$1 second=''
    [ "$layout" != md ] || second="--disk /tmp/second,size=1536M,create"
    # shellcheck disable=SC2086
    machine --disk /tmp/disk,size=1536M,create $second --cdrom /dev/vda --boot-entry "Install Debian ($layout)"
    for step in 'installer: partitions' 'installer: unpacking' 'installer: boot conf' 'installer: reboot'; do
        check "$layout: $step" says 400 "$step"
    done
    check "$layout: a login on the console" log_in
    case $layout in
        lvm | lvmboot) root=/dev/mapper/machine--vg-root ;;
        btrfs) root='/dev/vda2\[/@rootfs\]' ;;
        md) root=/dev/vda3 ;;
        *) root=/dev/vda2 ;;
    esac
    check "$layout: its root is where it was installed" debian "findmnt -no SOURCE / | grep -x '$root'"
    case $layout in
        lvm) check "$layout: /boot" debian "findmnt -no SOURCE /boot | grep -x /dev/vda2" ;;
        md) check "$layout: /boot" debian "findmnt -no SOURCE /boot | grep -x '/dev/md[0-9]*'" ;;
    esac
    check "$layout: no unit has failed" debian "systemctl --failed --no-legend | cat; ! systemctl --failed --no-legend | grep ."
    check "$layout: the disk can be written" debian "echo written >/root/note"
    # Neither the installer's reboot nor what the shell wrote must be taken for what comes.
    : >/tmp/out
    type_in reboot
    check "$layout: it reboots" says 120 'reboot: Restarting system'
    : >/tmp/out
    check "$layout: a login after a reboot" log_in
    check "$layout: what was written is there" debian "grep -x written /root/note"
    type_in poweroff
    check "$layout: it powers off" ends
    rm -f /tmp/disk /tmp/second
}

modprobe loop
start_console
for layout in "${@:-lvm lvmboot xfs btrfs md unified}"; do
    for layout in $layout; do install "$layout"; done
done
finish
