# shellcheck shell=sh source=lib.sh
# lab: --icount --cpu max
. /lab/lib.sh
m() { n=$1; shift; for _ in 1 2; do r=$(stopwatch init mote run --kernel /lab/vmlinux --initrd /lab/init-tiny.cpio --memory 128M "$@" </dev/null 2>/tmp/o); done; echo "$n: $r"; cat /tmp/o; }
cat /sys/kernel/mm/transparent_hugepage/enabled
m own
m shared --cmdline "console=ttyS0 reboot=k panic=-1 quiet"
echo never > /sys/kernel/mm/transparent_hugepage/enabled
m own-nothp
finish
