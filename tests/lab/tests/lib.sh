# shellcheck shell=sh
# Helpers for the lab's tests: . /lab/lib.sh
failures=0

now() { cut -d. -f1 /proc/uptime; }

# check WHAT COMMAND [ARG]...: the command must succeed.
check() {
    what=$1
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

# finish: ends the test with its verdict.
finish() {
    [ "$failures" -eq 0 ] && exit 0
    echo "$failures failed"
    exit 1
}
