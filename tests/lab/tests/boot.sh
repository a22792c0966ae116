# shellcheck shell=sh source=lib.sh
# A stock kernel boots from both file formats, with one and many CPUs, with memory
# below, up to and beyond the device hole, and finds the machine in order. Arguments
# are added to the guest's command line: "boot loglevel=7" shows its whole log.
# lab: --mem 6144
. /lab/lib.sh

# boots KERNEL CPUS MiB: also the guest's own findings must be good.
boots() {
    timeout 300 mote run --kernel "/lab/$1" --initrd /lab/init-check.cpio --cpus "$2" --memory "$3M" \
        --on-reset exit --serial stdio </dev/null >/tmp/out 2>/tmp/err \
        --cmdline "console=ttyS0 panic=-1 quiet mote.test=check expect_cpus=$2 expect_mem=$3 $4"
    code=$?
    [ $code = 0 ] && grep -q '^RESULT ok' /tmp/out && return
    echo "code $code"
    # The guest's own verdict tells enough; without one, the end of its log does.
    grep -E '^(FAIL|RESULT)' /tmp/out || tail -n 30 /tmp/out
    tail -n 5 /tmp/err
    return 1
}

for kernel in vmlinux vmlinuz; do
    for cpus in 1 4; do
        check "$kernel, $cpus CPUs" boots "$kernel" "$cpus" 256 "$*"
    done
done
check "3584 MiB" boots vmlinux 2 3584 "$*"
check "5 GiB" boots vmlinux 2 5120 "$*"
finish
