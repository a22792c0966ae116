# shellcheck shell=sh source=lib.sh
# A stock kernel brings up 32 CPUs, each with a timer of its own.
. /lab/lib.sh

boots() {
    timeout 200 mote run --kernel /lab/vmlinux --initrd /lab/init-check.cpio --cpus 32 --memory 512M \
        --on-reset exit </dev/null >/tmp/out 2>/tmp/err \
        --cmdline "console=ttyS0 panic=-1 quiet mote.test=check expect_cpus=32 expect_mem=512" &&
        grep -q '^RESULT ok' /tmp/out
}

check "32 CPUs" boots
[ "$failures" = 0 ] || { tail -n 30 /tmp/out && tail -n 5 /tmp/err; }
finish
