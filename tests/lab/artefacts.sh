# shellcheck shell=bash disable=SC2154
# What the lab is made of: packages, kernel, guest images, the base of the lab's
# own image. Sourced by lab. All of it lands in $cache and can be built again.

# Modules of the lab host, and of the guests: their dependencies come along.
readonly LAB_MODULES=(kvm-amd tun virtio_pci virtio_blk loop ext4 crc32c_generic isofs dm-flakey dm-log-writes)
readonly GUEST_MODULES=(virtio_mmio virtio_pci virtio_blk virtio_net isofs button)
readonly SHELL_MODULES=(virtio_mmio virtio_pci virtio_net virtio_blk button evdev ext4 crc32c_generic)
readonly BLOCK_MODULES=(virtio_mmio virtio_blk ext4 crc32c_generic isofs)

# Two labs may start at once: one builds, the other waits.
with_lock() {
    (
        flock 9
        "$@"
    ) 9>"$cache/lock"
}

# What every test needs.
need_packages() {
    need_programs qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio gcc:gcc \
        python3:python3 depmod:kmod lz4:lz4 xz:xz-utils zstd:zstd mke2fs:e2fsprogs sfdisk:fdisk mkfs.vfat:dosfstools xorriso:xorriso fio:fio \
        iperf3:iperf3 ethtool:ethtool ping:iputils-ping ip:iproute2
}

