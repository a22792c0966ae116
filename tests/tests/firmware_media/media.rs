//! The media: their files, and what their own boot loader would start.

use super::Content::{Addon, Ext2, Initrd, Kernel, Program, Text, Unified};
use super::Layout::{Ext4, Fat, FatAndExt4, Iso, IsoWithEfi};
use super::Medium;

pub(super) const MEDIA: &[Medium] = &[
    Medium {
        name: "alpine-cloud",
        layout: Ext4,
        files: &[
            (
                "boot/extlinux.conf",
                Text(
                    "DEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine\nMENU HIDDEN\nLABEL virt\n\
                     MENU DEFAULT\nMENU LABEL Linux virt\nLINUX vmlinuz-virt\n\
                     INITRD initramfs-virt\nAPPEND root=LABEL=/ console=ttyS0,115200n8\n",
                ),
            ),
            ("boot/vmlinuz-virt", Kernel),
            ("boot/initramfs-virt", Initrd),
        ],
        lines: &["cmdline: root=LABEL=/ console=ttyS0,115200n8", "initrd: boot/initramfs-virt"],
    },
    Medium {
        name: "arch-unified",
        layout: Fat,
        files: &[
            ("loader/loader.conf", Text("timeout 3\ndefault arch-linux-lts.efi\n")),
            ("loader/entries/readme", Text("")),
            ("EFI/BOOT/BOOTX64.EFI", Program),
            ("EFI/Linux/arch-linux.efi", Unified(&[(".osrel", ARCH), (".cmdline", "rw")])),
            ("EFI/Linux/arch-linux-lts.efi", Unified(&[(".osrel", ARCH), (".cmdline", "lts")])),
            ("EFI/Linux/arch-linux-fallback.efi", Unified(&[(".osrel", ARCH)])),
        ],
        lines: &["cmdline: lts console=ttyS0"],
    },
    Medium {
        name: "arch-entries",
        layout: Fat,
        files: &[
            ("loader/loader.conf", Text("#timeout 3\n#console-mode keep\n")),
            (
                "loader/entries/arch.conf",
                Text("title Arch\nlinux /vmlinuz\ninitrd /main\noptions rw\n"),
            ),
            (
                "loader/entries/arch-fallback.conf",
                Text("title Arch (fallback)\nlinux /vmlinuz\ninitrd /fallback\noptions rw\n"),
            ),
            ("vmlinuz", Kernel),
            ("main", Initrd),
            ("fallback", Initrd),
        ],
        lines: &["cmdline: rw console=ttyS0", "initrd: main"],
    },
    Medium {
        name: "spent-tries",
        layout: Fat,
        files: &[
            ("loader/loader.conf", Text("default id-*\n")),
            (
                "loader/entries/id-2+0-3.conf",
                Text("title 2\nsort-key arch\nversion 2\nlinux /k\noptions bad\n"),
            ),
            (
                "loader/entries/id-1.conf",
                Text("title 1\nsort-key arch\nversion 1\nlinux /k\noptions good\n"),
            ),
            ("k", Kernel),
        ],
        lines: &["cmdline: good console=ttyS0"],
    },
    Medium {
        name: "entries-without-options",
        layout: Iso,
        files: &[
            (
                "boot/grub2/grub.cfg",
                Text(
                    "set default_kernelopts=\"root=y ro\"\nset early_initrd=\"ucode.img\"\n\
                     set kernelopts=\"root=z\"\nblscfg\n",
                ),
            ),
            (
                "boot/loader/entries/a.conf",
                Text("title Linux\nlinux /boot/vmlinuz\ninitrd /boot/initrd\n"),
            ),
            ("boot/vmlinuz", Kernel),
            ("boot/initrd", Initrd),
            ("boot/ucode.img", Initrd),
        ],
        lines: &[
            "cmdline: root=y ro console=ttyS0",
            "initrd: boot/ucode.img",
            "initrd: boot/initrd",
        ],
    },
    Medium {
        name: "two-dashes",
        layout: Iso,
        files: &[
            ("boot/grub/grub.cfg", Text("menuentry A { linux /vmlinuz vga=788 -- quiet\n}")),
            ("vmlinuz", Kernel),
        ],
        lines: &["cmdline: vga=788 console=ttyS0 -- quiet"],
    },
    Medium {
        name: "three-dashes",
        layout: Iso,
        files: &[
            ("boot/grub/grub.cfg", Text("menuentry A {\n\tlinux\t/casper/vmlinuz  --- \n}")),
            ("casper/vmlinuz", Kernel),
        ],
        lines: &["cmdline: console=ttyS0 ---"],
    },
    Medium {
        name: "small-letters",
        layout: Iso,
        files: &[
            ("EFI/boot/grub.cfg", Text("menuentry Linux { linux /boot/bzImage x\n}")),
            ("boot/bzImage", Kernel),
        ],
        lines: &["cmdline: x console=ttyS0"],
    },
    Medium {
        name: "eval",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text(
                    "p=\"root=x\"\neval \"\nmenuentry 'Linux' {\n linux /vmlinuz $p\n}\n\" # end\n",
                ),
            ),
            ("vmlinuz", Kernel),
        ],
        lines: &["cmdline: root=x console=ttyS0"],
    },
    Medium {
        name: "missing-device",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text("menuentry A {\n linux /vmlinuz x\n initrd /ucode (hd7,gpt1)/initrd\n}\n"),
            ),
            ("vmlinuz", Kernel),
            ("ucode", Initrd),
        ],
        lines: &["(hd7,gpt1)/initrd"],
    },
    Medium {
        name: "loopback-last",
        layout: Iso,
        files: &[
            (
                "boot/grub/loopback.cfg",
                Text("menuentry File { linux /live/vmlinuz img_loop=$iso_path\n}"),
            ),
            (
                "loader/entries/01-live.conf",
                Text("title Live\nlinux /live/vmlinuz\ninitrd /live/initrd\noptions live\n"),
            ),
            ("live/vmlinuz", Kernel),
            ("live/initrd", Initrd),
        ],
        lines: &["cmdline: live console=ttyS0", "initrd: live/initrd"],
    },
    Medium {
        name: "loopback-device",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text(
                    "menuentry Linux {\n loopback loop0 /root.img\n linux (loop0)/vmlinuz x\n \
                     initrd (loop0)/initrd\n}\n",
                ),
            ),
            ("root.img", Ext2(&[("vmlinuz", Kernel), ("initrd", Initrd)])),
        ],
        lines: &["cmdline: x console=ttyS0", "initrd: initrd"],
    },
    Medium {
        name: "nixos-rolled-back",
        layout: Fat,
        files: &[
            ("loader/loader.conf", Text("timeout 5\ndefault nixos-generation-1.conf\neditor 0\n")),
            (
                "loader/entries/nixos-generation-1.conf",
                Text(
                    "title NixOS\nsort-key nixos\nversion Generation 1\nlinux /EFI/nixos/k.efi\n\
                     options init=/nix/store/1/init\n",
                ),
            ),
            (
                "loader/entries/nixos-generation-12.conf",
                Text(
                    "title NixOS\nsort-key nixos\nversion Generation 12\nlinux /EFI/nixos/k.efi\n\
                     options init=/nix/store/12/init\n",
                ),
            ),
            ("EFI/nixos/k.efi", Kernel),
            ("EFI/BOOT/BOOTX64.EFI", Program),
        ],
        lines: &["cmdline: init=/nix/store/1/init console=ttyS0"],
    },
    Medium {
        name: "brace-at-title",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text("menuentry \"Live\"{\n linux /live/vmlinuz boot=live\n initrd /live/i\n}\n"),
            ),
            ("live/vmlinuz", Kernel),
            ("live/i", Initrd),
        ],
        lines: &["cmdline: boot=live console=ttyS0", "initrd: live/i"],
    },
    Medium {
        name: "probe",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text(
                    "probe --set a --fs-uuid $root\nprobe -u -s b $root\n\
                     if [ -n \"$a\" -a \"$a\" = \"$b\" ]; then c=same; fi\n\
                     menuentry Linux { linux /vmlinuz $c\n}",
                ),
            ),
            ("vmlinuz", Kernel),
        ],
        lines: &["cmdline: same console=ttyS0"],
    },
    Medium {
        name: "regexp",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text("regexp --set 1:dev (.+) ${root}\nmenuentry A { linux (${dev})/vmlinuz x\n}"),
            ),
            ("vmlinuz", Kernel),
        ],
        lines: &["cmdline: x console=ttyS0"],
    },
    Medium {
        name: "search",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text(
                    "search --label SEARCH --set boot --no-floppy\nset root=$boot\n\
                     menuentry Linux { linux /vmlinuz boot=$boot\n}",
                ),
            ),
            ("vmlinuz", Kernel),
        ],
        lines: &["cmdline: boot=cd0 console=ttyS0"],
    },
    Medium {
        name: "syslinux-directory",
        layout: Iso,
        files: &[
            (
                "isolinux/isolinux.cfg",
                Text("DEFAULT l\nLABEL l\n CONFIG /live/boot/syslinux/real.cfg\n APPEND /live/\n"),
            ),
            (
                "live/boot/syslinux/real.cfg",
                Text("DEFAULT x\nLABEL x\nLINUX boot/vmlinuz\nINITRD boot/initrd\nAPPEND good\n"),
            ),
            ("live/boot/vmlinuz", Kernel),
            ("live/boot/initrd", Initrd),
        ],
        lines: &["cmdline: good console=ttyS0", "initrd: live/boot/initrd"],
    },
    Medium {
        name: "syslinux-help",
        layout: Iso,
        files: &[
            (
                "isolinux/isolinux.cfg",
                Text(
                    "DEFAULT a\nLABEL a\n KERNEL /vmlinuz\n APPEND initrd=/initrd good\n TEXT HELP\n \
                     linux kernel with default options and\n append nothing to them.\n ENDTEXT\n",
                ),
            ),
            ("vmlinuz", Kernel),
            ("initrd", Initrd),
        ],
        lines: &["cmdline: good console=ttyS0", "initrd: initrd"],
    },
    Medium {
        name: "long-titles",
        layout: Iso,
        files: &[
            (
                "boot/grub/grub.cfg",
                Text(
                    "submenu 'Advanced options for Debian GNU/Linux' {\n\
                     menuentry 'Debian GNU/Linux, with Linux 6.1.0-37-amd64' {\nlinux /k a\n}\n\
                     menuentry 'Debian GNU/Linux, with Linux 6.1.0-37-amd64 (recovery mode)' {\n\
                     linux /k b\n}\n}\nset default='Advanced options for Debian GNU/Linux>\
                     Debian GNU/Linux, with Linux 6.1.0-37-amd64 (recovery mode)'\n",
                ),
            ),
            ("k", Kernel),
        ],
        lines: &["cmdline: b console=ttyS0"],
    },
    Medium {
        name: "entries-and-unified",
        layout: Fat,
        files: &[
            ("loader/loader.conf", Text("default fedora-*\n")),
            ("loader/entries/rescue.conf", Text("title Rescue\nlinux /k\noptions rescue\n")),
            ("k", Kernel),
            ("EFI/BOOT/BOOTX64.EFI", Program),
            (
                "EFI/Linux/fedora-6.11.efi",
                Unified(&[(".osrel", "ID=fedora\nVERSION_ID=41\n"), (".cmdline", "unified")]),
            ),
        ],
        lines: &["cmdline: unified console=ttyS0"],
    },
    Medium {
        name: "unified-microcode",
        layout: Fat,
        files: &[(
            "EFI/Linux/a.efi",
            Unified(&[
                (".osrel", "PRETTY_NAME=\"A\"\n"),
                (".cmdline", "x"),
                (".initrd", "main"),
                (".ucode", "microcode"),
            ]),
        )],
        lines: &["cmdline: x console=ttyS0", "initrd: microcode", "initrd: main"],
    },
    Medium {
        name: "unified-add-ons",
        layout: Fat,
        files: &[
            (
                "EFI/Linux/a+3-0.efi",
                Unified(&[(".osrel", "ID=a\n"), (".cmdline", "x "), (".initrd", "first")]),
            ),
            ("EFI/Linux/a.efi.extra.d/own.addon.efi", Addon(&[(".cmdline", "own")])),
            ("EFI/Linux/a.efi.extra.d/own.efi", Addon(&[(".cmdline", "never")])),
            ("EFI/Linux/b.efi.extra.d/other.addon.efi", Addon(&[(".cmdline", "never")])),
            (
                "loader/addons/all.addon.efi",
                Addon(&[(".initrd", "late"), (".ucode", "microcode"), (".cmdline", "all")]),
            ),
        ],
        lines: &[
            "cmdline: x all own console=ttyS0",
            "initrd: microcode",
            "initrd: first",
            "initrd: late",
        ],
    },
    Medium {
        name: "extended-boot-partition",
        layout: FatAndExt4,
        files: &[
            ("esp/loader/loader.conf", Text("default m-6.10.conf\n")),
            ("esp/EFI/BOOT/BOOTX64.EFI", Program),
            (
                "boot/loader/entries/m-6.10.conf",
                Text("title Fedora\nversion 6.10\nsort-key fedora\nlinux /k\noptions old\n"),
            ),
            (
                "boot/loader/entries/m-6.11.conf",
                Text("title Fedora\nversion 6.11\nsort-key fedora\nlinux /k\noptions new\n"),
            ),
            ("boot/k", Kernel),
        ],
        lines: &["cmdline: old console=ttyS0"],
    },
    Medium {
        name: "image-of-el-torito",
        layout: IsoWithEfi,
        files: &[
            ("esp/EFI/BOOT/BOOTX64.EFI", Program),
            (
                "esp/EFI/BOOT/grub.cfg",
                Text(
                    "search --set=root --file /live/k\nset prefix=($root)/g\n. $prefix/real.cfg\n",
                ),
            ),
            ("g/real.cfg", Text("menuentry Live {\nlinux /live/k live\ninitrd /live/i\n}\n")),
            ("live/k", Kernel),
            ("live/i", Initrd),
        ],
        lines: &["cmdline: live console=ttyS0", "initrd: live/i"],
    },
    Medium {
        name: "limine",
        layout: FatAndExt4,
        files: &[
            ("esp/EFI/BOOT/BOOTX64.EFI", Program),
            (
                "esp/limine.conf",
                Text(
                    "timeout: 5\ndefault_entry: 2\n/+CachyOS\ncomment: machine-id=1\n\
                     //linux-cachyos\nprotocol: linux\nmodule_path: boot():/1/initrd#77\n\
                     kernel_path: boot():/1/vmlinuz#77\ncmdline: quiet rw\n\
                     /Firmware\nprotocol: efi\npath: boot():/EFI/BOOT/BOOTX64.EFI\n",
                ),
            ),
            ("esp/1/vmlinuz", Kernel),
            ("esp/1/initrd", Initrd),
            ("boot/etc/os-release", Text("ID=cachyos\n")),
        ],
        lines: &["cmdline: quiet rw console=ttyS0", "initrd: esp/1/initrd"],
    },
    Medium {
        name: "elilo",
        layout: Fat,
        files: &[
            ("EFI/Slackware/elilo.efi", Program),
            (
                "EFI/Slackware/elilo.conf",
                Text(
                    "chooser=simple\ndelay=1\ntimeout=1\n#\nimage=vmlinuz\n\tlabel=vmlinuz\n\
                     \tinitrd=initrd.gz\n\tread-only\n\tappend=\"root=/dev/vda2 vga=normal\"\n",
                ),
            ),
            ("EFI/Slackware/vmlinuz", Kernel),
            ("EFI/Slackware/initrd.gz", Initrd),
        ],
        lines: &[
            "cmdline: ro root=/dev/vda2 vga=normal console=ttyS0",
            "initrd: EFI/Slackware/initrd.gz",
        ],
    },
    Medium {
        name: "refused-source",
        layout: Iso,
        files: &[
            ("boot/grub/grub.cfg", Text("menuentry Gone { linux /gone\n}")),
            ("isolinux/isolinux.cfg", Text("LABEL a\n KERNEL /k\n APPEND second\n")),
            ("k", Kernel),
        ],
        lines: &["cmdline: second console=ttyS0"],
    },
];
const ARCH: &str = "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\n";
