//! The file format of a snapshot, described in `FORMAT.md`: a **state** file,
//! whose header says what it is, a **memory** file, and perhaps a **working set**.
//!
//! It knows no KVM call and maps nothing. A file is hostile until its header,
//! length and checksum have been found right, and even then it can only be
//! refused: reading one never panics and never takes more memory than
//! [`MAX_STATE`] allows for.
#![forbid(unsafe_code)]

mod codec;
mod files;
mod memory;
mod merge;
mod state;
#[cfg(test)]
mod state_test;
pub mod working_set;
#[cfg(test)]
mod working_set_test;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

pub use codec::Io;
pub use files::{Create, MEMORY, STATE, can_name_files};
pub use memory::{
    MemoryWriter, bitmap_words, changed_runs, check_memory, data_runs, is_zero, verify_memory,
};
pub use merge::Merge;
pub use state::{
    CpuV1, CpuidV1, DeviceV1, IoApicV1, MAX_CPUS, MAX_DEVICES, MAX_ID, MAX_TYPED, MemoryV1, PAGE,
    SerialV1, StateV1, VcpuV1, VmV1,
};

/// Every state file begins with this.
pub const MAGIC: [u8; 8] = *b"MOTESNAP";
/// The number of this format; any change of a byte's meaning makes a new one.
pub const FORMAT: u32 = 5;
/// The greatest state file, in bytes: 32 vCPUs take less than half of it.
pub const MAX_STATE: usize = 4 << 20;

/// Magic, format, number of vCPUs, whether it is a difference, lengths of memory
/// and of the body.
const HEAD: usize = 32;
/// Bytes of the checksum behind it.
const SUM: usize = 32;

