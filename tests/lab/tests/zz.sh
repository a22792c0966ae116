# shellcheck shell=sh source=lib.sh
# lab: --icount --cpu max
. /lab/lib.sh
D="console=ttyS0 quiet panic=-1 cryptomgr.notests 8250.nr_uarts=1 i8042.noaux i8042.nokbd tsc=reliable no_timer_check random.trust_cpu=on"
mote run --kernel /lab/vmlinux --initrd /lab/init-check.cpio --memory 128M --cmdline "$D log_buf_len=1M trace_event=sched:sched_switch,initcall:initcall_start trace_buf_size=8M rdinit=/bin/busybox -- sh -c \"busybox mount -t tracefs t /sys; busybox cat /sys/trace\"" --on-reset exit  </dev/null
finish
