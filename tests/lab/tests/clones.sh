# shellcheck shell=sh source=lib.sh
# Clones of a stock kernel share no randomness: its VM generation ID has changed before it
# runs again, and its random number generator is seeded anew before anybody draws from it.
# What the kernel derives from it later, as TCP's sequence numbers, differs too.
# Debian's cloud kernel has no driver for that; its ordinary one has.
# lab: --extra vmlinuz-generic
. /lab/lib.sh

mkfifo /tmp/console
exec 3<>/tmp/console
# What a clone does first: draw. The command is typed before the snapshot is taken.
draw='echo $(head -c 16 /dev/urandom | od -An -tx1) $(cat /proc/sys/kernel/random/uuid)'

mkdir /tmp/saved
mote run --kernel /lab/vmlinuz-generic --initrd /lab/init-shell.cpio --snapshot /tmp/saved --then exit \
    --cmdline "console=ttyS0 panic=-1 loglevel=1" <&3 >/tmp/out 2>/tmp/err &
vm=$!
check "a guest boots" wait_for 300 grep -q '^READY' /tmp/out
check "it knows its generation ID" guest "ls /sys/bus/acpi/drivers/vmgenid/ && ls -d /sys/bus/acpi/drivers/vmgenid/MOTE*"
check "its interrupt comes by the I/O APIC" guest "grep -q 'IO-APIC *6-edge *ACPI:Ged' /proc/interrupts"
# The boot marker: a shell's own writes are enough.
echo "0 sleep 1; printf '\173' | dd of=/dev/port bs=1 seek=1540 2>/dev/null; $draw; $draw; dmesg | tail -n 3; echo sequence \$(sequence 4000)" >&3
check "it is saved" wait $vm

clone() {
    mote restore /tmp/saved </dev/null >"$1" 2>&1 &
    vm=$!
    wait_for 100 grep -q '^DONE 0' "$1" || return
    kill $vm
    wait $vm
    [ $? = 143 ]
}
for number in 1 2 3; do check "clone $number draws" clone /tmp/clone$number; done
cat /tmp/clone?
drawn() { grep -h -E '^([0-9a-f]{2} ){16}[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' /tmp/clone?; }
check "all of them drew" [ "$(drawn | wc -l)" = 6 ]
check "no byte row twice" [ "$(drawn | cut -d' ' -f1-16 | sort -u | wc -l)" = 6 ]
check "no UUID twice" [ "$(drawn | cut -d' ' -f17 | sort -u | wc -l)" = 6 ]
# Between the same addresses and ports in each.
check "no TCP sequence number twice" [ "$(grep -h -E '^sequence [0-9]+' /tmp/clone? | sort -u | wc -l)" = 3 ]
reseeded() { grep -q 'crng reseeded due to virtual machine fork' "$1"; }
for number in 1 2 3; do check "clone $number was reseeded" reseeded /tmp/clone$number; done
finish