/// Why a snapshot cannot be used or made.
#[derive(Debug)]
pub enum Error {
    /// It does not begin as one of this file's kind.
    NotASnapshot,
    /// It has another format than [`FORMAT`].
    Format(u32),
    /// The file has this length, and should have that.
    Length(u64, u64),
    /// Its bytes are not those that were written.
    Checksum,
    /// A field has a value that no snapshot has.
    Field(&'static str),
    /// The memory file belongs to another state file.
    OtherMemory,
    /// It has only what has changed since another one.
    Difference,
    /// It has all of memory where a difference is expected.
    Full,
    /// It has what has changed since another one than this.
    OtherBase,
    /// There is such a file already.
    Exists(&'static str),
    /// The directory to make one in has no parent.
    NoParent,
    /// Writing to the directory takes a capability.
    NeedsCapabilities,
    /// So many bytes are free, and so many may be needed.
    Room(u64, u64),
    /// An operation on a file failed.
    Io(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASnapshot => f.write_str("not a file of a snapshot"),
            Self::Format(found) => {
                let age = if *found > FORMAT { "newer" } else { "older" };
                write!(f, "format {found}, {age} than format {FORMAT} of this mote")
            }
            Self::Length(found, right) => write!(f, "{found} bytes long instead of {right}"),
            Self::Checksum => f.write_str("damaged: its checksum is wrong"),
            Self::Field(what) => write!(f, "no snapshot has such a {what}"),
            Self::OtherMemory => f.write_str("belongs to another snapshot's state"),
            Self::Difference => f.write_str(
                "has only what changed since another snapshot: merge it with that one first",
            ),
            Self::Full => f.write_str("a full snapshot: only diff snapshots can follow the base"),
            Self::OtherBase => f.write_str("does not follow the snapshot before it"),
            Self::Exists(what) => {
                write!(f, "{what} already exists: remove it, or save elsewhere")
            }
            Self::NeedsCapabilities => f.write_str(
                "takes capabilities to write to, which mote gives up first: run mote as the \
                 directory's owner, or save elsewhere",
            ),
            Self::NoParent => f.write_str("its parent directory is missing: make that first"),
            Self::Room(free, need) => write!(
                f,
                "{} MiB are free, and a snapshot can take {} MiB: make room, or save elsewhere",
                free >> 20,
                need.div_ceil(1 << 20)
            ),
            Self::Io(what, cause) => {
                let text = cause.to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                match *what {
                    // As of any other file.
                    "open" => f.write_str(&text.replacen('N', "n", 1)),
                    _ => write!(f, "{what}: {text}"),
                }
            }
        }
    }
}

impl std::error::Error for Error {}

/// The bytes of a state file.
///
/// # Errors
/// The state is larger than [`MAX_STATE`], or a list in it too long.
pub fn encode(state: &StateV1) -> Result<Vec<u8>, Error> {
    let mut io = Io::write();
    state.clone().fields(&mut io)?;
    let body = io.written();
    let mut head = Io::Write(MAGIC.to_vec());
    let cpus = u16::try_from(state.vcpus.len()).unwrap_or(u16::MAX);
    let (memory, length) = (state.memory.length(), body.len() as u64);
    Header { format: FORMAT, cpus, flags: flags(state), memory, length }.fields(&mut head)?;
    let head = head.written();
    let sum = Sha256::new().chain_update(&head).chain_update(&body).finalize();
    let file = [head.as_slice(), &sum, &body].concat();
    if file.len() > MAX_STATE {
        return Err(Error::Length(file.len() as u64, MAX_STATE as u64));
    }
    Ok(file)
}

/// Reads a state file's bytes; what they say has been checked field by field.
///
/// # Errors
/// It is no state file, of another format, too short, too long or damaged, or
/// has a value that no snapshot has.
pub fn decode(file: &[u8]) -> Result<StateV1, Error> {
    if !file.starts_with(&MAGIC) {
        return Err(Error::NotASnapshot);
    }
    let short = Error::Length(file.len() as u64, (HEAD + SUM) as u64);
    let Some((head, rest)) = file.split_at_checked(HEAD) else {
        return Err(short);
    };
    let Header { cpus, flags: set, memory, length, .. } = Header::read(head)?;
    let Some((sum, body)) = rest.split_at_checked(SUM) else {
        return Err(short);
    };
    if body.len() as u64 != length {
        let right = length.saturating_add((HEAD + SUM) as u64);
        return Err(Error::Length(file.len() as u64, right));
    }
    let found = Sha256::new().chain_update(head).chain_update(body);
    if found.finalize().as_slice() != sum {
        return Err(Error::Checksum);
    }
    let state = decode_body(body)?;
    if state.vcpus.len() != usize::from(cpus) {
        return Err(Error::Field("number of vCPUs"));
    }
    if flags(&state) != set {
        return Err(Error::Field("flags"));
    }
    if state.memory.length() != memory {
        return Err(Error::Field("length of memory"));
    }
    Ok(state)
}

/// Bits of the header's flags: only what has changed since a base; the devices are PCI
/// functions.
const DIFFERENCE: u16 = 1 << 0;
const PCI: u16 = 1 << 1;

fn flags(state: &StateV1) -> u16 {
    let difference = state.memory.base.is_some();
    let pci = state.devices.iter().any(|device| device.endpoint.pci.is_some());
    (u16::from(difference) * DIFFERENCE) | (u16::from(pci) * PCI)
}

/// A state file's first 32 bytes.
#[derive(Default)]
struct Header {
    format: u32,
    cpus: u16,
    flags: u16,
    memory: u64,
    length: u64,
}

impl Header {
    fn read(head: &[u8]) -> Result<Self, Error> {
        let mut io = Io::read(head.strip_prefix(&MAGIC).ok_or(Error::NotASnapshot)?);
        let mut header = Self::default();
        header.fields(&mut io)?;
        if header.format == FORMAT { Ok(header) } else { Err(Error::Format(header.format)) }
    }

    fn fields(&mut self, io: &mut Io) -> Result<(), Error> {
        io.u32(&mut self.format)?;
        io.u16(&mut self.cpus)?;
        io.u16(&mut self.flags)?;
        io.u64(&mut self.memory)?;
        io.u64(&mut self.length)
    }
}

/// What a state file's header says about the VM's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The devices are PCI functions.
    pub pci: bool,
}

/// Reads a state file's header alone.
///
/// # Errors
/// It cannot be read, is no state file, of another format, or no full snapshot.
pub fn peek(file: &File) -> Result<Peek, Error> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).map_err(|_| Error::NotASnapshot)?;
    let Header { cpus, flags, memory, .. } = Header::read(&head)?;
    if flags & DIFFERENCE != 0 {
        return Err(Error::Difference);
    }
    let known = u8::try_from(cpus).ok();
    let known = known.filter(|cpus| (1..=MAX_CPUS).contains(&usize::from(*cpus)));
    let cpus = known.ok_or(Error::Field("number of vCPUs"))?;
    Ok(Peek { cpus, memory, pci: flags & PCI != 0 })
}

/// Reads a state file's body without checking its checksum, so that fuzzers and
/// tests reach the parser.
///
/// # Errors
/// A field has a value that no snapshot has, or the body is too short or long.
pub fn decode_body(body: &[u8]) -> Result<StateV1, Error> {
    let mut io = Io::read(body);
    let mut state = StateV1::default();
    state.fields(&mut io)?;
    io.end()?;
    Ok(state)
}
