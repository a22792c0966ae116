# shellcheck shell=sh source=lib.sh
# A stock kernel with 2 CPUs uses a disk and a CD: file systems on both at once, trim
# and flush, the disk's edges, its driver taken away and given back, a reboot in place,
# then the same disk read-only. The image is judged from outside as well.
. /lab/lib.sh

mib=128
bytes=$((mib << 20))
disk=/tmp/disk.img
cp /lab/cd.iso /tmp/cd.iso
cd_sum=$(sha256sum </tmp/cd.iso | cut -d' ' -f1)

# guest OUT RO DISK-OPTIONS. How a kernel reboots is reset.sh's matter: k is the i8042's way.
guest() {
    timeout 500 mote run --kernel /lab/vmlinux --initrd /lab/init-block.cpio --cpus 2 --memory 256M \
        --disk "$disk,id=lab-disk,$3" --cdrom /tmp/cd.iso --serial stdio </dev/null >"$1" 2>"$1.err" \
        --cmdline "console=ttyS0 panic=-1 reboot=k quiet loglevel=1 expect_size=$bytes expect_id=lab-disk expect_sum=$cd_sum expect_ro=$2"
}

# passed OUT RESULT...: all the guest's findings are good, and it got as far as that.
passed() {
    out=$1
    shift
    ! grep '^FAIL' "$out" || return 1
    for result in "$@"; do
        grep -q "^RESULT $result ok" "$out" && continue
        tail -n 30 "$out"
        tail -n 5 "$out.err"
        return 1
    done
}

# refused TEXT MOTE-ARGUMENT...: another mote ends with code 3 and says so.
refused() {
    text=$1
    shift
    timeout 60 mote run --kernel /lab/vmlinux --memory 64M --serial none "$@" </dev/null >/tmp/second 2>&1
    code=$?
    [ $code = 3 ] && grep -q "$text" /tmp/second && return
    echo "code $code"
    cat /tmp/second
    return 1
}

# The image is made here, empty.
guest /tmp/first 0 "size=${mib}M,create,threads=2" &
pid=$!
check "the guest finds its devices" wait_for 300 grep -q '^LOOKED' /tmp/first
check "the disk cannot be had twice" refused "is in use" --disk "$disk"
check "nor be read by another" refused "is being written" --disk "$disk,ro"
check "nor be a CD" refused "is being written" --cdrom "$disk"
check "the CD cannot be written by another" refused "is in use" --disk /tmp/cd.iso
check "the guest powers off" wait "$pid"
check "it finds all well, also after a reboot in place" passed /tmp/first first again
grep -h '^NOTE' /tmp/first | head -n 1

check "the image has its size" [ "$(stat -c %s "$disk")" = "$bytes" ]
check "the image is clean" /sbin/e2fsck -f -n "$disk"
used=$(($(stat -c %b "$disk") / 2048))
echo "$used MiB of $mib MiB are in use"
# 10 MiB of files, 4 MiB of copies, a journal: the trimmed 24 MiB are not among them.
check "trim freed the image's blocks" [ "$used" -lt 30 ]
check "the CD is unchanged" [ "$(sha256sum </tmp/cd.iso | cut -d' ' -f1)" = "$cd_sum" ]

# What the guest left is there for another kernel.
modprobe -a loop ext4
mkdir -p /tmp/mnt
check "the lab host mounts the image" mount -o loop,ro "$disk" /tmp/mnt
check "and finds the same files" sh -c 'cd /tmp/mnt && sha256sum -c sums >/dev/null && grep -q again again'
umount /tmp/mnt

sum=$(sha256sum <"$disk")
check "the disk read-only" guest /tmp/second-run 1 ro,threads=1
check "it finds all well" passed /tmp/second-run read-only
check "the image is unchanged" [ "$(sha256sum <"$disk")" = "$sum" ]
finish
