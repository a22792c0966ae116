# shellcheck shell=bash disable=SC2154
# Installer CDs for a whole Debian system, made of nothing but Debian packages. They take
# minutes and megabytes, so each is made when a test first asks for it: `--extra debian.iso`,
# and `--cd layouts.iso`, whose system and installer know the volumes and file systems that
# distributions put it on. Sourced by lab.

# What the system consists of, besides what is essential. grub2-common and u-boot-menu each
# write the boot configuration that their boot loader would read.
readonly DEBIAN_PACKAGES=systemd-sysv,dbus,login,udev,iproute2,iputils-ping,kmod,e2fsprogs,dosfstools,linux-image-cloud-amd64,grub2-common,u-boot-menu
readonly LAYOUT_PACKAGES=lvm2,mdadm,xfsprogs,btrfs-progs,systemd-boot

# What nobody here reads: less to copy in the emulator. All of it belongs to packages that
# work without it.
readonly DEBIAN_WITHOUT=(/usr/share/{doc,man,info,locale,lintian,bash-completion,zoneinfo}
    "/usr/lib/x86_64-linux-gnu/gconv" "/lib/modules/*/kernel/net/"{netfilter,openvswitch,sched,sctp,tipc,ceph,wireless}
    "/lib/modules/*/kernel/drivers/"{gpu,infiniband,nvme,scsi,usb,hv,xen,net/ethernet,net/hyperv,target,hid,media}
    "/lib/modules/*/kernel/fs/"{btrfs,xfs,ocfs2,ceph,cifs,nfs,nfsd,f2fs,jfs,gfs2,ubifs,udf,ntfs3})

# Sets up what debian-installer would have asked for; the target's folder is $1.
debian_settings() {
    local root=$1
    echo 'root:mote' | chpasswd -R "$root"
    echo machine >"$root/etc/hostname"
    cat >"$root/etc/systemd/network/wired.network" <<'END'
[Match]
Name=eth* en*
[Network]
Address=10.9.0.2/24
END
    # What would only be busy: upgrades and their backups.
    chroot "$root" systemctl -q enable systemd-networkd
    chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service
    # Modules of Perl that only package scripts load.
    rm -rf "$root"/usr/share/perl/5* "$root"/usr/lib/x86_64-linux-gnu/perl/5*
}

# The root file system's UUID, whatever it lies on.
readonly DEBIAN_ROOT=6d6f7465-0000-4000-8000-000000000001

# A unified kernel image, as systemd-stub's manual page makes one: sections after its own.
unified_image() {
    local root=$1 stub=$1/usr/lib/systemd/boot/efi/linuxx64.efi.stub at=0 end options=() section size vma
    printf 'root=UUID=%s ro quiet' "$DEBIAN_ROOT" >"$root/boot/cmdline"
    while read -r size vma; do
        end=$((0x$size + 0x$vma))
        at=$((end > at ? end : at))
    done < <(objdump -h "$stub" | sed -n 's/^ *[0-9]* \.[a-z]* *\([0-9a-f]*\) *\([0-9a-f]*\) .*/\1 \2/p')
    at=$(((at + 0xffff) / 0x10000 * 0x10000))
    for section in ".osrel=$root/usr/lib/os-release" ".cmdline=$root/boot/cmdline" \
        ".linux=$(echo "$root"/boot/vmlinuz-*)" ".initrd=$(echo "$root"/boot/initrd.img-*)"; do
        options+=(--add-section "$section" --change-section-vma "${section%%=*}=$at")
        at=$((at + ($(stat -L -c %s "${section#*=}") + 0xffff) / 0x10000 * 0x10000))
    done
    objcopy "${options[@]}" "$stub" "$root/boot/debian.efi"
    rm "$root/boot/cmdline"
}

