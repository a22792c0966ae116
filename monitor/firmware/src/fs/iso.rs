//! ISO 9660 with Rock Ridge (SUSP 1.12, RRIP 1.12) or Joliet names.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::node::{FileSystem, Kind, MAX_DIRECTORY, MAX_NAME, kind_of_mode};
use crate::Error;
use crate::bytes::{le16, le32, part, text, u8};
use crate::disk::{Disk, Extent, File, array};

/// Bytes of a logical block: the only size there is on media.
const BLOCK: u64 = 2048;
/// Volume descriptors start here.
const DESCRIPTORS: u64 = 16;
/// Continuation areas of one record.
const MAX_CONTINUATIONS: usize = 16;
/// Records of one file of several extents.
const MAX_RECORDS: usize = 256;

const DIRECTORY: u8 = 2;
const MORE: u8 = 0x80;

const DAMAGED: Error = Error::Damaged("ISO 9660 directory");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// `NAME.EXT;1` in capital letters.
    Plain,
    /// System use fields, so many bytes into their area.
    RockRidge(usize),
    /// UCS-2.
    Joliet,
}

/// An ISO 9660 volume. A node is the offset of its directory record.
pub(super) struct Iso {
    disk: Rc<dyn Disk>,
    root: u64,
    names: Names,
    label: String,
    uuid: String,
}

impl Iso {
    pub(super) fn open(disk: &Rc<dyn Disk>) -> Result<Option<Self>, Error> {
        let (mut primary, mut joliet) = (None, None);
        for block in DESCRIPTORS..DESCRIPTORS + 32 {
            let at = block * BLOCK;
            if at + BLOCK > disk.len() {
                break;
            }
            let descriptor: [u8; BLOCK as usize] = array(&**disk, at)?;
            if part(&descriptor, 1, 5) != b"CD001" {
                break;
            }
            match u8(&descriptor, 0) {
                1 if primary.is_none() => primary = Some((at, descriptor)),
                2 if is_joliet(&descriptor) => joliet = Some(at),
                255 => break,
                _ => {}
            }
        }
        let Some((at, primary)) = primary else {
            return Ok(None);
        };
        if u64::from(le16(&primary, 128)) != BLOCK {
            return Err(Error::Unsupported("an ISO 9660 block size other than 2048"));
        }
        let mut iso = Self {
            disk: Rc::clone(disk),
            root: at + 156,
            names: Names::Plain,
            label: text(part(&primary, 40, 32)),
            uuid: uuid(part(&primary, 830, 16))
                .or(uuid(part(&primary, 813, 16)))
                .unwrap_or_default(),
        };
        if let Some(skip) = iso.rock_ridge()? {
            iso.names = Names::RockRidge(skip);
        } else if let Some(joliet) = joliet {
            (iso.names, iso.root) = (Names::Joliet, joliet + 156);
        }
        Ok(Some(iso))
    }

    /// Whether the root directory begins with Rock Ridge's mark, and how many
    /// bytes of each system use area belong to something else.
    fn rock_ridge(&self) -> Result<Option<usize>, Error> {
        let root = self.record(self.root)?;
        let dot = self.record(root.start()?)?;
        let mut skip = None;
        self.fields(&dot, 0, &mut |field| {
            if field.starts_with(b"SP") && part(field, 4, 2) == [0xbe, 0xef] {
                skip = Some(usize::from(u8(field, 6)));
            }
            skip.is_some()
        })?;
        Ok(skip)
    }

    fn record(&self, at: u64) -> Result<Record, Error> {
        let len: [u8; 1] = array(&*self.disk, at)?;
        let [len] = len;
        if len < 34 || at % BLOCK + u64::from(len) > BLOCK {
            return Err(DAMAGED);
        }
        let mut bytes = alloc::vec![0; len.into()];
        self.disk.read(at, &mut bytes)?;
        Ok(Record(bytes))
    }

