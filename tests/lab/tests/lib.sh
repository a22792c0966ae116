# shellcheck shell=sh
# Helpers for the lab's tests: . /lab/lib.sh
failures=0

now() { cut -d. -f1 /proc/uptime; }

# check WHAT COMMAND [ARG]...: the command must succeed.
check() {
    what=$1
    echo "$what" >/tmp/checking
    began=$(now)
    shift
    if "$@"; then
        echo "ok   $what ($(($(now) - began)) s)"
    else
        echo "FAIL $what ($(($(now) - began)) s)"
        failures=$((failures + 1))
    fi
}

# wait_for SECONDS COMMAND [ARG]...: tries the command until it succeeds.
wait_for() {
    tries=$(($1 * 10))
    shift
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}

# occurs TIMES TEXT FILE: TEXT is in at least that many of FILE's lines.
occurs() { [ "$(grep -c "$2" "$3" 2>/dev/null)" -ge "$1" ]; }

number=0
# guest COMMAND: has a guest with init-shell run it, by its console: descriptor 3 and
# /tmp/out. Its output is in /tmp/said, its code comes back.
guest() {
    number=$((number + 1))
    echo "BEGIN $number" >>/tmp/out
    echo "$number $1" >&3
    if ! wait_for 120 grep -q "^DONE $number " /tmp/out; then
        echo "no answer to: $1"
        tail -n 5 /tmp/out /tmp/err
        # Nothing that follows would get one.
        exit 1
    fi
    sed -n "/^BEGIN $number\$/,/^DONE $number /p" /tmp/out | sed '1d;$d' >/tmp/said
    code=$(sed -n "s/^DONE $number //p" /tmp/out)
    [ "$code" = 0 ] || cat /tmp/said
    return "$code"
}

# finish: ends the test with its verdict.
finish() {
    # Stock kernels wait for nothing that Mote does not have.
    check "no guest waits for a missing device" sh -c '! grep -s "the guest waits for" /tmp/err*'
    [ "$failures" -eq 0 ] && exit 0
    echo "$failures failed"
    exit 1
}
