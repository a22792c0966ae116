//! Configurations of GRUB as stock systems have them, and scripts that end badly.

use std::boxed::Box;
use std::string::String;

use super::config_test::{UUID, read, told};
use crate::testing::Contents;

const FEDORA: &str = include_str!("config/stock/fedora.cfg");
const INSTALLER: &str = include_str!("config/stock/installer.cfg");
const DEBIAN: &str = include_str!("config/stock/debian.cfg");
/// What the one entry of a GRUB script boots.
fn grub(script: &'static str) -> String {
    let files: &'static [(&str, &str)] = Box::leak(Box::new([
        ("/boot/grub/grub.cfg", script),
        ("/k", "kernel"),
        ("/i", "initrd"),
        ("/boot/grub/more.cfg", "set more=yes"),
        ("/boot/grub/words", "one two\n"),
        ("/boot/grub/loop.cfg", "source /boot/grub/loop.cfg"),
        ("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=two\nx=y z\n###"),
    ]));
    match read(&[("label", files), ("other", &[("/k", "kernel"), ("/only", "x")])]) {
        (Some(config), _) => {
            let lines = told(&config);
            std::format!("{}/{}", config.default, lines.join("\n"))
        }
        (None, notes) => notes.join("\n"),
    }
}

#[test]
fn debian_as_installed() {
    const FILES: Contents = &[
        ("/boot/grub/grub.cfg", DEBIAN),
        ("/boot/vmlinuz-6.1.0-40-amd64", "k"),
        ("/boot/initrd.img-6.1.0-40-amd64", "i"),
    ];
    let (config, notes) = read(&[(UUID, FILES)]);
    assert!(notes.is_empty(), "{notes:?}");
    let config = config.unwrap();
    let (kernel, initrd) = ("0/boot/vmlinuz-6.1.0-40-amd64", "/boot/initrd.img-6.1.0-40-amd64");
    let advanced =
        "Advanced options for Debian GNU/Linux > Debian GNU/Linux, with Linux 6.1.0-40-amd64";
    assert_eq!(
        told(&config),
        [
            std::format!(
                "Debian GNU/Linux|{kernel}|{initrd}|root=UUID={UUID} ro quiet vt.handoff=7"
            ),
            std::format!("{advanced}|{kernel}|{initrd}|root=UUID={UUID} ro quiet"),
            std::format!("{advanced} (recovery mode)|{kernel}|{initrd}|root=UUID={UUID} ro single"),
        ]
    );
    assert_eq!((config.default, config.source.as_str()), (0, "/boot/grub/grub.cfg"));
    for (name, index) in [
        ("1", Some(0)),
        ("3", Some(2)),
        ("4", None),
        ("0", None),
        ("gnulinux-6.1.0-40-amd64-recovery-1d2c", Some(2)),
        ("Debian", Some(0)),
        ("Advanced", None),
        ("1>0", Some(1)),
        ("1>1", Some(2)),
        ("1>2", None),
        ("0>0", None),
        ("1>", None),
        ("Advanced options for Debian GNU/Linux>1", Some(2)),
        ("", None),
    ] {
        assert_eq!(config.find(name).ok(), index, "{name}");
    }
}

#[test]
fn debian_installer() {
    const FILES: Contents = &[
        ("/boot/grub/grub.cfg", INSTALLER),
        ("/install.amd/vmlinuz", "k"),
        ("/install.amd/initrd.gz", "i"),
    ];
    let (config, _) = read(&[("cd", FILES)]);
    let lines = told(&config.unwrap());
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1], "Install|0/install.amd/vmlinuz|/install.amd/initrd.gz|vga=788 --- quiet");
    assert!(lines[2].starts_with("Advanced options ... > ... Rescue mode|"));
}

#[test]
fn fedora_as_installed() {
    const FILES: Contents = &[
        ("/grub2/grub.cfg", FEDORA),
        ("/grub2/grubenv", "saved_entry=id-6.9.0\nboot_success=1\n"),
        (
            "/loader/entries/id-6.9.0.conf",
            "title Fedora Linux\nversion 6.9.0\nlinux /vmlinuz-6.9.0\n\
             initrd /initramfs-6.9.0.img $tuned_initrd\noptions $kernelopts $tuned_params\n",
        ),
        (
            "/loader/entries/id-6.10.2.conf",
            "title Fedora Linux (6.10.2)\nversion 6.10.2\nlinux /boot/vmlinuz-6.10.2\n\
             initrd /initramfs-6.10.2.img\noptions root=x\noptions rhgb\n",
        ),
        ("/vmlinuz-6.9.0", "k"),
        ("/vmlinuz-6.10.2", "k"),
    ];
    let (config, notes) = read(&[(UUID, FILES)]);
    let config = config.ok_or(notes).unwrap();
    assert_eq!(
        told(&config),
        [
            "Fedora Linux (6.10.2)|0/vmlinuz-6.10.2|/initramfs-6.10.2.img|root=x rhgb",
            "Fedora Linux (6.9.0)|0/vmlinuz-6.9.0|/initramfs-6.9.0.img|\
             root=UUID=aaaa ro console=ttyS0,115200",
        ]
    );
    assert_eq!(config.default, 1);
}

