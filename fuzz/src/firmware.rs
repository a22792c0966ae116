//! What the boot firmware's targets share: media in few bytes, file systems
//! out of a list, and a machine to load into.

use std::cell::Cell;
use std::rc::Rc;

use mote_firmware::Error;
use mote_firmware::boot::Machine;
use mote_firmware::disk::{Disk, Extent, File};
use mote_firmware::fs::{FileSystem, Kind};

/// Bytes that one medium may have read from it: more is amplification.
const MOST_READ: u64 = 1 << 30;

/// A disk that is zero but for some pieces. Each is a sector's number in two
/// bytes, its length in two, and so many bytes.
pub struct Sparse {
    pieces: Vec<(u64, Vec<u8>)>,
    len: u64,
    read: Cell<u64>,
}

impl Sparse {
    /// Takes a disk of `len` bytes out of a fuzzer's.
    pub fn new(mut data: &[u8], len: u64) -> Self {
        let mut pieces = Vec::new();
        while let [a, b, c, d, rest @ ..] = data {
            let (sector, size) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
            let (piece, next) = rest.split_at(usize::from(size).min(rest.len()));
            pieces.push((u64::from(sector) * 512, piece.to_vec()));
            data = next;
        }
        let read = Cell::new(0);
        Self { pieces, len, read }
    }
}

impl Disk for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let len = into.len() as u64;
        self.read.set(self.read.get() + len);
        assert!(self.read.get() < MOST_READ, "a small medium is read for ever");
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Drive(at / 512));
        }
        into.fill(0);
        for (start, piece) in &self.pieces {
            let (from, to) = (at.max(*start), (at + len).min(start + piece.len() as u64));
            if from < to {
                let bytes = &piece[(from - start) as usize..(to - start) as usize];
                into[(from - at) as usize..(to - at) as usize].copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// A disk in memory.
struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let from = self.0.get(at as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(Error::Drive(at / 512))?);
        Ok(())
    }
}

/// A file with this content.
pub fn file(content: &[u8]) -> File {
    let mut file = File::new(Rc::new(Bytes(content.to_vec())));
    let (at, len) = (Some(0), content.len() as u64);
    file.push(Extent { at, len }).unwrap();
    file
}

/// A file system of a few files, whose directories follow from their paths. A
/// node is an index into the sorted list of all paths.
pub struct Files(Vec<(String, Option<File>)>);

impl Files {
    /// Files by their absolute paths.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let mut nodes = vec![(String::new(), None)];
        for (path, content) in files {
            for (at, _) in path.match_indices('/').skip(1) {
                nodes.push((path[..at].to_owned(), None));
            }
            nodes.push(((*path).to_owned(), Some(file(content))));
        }
        nodes.sort_by(|a, b| a.0.cmp(&b.0));
        nodes.dedup_by(|a, b| a.0 == b.0);
        Self(nodes)
    }
}

impl FileSystem for Files {
    fn name(&self) -> &'static str {
        "files"
    }
    fn label(&self) -> &str {
        "label"
    }
    fn uuid(&self) -> &str {
        "uuid"
    }
    fn ignores_case(&self) -> bool {
        false
    }
    fn root(&self) -> u64 {
        0
    }
    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error> {
        let dir = format!("{}/", self.0[dir as usize].0);
        for (node, (path, _)) in self.0.iter().enumerate() {
            if let Some(name) = path.strip_prefix(&dir)
                && !name.contains('/')
                && each(name, node as u64)
            {
                break;
            }
        }
        Ok(())
    }
    fn kind(&self, node: u64) -> Result<Kind, Error> {
        Ok(match self.0[node as usize].1 {
            Some(_) => Kind::File,
            None => Kind::Directory,
        })
    }
    fn open(&self, node: u64) -> Result<File, Error> {
        self.0[node as usize].1.clone().ok_or(Error::Missing)
    }
    fn link(&self, _: u64) -> Result<String, Error> {
        Err(Error::Missing)
    }
}

/// A machine whose memory can be written to, and whose console is read by
/// nobody.
pub struct Pc {
    memory: Vec<u8>,
    kept: Vec<u8>,
    /// First address behind its memory.
    pub ram_end: u64,
    printed: usize,
}

impl Pc {
    /// A machine with RAM from 1 MiB to `ram_end`.
    pub fn new(ram_end: u64) -> Self {
        let memory = vec![0; ram_end as usize];
        let kept = vec![0xff; 4096];
        Self { memory, kept, ram_end, printed: 0 }
    }
}

impl Machine for Pc {
    fn print(&mut self, text: &str) {
        self.printed += text.len();
        assert!(self.printed < 1 << 20, "the console is flooded");
        let control = |c: char| c.is_control() && c != '\n';
        // The menu redraws a line.
        let redraws = matches!(text, "\r" | "\x1b[K");
        assert!(redraws || !text.contains(control), "control characters: {text:?}");
    }

    fn memory(&mut self, at: u64, len: u64) -> Option<&mut [u8]> {
        let end = at.checked_add(len).filter(|end| *end <= self.ram_end)?;
        if at < 1 << 20 {
            return None;
        }
        Some(&mut self.memory[at as usize..end as usize])
    }

    fn kept(&mut self) -> &mut [u8] {
        &mut self.kept
    }

    fn key(&mut self) -> Option<u8> {
        Some(b'\r')
    }

    fn milliseconds(&mut self) -> u64 {
        0
    }
}
