//! Hostile boot configurations, of each kind: the first byte says which file
//! the text is, and NUL bytes separate it from a second file's.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use mote_firmware::config;
use mote_firmware::environment::Environment;
use mote_firmware::volume::{Volume, Volumes};
use mote_fuzz::firmware::Files;

/// What the text may be, and what a second text is beside it.
const FILES: [(&str, &str); 7] = [
    ("/boot/grub/grub.cfg", "/boot/grub/more.cfg"),
    ("/boot/grub/grub.cfg", "/boot/grub/grubenv"),
    ("/isolinux/isolinux.cfg", "/isolinux/more.cfg"),
    ("/loader/entries/a.conf", "/loader/entries/b.conf"),
    ("/EFI/BOOT/BOOTX64.EFI", "/EFI/Linux/b.efi"),
    ("/limine.conf", "/EFI/BOOT/limine.cfg"),
    ("/EFI/BOOT/elilo.conf", "/EFI/slackware/elilo.conf"),
];

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let kind = usize::from(*kind) % FILES.len();
    let (first, second) = FILES[kind];
    let mut texts = data.split(|byte| *byte == 0);
    let (text, more) = match kind {
        // Zeroes belong to what is no text.
        4 => (data, data),
        _ => (texts.next().unwrap_or_default(), texts.next().unwrap_or_default()),
    };
    let files = Files::new(&[(first, text), (second, more), ("/k", b"kernel"), ("/i", b"initrd")]);
    let volume = Volume { drive: 0, device: "hd0,gpt1".into(), fs: Rc::new(files) };
    let mut volumes = Volumes::default();
    volumes.list.push(volume);
    // What a guest left in the page that a reset keeps.
    volumes.environment = Environment::parse(more);
    let Some(config) = config::find(&mut volumes, 0, &mut |note| assert!(note.len() < 1 << 16))
    else {
        return;
    };
    assert!((1..=256).contains(&config.entries.len()) && config.default < config.entries.len());
    assert!(config.entries[config.default].flaw.is_none());
    for (number, entry) in (1..).zip(&config.entries) {
        if entry.flaw.is_none() {
            let kernel = entry.kernel.as_ref().unwrap();
            assert!(volumes.open(kernel).is_ok() || volumes.kind(kernel).is_some());
        }
        assert!(
            entry.saves.len() <= 16 && entry.initrds.len() <= 16 && entry.cmdline.len() <= 64 << 10
        );
        let found = config.find(&number.to_string());
        assert!(found.is_ok(), "entry {number}");
    }
    let entry = &config.entries[config.default];
    let mut page = [0; 4096];
    volumes.environment.save([&config.saves[..], &entry.saves].concat(), &mut page);
    let read = Environment::parse(&page);
    for saved in entry.saves.iter().filter(|saved| saved.key.len() < 100 && saved.value.len() < 100)
    {
        let value = read.value(&saved.key, &saved.medium);
        assert!(value == saved.value || value == saved.medium);
    }
});
