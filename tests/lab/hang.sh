# shellcheck shell=bash disable=SC2154
# Ends a lab that hangs, and says where it does: first as the lab host sees it, then as the
# emulator does. Sourced by lab. Only builtins wait here, so that ending this shell leaves
# nothing behind.

# pause SECONDS
pause() { read -r -t "$1" -u 3 || true; }

# watch_for_hang PID: a test that goes on prints something now and then.
watch_for_hang() {
    local still=0 total=0 longest=0 why=''
    exec 3<>"$run/never"
    : >"$run/seen"
    until [[ -n $why ]]; do
        pause 1
        still=$((still + 1)) total=$((total + 1))
        if [[ $run/console.log -nt $run/seen ]]; then
            ((still <= longest)) || echo "$((longest = still))" >"$run/longest"
            still=0
            : >"$run/seen"
        fi
        if ((still >= silence)); then
            why="nothing printed for $silence s"
        elif ((total >= limit)); then
            why="no result within $limit s"
        fi
    done
    : >"$run/hung"
    say "$name: $why: it hangs"
    show_state
    say "$name: $why: ended"
    kill -KILL "$1"
}

# show_state: processes and logs of the lab host, if it answers; the emulator's processors;
# and where the lab host's kernel is, if it does not.
show_state() {
    local answered='' line
    exec 4<>"$run/ask.in" 5<>"$run/ask.out" 6<>"$run/monitor.in" 7<>"$run/monitor.out"
    echo state >&4
    # It prints the state on the console, and this when it has.
    read -r -t "$STATE_LIMIT" -u 5 line && answered=$line
    printf '%s\n' '{"execute":"qmp_capabilities"}' \
        '{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}' >&6
    while read -r -t 3 -u 7 line; do
        [[ $line != *RIP=* ]] || printf '%b' "${line//\\r/}" | grep -E '^(CPU#|[RE]IP=|CS |CR0=)' >&2
    done
    [[ -z $answered ]] || return 0
    say 'the lab host does not answer: its kernel is made to say where it is'
    echo '{"execute":"inject-nmi"}' >&6
    pause 5
}
