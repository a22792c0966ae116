//! Parameters of the boot firmware: lines of text in place of a kernel's
//! command line (`firmware/boot.rs` says what each means).

use std::fmt::Write as _;

use super::kernel::Cause;
use crate::config::{BootFrom, Drive, Media, VmConfig};

/// The lines for a VM that starts for this cause; `terminal` says whether
/// its console is a terminal.
pub(super) fn orders(config: &VmConfig, cause: Cause, terminal: bool) -> String {
    let disks_first = cause == Cause::Reset && config.boot == BootFrom::Usual;
    let mut order: Vec<(usize, &Drive)> = config.drives.iter().enumerate().collect();
    order.retain(|(_, drive)| match &config.boot {
        BootFrom::Usual => true,
        BootFrom::CdRom => drive.media == Media::CdRom,
        BootFrom::Disk => drive.media == Media::Disk,
        BootFrom::Drive(id) => drive.id == *id,
    });
    // Stable: drives of one kind stay in their order.
    order.sort_by_key(|(_, drive)| (drive.media == Media::CdRom) == disks_first);
    let mut text = String::with_capacity(256);
    for (window, drive) in order {
        let media = match drive.media {
            Media::CdRom => "cdrom",
            Media::Disk => "disk",
        };
        let _ = writeln!(text, "drive {window} {media} {}", config.serial(drive));
    }
    // It was chosen for the medium that came first at power-on: what that installed
    // has other entries, or others of that number.
    let other = disks_first && config.drives.iter().any(|d| d.media == Media::CdRom);
    if let Some(entry) = config.boot_entry.as_ref().filter(|_| !other) {
        let _ = writeln!(text, "entry {entry}");
    }
    if terminal {
        text.push_str("terminal\n");
    }
    for drive in config.drives.iter().filter(|drive| drive.cdrom_hint) {
        let _ = writeln!(text, "cdrom {}", config.serial(drive));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_tried_in_their_order() {
        let drive = |media, id: &str| Drive::new(media, id.into(), id.into());
        let mut config = VmConfig {
            drives: vec![
                drive(Media::Disk, "a"),
                drive(Media::CdRom, "b"),
                drive(Media::Disk, "c"),
            ],
            ..VmConfig::default()
        };
        let (a, b, c) = ("drive 0 disk a\n", "drive 1 cdrom b\n", "drive 2 disk c\n");
        let hint = "cdrom b\n";
        for (boot, cause, wanted) in [
            (BootFrom::Usual, Cause::PowerOn, [b, a, c, hint].concat()),
            (BootFrom::Usual, Cause::Reset, [a, c, b, hint].concat()),
            (BootFrom::CdRom, Cause::Reset, [b, hint].concat()),
            (BootFrom::Disk, Cause::PowerOn, [a, c, hint].concat()),
            (BootFrom::Drive("c".into()), Cause::Reset, [c, hint].concat()),
        ] {
            config.boot = boot;
            assert_eq!(orders(&config, cause, false), wanted);
        }
        config.boot_entry = Some("Debian GNU/Linux".into());
        let text = orders(&config, Cause::PowerOn, true);
        assert_eq!(text, [c, "entry Debian GNU/Linux\nterminal\n", hint].concat());
        assert!(orders(&config, Cause::Reset, true).contains("entry "));
        // What a CD installs has other entries.
        config.boot = BootFrom::Usual;
        assert!(orders(&config, Cause::PowerOn, true).contains("entry "));
        assert!(!orders(&config, Cause::Reset, true).contains("entry "));
        config.drives[1].cdrom_hint = false;
        assert!(orders(&config, Cause::PowerOn, true).ends_with("terminal\n"));
    }
}
