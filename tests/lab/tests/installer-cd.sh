# shellcheck shell=sh source=lib.sh
# Debian's own installer finds its CD: its kernel and initial RAM disk, its udev and its way to
# list CD-ROM drives. Without what the firmware hands over it finds none.
# lab: --mem 3072 --extra installer-look.iso
. /lab/lib.sh

finds() {
    timeout 400 mote run --memory 1G --disk /tmp/a,size=64M,create --disk /tmp/b,size=64M,create \
        --cdrom /lab/installer-look.iso </dev/null >/tmp/out 2>/tmp/err
    tr -d '\r' </tmp/out | grep '^init:' >/tmp/said
    printf '%s\n' 'init: drives: /dev/vdc ' 'init: cdrom: vdc' 'init: The medium of a test' \
        'init: drives: ' 'init: cdrom: ' | cmp -s - /tmp/said && return
    tail -n 30 /tmp/out /tmp/err
    return 1
}

check "Debian's installer finds its CD by the hint, and only by that" finds
finish
