# shellcheck shell=sh
# A Debian on its serial console, typed to and read: . /lab/console.sh, after lib.sh.
# Descriptor 3 is what is typed, /tmp/out what it writes.

start_console() {
    mkfifo /tmp/console
    exec 3<>/tmp/console
}
# machine OPTION...: its console is descriptor 3 and /tmp/out.
machine() {
    : >/tmp/out
    mote run --memory 512M --graceful 300 "$@" <&3 >>/tmp/out 2>/tmp/err &
    vm=$!
}
# says SECONDS TEXT
said_or_over() { grep -q "$1" /tmp/out || ! kill -0 $vm 2>/dev/null; }
says() {
    wait_for "$1" said_or_over "$2" && grep -q "$2" /tmp/out && return
    echo "no '$2'"
    tail -n 30 /tmp/out /tmp/err
    kill -0 $vm 2>/dev/null || wait $vm || echo "code $?"
    dmesg | tail -n 5
    exit 1
}
type_in() { printf '%s\r' "$1" >&3; }
number=0
# debian COMMAND: run by the shell on its console; its code comes back.
debian() {
    number=$((number + 1))
    type_in "$1; echo \"code $number:\"\$?"
    # Its echo has no number there.
    says 300 "code $number:[0-9]"
    [ "$(sed -n "s/.*code $number:\([0-9][0-9]*\).*/\1/p" /tmp/out)" = 0 ]
}
log_in() {
    says 400 'machine login:'
    type_in root
    says 60 'Password:'
    type_in mote
    says 120 'root@machine:'
    # No colours, no bells, no wrapped lines.
    debian "TERM=dumb; stty -echo cols 500; bind 'set enable-bracketed-paste off'"
}
ends() {
    wait $vm && return
    echo "code $?"
    tail -n 20 /tmp/out /tmp/err
    return 1
}
