# shellcheck shell=sh source=lib.sh
# The lab itself: a stock KVM runs a VM, and what the lab promises its tests is there.
. /lab/lib.sh
check "/dev/kvm" test -c /dev/kvm
check "a VM runs and halts" test "$(kvm-least)" = ok
check "nested paging" grep -q '[1Y]' /sys/module/kvm_amd/parameters/npt
check "cgroup v2 with a memory controller" grep -q memory /sys/fs/cgroup/cgroup.controllers
check "a stopwatch" test "$(stopwatch 5 ok kvm-least 2>/dev/null | cut -d' ' -f7-8)" = "code 0"
check "a stopwatch that stops" test "$(stopwatch 1 ok sleep 9 | cut -d' ' -f4,8)" = "-1 137"
# Asked for by an argument, so that the way out of the lab can be tested too.
[ -z "${1:-}" ] || exit "$1"
finish
