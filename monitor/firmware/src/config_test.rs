//! Configurations as stock systems have them, and as nobody should.

use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use super::order::by_version;
use super::{Config, find, uki};
use crate::testing::{Contents, volumes};

pub(super) const UUID: &str = "1d2c3b4a-0000-4000-8000-000000000001";

pub(super) fn read(list: &[(&str, Contents)]) -> (Option<Config>, Vec<String>) {
    let mut notes = Vec::new();
    let config = find(&mut volumes(list), 0, &mut |note| notes.push(note));
    (config, notes)
}

/// Titles, kernels, initrds and command lines of the entries, one line each.
pub(super) fn told(config: &Config) -> Vec<String> {
    let line = |entry: &super::Entry| {
        let initrds: Vec<&str> = entry.initrds.iter().map(|path| path.path.as_str()).collect();
        if let Some(flaw) = &entry.flaw {
            return std::format!("{}: {flaw}", entry.title);
        }
        let kernel = &entry.kernel.as_ref().unwrap();
        let (title, cmdline) = (&entry.title, &entry.cmdline);
        let (volume, kernel, initrds) = (kernel.volume, &kernel.path, initrds.join(","));
        std::format!("{title}|{volume}{kernel}|{initrds}|{cmdline}")
    };
    config.entries.iter().map(line).collect()
}

#[test]
fn isolinux_with_includes() {
    const FILES: Contents = &[
        (
            "/isolinux/isolinux.cfg",
            "# D-I config\npath \ninclude menu.cfg\ndefault vesamenu.c32\nprompt 0\ntimeout 0\n",
        ),
        (
            "/isolinux/menu.cfg",
            "menu hshift 7\ninclude txt.cfg\nINCLUDE missing.cfg\nmenu begin advanced\n\
             label memtest\n\tkernel memtest.bin\nmenu end\n\
             LABEL local\n MENU LABEL ^Hard disk\n localboot 0x80\n",
        ),
        (
            "/isolinux/txt.cfg",
            "label install\n\tmenu label ^Install\n\tkernel /install.amd/vmlinuz\n\
             \tappend vga=788 initrd=/install.amd/initrd.gz,extra.gz --- quiet \n\
             label auto\n\tmenu label A^utomated\n\tmenu default\n\tlinux ../install.amd/vmlinuz auto\n\
             \tinitrd /install.amd/initrd.gz\n",
        ),
        ("/install.amd/vmlinuz", "k"),
    ];
    let (config, notes) = read(&[("cd", FILES)]);
    let config = config.ok_or(notes).unwrap();
    assert_eq!(
        told(&config),
        [
            "Install|0/install.amd/vmlinuz|/install.amd/initrd.gz,/isolinux/extra.gz|\
             vga=788 --- quiet",
            "Automated|0/isolinux/../install.amd/vmlinuz|/install.amd/initrd.gz|auto",
            "advanced > memtest: no kernel",
            "Hard disk: no kernel",
        ]
    );
    assert_eq!(config.default, 1);
}

/// As Debian's installer has it: menus that lead to each other, and a submenu with
/// a default of its own.
#[test]
fn isolinux_in_circles() {
    const FILES: Contents = &[
        ("/isolinux.cfg", "path s/\ninclude s/menu.cfg\ndefault s/vesamenu.c32\n"),
        (
            "/s/menu.cfg",
            "include s/txt.cfg\nmenu begin dark\n menu label ^Dark\n include s/drk.cfg\nmenu end\n\
             label help\n\tmenu label ^Help\n\tconfig s/prompt.cfg\ninclude s/txt.cfg\n",
        ),
        ("/s/prompt.cfg", "prompt 1\ninclude s/menu.cfg\n"),
        ("/s/txt.cfg", "label install\n\tkernel linux\n\tappend --- quiet\n"),
        (
            "/s/drk.cfg",
            "label dark\ndefault dark\n\tmenu default\n\tkernel linux\n\tappend theme=dark\n",
        ),
        ("/linux", "k"),
    ];
    let config = read(&[("cd", FILES)]).0.unwrap();
    assert_eq!(told(&config), ["install|0/linux||--- quiet", "Dark > dark|0/linux||theme=dark"]);
    assert_eq!(config.default, 0);
}

