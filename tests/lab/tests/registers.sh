# shellcheck shell=sh source=lib.sh
# Dirty, reset, compare, on a stock KVM: the tiny guest `registers` finds everything that it
# can read as it was at power-on. It is put into the image by the test that starts this:
# --file GUEST:/lab/registers.
. /lab/lib.sh

mkfifo /tmp/console
exec 3<>/tmp/console
truncate -s 1M /tmp/disk
mote run --kernel /lab/registers --disk /tmp/disk <&3 >/tmp/out 2>/tmp/err &
vm=$!
check "it shows its registers" wait_for 60 occurs 1 '^shown' /tmp/out
printf r >&3
check "it shows them after a reset" wait_for 60 occurs 2 '^shown' /tmp/out
printf q >&3
check "it powers off" wait $vm
sed '/^shown/,$d' /tmp/out >/tmp/first
sed '1,/^changed/d; /^shown/,$d' /tmp/out >/tmp/again
changed=$(sed -n 's/^changed //p' /tmp/out)
echo "$changed MSRs were changed"
check "it has changed some" [ "$changed" -gt 40 ]
# KVM before Linux 6.7 never clears this one's bit 18.
for file in first again; do sed -i '/^MSR c0010015 /d' /tmp/$file; done
check "there are many" [ "$(wc -l </tmp/first)" -gt 200 ]
check "none has been left behind" diff /tmp/first /tmp/again
frequencies() { grep -qE '^CPUID 40000000 40000010 ' /tmp/first && grep -qE '^CPUID 40000010 [1-9a-f][0-9a-f]+ f4240$' /tmp/first; }
check "it is told the frequencies of its clocks" frequencies
[ "$failures" = 0 ] || { tail -n 5 /tmp/err; grep -v -E '^(MSR|LAPIC|device|I/O)' /tmp/out; }
finish