    /// Calls `each` with the system use fields of a record, until it returns
    /// true (SUSP, 4).
    fn fields(
        &self,
        record: &Record,
        skip: usize,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let mut area = Vec::from(record.system_use(skip));
        for _ in 0..MAX_CONTINUATIONS {
            let mut next = None;
            let mut rest = area.as_slice();
            while rest.len() >= 4 {
                let len = usize::from(u8(rest, 2));
                if len < 4 || len > rest.len() || rest.starts_with(b"ST") {
                    break;
                }
                let (field, behind) = rest.split_at(len);
                rest = behind;
                if field.starts_with(b"CE") && len >= 28 {
                    next = Some((le32(field, 4), le32(field, 12), le32(field, 20)));
                } else if each(field) {
                    return Ok(());
                }
            }
            let Some((block, offset, len)) = next else {
                return Ok(());
            };
            if u64::from(len) > BLOCK {
                return Err(DAMAGED);
            }
            area = alloc::vec![0; len as usize];
            let at = u64::from(block) * BLOCK + u64::from(offset);
            self.disk.read(at, &mut area)?;
        }
        Err(DAMAGED)
    }

    /// The name of a record and the node it stands for; `None` for records
    /// that are none of a directory's own.
    fn named(&self, at: u64, record: &Record) -> Result<Option<(String, u64)>, Error> {
        let raw = record.name();
        if let [0 | 1] = raw {
            return Ok(None);
        }
        let Names::RockRidge(skip) = self.names else {
            let name = if self.names == Names::Joliet { ucs2(raw) } else { text(raw) };
            let name = name.split(';').next().unwrap_or_default();
            let name = String::from(name.strip_suffix('.').unwrap_or(name));
            return Ok(Some((name, at)));
        };
        let (mut name, mut node, mut moved) = (Vec::new(), at, false);
        self.fields(record, skip, &mut |field| {
            match field {
                [b'N', b'M', _, _, _, more @ ..] if name.len() < MAX_NAME => {
                    name.extend_from_slice(more);
                }
                // A directory that lies elsewhere, as its own is too deep.
                [b'C', b'L', ..] => node = u64::from(le32(field, 4)) * BLOCK,
                [b'R', b'E', ..] => moved = true,
                _ => {}
            }
            false
        })?;
        if moved {
            return Ok(None);
        }
        let name = if name.is_empty() { text(raw) } else { text(&name) };
        Ok(Some((name, node)))
    }
}

fn is_joliet(descriptor: &[u8]) -> bool {
    matches!(part(descriptor, 88, 3), b"%/@" | b"%/C" | b"%/E")
}

/// A time stamp as GRUB writes a UUID.
fn uuid(digits: &[u8]) -> Option<String> {
    let digits = core::str::from_utf8(digits).ok()?;
    if digits.len() != 16
        || !digits.bytes().all(|b| b.is_ascii_digit())
        || digits.starts_with("0000")
    {
        return None;
    }
    let cut = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let (year, month, day) = (cut(0, 4), cut(4, 6), cut(6, 8));
    let (hour, minute, second) = (cut(8, 10), cut(10, 12), cut(12, 14));
    let rest = cut(14, 16);
    Some(format!("{year}-{month}-{day}-{hour}-{minute}-{second}-{rest}"))
}

