# shellcheck shell=sh source=lib.sh
# Microseconds of the lab's deterministic clock from exec to the first instruction of a stock
# kernel with an initrd of 30 MB: both from a CD by way of the firmware, and both given by
# --kernel and --initrd. The kernel's own decompression comes after that in both cases.
# lab: --icount --silence 600 --timeout 600 --extra first.iso
. /lab/lib.sh

modprobe -a loop isofs
mkdir -p /tmp/cd
mount -r -t iso9660 -o loop /lab/first.iso /tmp/cd
cp /tmp/cd/boot/vmlinuz /tmp/cd/boot/initrd /tmp
umount /tmp/cd

# measure NAME OPTION...
measure() {
    name=$1
    shift
    for _ in 1 2 3 4 5; do
        timeout 60 mote run --timings --memory 512M "$@" </dev/null >/dev/null 2>/tmp/err || tail -n 3 /tmp/err
        sed -n 's/^mote: boot marker after \([0-9]*\) us$/\1/p' /tmp/err
    done | sort -n >/tmp/times
    median=$(sed -n 3p /tmp/times)
    check "$name: $(tr '\n' ' ' </tmp/times)" [ -n "$median" ]
}
measure "kernel and initrd" --kernel /tmp/vmlinuz --initrd /tmp/initrd --cmdline "console=ttyS0 quiet"
given=$median
measure "from the CD" --cdrom /lab/first.iso
awk "BEGIN { printf \"%.2f times as long\n\", ${median:-0} / ${given:-1} }"
finish
