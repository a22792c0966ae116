# shellcheck shell=sh source=lib.sh
# What is typed on stdin reaches the guest's console, whole and in order, and the
# guest's answers come back, also when more is typed at once than any buffer on the way holds.
. /lab/lib.sh

mkfifo /tmp/in
timeout 600 mote run --kernel /lab/vmlinux --initrd /lab/init-check.cpio --memory 256M --serial stdio \
    --on-reset exit --cmdline "console=ttyS0 panic=-1 quiet mote.test=echo" </tmp/in >/tmp/out 2>/tmp/err &
pid=$!
exec 3>/tmp/in
check "the guest is ready" wait_for 300 grep -q '^READY' /tmp/out
echo hello >&3
check "a line is echoed" wait_for 300 grep -q '^echo: hello$' /tmp/out

seq 1 300 | sed 's/^/a line long enough to fill the FIFO of the port /' >/tmp/typed
cat /tmp/typed >&3
check "15 kB are echoed" wait_for 300 occurs 1 'echo: .* 300$' /tmp/out
if ! kill -0 "$pid" 2>/dev/null; then
    wait "$pid"
    echo "FAIL the VM has ended with code $?"
    tail -n 5 /tmp/out /tmp/err
    dmesg | tail -n 5
    exit 1
fi
sed -n 's/^echo: \(a line.*\)/\1/p' /tmp/out >/tmp/echoed
check "nothing is lost or out of order" cmp /tmp/typed /tmp/echoed

echo bye >&3
# The end of stdin is not the end of the VM, and power-off is code 0.
exec 3>&-
check "power-off ends the VM" wait "$pid"
[ "$failures" = 0 ] || tail -n 5 /tmp/out /tmp/err
finish