fn ucs2(raw: &[u8]) -> String {
    let letter = |pair: &[u8]| u16::from(u8(pair, 0)) << 8 | u16::from(u8(pair, 1));
    char::decode_utf16(raw.chunks_exact(2).map(letter))
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// A directory record (ECMA-119, 9.1).
struct Record(Vec<u8>);

impl Record {
    fn flags(&self) -> u8 {
        u8(&self.0, 25)
    }

    fn start(&self) -> Result<u64, Error> {
        let block = u64::from(le32(&self.0, 2)) + u64::from(u8(&self.0, 1));
        Ok(block * BLOCK)
    }

    fn len(&self) -> u64 {
        le32(&self.0, 10).into()
    }

    fn name(&self) -> &[u8] {
        part(&self.0, 33, u8(&self.0, 32).into())
    }

    fn system_use(&self, skip: usize) -> &[u8] {
        let name = usize::from(u8(&self.0, 32));
        // Padded to an even offset.
        let at = 33 + name + usize::from(name.is_multiple_of(2));
        self.0.get(at + skip..).unwrap_or_default()
    }
}

impl FileSystem for Iso {
    fn name(&self) -> &'static str {
        "ISO 9660"
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Rock Ridge has both, but loaders look at other names of the same files: El
    /// Torito's on FAT, isolinux at those of ISO 9660.
    fn ignores_case(&self) -> bool {
        true
    }

    fn root(&self) -> u64 {
        self.root
    }

    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error> {
        let record = self.record(dir)?;
        if record.flags() & DIRECTORY == 0 {
            return Err(Error::Missing);
        }
        let (start, len) = (record.start()?, record.len());
        if len > MAX_DIRECTORY {
            return Err(Error::TooLarge("directory"));
        }
        let (mut at, end) = (start, start + len);
        let mut continues = false;
        while at < end {
            let len: [u8; 1] = array(&*self.disk, at)?;
            if len == [0] {
                // Records do not cross blocks.
                at = (at / BLOCK + 1) * BLOCK;
                continue;
            }
            let record = self.record(at)?;
            if !continues
                && let Some((name, node)) = self.named(at, &record)?
                && each(&name, node)
            {
                return Ok(());
            }
            continues = record.flags() & MORE != 0;
            at += record.0.len() as u64;
        }
        Ok(())
    }

    fn kind(&self, node: u64) -> Result<Kind, Error> {
        let record = self.record(node)?;
        if record.flags() & DIRECTORY != 0 {
            return Ok(Kind::Directory);
        }
        let mut kind = Kind::File;
        if let Names::RockRidge(skip) = self.names {
            self.fields(&record, skip, &mut |field| {
                if field.starts_with(b"PX") {
                    kind = kind_of_mode(le32(field, 4) as u16);
                }
                false
            })?;
        }
        Ok(kind)
    }

    fn open(&self, node: u64) -> Result<File, Error> {
        let mut file = File::new(Rc::clone(&self.disk));
        let mut at = node;
        for _ in 0..MAX_RECORDS {
            let record = self.record(at)?;
            let extent = Extent { at: Some(record.start()?), len: record.len() };
            file.push(extent)?;
            if record.flags() & MORE == 0 {
                return Ok(file);
            }
            at += record.0.len() as u64;
            let next: [u8; 1] = array(&*self.disk, at)?;
            if next == [0] {
                at = (at / BLOCK + 1) * BLOCK;
            }
        }
        Err(DAMAGED)
    }

    fn link(&self, node: u64) -> Result<String, Error> {
        let Names::RockRidge(skip) = self.names else {
            return Err(Error::Missing);
        };
        let record = self.record(node)?;
        let mut target = Vec::new();
        // Whether the last component goes on in the next one.
        let mut open = true;
        self.fields(&record, skip, &mut |field| {
            let mut rest = match field {
                [b'S', b'L', _, _, _, rest @ ..] => rest,
                _ => return false,
            };
            while let [flags, len, more @ ..] = rest {
                let component = part(more, 0, (*len).into());
                rest = more.get(component.len()..).unwrap_or_default();
                if !open {
                    target.push(b'/');
                }
                match flags & 0xe {
                    2 => target.push(b'.'),
                    4 => target.extend_from_slice(b".."),
                    8 => target.push(b'/'),
                    _ => target.extend_from_slice(component),
                }
                open = flags & 9 != 0;
                if target.len() > MAX_NAME {
                    return true;
                }
            }
            false
        })?;
        Ok(text(&target))
    }
}
