//! Drives: disks and CD-ROMs.

use std::path::PathBuf;

use mote_snapshot::MAX_ID;
use mote_virtio::blk::ID_LEN;
use mote_virtio::rate::RateLimiter;
use serde::{Deserialize, Serialize};

use super::limit::PerSecond;
use super::{POLL_US, VmConfig, parse_poll, parse_size};

/// The most worker threads of a drive.
const MAX_THREADS: u64 = 16;

/// What a drive takes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// A disk in a raw image.
    #[default]
    Disk,
    /// A CD-ROM, which can only be read.
    CdRom,
}

/// What happens when the host has no room for what the guest writes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNoSpace {
    /// The guest's write waits until there is room.
    #[default]
    Pause,
    /// The guest's write fails.
    Error,
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its id; the guest reads the [serial number](VmConfig::serial) made of it.
    pub id: String,
    /// The image.
    pub path: PathBuf,
    /// What it is.
    pub media: Media,
    /// Tell a system that the firmware boots from a CD-ROM that this drive is one.
    pub cdrom_hint: bool,
    /// Open it to read only.
    pub read_only: bool,
    /// The guest finds it before all others.
    pub root: bool,
    /// Make it with so many bytes if it is missing.
    pub create: Option<u64>,
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Bytes of a block as the guest sees it, 512 to 4096; a partition table's
    /// places are counted in these.
    pub block_size: u32,
    /// Worker threads, 1 to 16.
    pub threads: u8,
    /// Microseconds that its worker busy-polls for before it sleeps, at most.
    pub poll_us: u16,
    /// What happens when the host has no room for what the guest writes.
    pub on_no_space: OnNoSpace,
    /// Limits of bytes and requests.
    pub limiter: RateLimiter,
}

impl Drive {
    /// A disk or CD-ROM at `path` with everything else as usual.
    pub fn new(media: Media, path: PathBuf, id: String) -> Self {
        Self {
            id,
            path,
            media,
            cdrom_hint: media == Media::CdRom,
            read_only: media == Media::CdRom,
            root: false,
            create: None,
            direct: false,
            block_size: 512,
            threads: 1,
            poll_us: POLL_US,
            on_no_space: OnNoSpace::default(),
            limiter: RateLimiter::default(),
        }
    }
}

/// Puts drives into the order in which a guest finds them: the root device, disks,
/// CD-ROMs. So an installed system finds its disk where its installer put it, when
/// the CD is gone.
pub fn sort_drives(drives: &mut [Drive]) {
    drives.sort_by_key(|drive| (!drive.root, drive.media == Media::CdRom));
}

/// Splits the value of a flag at its commas; two in a row stand for one that is
/// part of a path.
///
/// # Errors
/// An option is given twice, and which.
pub fn options(text: &str) -> Result<Vec<String>, String> {
    // No argument has a zero byte in it.
    let parts = text.replace(",,", "\0");
    let parts: Vec<String> = parts.split(',').map(|p| p.replace('\0', ",")).collect();
    let key = |part: &String| part.find('=').map_or(part.len(), |at| at + 1);
    let keys: Vec<&str> = parts.iter().skip(1).map(|part| part.split_at(key(part)).0).collect();
    match keys.iter().enumerate().find(|(at, key)| keys.iter().take(*at).any(|k| k == *key)) {
        Some((_, key)) => Err(format!("{key}: given twice")),
        None => Ok(parts),
    }
}

/// Parses the value of `--disk`: `PATH[,ro][,id=…][,size=8G,create][,direct]
/// [,block-size=N][,threads=N][,poll_us=N][,bw=10M][,ops=1000]`, see [`options`].
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn parse_disk(text: &str, number: usize) -> Result<Drive, String> {
    let parts = options(text)?;
    let mut parts = parts.iter().map(String::as_str);
    let path = parts.next().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| "no path given".to_owned())?;
    let mut drive = Drive::new(Media::Disk, path.into(), format!("disk{number}"));
    let (mut size, mut create) = (None, false);
    let mut limits = PerSecond::default();
    for part in parts {
        match part.split_once('=') {
            None if part == "ro" => drive.read_only = true,
            None if part == "create" => create = true,
            None if part == "direct" => drive.direct = true,
            Some(("id", id)) => drive.id = check_id(id)?,
            Some(("size", text)) => size = Some(parse_size(text)?),
            Some(("threads", text)) => {
                let threads = text.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n));
                let threads = threads.ok_or_else(|| format!("threads={text}: not 1 to 16"))?;
                // At most 16.
                drive.threads = threads as u8;
            }
            Some(("block-size", text)) => {
                let size = text.parse().ok();
                let size = size.filter(|size| [512, 1024, 2048, 4096].contains(size));
                drive.block_size =
                    size.ok_or_else(|| format!("block-size={text}: not 512, 1024, 2048 or 4096"))?;
            }
            Some(("poll_us", text)) => drive.poll_us = parse_poll(text)?,
            Some(("bw", text)) => drop(limits.set_bytes(text)?),
            Some(("ops", text)) => drop(limits.set_operations(text)?),
            _ => {
                return Err(format!(
                    "'{part}' is not one of ro, id=, size=, create, direct, block-size=, \
                     threads=, poll_us=, bw=, ops="
                ));
            }
        }
    }
    drive.limiter = limits.limiter();
    match (size, create) {
        (Some(size), true) if size == 0 || !size.is_multiple_of(512) => {
            return Err(format!("size={size}: not whole sectors of 512 bytes"));
        }
        (Some(_), false) | (None, true) => {
            return Err("size= and create must be combined".to_owned());
        }
        _ if create && drive.read_only => {
            return Err("create and ro cannot be combined".to_owned());
        }
        _ => drive.create = size,
    }
    Ok(drive)
}

