//! The working set: pages that a restored guest touched before it had done what
//! it was restored for. The next restore brings them in ahead of it. It is a
//! hint and no part of the snapshot, which is whole without it.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::AtFlags;
use sha2::{Digest as _, Sha256};

use crate::files::{Unnamed, WHOLE, can_name_files, directory, links};
use crate::{Error, MAX_STATE, MemoryV1, PAGE};

/// Name of the file beside the snapshot's.
pub const WORKING_SET: &str = "working-set";

const MAGIC: [u8; 16] = *b"MOTE-WORKSET-V1\0";
/// Magic, the memory's identity, the checksum.
const HEAD: usize = 64;
/// A range that was written to.
const WRITTEN: u32 = 1 << 31;

/// Pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Offset of the first one's byte in the memory file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// They were written to, not only read.
    pub written: bool,
}

/// The file's bytes; as many of the ranges as fit into [`MAX_STATE`].
#[must_use]
pub fn encode(id: [u8; 16], ranges: &[Touched]) -> Vec<u8> {
    let mut body = Vec::new();
    for range in ranges.iter().take((MAX_STATE - HEAD) / 8) {
        // Memory is far less than 2^31 pages.
        let pages = |bytes: u64| (bytes / PAGE as u64) as u32 & !WRITTEN;
        let flag = if range.written { WRITTEN } else { 0 };
        body.extend_from_slice(&pages(range.offset).to_le_bytes());
        body.extend_from_slice(&(pages(range.length) | flag).to_le_bytes());
    }
    let mut file = Vec::with_capacity(HEAD + body.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&id);
    file.extend_from_slice(&Sha256::new().chain_update(&file).chain_update(&body).finalize());
    file.extend_from_slice(&body);
    file
}

/// Reads the file's bytes: ranges that rise, do not meet, and lie in `memory`.
///
/// # Errors
/// It is no working set, another snapshot's, damaged, or says what none says.
pub fn decode(file: &[u8], memory: &MemoryV1) -> Result<Vec<Touched>, Error> {
    if !file.starts_with(&MAGIC) {
        return Err(Error::NotASnapshot);
    }
    let Some((head, body)) = file.split_at_checked(HEAD) else {
        return Err(Error::Length(file.len() as u64, HEAD as u64));
    };
    let (named, sum) = head.split_at(HEAD - 32);
    if named.get(MAGIC.len()..) != Some(&memory.id[..]) {
        return Err(Error::OtherMemory);
    }
    let found = Sha256::new().chain_update(named).chain_update(body);
    if found.finalize().as_slice() != sum {
        return Err(Error::Checksum);
    }
    let (entries, rest) = body.as_chunks::<4>();
    let (entries, odd) = entries.as_chunks::<2>();
    let mut end = 0;
    let mut ranges = Vec::with_capacity(entries.len());
    for [first, pages] in entries {
        let (first, pages) = (u32::from_le_bytes(*first), u32::from_le_bytes(*pages));
        let offset = u64::from(first) * PAGE as u64;
        let length = u64::from(pages & !WRITTEN) * PAGE as u64;
        if offset < end || length == 0 || offset + length > memory.length() {
            return Err(Error::Field("range of pages"));
        }
        end = offset + length;
        ranges.push(Touched { offset, length, written: pages & WRITTEN != 0 });
    }
    match rest.is_empty() && odd.is_empty() {
        true => Ok(ranges),
        false => Err(Error::Field("range of pages")),
    }
}

/// A working set's file without a name, and where it will have it.
#[derive(Debug)]
pub struct CreateWorkingSet {
    unnamed: Unnamed,
    links: OwnedFd,
}

impl CreateWorkingSet {
    /// Opens what is needed to write one into a snapshot's `directory`, and
    /// removes the one that is there.
    ///
    /// # Errors
    /// The file system cannot hold one, or writing there takes a capability.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let directory = directory(path)?;
        can_name_files(&directory)?;
        match rustix::fs::unlinkat(&directory, WORKING_SET, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::Io("remove working-set", error.into())),
        }
        Ok(Self {
            unnamed: Unnamed::create(directory, path.join(WORKING_SET), WHOLE, &mut Ok)?,
            links: links()?,
        })
    }

    /// What the file will be called.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.unnamed.path
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.unnamed.directory.as_fd()
    }

    /// Numbers of the directory's, the links' and the file's descriptor.
    #[must_use]
    pub fn numbers(&self) -> [i32; 3] {
        [self.unnamed.directory.as_raw_fd(), self.links.as_raw_fd(), self.unnamed.file.as_raw_fd()]
    }

    /// Writes the file and gives it its name. It need not be on disk: a torn
    /// one is refused, and the snapshot is whole without.
    ///
    /// # Errors
    /// It cannot be written, or has got its name otherwise meanwhile.
    pub fn finish(&self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.unnamed.file.write_all_at(bytes, 0);
        written.map_err(|cause| Error::Io("write", cause))?;
        self.unnamed.link(Some(&self.links))
    }
}
