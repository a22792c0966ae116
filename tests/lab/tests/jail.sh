# shellcheck shell=sh source=lib.sh
# Jails on a stock kernel with control groups of version 2: a stock kernel boots in one,
# limits hold from when they should, what ended a VM is named, nothing is left. And the
# sandbox's layers as this kernel has them.
# One CPU in the lab host: see the README on what the emulation gets wrong with more.
. /lab/lib.sh

# From the root of an initrd no process can go to another one, as a jail does: as every
# host does on its way up, another file system becomes the root.
if [ ! -f /moved ]; then
    mkdir /new
    mount -t tmpfs -o mode=755 tmpfs /new
    touch /new/moved
    cp -a /bin /lab /new
    for directory in proc sys dev tmp run; do
        mkdir "/new/$directory"
        mount --move "/$directory" "/new/$directory"
    done
    cd /new && mount --move . / && exec chroot . /bin/sh /lab/test.sh
fi
cd /tmp || exit 1
user=1234
groups=/sys/fs/cgroup/mote

# jail ID OPTION... -- ARGUMENT...: a stock kernel, by descriptors alone. For a shell of its
# own, which becomes the jailer.
jail() {
    id=$1
    shift
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # options are words
    exec mote-jailer --id "$id" --exec-file /bin/mote --uid $user --gid $user $options \
        --file /lab/vmlinux,as=kernel --file /lab/init-check.cpio,as=initrd --kvm fd --ready-by fd -- \
        run --kernel /kernel --initrd /initrd --memory 256M --on-reset exit --ready-fd 3 --kvm-fd 4 "$@"
}
cmdline='console=ttyS0 panic=-1 quiet expect_cpus=1 expect_mem=256 mote.test='

boots() {
    jail one --cgroup memory.max=400M --cgroup pids.max=20 --cgroup memory.swap.max=0 -- \
        --cmdline "${cmdline}check" </dev/null >out 2>err &
    pid=$!
    wait_for 60 grep -qs . $groups/one/cgroup.procs || return 1
    limits=$(cat $groups/one/memory.max $groups/one/pids.max $groups/one/memory.swap.max | tr '\n' ' ')
    # The program's own process, as another user, not one of the jailer's.
    program=$(head -n 1 $groups/one/cgroup.procs)
    owner=$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "/proc/$program/status")
    wait $pid || { echo "code $?"; tail -n 5 out err; return 1; }
    [ "$limits" = "419430400 20 0 " ] && [ "$owner" = $user ] && grep -q '^RESULT ok' out && return
    echo "limits $limits owner $owner"
    tail -n 5 out err
    return 1
}

# ends CODE WORDS COMMAND...: with that code, and these words on standard error.
ends() {
    code=$1 words=$2
    shift 2
    "$@" </dev/null >out 2>err
    found=$?
    [ $found = "$code" ] && grep -q -- "$words" err && return
    echo "code $found"
    tail -n 5 out err
    return 1
}
hungry() { (jail hungry --cgroup memory.max=60M --cgroup memory.swap.max=0 -- --cmdline "${cmdline}check"); }
# compromised THREAD:CALLS OPTION...: a monitor that has been taken over.
compromised() {
    calls=$1
    shift
    mote-breakout run --kernel /lab/vmlinux --cmdline "MOTE_BREAKOUT=$calls" --serial none "$@"
}
jailed_breakout() {
    mote-jailer --id out --exec-file /bin/mote-breakout --uid $user --gid $user --file /lab/vmlinux,as=kernel -- \
        run --kernel /kernel --cmdline "MOTE_BREAKOUT=FirstVcpu:257,-100,\"/kernel,0"
}
# refused ERROR CALL: by a layer below the filter, which only logs.
refused() {
    timeout 5 mote-breakout run --kernel /lab/vmlinux --cmdline "MOTE_BREAKOUT=Main:$2" --serial none \
        --seccomp log </dev/null >out 2>err
    grep -q "^breakout: .* = -$1\$" err && return
    tail -n 3 err
    return 1
}

counted() { [ "$(sed -n 's/^nr_throttled //p' $groups/slow/cpu.stat 2>/dev/null || echo 0)" -gt 3 ] 2>/dev/null; }
# Armed when the guest is about to run, not before.
throttled() {
    jail slow --cgroup 'cpu.max=20000' -- --cmdline "${cmdline}wait" </dev/null >out 2>err &
    pid=$!
    wait_for 60 grep -qs '^20000 ' $groups/slow/cpu.max
    armed=$?
    wait_for 60 counted
    throttled=$?
    kill $pid
    wait $pid 2>/dev/null
    [ $armed = 0 ] && [ $throttled = 0 ]
}
# Thirty, one after the other and ten at once: all end as they should.
many() {
    for number in $(seq 20); do
        ends 159 SIGSYS jailed_breakout || return 1
    done
    pids=
    for number in $(seq 10); do
        mote-jailer --id "many-$number" --exec-file /bin/mote-breakout --uid $user --gid $user \
            --file /lab/vmlinux,as=kernel --cgroup pids.max=20 -- \
            run --kernel /kernel --cmdline "MOTE_BREAKOUT=Main:41,2,1,0" </dev/null >/dev/null 2>&1 &
        pids="$pids $!"
    done
    for pid in $pids; do
        wait "$pid"
        [ $? = 159 ] || return 1
    done
}
nothing_left() {
    left=$(find /sys/fs/cgroup -mindepth 2 -type d -path '*/mote*')$(pidof mote mote-jailer mote-breakout)
    [ -z "$left" ] && [ "$(cat /proc/mounts)" = "$mounts" ] && return
    echo "$left"
    cat /proc/mounts
    return 1
}

mounts=$(cat /proc/mounts)
check "a stock kernel in a jail" boots
check "a limit on memory is named" ends 137 'memory limit' hungry
check "a limit on the processor" throttled
check "a refused call is named" ends 159 'thread vcpu0, system call openat' jailed_breakout
check "Landlock: a file" refused 13 '257,-100,"/lab/vmlinux,0'
check "no capabilities: a mount namespace" refused 1 '272,131072'
check "Landlock: another process's memory" refused 1 "101,16,$$,0,0"
check "many jails" many
check "nothing is left" nothing_left
finish
