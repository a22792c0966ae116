# shellcheck shell=sh
# Run by init when the test hangs: what the lab host is at.
echo "lab: hangs in: $(cat /tmp/checking 2>/dev/null)"
# The end of what guests and mote wrote, for tests that use these names.
for file in /tmp/out /tmp/err; do
    [ ! -s $file ] || { echo "lab: end of $file:" && tail -n 12 $file; }
done
echo "lab: processes, and where their threads wait:"
for process in /proc/[0-9]*; do
    command=$(tr '\0' ' ' <"$process/cmdline")
    [ -n "$command" ] || continue
    echo "${process#/proc/}: $command" | cut -c -150
    for thread in "$process"/task/*; do
        echo "    $(cat "$thread/comm") $(cut -d ' ' -f 3,14,15 "$thread/stat") call $(cut -d " " -f 1 "$thread/syscall"): $(head -n 4 "$thread/stack" | sed 's/^[^ ]* //' | tr '\n' ' ')"
    done
done 2>/dev/null
