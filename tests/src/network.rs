//! A network of a test's own: a network namespace with TAP interfaces in it,
//! which is gone when the test is.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use std::{fs, mem, thread};

use crate::vm::{LIMIT, skip};

/// Ethernet type for local experiments, which no host answers.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Runs `body` in a network namespace of its own. Where that is not permitted
/// it is [skipped](skip).
///
/// # Panics
/// As `body` does.
pub fn alone(body: impl FnOnce() + Send) {
    let inside = || {
        // SAFETY: a plain system call; only this thread changes namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 || !fs::exists(TUN).unwrap_or(false) {
            return skip("no network namespace or no /dev/net/tun for this user");
        }
        // Nothing but the test's own frames.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        body();
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(inside).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Errors of an interface without room, and of one that is no more.
const GONE: [i32; 4] = [libc::ENOBUFS, libc::ENXIO, libc::ENODEV, libc::ENETDOWN];

const TUN: &str = "/dev/net/tun";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
const IFF_TAP: libc::c_short = 2;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const IGNORE_OUTGOING: libc::c_int = 23;

/// `struct ifreq`: a name, and a union that begins with a number.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    number: libc::c_int,
    rest: [u8; 20],
}

fn request(name: &str, number: libc::c_int) -> Request {
    let mut all = [0; libc::IFNAMSIZ];
    all[..name.len()].copy_from_slice(name.as_bytes());
    Request { name: all, number, rest: [0; 20] }
}

fn control(fd: RawFd, command: libc::c_ulong, argument: libc::c_ulong) {
    // SAFETY: every caller passes what the command takes: a number, or a
    // pointer to a live `Request`.
    let done = unsafe { libc::ioctl(fd, command, argument) };
    assert!(done >= 0, "{command:#x}: {}", io::Error::last_os_error());
}

/// A new TAP interface that is attached to.
///
/// # Panics
/// The host refuses.
#[must_use]
pub fn attach(name: &str, headers: bool) -> File {
    let tun = File::options().read(true).write(true).open(TUN).unwrap();
    let flags = IFF_TAP | IFF_NO_PI | if headers { IFF_VNET_HDR } else { 0 };
    let mut wanted = request(name, flags.into());
    control(tun.as_raw_fd(), TUNSETIFF, (&raw mut wanted) as libc::c_ulong);
    tun
}

/// The host's end of a TAP interface.
pub struct Interface {
    name: String,
    index: u32,
    socket: File,
}

impl Interface {
    /// Makes a TAP interface, sets it up, and listens on it.
    ///
    /// # Panics
    /// The host refuses.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let tun = attach(name, true);
        control(tun.as_raw_fd(), TUNSETPERSIST, 1);
        Self::of(name)
    }

    /// One that only the user with this number may attach to.
    ///
    /// # Panics
    /// The host refuses.
    #[must_use]
    pub fn owned(name: &str, user: u32) -> Self {
        let tun = attach(name, true);
        control(tun.as_raw_fd(), TUNSETPERSIST, 1);
        control(tun.as_raw_fd(), TUNSETOWNER, user.into());
        Self::of(name)
    }

    /// An interface that is there.
    ///
    /// # Panics
    /// It is not.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let c_name = CString::new(name).unwrap();
        // SAFETY: a C string.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        assert!(index > 0, "{name}: {}", io::Error::last_os_error());
        let every = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: new, and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let set = |level, option, value: libc::c_int| {
            let at = (&raw const value).cast();
            // SAFETY: a live integer of the length given.
            let done = unsafe { libc::setsockopt(fd, level, option, at, 4) };
            assert!(done == 0, "{}", io::Error::last_os_error());
        };
        set(libc::SOL_PACKET, IGNORE_OUTGOING, 1);
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20);
        let this = Self { name: name.to_owned(), index, socket: File::from(socket) };
        // Before it is bound: the first call would be told that it was down.
        this.set_up(true);
        this.set_mtu(65_521);
        // SAFETY: zeroes are a valid address.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: a live address of the length given.
        let done = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
        assert!(done == 0, "{}", io::Error::last_os_error());
        this
    }

    fn ask(&self, command: libc::c_ulong, number: libc::c_int) {
        let mut wanted = request(&self.name, number);
        let at = (&raw mut wanted) as libc::c_ulong;
        control(self.socket.as_raw_fd(), command, at);
    }

    /// Sets the interface up or down.
    ///
    /// # Panics
    /// The host refuses.
    pub fn set_up(&self, up: bool) {
        let flags = if up { libc::IFF_UP } else { 0 };
        self.ask(libc::SIOCSIFFLAGS, flags);
    }

    fn set_mtu(&self, mtu: libc::c_int) {
        self.ask(libc::SIOCSIFMTU, mtu);
    }

    /// Removes the interface, whoever is attached to it.
    ///
    /// # Panics
    /// The host refuses.
    pub fn remove(&self) {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: new, and ours.
        let mut socket = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // Header: length, RTM_DELLINK, request with acknowledge, number,
        // sender; then the interface's family, kind, number, flags and mask.
        let mut message = [0; 32];
        message[0] = 32;
        message[4] = 17;
        message[6] = 5;
        message[20..24].copy_from_slice(&self.index.to_ne_bytes());
        socket.write_all(&message).unwrap();
        let mut answer = [0; 64];
        let len = socket.read(&mut answer).unwrap();
        assert!(len >= 20 && answer[16..20] == [0; 4], "{answer:?}");
    }

    /// Sends a frame to the guest; false if the tap's queue has no room, or
    /// the tap ended with its VM.
    ///
    /// # Panics
    /// The host refuses.
    pub fn send(&self, frame: &[u8]) -> bool {
        match (&self.socket).write(frame) {
            Ok(_) => true,
            Err(e) if GONE.contains(&e.raw_os_error().unwrap_or(0)) => false,
            Err(e) => panic!("{}: {e}", self.name),
        }
    }

    /// The next frame from the guest; `None` if none comes within `limit`.
    ///
    /// # Panics
    /// The host refuses.
    #[must_use]
    pub fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live structure.
        let ready = unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) };
        if ready <= 0 {
            return None;
        }
        let mut frame = vec![0; 70_000];
        let len = (&self.socket).read(&mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    /// The next frame from the guest.
    ///
    /// # Panics
    /// None comes.
    #[must_use]
    pub fn receive(&self) -> Vec<u8> {
        self.receive_within(LIMIT).expect("no frame comes")
    }

    /// Sends a frame again and again until one comes back.
    ///
    /// # Panics
    /// None does.
    pub fn wait_for_echo(&self, frame: &[u8]) {
        let begin = Instant::now();
        loop {
            self.send(frame);
            if self.receive_within(Duration::from_millis(50)).is_some() {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "no echo");
        }
        while self.receive_within(Duration::from_millis(50)).is_some() {}
    }
}

/// A frame of the tests' own type with `len` bytes in all, at least 14, whose
/// contents depend on `seed`.
#[must_use]
pub fn frame(len: usize, seed: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ETHERTYPE);
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    while frame.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        frame.push(state as u8);
    }
    frame
}
