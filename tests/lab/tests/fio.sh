# shellcheck shell=sh source=lib.sh
# fio in a stock kernel with 2 CPUs, and so 2 queues, writes a disk in all ways and reads
# it again: sizes and depths mixed, with flushes, with trims; past the end; the driver taken
# away under I/O and given back. Then again read-only (lines 23 and 24 of the table of
# past flaws, by a stock driver). Every byte of the image is compared from outside, too.
# One CPU in the lab host: see the README on what the emulation gets wrong with more.
# lab: --silence 500 --extra fio.iso
. /lab/lib.sh
disk=/tmp/disk.img

# What nobody may write to, between what fio writes to. 128 MiB in all.
yes 'nobody writes here' | head -c $((4 << 20)) >/tmp/guard
for part in $(seq 0 7); do
    head -c $((12 << 20)) /dev/zero
    cat /tmp/guard
done >$disk
guarded() {
    for part in $(seq 0 7); do
        dd if=$disk bs=1M skip=$((part * 16 + 12)) count=4 2>/dev/null | cmp - /tmp/guard || return 1
    done
}

# guest ROUND OPTIONS: its findings are in /tmp/ROUND.
guest() {
    timeout 800 mote run --kernel /lab/vmlinux --initrd /lab/init-fio.cpio --cpus 2 --memory 384M \
        --disk "$disk,$2" --cdrom /lab/fio.iso </dev/null >"/tmp/$1" 2>/tmp/err \
        --cmdline "console=ttyS0 panic=-1 quiet loglevel=1 round=$1"
}
passed() {
    grep -a '^FAIL' "/tmp/$1"
    ! grep -qa '^FAIL' "/tmp/$1" && grep -qa '^RESULT ok' "/tmp/$1" && return
    tail -n 30 "/tmp/$1" /tmp/err
    return 1
}
# The guest has seen what is in the image, to the last byte.
same() { [ "$(sed -n 's/^SUM //p' "/tmp/$1")" = "$(sha256sum <$disk | cut -d' ' -f1)" ]; }

check "the guest ends" guest write threads=4
check "it finds all well" passed write
grep -a '^NOTE' /tmp/write
check "it sees every byte of the image" same write
check "nothing else was written" guarded
sum=$(sha256sum <$disk)
check "the guest ends, read-only" guest read ro
check "it finds all well" passed read
check "it sees every byte of the image" same read
check "the image is unchanged" [ "$(sha256sum <$disk)" = "$sum" ]
finish