/// GRUB scripts, and what their entries boot: the default's index, and each
/// entry's title, kernel, initrds and command line.
const SCRIPTS: &[(&str, &str)] = &[
    ("menuentry a { linux /k }", "0/a|0/k||"),
    ("linux /k\nboot", "/boot/grub/grub.cfg: no entries"),
    ("menuentry a { linux /none }", "/boot/grub/grub.cfg: (hd0)/none: no such kernel"),
    ("menuentry a { true }", "/boot/grub/grub.cfg: no kernel"),
    ("menuentry a {", "/boot/grub/grub.cfg: the script is damaged"),
    ("if true; then", "/boot/grub/grub.cfg: the script is damaged"),
    ("}", "/boot/grub/grub.cfg: the script is damaged"),
    // Quotes, escapes, words, comments.
    (
        "set x='a b'\nmenuentry \"t $x\" --class y { linux /k $x \"$x\" '$x' \\$x a#b # c\n}",
        "0/t a b|0/k||a b \"a b\" $x $x a#b",
    ),
    // A line that goes on in the next one.
    ("menuentry a { linux /k \\\n  x \\\n\ty\\\nz \\\n }", "0/a|0/k||x yz"),
    ("set a=1; set b=${a}2; menuentry x$b { linux /k $none \"$none\" }", "0/x12|0/k||"),
    // Loops, functions, sources.
    (
        "for i in 1 2; do menuentry $i { linux /k i=$i; initrd /i /i }; done",
        "0/1|0/k|/i,/i|i=1\n2|0/k|/i,/i|i=2",
    ),
    (
        "function f { menuentry \"$1\" { linux /k $2 $# }; set g=\"$1\"; }\nf a b; f \"c d\"\n\
             if [ \"$g\" = 'c d' ]; then menuentry $1z { linux /k }; fi",
        "0/a|0/k||b 2\nc d|0/k||1\nz|0/k||",
    ),
    ("source $prefix/more.cfg; menuentry $more { linux ($root)/k }", "0/yes|0/k||"),
    ("load_env; menuentry a { linux /k $x }; set default=a", "0/a|0/k||y z"),
    // Searching.
    ("search --set=root --label other; menuentry a { linux /k }", "0/a|1/k||"),
    ("search -f --set=d /only; menuentry a { linux ($d)/k }", "0/a|1/k||"),
    ("search.fs_uuid other root; menuentry a { linux /k }", "0/a|1/k||"),
    ("if search --label none; then true; else menuentry a { linux /k }; fi", "0/a|0/k||"),
    ("probe --set=u --fs-uuid $root; menuentry $u { linux (hd1)/k }", "0/label|1/k||"),
    // Regular expressions.
    (
        "regexp --set 1:d '(.+)' $root; regexp -s n '([0-9]+)$' a12\n\
             menuentry a { linux ($d)/k $n }",
        "0/a|0/k||12",
    ),
    ("if regexp '^x' ax; then true; else menuentry a { linux /k }; fi", "0/a|0/k||"),
    // Devices in files: a missing one stops the entry.
    (
        "menuentry a { loopback loop /i; linux (loop)/k }\nmenuentry b { linux /k }",
        "1/a: loopback (hd0)/i: no such device or file system\nb|0/k||",
    ),
    ("file_env -f /boot/grub/words line; menuentry a { linux /k $line }", "0/a|0/k||one two"),
    // Options take their word from behind `=` or as the next one.
    (
        "search --label other --set d --no-floppy; menuentry a { linux ($d)/k d=$d }",
        "0/a|1/k||d=hd1",
    ),
    (
        "search --no-floppy --hint hd9 --set=root --fs-uuid other; menuentry a { linux /k }",
        "0/a|1/k||",
    ),
    ("search --set -f /only; menuentry a { linux /k }", "0/a|1/k||"),
    ("search --file --set /only; menuentry a { linux /k }", "0/a|1/k||"),
    (
        "probe --set u --fs-uuid $root; probe -u -s v hd1; menuentry $u-$v { linux /k }",
        "0/label-other|0/k||",
    ),
    // Braces end words; text becomes commands.
    ("menuentry \"a b\"{ linux /k ${none}x\n}", "0/a b|0/k||x"),
    ("p=x\neval \"\nmenuentry 'a' {\n linux /k $p\n}\n\" # end", "0/a|0/k||x"),
    ("eval 'if'; menuentry a { linux /k }", "0/a|0/k||"),
    // Conditions.
    ("if [ -f /k -a ! -f /z ]; then menuentry a { linux /k }; fi", "0/a|0/k||"),
    (
        "if ! [ 2 -lt 10 ]; then true; elif test a = a -o b = c; then menuentry a { linux /k }; fi",
        "0/a|0/k||",
    ),
    ("if nonsense x; then menuentry a { linux /k }; fi", "/boot/grub/grub.cfg: no entries"),
    // The default, by number, title and identity, in submenus too.
    (
        "menuentry a { linux /k }; menuentry b --id two { linux /k }\nload_env\nset default=$saved_entry",
        "1/a|0/k||\nb|0/k||",
    ),
    (
        "submenu s { menuentry a { linux /k }; menuentry b { linux /k }; }; set default='s>1'",
        "1/s > a|0/k||\ns > b|0/k||",
    ),
    ("menuentry z { true }; menuentry b { linux /k }; set default=1", "1/z: no kernel\nb|0/k||"),
    // A default that cannot be started: the next one that can, or the first.
    (
        "menuentry a { linux /k }; menuentry b { chainloader +1 }; menuentry c { linux /k }\n\
         set default=1",
        "2/a|0/k||\nb: chainloader: not supported\nc|0/k||",
    ),
    (
        "menuentry a { linux /k }; menuentry b { multiboot2 /xen.gz; module2 /k }; set default=1",
        "0/a|0/k||\nb: multiboot2: not supported",
    ),
    (
        "menuentry a { linux (hd7)/k }; menuentry b { set root=hd9; linux /k }; \
         menuentry c { linux /k }",
        "2/a: kernel (hd7)/k: no such device or file system\n\
         b: kernel (hd9)/k: no such device or file system\nc|0/k||",
    ),
];

