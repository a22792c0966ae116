//! What is booted, and what is told when nothing is.

use std::string::String;

use crate::kernel::Entry;

use super::{Start, with_console};

#[test]
fn the_console_is_the_serial_port() {
    for (given, wanted) in [
        ("", "console=ttyS0"),
        ("root=/dev/vda1 quiet", "root=/dev/vda1 quiet console=ttyS0"),
        ("console=tty0", "console=tty0 console=ttyS0"),
        ("console=ttyS0 x", "console=ttyS0 x"),
        ("x console=ttyS0,115200n8", "x console=ttyS0,115200n8"),
        ("console=ttyS01", "console=ttyS01 console=ttyS0"),
        ("vga=788 --- quiet", "vga=788 console=ttyS0 --- quiet"),
        ("--- quiet", "console=ttyS0 --- quiet"),
        ("vga=788 ---", "vga=788 console=ttyS0 ---"),
        ("---", "console=ttyS0 ---"),
        ("x -- quiet", "x console=ttyS0 -- quiet"),
        ("-- a", "console=ttyS0 -- a"),
        ("x --- y -- z", "x console=ttyS0 --- y -- z"),
        // The kernel sees what stands behind three dashes, and not behind two.
        ("x --- console=ttyS0", "x --- console=ttyS0"),
        ("x -- console=ttyS0", "x console=ttyS0 -- console=ttyS0"),
        ("a--b", "a--b console=ttyS0"),
        ("a=\"b  c\"", "a=\"b  c\" console=ttyS0"),
    ] {
        assert_eq!(with_console(given), wanted, "{given}");
    }
}

#[test]
fn boot_parameters_are_completed() {
    let start = Start {
        entry: Entry::Linux(0x100_0200),
        cmdline: "quiet".into(),
        header: Some([7; 0x7b].into()),
        initrd: Some((0x3f0_0000, 0x1234)),
    };
    let mut page = [0xee; 4096];
    start.complete(&mut page, 0x2_0000);
    assert_eq!(page[0x1f0..0x1f2], [0xee, 7]);
    assert_eq!(page[0x26b..0x26d], [7, 0xee]);
    assert_eq!(page[0x210], 0xff);
    assert_eq!(page[0x218..0x220], [0, 0, 0xf0, 3, 0x34, 0x12, 0, 0]);
    assert_eq!(page[0x228..0x22c], [0, 0, 2, 0]);
    // Without an initrd there is none, whatever was there.
    let start = Start { initrd: None, ..start };
    start.complete(&mut page, 0x2_0000);
    assert_eq!(page[0x218..0x220], [0; 8]);
}

#[test]
fn start_information_says_what_boot_parameters_say() {
    let mut params = [0; 4096];
    params[0x70] = 0x11;
    params[0x1e8] = 2;
    params[0x2d0 + 8] = 0x22;
    params[0x2d0 + 20 + 16] = 3;
    let start = Start {
        entry: Entry::Pvh(0x20_0000),
        cmdline: String::new(),
        header: None,
        initrd: Some((0x3f0_0000, 0x1234)),
    };
    let info = start.pvh(&params, 0x6000, 0x2_0000);
    let word = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), 1 << 32 | 0x336e_c578);
    assert_eq!([8, 16, 24, 32, 40, 48].map(word), [1 << 32, 0x6038, 0x2_0000, 0x11, 0x6058, 2]);
    assert_eq!([56, 64].map(word), [0x3f0_0000, 0x1234]);
    assert_eq!((word(88 + 8), word(88 + 24 + 16), info.len()), (0x22, 3, 88 + 48));
}
