# shellcheck shell=sh source=lib.sh
# One round of tests/lab/power-cut: looks for the records that were reported until the
# last cut, then has a guest write more, on an image in the lab host's own ext4.
# Arguments: SEED, and FIRST MODE of the records to write, unless this was the last look.
. /lab/lib.sh
seed=$1 first=$2 mode=$3
image=/tmp/disk/guest.img

# "KEPT" and "LOST" are for the script outside.
kept() {
    # One that was made shortly before the cut and never flushed.
    [ -e "$image" ] || { echo "LOST the image"; return 1; }
    records check "$image" "$seed" </lab/reported
}
modprobe ext4
mkdir /tmp/disk
check "the lab host mounts its disk" mount -t ext4 /dev/vda /tmp/disk
if [ -s /lab/reported ]; then
    check "what was reported is there" kept
fi
[ -n "$first" ] || finish
[ "$failures" = 0 ] || finish

mote run --kernel /lab/vmlinux --initrd /lab/init-records.cpio --memory 192M --disk "$image,size=257M,create" \
    --cmdline "console=ttyS0 panic=-1 quiet loglevel=1 seed=$seed first=$first mode=$mode" </dev/null |
    while IFS= read -r line; do
        echo "$line"
        case $line in
            "REC $first "*) port 0xe8 writing ;;
        esac
    done
# The cut comes before the disk is full.
echo "the guest ended by itself"
exit 1
