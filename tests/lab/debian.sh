# shellcheck shell=bash disable=SC2154
# An installer CD for a whole Debian system, made of nothing but Debian packages. It takes
# minutes and megabytes, so it is made when a test first asks for it by `--extra debian.iso`.
# Sourced by lab.

# What the system consists of, besides what is essential. grub2-common and u-boot-menu each
# write the boot configuration that their boot loader would read.
readonly DEBIAN_PACKAGES=systemd-sysv,dbus,login,udev,iproute2,iputils-ping,kmod,e2fsprogs,dosfstools,linux-image-cloud-amd64,grub2-common,u-boot-menu

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

debian_cd() {
    local key work cd out=$cache/debian path options=() modules
    key=$(cd "$lab" && cat debian.sh guest/init-debian "$cache/kernel-package" | sha256sum)
    if [[ $key = "$(cat "$out/key" 2>/dev/null)" ]]; then
        ln -f "$out/debian.iso" "$cache/extra"
        return
    fi
    command -v mmdebstrap >/dev/null || {
        ((UID == 0)) || die 'this package is missing: mmdebstrap'
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install mmdebstrap >&2 ||
            die 'cannot install mmdebstrap'
    }
    say 'making a Debian system'
    work=$(mktemp -d "$cache/build.XXXXXX")
    modules=$(echo "$cache/$(cat "$cache/kernel-package")"/lib/modules/*)
    cd=$work/cd
    mkdir -p "$cd/boot/grub" "$work/guest" "$work/install"
    for path in "${DEBIAN_WITHOUT[@]}"; do options+=("--dpkgopt=path-exclude=$path/*"); done
    declare -f debian_settings >"$work/settings"
    echo 'debian_settings "$1"' >>"$work/settings"
    mmdebstrap -q --variant=minbase --include="$DEBIAN_PACKAGES" --aptopt='Apt::Install-Recommends "false"' \
        "${options[@]}" --customize-hook="bash $work/settings \"\$1\"" bookworm "$cd/root.tar" >&2 ||
        die 'mmdebstrap failed'
    put_tools "$work/init-debian" mke2fs mkfs.vfat sfdisk
    mkdir -p "$work/init-debian/etc"
    cp /etc/mke2fs.conf "$work/init-debian/etc"
    guest_initrd init-debian init-debian virtio_pci virtio_blk ext4 crc32c_generic isofs vfat nls_cp437 nls_ascii
    mv "$work/guest/init-debian.cpio" "$cd/boot/initrd"
    cp "$cache/guest/vmlinuz" "$cd/boot"
    cat >"$cd/boot/grub/grub.cfg" <<'END'
set default=0
menuentry 'Install Debian' {
    linux /boot/vmlinuz quiet
    initrd /boot/initrd
}
END
    xorriso -as mkisofs -quiet -R -J -V DEBIAN -o "$work/debian.iso" "$cd"
    mkdir -p "$out"
    rm -f "$out/key"
    mv "$work/debian.iso" "$out"
    ln -f "$out/debian.iso" "$cache/extra"
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
