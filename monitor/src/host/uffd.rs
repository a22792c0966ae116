//! Another process has the pages of a snapshot: it is handed a userfaultfd of
//! guest memory by a Unix socket, with the messages of Firecracker's `Uffd`
//! backend, and fills in what the kernel asks it for.
//!
//! All of that is before the sandbox closes; afterwards pages come without any
//! system call of this process.
//!
//! A userfaultfd is not a right to guest memory alone: its holder may register and
//! fill any range of this process whose pages are not there yet, Mote's own too,
//! and so take it over. To keep it and take pages over the socket would be tighter,
//! but not what handlers for Firecracker speak; so it is handed only to a process
//! that could do as much anyway: of the same user, or root.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::mm::{UserfaultfdFlags, userfaultfd};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Uid, geteuid};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::memory::{GuestRam, PAGE};
use crate::error::Error;

/// `_IO(0xaa, 0x00)` of /dev/userfaultfd: a new one; its flags are the argument.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// Of all versions of the interface.
const UFFD_API: u64 = 0xaa;
/// An access to a missing page blocks until it is filled.
const MISSING: u64 = 1;

/// `struct uffdio_api`
#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`
#[repr(C)]
#[derive(Default)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// The other process. Both descriptors stay open: it learns by the socket that
/// this one has ended, and should it end itself, a page that is missing is
/// waited for, and not taken to be zeroes.
#[derive(Debug)]
pub(crate) struct Pager {
    path: PathBuf,
    socket: UnixStream,
    faults: OwnedFd,
}

impl Pager {
    /// Connects to the one that listens at `path`.
    ///
    /// # Errors
    /// No process listens there, or another user's does, or this process may have no
    /// userfaultfd.
    pub(crate) fn connect(path: &Path) -> Result<Self, Error> {
        let unusable = |e: io::Error| Error::file("uffd", path, &e);
        let socket = UnixStream::connect(path).map_err(unusable)?;
        let peer = socket_peercred(&socket).map_err(|e| unusable(e.into()))?;
        trusted(peer.uid, geteuid()).map_err(|why| Error::Input("uffd", path.to_owned(), why))?;
        let faults = new().map_err(|e| Error::System("userfaultfd", e))?;
        let mut api = Api { api: UFFD_API, ..Api::default() };
        call(faults.as_fd(), UFFDIO_API, &mut api)
            .map_err(|e| Error::System("userfaultfd: UFFDIO_API", e))?;
        Ok(Self { path: path.to_owned(), socket, faults })
    }

    /// Tells it where guest memory lies here and in the snapshot.
    ///
    /// # Errors
    /// The kernel refuses, or it does not listen any more.
    pub(crate) fn hand_over(&self, ram: &GuestRam) -> Result<(), Error> {
        let mut text = String::new();
        let mut offset = 0;
        for region in ram.iter() {
            let (start, length) = (region.as_ptr().addr() as u64, region.len());
            let mut register = Register { start, length, mode: MISSING, ioctls: 0 };
            call(self.faults.as_fd(), UFFDIO_REGISTER, &mut register)
                .map_err(|e| Error::System("userfaultfd: UFFDIO_REGISTER", e))?;
            let between = if text.is_empty() { '[' } else { ',' };
            // The last key is an older name of the one before it, in bytes as well.
            let _ = write!(
                text,
                "{between}{{\"base_host_virt_addr\":{start},\"size\":{length},\"offset\":{offset},\
                 \"page_size\":{PAGE},\"page_size_kib\":{PAGE}}}"
            );
            offset += length;
        }
        text.push(']');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let faults = [self.faults.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&faults));
        let bytes = [IoSlice::new(text.as_bytes())];
        let sent = sendmsg(&self.socket, &bytes, &mut control, SendFlags::NOSIGNAL);
        let sent = sent.map_err(|e| Error::file("uffd", &self.path, &e.into()))?;
        match sent == text.len() {
            true => Ok(()),
            false => Err(Error::file("uffd", &self.path, &io::ErrorKind::WriteZero.into())),
        }
    }
}

/// Whether a process of the user `peer` may have what `own` can do. A user that
/// this namespace does not map is never trusted.
fn trusted(peer: Uid, own: Uid) -> Result<(), String> {
    if peer == own || peer.is_root() {
        return Ok(());
    }
    let [peer, own] = [peer, own].map(Uid::as_raw);
    Err(format!(
        "its listener is user {peer}'s, who could write to all of this process: run it as user \
         {own} or root"
    ))
}

/// A userfaultfd for faults of the kernel, too, as KVM's are: by the system call,
/// for those with the right to it, or by the device, for those who can open it.
fn new() -> io::Result<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: it has no memory yet.
    match unsafe { userfaultfd(flags) } {
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    let device = open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the argument is a number.
    let number = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags.bits()) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// An ioctl with a structure that it reads and writes.
fn call<T>(fd: BorrowedFd<'_>, number: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is the structure that this number's size names; what it
    // registers is guest memory, whose bytes may change at any time.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, &raw mut *argument) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
