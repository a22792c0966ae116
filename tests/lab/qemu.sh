# shellcheck shell=bash disable=SC2154
# The emulator. Before version 9, QEMU's emulation of SVM loses memory and interrupts: the
# lab takes the system's where it is that new, else the one of Debian's backports, unpacked
# into the cache and not installed. Sourced by lab.
readonly QEMU_LEAST=9
readonly QEMU_PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data seabios)

# emulator: sets the array of QEMU's program and the options that every start of it needs.
emulator() {
    local own=$cache/qemu
    if (($(qemu_version qemu-system-x86_64) >= QEMU_LEAST)); then
        emulator=(qemu-system-x86_64)
        return
    fi
    [[ -e $own/usr/bin/qemu-system-x86_64 ]] || with_lock fetch_qemu "$own"
    # Firmware: QEMU's own, and the BIOS.
    emulator=("$own/usr/bin/qemu-system-x86_64" -L "$own/usr/share/qemu" -L "$own/usr/share/seabios")
}

# qemu_version PROGRAM: its major version, 0 if it does not start.
qemu_version() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p')
    echo "${version:-0}"
}

# suite DIR SUFFIX COMPONENT: a configuration for apt, in the folder DIR, that knows nothing but
# this component of this system's suite with the suffix, from the mirror that its own packages
# come from.
suite() {
    local codename uri
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    uri=$(apt-get indextargets --format '$(CODENAME) $(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^$codename Debian //p" | head -n 1)
    [[ -n $uri ]] || return 1
    mkdir -p "$1/lists/partial"
    echo "deb $uri $codename$2 $3" >"$1/list"
    cat >"$1/apt.conf" <<CONF
Dir::Etc::SourceList "$1/list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$1/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Default-Release "$codename$2";
APT::Sandbox::User "root";
CONF
}

# fetch_from SUFFIX COMPONENT DIR PACKAGE...: fetches packages from there and unpacks them into
# DIR; nothing is installed.
fetch_from() (
    suffix=$1 component=$2 into=$3
    shift 3
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    # An update without any list of the system's fails there, and says so.
    suite "$work" "$suffix" "$component" || { apt-get -qq update && suite "$work" "$suffix" "$component"; } || exit 1
    export APT_CONFIG=$work/apt.conf
    cd "$work"
    apt-get -qq update && apt-get -qq download "$@" || exit 1
    for package in "$work"/*deb; do dpkg -x "$package" "$into"; done
    rm -rf "$work"
) >&2

fetch_qemu() {
    local into=$1 work
    # Another lab may have been first.
    [[ ! -e $into/usr/bin/qemu-system-x86_64 ]] || return 0
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    say "fetching QEMU from the system's backports"
    fetch_from -backports main "$work/root" "${QEMU_PACKAGES[@]}" ||
        die "cannot download QEMU from the backports: install QEMU $QEMU_LEAST or later"
    (($(qemu_version "$work/root/usr/bin/qemu-system-x86_64") >= QEMU_LEAST)) ||
        die "QEMU from the backports does not start: $("$work/root/usr/bin/qemu-system-x86_64" --version 2>&1 | head -n 1)"
    rm -rf "$into"
    mv "$work/root" "$into"
    rm -rf "$work"
}