/// As Debian's u-boot-menu writes it.
#[test]
fn extlinux_of_u_boot_menu() {
    const FILES: Contents = &[
        (
            "/extlinux/extlinux.conf",
            "default l1\nmenu title U-Boot menu\nprompt 0\ntimeout 50\n\n\
             label l0\n\tmenu label Debian GNU/Linux 12 6.1.0-40\n\tlinux /boot/vmlinuz-6.1\n\
             \tinitrd /initrd.img-6.1\n\tfdtdir /x/\n\n\tappend root=/dev/vda2 ro quiet\n\n\
             label l1\n\tlinux /vmlinuz-6.1\n\tappend -\n",
        ),
        ("/vmlinuz-6.1", "k"),
    ];
    let config = read(&[("d", FILES)]).0.unwrap();
    assert_eq!(
        told(&config),
        [
            "Debian GNU/Linux 12 6.1.0-40|0/vmlinuz-6.1|/initrd.img-6.1|root=/dev/vda2 ro quiet",
            "l1|0/vmlinuz-6.1||",
        ]
    );
    assert_eq!(config.default, 1);
}

#[test]
fn versions() {
    use core::cmp::Ordering::{Equal, Greater, Less};
    for (a, b, order) in [
        ("6.10", "6.9", Greater),
        ("6.1.0-40", "6.1.0-9", Greater),
        ("a", "b", Less),
        ("1", "1a", Less),
        ("007", "7", Equal),
        ("", "", Equal),
        ("1~rc1", "1", Less),
        ("1", "1-1", Less),
        ("1.0-1", "1.0.1", Less),
        ("1^a", "1.1", Less),
        ("arch-fallback.conf", "arch.conf", Less),
        ("a_b", "ab", Equal),
        ("1a", "1", Greater),
    ] {
        assert_eq!(by_version(a, b), order, "{a} {b}");
        assert_eq!(by_version(b, a), order.reverse(), "{b} {a}");
    }
}

#[test]
fn boot_loader_specification() {
    const FILES: Contents = &[
        ("/loader/loader.conf", "timeout 3\ndefault debian-*\n"),
        ("/loader/entries/arch.conf", "title Arch\nlinux /k\n"),
        (
            "/loader/entries/debian-2.conf",
            "title Debian\nsort-key debian\nversion 2\nlinux /k\ninitrd /i\ninitrd /j\n",
        ),
        ("/loader/entries/debian-10.conf", "title Debian\nsort-key debian\nversion 10\nlinux /k\n"),
        ("/loader/entries/other.txt", "title no"),
        ("/k", "k"),
    ];
    let config = read(&[("esp", FILES)]).0.unwrap();
    let titles: Vec<&str> = config.entries.iter().map(|entry| entry.title.as_str()).collect();
    assert_eq!(titles, ["Debian (10)", "Debian (2)", "Arch"]);
    assert_eq!(config.default, 0);
    assert_eq!(config.entries[1].initrds.len(), 2);
}

/// What systemd-boot takes for the default: an identity, a shell's pattern, or the
/// first of its order; and an entry without tries comes last.
#[test]
fn defaults_of_systemd_boot() {
    const FILES: [(&str, &str); 6] = [
        ("/loader/entries/nixos-1.conf", "sort-key n\nversion 1\nlinux /k"),
        ("/loader/entries/nixos-12.conf", "sort-key n\nversion 12\nlinux /k"),
        ("/loader/entries/nixos-13+0-3.conf", "sort-key n\nversion 13\nlinux /k"),
        ("/loader/entries/arch.conf", "linux /k"),
        ("/loader/entries/arch-fallback.conf", "linux /k"),
        ("/k", "k"),
    ];
    for (default, wanted) in [
        ("", "nixos-12"),
        ("nixos-1.conf", "nixos-1"),
        ("nixos-1", "nixos-1"),
        ("nixos-1*", "nixos-12"),
        ("nixos-1?.conf", "nixos-12"),
        ("NIXOS-13.conf", "nixos-13"),
        ("*-[0-1].conf", "nixos-1"),
        ("*-[!n]", "nixos-1"),
        ("arch*", "arch"),
        ("*fallback*", "arch-fallback"),
        ("none*", "nixos-12"),
        ("[", "nixos-12"),
    ] {
        let loader: &'static str = Box::leak(std::format!("default {default}\n").into());
        let mut files = FILES.to_vec();
        files.push(("/loader/loader.conf", loader));
        let config = read(&[("esp", Box::leak(files.into_boxed_slice()))]).0.unwrap();
        assert_eq!(config.entries[config.default].id, wanted, "{default}");
        let lost = matches!(default, "none*" | "[");
        assert_eq!(config.lost.is_some(), lost, "{default}");
        let ids: Vec<&str> = config.entries.iter().map(|entry| entry.id.as_str()).collect();
        let order = ["nixos-12", "nixos-1", "arch", "arch-fallback", "nixos-13"];
        assert_eq!(ids, order);
    }
}

