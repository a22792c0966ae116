# shellcheck shell=sh source=lib.sh
# Media that nobody here made: what is a kernel in any sense starts, and of the rest the
# console says in a line why it cannot.
# lab: --extra memtest86+x64.iso --extra memtest86+ia32.iso --extra ipxe.iso --extra grub-rescue-cdrom.iso --extra grub-rescue-usb.img
. /lab/lib.sh

# nothing WHY OPTION...: there is nothing to boot, and the console says why.
nothing() {
    why=$1
    shift
    timeout 60 mote run "$@" </dev/null >/tmp/out 2>/tmp/err
    [ $? = 8 ] && grep -q "$why" /tmp/out && return
    cat /tmp/out /tmp/err
    return 1
}
# A memory test has a screen, on the serial port too, and no end.
tests_memory() {
    mote run --cdrom "/lab/memtest86+x64.iso" </dev/null >/tmp/out 2>/tmp/err &
    wait_for 60 grep -q 'Memtest86+' /tmp/out
    found=$?
    kill $!
    [ $found = 0 ] || tail -n 5 /tmp/out /tmp/err
    return $found
}
loader='its own boot loader cannot run here: that needs a BIOS or UEFI'

check "memtest86+" tests_memory
check "memtest86+ of 32 bits" nothing "$loader" --cdrom "/lab/memtest86+ia32.iso"
check "iPXE" nothing 'a bzImage without a 64-bit entry point is not supported' --cdrom /lab/ipxe.iso
check "GRUB's rescue CD" nothing "$loader" --cdrom /lab/grub-rescue-cdrom.iso
check "and USB stick" nothing "$loader" --disk /lab/grub-rescue-usb.img,ro
finish