# debian_cd NAME: makes $cache/extra/NAME.iso.
debian_cd() {
    local cd_name=$1 key work cd out=$cache/$1 path options=() modules packages=$DEBIAN_PACKAGES
    local tools=(mke2fs mkfs.vfat sfdisk) drivers=(virtio_pci virtio_blk ext4 crc32c_generic isofs vfat nls_cp437 nls_ascii)
    local layouts=(plain) layout without=("${DEBIAN_WITHOUT[@]}")
    key=$(cd "$lab" && cat debian.sh guest/init-debian "$cache/kernel-package" | sha256sum)
    if [[ $key = "$(cat "$out/key" 2>/dev/null)" ]]; then
        ln -f "$out/$cd_name.iso" "$cache/extra"
        return
    fi
    if [[ $cd_name = layouts ]]; then
        packages+=,$LAYOUT_PACKAGES
        tools+=(mkfs.xfs mkfs.btrfs btrfs lvm mdadm)
        drivers+=(dm-mod xfs btrfs raid1)
        layouts=(lvm lvmboot xfs btrfs md unified)
        without=("${without[@]/btrfs,xfs,/}")
        need_programs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs lvm:lvm2 mdadm:mdadm objcopy:binutils
    fi
    need_programs mmdebstrap:mmdebstrap
    say "making a Debian system ($cd_name)"
    work=$(mktemp -d "$cache/build.XXXXXX")
    modules=$(echo "$cache/$(cat "$cache/kernel-package")"/lib/modules/*)
    cd=$work/cd
    mkdir -p "$cd/boot/grub" "$work/guest" "$work/install"
    for path in "${without[@]}"; do options+=("--dpkgopt=path-exclude=$path/*"); done
    {
        declare -p DEBIAN_ROOT
        declare -f debian_settings unified_image
        echo 'debian_settings "$1"'
        [[ $cd_name != layouts ]] || echo 'unified_image "$1"'
    } >"$work/settings"
    mmdebstrap -q --variant=minbase --include="$packages" --aptopt='Apt::Install-Recommends "false"' \
        "${options[@]}" --customize-hook="bash -e $work/settings \"\$1\"" bookworm "$cd/root.tar" >&2 ||
        die 'mmdebstrap failed'
    put_tools "$work/init-debian" "${tools[@]}"
    mkdir -p "$work/init-debian/etc"
    cp /etc/mke2fs.conf "$work/init-debian/etc"
    guest_initrd init-debian init-debian "${drivers[@]}"
    mv "$work/guest/init-debian.cpio" "$cd/boot/initrd"
    cp "$cache/guest/vmlinuz" "$cd/boot"
    for layout in "${layouts[@]}"; do
        cat <<END
menuentry 'Install Debian ($layout)' {
    linux /boot/vmlinuz quiet layout=$layout uuid=$DEBIAN_ROOT
    initrd /boot/initrd
}
END
    done >"$cd/boot/grub/grub.cfg"
    xorriso -as mkisofs -quiet -R -J -V DEBIAN -o "$work/debian.iso" "$cd"
    mkdir -p "$out"
    rm -f "$out/key"
    mv "$work/debian.iso" "$out/$cd_name.iso"
    ln -f "$out/$cd_name.iso" "$cache/extra"
    echo "$key" >"$out/key"
    rm -rf "$work"
}

# Debian's own installer as its package has it, stock kernel, initrd and menus, on a CD; and on
# another the same kernel and initrd, with the modules that only its own CD has, and a script in
# init's place that looks for the CD as the installer does.
installer_cd() {
    local work images cd udebs=() kept=$cache/installer version module
    if [[ ! -s $kept/key || $(<"$kept/key") != "$(cd "$lab" && cat debian.sh guest/init-installer | sha256sum)" ]]; then
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        unpack_package debian-installer-12-netboot-amd64 "$work"
        images=$work/usr/lib/debian-installer/images/12/amd64/text
        # What a boot server has under another name.
        cp "$images/debian-installer/amd64/boot-screens/syslinux.cfg" "$images/isolinux.cfg"
        mkdir -p "$kept" "$work/modules"
        rm -f "$kept/key"
        xorriso -as mkisofs -quiet -R -J -V INSTALLER -o "$kept/installer.iso" "$images"

        cd=$work/cd
        mkdir -p "$cd/boot/grub" "$cd/.disk" "$work/init/modules"
        cp "$images/debian-installer/amd64/"{linux,initrd.gz} "$cd"
        version=$(zcat "$cd/initrd.gz" | cpio --quiet -t | sed -n 's/^lib\/modules\/\([^/]*\)$/\1/p')
        for module in scsi cdrom-core isofs; do udebs+=("$module-modules-$version-di"); done
        fetch_from '' main/debian-installer "$work/udebs" "${udebs[@]}" ||
            die "cannot download ${udebs[*]}"
        find "$work/udebs" \( -name virtio_blk.ko -o -name cdrom.ko -o -name isofs.ko \) -exec cp {} "$work/init/modules" \;
        install -m 755 "$lab/guest/init-installer" "$work/init/init-installer"
        pack "$work/init" >"$cd/init.cpio"
        echo 'The medium of a test' >"$cd/.disk/info"
        cat >"$cd/boot/grub/grub.cfg" <<'END'
menuentry 'Look for the CD' {
    linux /linux rdinit=/init-installer quiet
    initrd /initrd.gz /init.cpio
}
END
        xorriso -as mkisofs -quiet -R -J -V INSTALLER -o "$kept/installer-look.iso" "$cd"
        (cd "$lab" && cat debian.sh guest/init-installer | sha256sum) >"$kept/key"
        rm -rf "$work"
    fi
    ln -f "$kept"/*.iso "$cache/extra"
}
