//! A real tap in a network namespace of the process's own, and the host's end
//! of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const NAME: &[u8] = b"fuzz0";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// The host's end: whole frames without a virtio header.
pub struct Host(OwnedFd);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the host's network for an empty one. Without being root it takes a
/// user namespace, which only a process with a single thread can enter.
///
/// # Errors
/// The host does not permit it.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: changes only what network this thread is in.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET))
            .or_else(|_| check(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)))?;
    }
    Ok(())
}

/// Makes a tap, which is up, and opens its other end.
///
/// # Errors
/// The host has no taps or does not permit them.
pub fn make() -> io::Result<(File, Host)> {
    // The kernel would talk on its own; not having IPv6 is as good.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: plain structures for which zeroes are fine, and calls that get
    // live ones of the type that they take.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(NAME) {
            *to = *from as libc::c_char;
        }
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = kind as libc::c_short;
        check(libc::ioctl(tap.as_raw_fd(), TUNSETIFF, &raw mut request))?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let socket = check(libc::socket(libc::AF_PACKET, kind, protocol.into()))?;
        let socket = OwnedFd::from_raw_fd(socket);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request))?;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request))?;
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = request.ifr_ifru.ifru_ifindex;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        Ok((tap, Host(socket)))
    }
}

impl Host {
    /// Sends a frame to the guest; one that the host does not take is lost.
    pub fn send(&self, frame: &[u8]) {
        let (data, len) = (frame.as_ptr().cast(), frame.len());
        // SAFETY: a live buffer and its length.
        let _ = unsafe { libc::send(self.0.as_raw_fd(), data, len, 0) };
    }

    /// The next frame that the guest has sent, or that was sent to it.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let (data, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: a live buffer and its length.
        let count = unsafe { libc::recv(self.0.as_raw_fd(), data, len, 0) };
        usize::try_from(count).ok()
    }
}
