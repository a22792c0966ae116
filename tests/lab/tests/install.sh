# shellcheck shell=sh source=lib.sh
# The whole story with a stock kernel: the firmware boots the CD-ROM, the system on it
# installs itself to an empty disk and reboots, the same VM boots from the disk, and so do
# further ones, from then on without the CD. The file system is clean afterwards.
# lab: --mem 3072 --extra install.iso
. /lab/lib.sh

machine() { timeout 400 mote run --memory 512M "$@" </dev/null >/tmp/out 2>/tmp/err; }

# says TEXT...: all of them in this order, each on a line of its own.
says() {
    tr -d '\r' </tmp/out | grep -E '^(mote|init|FAIL)' >/tmp/said
    printf '%s\n' "$@" | cmp -s - /tmp/said && return
    cat /tmp/said
    tail -n 20 /tmp/out /tmp/err
    return 1
}

installs() {
    machine --disk "/tmp/disk,size=256M,create" --cdrom /lab/install.iso &&
        says 'mote: cdrom0: Install' 'init: install' 'init: reboot' \
            'mote: disk0: Debian GNU/Linux' 'init: installed' 'init: and the CD is there'
}
boots() { machine --disk /tmp/disk && says 'mote: disk0: Debian GNU/Linux' 'init: installed' 'init: boot'; }
chooses() {
    machine --disk /tmp/disk,ro --boot-entry '*Advanced' || true
    grep -q "no entry '\*Advanced'" /tmp/out && grep -q '   2  Advanced options' /tmp/out
}
clean() {
    losetup -o $((33 * 1048576)) /dev/loop0 /tmp/disk && /sbin/e2fsck -fn /dev/loop0 >/tmp/fsck 2>&1 && return
    cat /tmp/fsck
    return 1
}

modprobe loop
check "from the CD to the disk, in one VM" installs
check "from the disk" boots
check "entries are listed when there is none of that name" chooses
check "the file system is clean" clean
finish