#[test]
fn scripts_of_grub() {
    for (script, wanted) in SCRIPTS {
        assert_eq!(grub(script), *wanted, "{script}");
    }
}

/// What never ends is ended.
#[test]
fn scripts_without_end() {
    for script in [
        "while true; do set a=b; done",
        "until false; do true; done",
        "function f { f; }; f",
        "function f { f; f; }; f",
        "source /boot/grub/loop.cfg",
        "function f { eval f; }; f",
        "x='eval $x'; eval $x; while true; do eval true; done",
        "set a=xxxxxxxxxxxxxxxx; while true; do set a=$a$a$a$a; done",
        "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do source /boot/grub/more.cfg; done; done",
    ] {
        assert!(grub(script).contains("grub.cfg: "), "{script}: {}", grub(script));
    }
    let deep: &'static str = Box::leak("if true; then ".repeat(5_000).into_boxed_str());
    assert!(grub(deep).contains("damaged"));
}

/// Fedora's `blscfg` has options and initrds for entries that have none.
#[test]
fn entries_of_grub_have_defaults() {
    const FILES: Contents = &[
        (
            "/boot/grub2/grub.cfg",
            "set default_kernelopts='root=y ro'\nset early_initrd=ucode.img\nblscfg\n",
        ),
        ("/boot/loader/entries/a.conf", "linux /boot/k\ninitrd /boot/i\n"),
        ("/boot/k", "k"),
        ("/boot/i", "i"),
    ];
    let config = read(&[("root", FILES)]).0.unwrap();
    assert_eq!(told(&config), ["a|0/boot/k|/boot/ucode.img,/boot/i|root=y ro"]);
}

/// A configuration for sticks that hold the medium as a file comes last.
#[test]
fn loopback_is_the_last_resort() {
    const LOOPBACK: &str = "menuentry file { linux /k img_loop=$iso_path }";
    const FILES: Contents = &[
        ("/boot/grub/loopback.cfg", LOOPBACK),
        ("/loader/entries/live.conf", "linux /k\noptions live\n"),
        ("/k", "k"),
    ];
    assert_eq!(told(&read(&[("cd", FILES)]).0.unwrap()), ["live|0/k||live"]);
    const ALONE: Contents = &[("/boot/grub/loopback.cfg", LOOPBACK), ("/k", "k")];
    assert_eq!(read(&[("cd", ALONE)]).0.unwrap().entries.len(), 1);
}
