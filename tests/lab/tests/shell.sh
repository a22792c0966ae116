# shellcheck shell=sh
# A shell in the lab host, for a person at a terminal.
# lab: --silence 86400 --timeout 86400
stty onlcr
sh -i