/// Checks a device's id.
pub(super) fn check_id(id: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
        let start = id.split_at(id.floor_char_boundary(MAX_ID)).0;
        return Err(format!(
            "'{start}' is not an id: 1 to {MAX_ID} bytes of letters, digits, '-', '_', '.'"
        ));
    }
    Ok(id.to_owned())
}

impl VmConfig {
    /// What the guest reads as a drive's serial number: its id, cut where the device
    /// has no more room (virtio 1.2, 5.2.6). Of ids that start alike, those that are
    /// cut end in the drive's number, after a ':', which no id has.
    pub fn serial(&self, drive: &Drive) -> String {
        let cut = |id: &str, most| id.split_at(id.floor_char_boundary(most)).0.to_owned();
        let serial = cut(&drive.id, ID_LEN);
        let alike = |other: &Drive| other.id != drive.id && cut(&other.id, ID_LEN) == serial;
        let number = self.drives.iter().position(|other| other.id == drive.id);
        match number.filter(|_| serial != drive.id && self.drives.iter().any(alike)) {
            Some(number) => format!("{}:{number}", cut(&serial, ID_LEN - 3)),
            None => serial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MAX_DEVICES, check_devices};

    #[test]
    fn ids_that_firecracker_takes() {
        let long = "é".repeat(MAX_ID / 2);
        for id in ["a", "_", "disk-0.1", "0", "диск_٣", "根", &long] {
            assert_eq!(check_id(id).as_deref(), Ok(id));
        }
        let longer = format!("{long}a");
        for id in ["", " ", "a b", "a/b", "a\"b", "a\n", "\u{1b}[m", "\u{202e}a", "🖴", &longer] {
            assert!(check_id(id).unwrap_err().len() < MAX_ID + 99, "{id:?}");
        }
    }

    #[test]
    fn serial_numbers_differ() {
        let serials = |ids: &[&str]| {
            let drive = |id: &&str| Drive::new(Media::Disk, PathBuf::new(), (*id).to_owned());
            let drives = ids.iter().map(drive).collect();
            let config = VmConfig { drives, ..VmConfig::default() };
            let serials = config.drives.iter().map(|drive| config.serial(drive));
            serials.collect::<Vec<_>>()
        };
        let whole = "12345678901234567890";
        let [one, two] = ["a", "b"].map(|end| whole.to_owned() + end);
        let wide = "é".repeat(11);
        let odd = format!("a{wide}");
        assert_eq!(
            serials(&["a", "ab", whole, &wide, &odd]),
            ["a", "ab", whole, &"é".repeat(10), &format!("a{}", "é".repeat(9))]
        );
        let cut = |number| format!("12345678901234567:{number}");
        assert_eq!(serials(&[&one]), [whole]);
        assert_eq!(serials(&[&one, "x", &two]), [cut(0), "x".to_owned(), cut(2)]);
        assert_eq!(serials(&[whole, &two]), [whole.to_owned(), cut(1)]);
        let many: Vec<String> = (0..MAX_DEVICES).map(|n| format!("{wide}{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut all = serials(&many);
        assert!(all.iter().all(|serial| serial.len() <= ID_LEN), "{all:?}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), MAX_DEVICES, "{all:?}");
    }

    #[test]
    fn disks() {
        let disk = parse_disk("a.img", 3).unwrap();
        assert_eq!((disk.id.as_str(), disk.read_only, disk.threads), ("disk3", false, 1));
        let disk = parse_disk("a,ro,id=x.1,direct,threads=16,poll_us=0", 0).unwrap();
        assert!(disk.read_only && disk.direct && disk.poll_us == 0);
        assert_eq!((disk.id.as_str(), disk.threads), ("x.1", 16));
        assert_eq!(parse_disk("a,size=8G,create", 0).unwrap().create, Some(8 << 30));
        for (text, path) in [("a,,b,ro", "a,b"), (",,", ","), ("a,,,ro", "a,"), ("a,,", "a,")] {
            let disk = parse_disk(text, 0).unwrap();
            assert_eq!(disk.path, PathBuf::from(path), "{text}");
            assert_eq!(disk.read_only, text.ends_with("ro"), "{text}");
        }
        assert!(!disk.limiter.is_limiting());
        for limit in ["bw=10M", "ops=1", "bw=1,ops=1000000"] {
            let disk = parse_disk(&format!("a,{limit}"), 0).unwrap();
            assert!(disk.limiter.is_limiting(), "{limit}");
        }
        for text in [
            "",
            ",ro",
            "a,rw",
            "a,id=",
            "a,id=a b",
            "a,block-size=0",
            "a,block-size=513",
            "a,threads=0",
            "a,threads=17",
            "a,poll_us=1001",
            "a,poll_us=",
            "a,size=8G",
            "a,create",
            "a,size=0,create",
            "a,size=513,create",
            "a,size=1M,create,ro",
            "a,size=x,create",
            "a,ro=1",
            "a,bw=0",
            "a,bw=fast",
            "a,bw=1M,bw=2M",
            "a,ops=0",
            "a,ops=1K",
        ] {
            assert!(parse_disk(text, 0).is_err(), "{text}");
        }
        let many: Vec<Drive> = (0..=MAX_DEVICES).map(|n| parse_disk("a", n).unwrap()).collect();
        assert!(check_devices(&many[1..], &[]).is_ok());
        assert!(check_devices(&many, &[]).is_err());
        assert!(check_devices(&[many[0].clone(), many[0].clone()], &[]).is_err());
    }
}
