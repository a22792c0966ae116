//! A TAP interface of the host: frames with a virtio header before each,
//! moved straight between guest memory and the host kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use mote_virtio::GuestSlice;
use mote_virtio::net::{HEADER_LEN, Offload, Tap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net;

use crate::error::{Error, os_message};

const TUN: &str = "/dev/net/tun";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TAP: libc::c_short = 2;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;
/// Pieces of a frame that need no allocation: 64 KiB in the buffers of a stock
/// driver, of one and a half KiB each, with room to spare.
const PIECES: usize = 64;

/// `struct ifreq` with its union as flags.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// An open TAP interface.
#[derive(Debug)]
pub struct TapDevice {
    file: File,
    udp_offload: bool,
}

impl TapDevice {
    /// Attaches to the TAP interface `name`, which must exist: creating it is up to
    /// the host's administrator.
    ///
    /// # Errors
    /// There is no such interface, it is no TAP, or it is not permitted or in
    /// use. The message says which commands make one.
    pub fn open(name: &str) -> Result<Self, Error> {
        let advice = format!(
            "make it with 'ip tuntap add dev {name} mode tap user $USER' and \
             'ip link set {name} up'"
        );
        let refuse = |why: String| Error::Host(format!("tap {name}: {why}"));
        // The kernel would make a missing one, for as long as it is open.
        if !exists(name).map_err(|e| refuse(os_message(&e)))? {
            return Err(refuse(format!("no such interface; {advice}")));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options
            .custom_flags(libc::O_NONBLOCK)
            .open(TUN)
            .map_err(|e| refuse(format!("{TUN}: {}", os_message(&e))))?;
        let mut request = Request {
            name: [0; libc::IFNAMSIZ],
            flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
            rest: [0; 22],
        };
        for (to, from) in request.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let attached = control(&file, TUNSETIFF, (&raw mut request) as libc::c_ulong);
        attached.map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => refuse(format!(
                "not permitted, it is another user's; remove it with 'ip link delete {name}', \
                 {advice}"
            )),
            Some(libc::EBUSY) => refuse("is in use".to_owned()),
            Some(libc::EINVAL) => refuse("is no TAP interface of one queue".to_owned()),
            _ => refuse(os_message(&e)),
        })?;
        Self::prepare(file).map_err(|e| refuse(os_message(&e)))
    }

    /// Takes over a descriptor of a TAP interface that was passed in.
    ///
    /// # Errors
    /// It is not open, or no TAP interface with virtio headers.
    pub fn inherit(number: i32) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Usage(format!("--net: tap-fd={number}: {why}"));
        // SAFETY: asks for the flags of a descriptor, whatever it is.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(refuse("is not open"));
        }
        // SAFETY: it is open, above the standard three, and from here on ours:
        // the caller has passed it in for this.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
        let asked = control(&file, TUNGETIFF, (&raw mut request) as libc::c_ulong);
        if asked.is_err() || request.flags & IFF_TAP == 0 || request.flags & IFF_VNET_HDR == 0 {
            return Err(refuse("is no TAP interface with virtio headers"));
        }
        let flags = rustix::fs::fcntl_getfl(&file).unwrap_or(rustix::fs::OFlags::empty());
        rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK)
            .and_then(|()| rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC))
            .map_err(|e| refuse(&os_message(&e.into())))?;
        Self::prepare(file).map_err(|e| refuse(&os_message(&e)))
    }

    fn prepare(file: File) -> io::Result<Self> {
        let mut size = HEADER_LEN as libc::c_int;
        control(&file, TUNSETVNETHDRSZ, (&raw mut size) as libc::c_ulong)?;
        // Whether the kernel knows UDP segments; nothing is offloaded yet.
        let uso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6;
        let udp_offload = control(&file, TUNSETOFFLOAD, uso).is_ok();
        control(&file, TUNSETOFFLOAD, 0)?;
        Ok(Self { file, udp_offload })
    }

    /// Whether the host kernel takes and gives large UDP segments.
    pub fn has_udp_offload(&self) -> bool {
        self.udp_offload
    }

    /// A second handle, to wait for frames on.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn watch(&self) -> Result<OwnedFd, Error> {
        let copy = self.file.as_fd().try_clone_to_owned();
        copy.map_err(|e| Error::System("tap", e))
    }
}

