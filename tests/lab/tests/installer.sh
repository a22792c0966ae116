# shellcheck shell=sh source=lib.sh
# Debian's own installer, from a CD with the kernel, initrd and menus of its package, comes up to
# its first question on the serial console, and listens to the answer.
# lab: --mem 3072 --extra installer.iso
. /lab/lib.sh

mkfifo /tmp/console
exec 3<>/tmp/console
mote run --memory 1280M --cdrom /lab/installer.iso --disk /tmp/disk,size=1G,create <&3 >/tmp/out 2>/tmp/err &
vm=$!
# asks SECONDS TEXT
asked_or_over() { grep -q "$1" /tmp/out || ! kill -0 $vm 2>/dev/null; }
asks() {
    wait_for "$1" asked_or_over "$2" && grep -q "$2" /tmp/out && return
    echo "no '$2'"
    head -n 3 /tmp/out
    tail -c 2000 /tmp/out
    cat /tmp/err
    return 1
}

check "the CD's own entry" asks 60 'mote: cdrom0: Install'
check "the first question" asks 400 'Select a language'
# Enter, once its form is there.
sleep 2
printf '\r' >&3
check "the second one" asks 100 'Select your location'
kill $vm
finish