/// Lines of a help text are no commands.
/// An entry may load another configuration, and name the directory of its paths.
#[test]
fn configurations_of_syslinux_have_a_directory() {
    const REAL: &str =
        "DEFAULT b\nAPPEND top\nLABEL a\nLINUX k\nLABEL b\nLINUX boot/k\nINITRD boot/i";
    const MORE: &str = "DEFAULT c\nPATH /lib\nLABEL c\nLINUX k";
    for first in [
        "DEFAULT l\nLABEL l\nAPPEND /live/\nCONFIG /live/real.cfg",
        "DEFAULT l\nAPPEND other\nLABEL l\nAPPEND ../live\nCONFIG /live/real.cfg /live\nLABEL more\n\
         MENU LABEL ^More\nCONFIG more.cfg",
        "LABEL l\nCONFIG ../live/real.cfg /live",
    ] {
        let first: &'static str = String::from(first).leak();
        let files: Contents = std::vec![
            ("/isolinux/isolinux.cfg", first),
            ("/isolinux/more.cfg", MORE),
            ("/isolinux/k", ""),
            ("/live/real.cfg", REAL),
            ("/live/k", ""),
            ("/live/boot/k", ""),
        ]
        .leak();
        let (config, _) = read(&[("cd", files)]);
        let config = config.unwrap();
        let entry = &config.entries[config.default];
        assert_eq!((entry.title.as_str(), entry.cmdline.as_str()), ("b", "top"), "{first}");
        assert_eq!(entry.initrds[0].path, "/live/boot/i", "{first}");
        let more = config.entries.get(2);
        assert_eq!(more.is_some(), first.contains("more"), "{first}");
        if let Some(more) = more {
            assert_eq!((more.title.as_str(), more.cmdline.as_str()), ("More > c", ""));
            assert_eq!(more.kernel.as_ref().unwrap().path, "/isolinux/k");
        }
    }
}

#[test]
fn help_texts_of_syslinux() {
    const FILES: Contents = &[
        (
            "/boot/extlinux.conf",
            "label a\n kernel /k\n append good\n TEXT HELP\n linux kernel with\n append no\n \
             ENDTEXT\n menu label b\n",
        ),
        ("/k", "k"),
    ];
    assert_eq!(told(&read(&[("cd", FILES)]).0.unwrap()), ["b|0/k||good"]);
}

/// As CachyOS has it, and with paths of every kind.
#[test]
fn limine_since_version_8() {
    const CONF: &str = "timeout: 5\ndefault_entry: 2\n${ROOT}=root=UUID=1 rw\n\
        /+CachyOS\ncomment: machine-id=1\n//linux-cachyos\n  comment: x\n  protocol: linux\n\
        \x20 module_path: boot():/1/i#0a1b\n  kernel_path: boot():/1/k#0a1b\n\
        \x20 cmdline: quiet ${ROOT}\n//Snapshots\n///old\nprotocol: linux\npath: hdd(2:0):/old\n\
        kernel_cmdline: ${ARCH}\nmodule_path: uuid(other):/i\nmodule_path: fslabel(other):/j\n\
        /Windows\nprotocol: efi\npath: boot():/EFI/Microsoft/bootmgfw.efi\n\
        /Xen\nprotocol: multiboot2\npath: boot():/1/k\n\
        /Gone\nprotocol: linux\npath: odd(3):/k\n";
    const FILES: Contents = &[("/boot/limine.conf", CONF), ("/1/k", "k")];
    let (config, notes) = read(&[("d", FILES), ("other", &[("/old", "k")])]);
    let config = config.ok_or(notes).unwrap();
    assert_eq!(
        told(&config),
        [
            "CachyOS > linux-cachyos|0/1/k|/1/i|quiet root=UUID=1 rw",
            "CachyOS > Snapshots > old|1/old|/i,/j|x86-64",
            "Windows: (hd0)/EFI/Microsoft/bootmgfw.efi: no such kernel",
            "Xen: protocol multiboot2: not supported",
            "Gone: odd(3):/k: no such device or file system",
        ]
    );
    for (default, wanted) in [(1, 0), (2, 0), (3, 1), (4, 0), (9, 0), (0, 0)] {
        let conf = CONF.replace("default_entry: 2", &std::format!("default_entry: {default}"));
        let files = std::vec![("/limine.conf", &*conf.leak()), ("/1/k", "k")].leak();
        let config = read(&[("d", files), ("other", &[("/old", "k")])]).0.unwrap();
        assert_eq!(config.default, wanted, "{default}");
        assert_eq!(config.lost.is_some(), matches!(default, 4 | 9), "{default}");
    }
}