impl AsRawFd for TapDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Whether this network namespace has an interface of that name. /sys would
/// show those of the namespace that it was mounted in.
fn exists(name: &str) -> io::Result<bool> {
    let socket = net::socket(net::AddressFamily::UNIX, net::SocketType::DGRAM, None)?;
    match net::netdevice::name_to_index(&socket, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV | Errno::NXIO) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An ioctl whose argument is a number, or a pointer to what its command wants.
fn control(file: &File, command: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: every caller passes what the command takes: a number, or a
    // pointer to a live structure of its size.
    match unsafe { libc::ioctl(file.as_raw_fd(), command, argument) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn piece(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast(), iov_len: len }
}

/// Has `call` move the pieces, and again if a signal interrupted it; "would
/// block" is `None`.
fn transfer(
    pieces: impl Iterator<Item = libc::iovec> + Clone,
    call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
) -> io::Result<Option<usize>> {
    // Written only as far as there are pieces: this is done for each frame.
    let mut few = [const { MaybeUninit::<libc::iovec>::uninit() }; PIECES];
    let mut more = pieces.clone();
    let mut count = 0;
    for (to, from) in few.iter_mut().zip(&mut more) {
        to.write(from);
        count += 1;
    }
    let mut first = few.as_ptr().cast();
    // A driver that cuts its frames into more pieces than any stock one does.
    let many: Vec<_>;
    if count == PIECES && more.next().is_some() {
        many = pieces.collect();
        (first, count) = (many.as_ptr(), many.len());
    }
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    loop {
        if let Ok(count) = usize::try_from(call(first, count)) {
            return Ok(Some(count));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// The slices as the kernel wants them.
fn pieces(slices: &[GuestSlice<'_>]) -> impl Iterator<Item = libc::iovec> + Clone {
    let guest = |slice: &GuestSlice<'_>| piece(slice.ptr_guard_mut().as_ptr(), slice.len());
    slices.iter().map(guest)
}

impl Tap for TapDevice {
    fn read_frame(&self, to: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<Option<usize>> {
        let last = piece(overflow.as_mut_ptr(), overflow.len());
        let pieces = pieces(to).chain(iter::once(last));
        // SAFETY: the pieces lie in guest memory, which stays mapped until the
        // process ends, and in `overflow`, which is borrowed for this.
        transfer(pieces, |pieces, count| unsafe {
            libc::readv(self.file.as_raw_fd(), pieces, count)
        })
    }

    fn write_frame(&self, start: &[u8], from: &[GuestSlice<'_>]) -> io::Result<Option<usize>> {
        if from.is_empty() {
            // The same with less ado.
            return match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, start)) {
                Ok(count) => Ok(Some(count)),
                Err(Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let first = piece(start.as_ptr().cast_mut(), start.len());
        let pieces = iter::once(first).chain(pieces(from));
        // SAFETY: as in `read_frame`, and the kernel only reads.
        transfer(pieces, |pieces, count| unsafe {
            libc::writev(self.file.as_raw_fd(), pieces, count)
        })
    }

    fn is_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::default())).is_ok()
            && fds.iter().all(|fd| fd.revents() == PollFlags::OUT)
    }

    fn set_offload(&self, offload: Offload) -> io::Result<()> {
        let flags = [
            (offload.checksum, TUN_F_CSUM),
            (offload.tso4, TUN_F_TSO4),
            (offload.tso6, TUN_F_TSO6),
            (offload.uso4, TUN_F_USO4),
            (offload.uso6, TUN_F_USO6),
        ];
        let flags = flags.iter().filter(|f| f.0).fold(0, |all, f| all | f.1);
        control(&self.file, TUNSETOFFLOAD, flags)
    }
}