# need_programs PROGRAM:PACKAGE...: installs the packages whose programs are missing.
need_programs() {
    local missing=() pair
    for pair; do
        PATH=$PATH:/sbin:/usr/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    # A dynamic busybox or a compiler without a static C library would do nothing in an initrd.
    [[ -f /usr/lib/x86_64-linux-gnu/libc.a ]] || missing+=(libc6-dev)
    [[ " ${missing[*]} " = *' busybox-static '* ]] || is_static "$(command -v busybox)" || missing+=(busybox-static)
    ((${#missing[@]})) || return 0
    ((UID == 0)) || die "these packages are missing: ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get -qq update >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >&2 ||
        die "cannot install ${missing[*]}"
}

is_static() { ! ldd "$1" >/dev/null 2>&1; }

# The kernel package: $MOTE_LAB_KERNEL_PACKAGE, or what Debian's cloud kernel is today.
# The first answer is kept, so that a run needs no network and results stay comparable.
kernel_package() {
    if [[ -n ${MOTE_LAB_KERNEL_PACKAGE:-} ]]; then
        echo "$MOTE_LAB_KERNEL_PACKAGE"
        return
    fi
    if [[ ! -s $cache/kernel-package ]]; then
        apt-cache depends linux-image-cloud-amd64 2>/dev/null |
            sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1 >"$cache/kernel-package"
        [[ -s $cache/kernel-package ]] || return 1
    fi
    cat "$cache/kernel-package"
}

# unpack_package NAME DIR: fetches a package and unpacks it there; nothing is installed.
unpack_package() {
    local fetched
    fetched=$(mktemp -d "$cache/fetch.XXXXXX")
    say "fetching $1"
    (
        cd "$fetched"
        apt-get -qq download "$1" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$1"; }
    ) >&2 || die "cannot download $1"
    dpkg -x "$fetched"/*.deb "$2"
    rm -rf "$fetched"
}

fetch_kernel() {
    local package=$1 into=$2 work
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    unpack_package "$package" "$work/root"
    # Newer packages have their modules below /usr.
    [[ -d $work/root/lib/modules ]] || mv "$work/root/usr/lib" "$work/root/lib"
    PATH=$PATH:/sbin:/usr/sbin depmod -b "$work/root" "$(ls "$work/root/lib/modules")"
    python3 "$lab/extract-vmlinux.py" "$work"/root/boot/vmlinuz-* "$work/root/boot/vmlinux" ||
        die 'cannot extract vmlinux'
    mv "$work/root" "$into"
    rm -rf "$work"
}

# Debian's ordinary kernel has drivers that the cloud's has not. Its package is large, so it
# is fetched when a test first asks for it by `--extra vmlinuz-generic`.
generic_kernel() {
    local package kept
    package=$(kernel_package)
    package=${package/-cloud/}
    kept=$cache/$package.vmlinuz
    if [[ ! -s $kept ]]; then
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        unpack_package "$package" "$work"
        mv "$work"/boot/vmlinuz-* "$kept"
        rm -rf "$work"
    fi
    ln -f "$kept" "$cache/extra/vmlinuz-generic"
}

# A kernel without ACPI, which Debian has none of: libkrunfw's, from a package of npm.
mptable_kernel() {
    local kept=$cache/libkrunfw-0.10.3.vmlinux work
    if [[ ! -s $kept ]]; then
        # With all that it depends on it is too much to install for one test.
        command -v npm >/dev/null || { say 'the kernel without ACPI comes by npm, which is missing'; exit $CODE_SKIPPED; }
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        say 'fetching a kernel without ACPI'
        (cd "$work" && npm pack --silent @boxlite-ai/boxlite-linux-x64-gnu@0.10.3 && tar -xzf ./*.tgz) >&2 ||
            die 'cannot download the kernel without ACPI'
        python3 "$lab/extract-krunfw.py" "$work"/package/*.node "$work/vmlinux" ||
            die 'cannot extract the kernel without ACPI'
        mv "$work/vmlinux" "$kept"
        rm -rf "$work"
    fi
    ln -f "$kept" "$cache/extra/vmlinux-mptable"
}

# pack DIR: a newc cpio of DIR on stdout, the same for the same files.
pack() {
    (
        cd "$1" || exit
        find . -exec touch -h -d @0 {} +
        find . -mindepth 1 | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc -R 0:0
    )
}

# with_dependencies MODULE...: the modules' files in the order to load them.
# modules.dep names a module's dependencies last-needed first, on one line.
with_dependencies() {
    local module line file found
    for module in "$@"; do
        line=$(grep -E "/${module//[-_]/[-_]}\.ko[.a-z]*:" "$modules/modules.dep") ||
            { grep -qE "/${module//[-_]/[-_]}\.ko" "$modules/modules.builtin" && continue; } ||
            die "the kernel has no module $module"
        read -r -a found <<<"${line//:/}"
        for ((i = ${#found[@]} - 1; i >= 0; i--)); do echo "${found[i]}"; done
    done | awk '!seen[$0]++'
}

# put_modules DIR MODULE...: modules below DIR/lib/modules, with what modprobe needs.
put_modules() {
    local into=$1/lib/modules/${modules##*/} file
    shift
    mkdir -p "$into"
    with_dependencies "$@" | while read -r file; do
        mkdir -p "$into/$(dirname "$file")"
        cp "$modules/$file" "$into/$file"
    done
    cp "$modules"/modules.{dep,alias,builtin} "$into"
}

put_busybox() {
    mkdir -p "$1"/{bin,dev,proc,sys,tmp,run}
    cp "$(command -v busybox)" "$1/bin/busybox"
    ln -s busybox "$1/bin/sh"
}

# guest_initrd NAME INIT [MODULE...]: $guest/NAME.cpio with busybox and INIT (in guest/).
guest_initrd() {
    local stage=$work/$1 name=$1 init=$2
    shift 2
    put_busybox "$stage"
    (($# == 0)) || put_modules "$stage" "$@"
    install -m 755 "$lab/guest/$init" "$stage/init"
    pack "$stage" >"$work/guest/$name.cpio"
}

# put_tools DIR TOOL...: dynamic programs into DIR/sbin, and their libraries.
put_tools() {
    local into=$1 tool library
    shift
    mkdir -p "$into/sbin"
    for tool in "$@"; do
        tool=$(PATH=$PATH:/sbin:/usr/sbin command -v "$tool")
        cp -L "$tool" "$into/sbin"
        ldd "$tool" | grep -o '/[^ ]*' | while read -r library; do
            mkdir -p "$into$(dirname "$library")"
            cp -L "$library" "$into$library"
        done
    done
}

# A guest with a real ext4's tools, and a CD for it.
block_initrd() {
    local stage=$work/init-block cd=$work/cd
    put_tools "$stage" mke2fs e2fsck
    mkdir -p "$stage/etc" "$cd/deep/directory"
    cp /etc/mke2fs.conf "$stage/etc"
    guest_initrd init-block init-block "${BLOCK_MODULES[@]}"
    # Not a whole number of sectors, and nothing that compresses.
    head -c 1000001 "$work/guest/vmlinuz" >"$cd/data"
    echo 'Mote reads this.' >"$cd/deep/directory/a file with a long name.text"
    (cd "$cd" && find . -type f -exec sha256sum {} + >"$work/sums")
    mv "$work/sums" "$cd/sums"
    xorriso -as mkisofs -quiet -R -J -V MOTELAB -o "$work/guest/cd.iso" "$cd"
}

# What tests a network, at both of its ends.
readonly NET_TOOLS=(iperf3 ethtool ping ip)

net_initrd() {
    put_tools "$work/init-shell" "${NET_TOOLS[@]}"
    mkdir -p "$work/init-shell/bin"
    gcc -O2 -Wall -Werror -static -o "$work/init-shell/bin/sequence" "$lab/tools/sequence.c"
    guest_initrd init-shell init-shell "${SHELL_MODULES[@]}"
}

# A guest that writes records until the power is cut.
records_initrd() {
    mkdir -p "$work/init-records/bin"
    gcc -O2 -Wall -Werror -static -o "$work/init-records/bin/records" "$lab/tools/records.c"
    guest_initrd init-records init-records virtio_mmio virtio_blk
}

# fio and its many libraries, on a CD for the guest of that name. It is large, so only a
# test that asks for it has it in its image.
fio_cd() {
    put_tools "$work/fio" fio
    mkdir "$work/fio"/{dev,proc,sys,tmp} "$work/extra"
    xorriso -as mkisofs -quiet -R -o "$work/extra/fio.iso" "$work/fio"
    mkdir -p "$work/init-fio/bin"
    cp "$work/init-records/bin/records" "$work/init-fio/bin"
    guest_initrd init-fio init-fio virtio_mmio virtio_blk isofs
}

# A system on a CD that installs itself, with the configuration that Debian's tools write.
install_cd() {
    local uuid=1d2c3b4a-0000-4000-8000-000000000001 cd=$work/install
    put_tools "$work/init-install" mke2fs mkfs.vfat sfdisk
    mkdir -p "$work/init-install/etc" "$cd/boot/grub"
    cp /etc/mke2fs.conf "$work/init-install/etc"
    guest_initrd init-install init-install virtio_pci virtio_blk ext4 crc32c_generic isofs
    mv "$work/guest/init-install.cpio" "$cd/boot/initrd"
    cp "$work/guest/vmlinuz" "$cd/boot"
    sed "s/vmlinuz-[^ ]*/vmlinuz-6/; s/initrd.img-.*/initrd.img-6/; s/ro  quiet/& panic=-1 mote.test=installed uuid=$uuid/" \
        "$lab/../../monitor/firmware/src/config/stock/debian.cfg" >"$cd/debian.cfg"
    cat >"$cd/boot/grub/grub.cfg" <<EOF
menuentry 'Install' {
    linux /boot/vmlinuz quiet panic=-1 mote.test=install uuid=$uuid
    initrd /boot/initrd
}
EOF
    xorriso -as mkisofs -quiet -R -J -V INSTALL -o "$work/extra/install.iso" "$cd"
}

# The stock kernel and a large initrd, on a CD, to time the way to the kernel's first
# instructions: these write the boot marker here, and power off.
first_cd() {
    local cd=$work/first kernel=$work/first/boot/vmlinuz setup
    mkdir -p "$cd/boot/grub"
    cp --no-preserve=links "$work/guest/vmlinuz" "$kernel"
    # Of the code behind the setup sectors, the 64-bit entry is at 0x200.
    setup=$(od -An -tu1 -j $((0x1f1)) -N 1 "$kernel")
    printf '\x66\xba\x04\x06\xb0\x7b\xee\x66\xba\x00\x06\xb0\x34\xee\xf4\xeb\xfd' |
        dd of="$kernel" bs=1 seek=$(((setup + 2) * 512)) conv=notrunc status=none
    head -c 30000000 /dev/urandom >"$cd/boot/initrd"
    printf 'menuentry First { linux /boot/vmlinuz quiet\n initrd /boot/initrd }\n' >"$cd/boot/grub/grub.cfg"
    xorriso -as mkisofs -quiet -R -o "$work/extra/first.iso" "$cd"
}

# Bootable media that Debian packages bring along.
foreign_media() {
    local package root=$work/foreign
    for package in memtest86+ ipxe grub-rescue-pc; do unpack_package "$package" "$root"; done
    cp "$root"/usr/lib/memtest86+/memtest86+{x64,ia32}.iso "$root/usr/lib/ipxe/ipxe.iso" \
        "$root"/usr/lib/grub-rescue/grub-rescue-{cdrom.iso,usb.img} "$work/extra"
}

# The smallest user space there is, so that a benchmark times the machine and the kernel.
tiny_initrd() {
    mkdir -p "$work/tiny"
    gcc -Os -Wall -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
        -fcf-protection=none -fno-asynchronous-unwind-tables -Wl,--build-id=none,-z,noseparate-code -s \
        -o "$work/tiny/init" "$lab/guest/init-tiny.c"
    pack "$work/tiny" >"$work/guest/init-tiny.cpio"
}

build_base() {
    local key package kernel modules work source
    package=$(kernel_package) || { apt-get -qq update >&2 && package=$(kernel_package); } ||
        die 'no Debian cloud kernel is known to apt'
    kernel=$cache/$package
    [[ -d $kernel ]] || fetch_kernel "$package" "$kernel"
    # What the base is made from; tests are not part of it.
    key=$(cd "$lab" && { echo "$package" && sha256sum artefacts.sh init guest/* tools/*; } | sha256sum)
    [[ $key != "$(cat "$cache/base.key" 2>/dev/null)" ]] || return 0

    say 'building the images'
    work=$(mktemp -d "$cache/build.XXXXXX")
    modules=$(echo "$kernel"/lib/modules/*)
    mkdir "$work/guest"
    ln "$kernel"/boot/vmlinuz-* "$work/guest/vmlinuz"
    ln "$kernel/boot/vmlinux" "$work/guest/vmlinux"
    guest_initrd init-check init-check "${GUEST_MODULES[@]}"
    block_initrd
    net_initrd
    tiny_initrd
    records_initrd
    fio_cd
    install_cd
    first_cd
    foreign_media

    put_busybox "$work/base"
    put_modules "$work/base" "${LAB_MODULES[@]}"
    put_tools "$work/base" mke2fs e2fsck fsck.vfat "${NET_TOOLS[@]}"
    install -m 755 "$lab/init" "$work/base/init"
    for source in "$lab"/tools/*.c; do
        gcc -O2 -Wall -Werror -static -o "$work/base/bin/$(basename "$source" .c)" "$source"
    done
    mkdir "$work/base/lab"
    cp "$work"/guest/* "$work/base/lab"
    pack "$work/base" >"$work/base.cpio"

    # The key goes last: a build that was interrupted is no build.
    rm -rf "$cache/base.key" "$cache/guest" "$cache/extra"
    mv "$work/guest" "$work/extra" "$work/base.cpio" "$cache"
    echo "$key" >"$cache/base.key"
    rm -rf "$work"
}

prepare() {
    mkdir -p "$cache"
    need_packages
    emulator
    with_lock build_base
}