#[test]
fn limine_before_version_8() {
    const FILES: Contents = &[
        (
            "/EFI/BOOT/limine.cfg",
            "TIMEOUT=5\nDEFAULT_ENTRY=2\n:Arch\nPROTOCOL=linux\nKERNEL_PATH=boot:///k\n\
             CMDLINE=root=a b\nMODULE_PATH=boot:///i\n:+More\n::Two\nPROTOCOL=linux\n\
             KERNEL_PATH=guid://d/k\nKERNEL_CMDLINE=two\n",
        ),
        ("/k", "k"),
    ];
    let config = read(&[("d", FILES)]).0.unwrap();
    assert_eq!(told(&config), ["Arch|0/k|/i|root=a b", "More > Two|0/k||two"]);
    assert_eq!(config.default, 1);
}

/// Macros that contain each other, and menus without end.
#[test]
fn limine_without_bounds() {
    let mut conf = std::format!("${{A}}={}\n", "x".repeat(8000));
    conf += &"${A}=${A}${A}\n".repeat(1000);
    conf += &"/".repeat(3000);
    conf += &(0..3000).map(|n| std::format!("/{n}\ncmdline: ${{A}}${{A}}\n")).collect::<String>();
    let files = std::vec![("/limine.conf", &*conf.leak())].leak();
    assert!(read(&[("d", files)]).0.is_none());
}

/// As Slackware has it.
#[test]
fn elilo() {
    const FILES: Contents = &[
        (
            "/EFI/Slackware/elilo.conf",
            "chooser=simple\ndelay=1\ndefault=old\nread-only\nappend=\"all\"\n#\nimage=vmlinuz\n\
             \tlabel=new\n\tinitrd=initrd.gz\n\troot=/dev/vda2\n\tappend=\"vga=normal  ro\"\n\
             image = \\old\\k\n label=old\nimage=/old/k\n description=\"Third one\"\n literal=z\n",
        ),
        ("/EFI/Slackware/vmlinuz", "k"),
        ("/old/k", "k"),
    ];
    let config = read(&[("esp", FILES)]).0.unwrap();
    assert_eq!(
        told(&config),
        [
            "new|0/EFI/Slackware/vmlinuz|/EFI/Slackware/initrd.gz|root=/dev/vda2 ro vga=normal  ro",
            "old|0/old/k||ro all",
            "Third one|0/old/k||z",
        ]
    );
    assert_eq!(config.default, 1);
}

/// A kernel in place of UEFI's boot loader is one that can be started.
#[test]
fn a_kernel_as_the_program_that_uefi_starts() {
    let kernel = std::format!("MZ{}HdrS", " ".repeat(0x200));
    let kernel: &'static str = Box::leak(kernel.into_boxed_str());
    let files: Contents = Box::leak(Box::new([("/EFI/BOOT/BOOTX64.EFI", kernel)]));
    let config = read(&[("esp", files)]).0.unwrap();
    assert_eq!(told(&config), ["BOOTX64.EFI|0/EFI/BOOT/BOOTX64.EFI||"]);
}

#[test]
fn what_is_no_unified_kernel_image() {
    const FILES: Contents =
        &[("/EFI/BOOT/BOOTX64.EFI", "MZ, and nothing more"), ("/EFI/Linux/a.txt", "")];
    let (config, notes) = read(&[("esp", FILES)]);
    assert!(config.is_none());
    assert_eq!(notes.len(), 2, "{notes:?}");
    let path = crate::volume::Path { volume: 0, path: "/EFI/BOOT/BOOTX64.EFI".into() };
    assert!(uki::open(&volumes(&[("esp", FILES)]), &path).unwrap().is_none());
}
