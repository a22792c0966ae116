//! What the firmware tells a CD's system about CD-ROM drives: udev rules, in an archive
//! behind the initial RAM disk.

use std::fs;

use mote_tests::medium::{iso, shell};
use mote_tests::{Scratch, guest, have_kvm, mote, run};

/// Of no whole number of words.
const INITRD: usize = 1001;

/// Where the rules are when the archive has been unpacked.
const RULES: &str = "etc/udev/rules.d/61-mote-cdrom.rules";

/// A CD whose system prints what follows its initial RAM disk.
fn cd(scratch: &Scratch, name: &str, initrd: bool) -> String {
    let line = if initrd { "initrd /initrd" } else { "" };
    let cfg = format!("menuentry Tail {{\n linux /system do=tail from={INITRD}\n {line}\n}}\n");
    let system = fs::read(guest("system")).unwrap();
    let files: &[(&str, &[u8])] =
        &[("boot/grub/grub.cfg", cfg.as_bytes()), ("system", &system), ("initrd", &[b'i'; INITRD])];
    iso(scratch, name, files)
}

/// The bytes that follow the initial RAM disk, from its last word's end on.
fn tail(arguments: &[&str]) -> Vec<u8> {
    let end = run(mote(["run"]).args(arguments));
    let out = &end.expect(0).out;
    assert!(out.contains("cmdline: do=tail"), "{out}");
    let words = out.lines().filter_map(|line| line.trim_end().strip_prefix("tail: "));
    let digits: String = words.collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The members of an archive by their mode and name, and the rules among them.
fn unpack(scratch: &Scratch, tail: &[u8]) -> (String, String) {
    let pad = INITRD.next_multiple_of(4) - INITRD;
    assert!(tail[..pad].iter().all(|byte| *byte == 0));
    scratch.file("hint.cpio", &tail[pad..]);
    // As in an initial RAM disk: files may lie there already.
    let script = "rm -rf unpacked; mkdir -p unpacked/etc; cd unpacked
                  cpio --quiet -iu <../hint.cpio; cpio --quiet -tv <../hint.cpio >../list";
    shell(scratch, script);
    let list = fs::read_to_string(scratch.join("list")).unwrap();
    let names = list.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}\n", words[0], words[words.len() - 1])
    });
    let rules = fs::read_to_string(scratch.join("unpacked").join(RULES)).unwrap();
    (names.collect(), rules)
}

/// The rules for one drive.
fn rules(serial: &str, link: &str) -> String {
    let block = r#"ACTION!="remove", SUBSYSTEM=="block", KERNEL=="vd*""#;
    let disk = format!(r#"ENV{{DEVTYPE}}=="disk", ATTR{{ro}}=="1", ATTR{{serial}}=="{serial}""#);
    let part =
        format!(r#"ENV{{DEVTYPE}}=="partition", ATTRS{{ro}}=="1", ATTRS{{serial}}=="{serial}""#);
    let (set, unset) =
        (r#"ENV{ID_CDROM}="1", ENV{ID_TYPE}="cd""#, r#"ENV{ID_CDROM}="", ENV{ID_TYPE}="""#);
    let medium = r#"ATTR{size}!="0", ENV{ID_CDROM_MEDIA}="1""#;
    format!("{block}, {disk}, {set}{link}\n{block}, {disk}, {medium}\n{block}, {part}, {unset}\n")
}
const LINK: &str = r#", SYMLINK+="cdrom""#;

#[test]
fn a_cds_system_is_told_of_cd_rom_drives() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cd = cd(&scratch, "cd", true);
    let disk = scratch.file("disk", vec![0; 1 << 20]);
    let disk = disk.to_str().unwrap();
    let (names, one) = unpack(&scratch, &tail(&["--cdrom", &cd]));
    assert_eq!(
        names,
        format!("drwxr-xr-x etc/udev\ndrwxr-xr-x etc/udev/rules.d\n-rw-r--r-- {RULES}\n")
    );
    assert_eq!(one, rules("cdrom0", LINK));
    // A disk is none, whatever its number; the link is the drive that is booted.
    let blank = iso(&scratch, "blank", &[("readme", b"nothing here")]);
    let like = format!("{disk},ro,id=cdrom0x");
    let drives = ["--disk", &like, "--cdrom", &blank, "--cdrom", &cd];
    let both = [rules("cdrom0", ""), rules("cdrom1", LINK)].concat();
    assert_eq!(unpack(&scratch, &tail(&drives)).1, both);
    let chosen = [&drives[..], &["--boot", "cdrom1"]].concat();
    assert_eq!(unpack(&scratch, &tail(&chosen)).1, both);
}

#[test]
fn other_systems_are_told_nothing() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let medium = cd(&scratch, "cd", true);
    let plain = cd(&scratch, "plain", false);
    let config = format!(
        r#"{{"drives":[{{"drive_id":"c","path_on_host":"{medium}","media":"cdrom","cdrom_hint":false}}]}}"#
    );
    let config = scratch.file("config", config);
    let pad = INITRD.next_multiple_of(4) - INITRD;
    for (arguments, len) in [
        (&["--cdrom", &medium, "--no-cdrom-hint"][..], pad),
        (&["--disk", &format!("{medium},ro"), "--cdrom", &medium, "--boot", "disk"], pad),
        (&["--config", config.to_str().unwrap()], pad),
        (&["--cdrom", &plain], 0),
    ] {
        assert_eq!(tail(arguments), vec![0; len], "{arguments:?}");
    }
    let kernel = guest("system");
    let end =
        run(mote(["run", "--no-cdrom-hint", "--kernel"]).arg(kernel).args(["--cdrom", &medium]));
    assert!(end.expect(2).err.contains("--no-cdrom-hint"), "{}", end.err);
}
