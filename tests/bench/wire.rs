//! A tap that nobody else knows, and frames that come in by it.

use std::ffi::{CString, c_int};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use super::Result;

/// Bytes of the virtio header before a frame on the tap.
pub const HEADER: usize = 12;
/// Bytes of it before a frame on a packet socket.
const PACKET_HEADER: usize = 10;
/// Frames that the tap keeps until they are read.
const QUEUE: usize = 8192;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TAP: libc::c_short = 2;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;

/// Leaves checksum and segments of 1448 bytes to whoever sends it.
const SEGMENTS: [u8; HEADER] = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
/// Ethernet to nobody here, IPv4, TCP, without lengths and checksums.
const TCP: [u8; 54] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
    0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
    0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0, // TCP
];
/// An Ethernet type that nobody listens to (local experiments).
const OTHER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];

/// Writes a frame of `len` bytes with its header; one that is larger than a
/// usual MTU as TCP segments.
pub fn write_frame(buffer: &mut [u8], len: usize) {
    let large = len > 1514;
    let (header, frame) = buffer.split_at_mut(HEADER);
    header.copy_from_slice(if large { &SEGMENTS } else { &[0; HEADER] });
    if large {
        frame[..TCP.len()].copy_from_slice(&TCP);
        let packet = u16::try_from(len - 14).unwrap_or(u16::MAX);
        frame[16..18].copy_from_slice(&packet.to_be_bytes());
    } else {
        frame[..OTHER.len()].copy_from_slice(&OTHER);
    }
}

/// Reads a frame into a buffer as pieces of `len` bytes, as many as a frame
/// may take.
pub fn read_pieces(fd: c_int, buffer: &mut [u8], len: usize) -> isize {
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut pieces = [empty; 17];
    let mut count = 0;
    for (to, from) in pieces.iter_mut().zip(buffer.chunks_mut(len)) {
        to.iov_base = from.as_mut_ptr().cast();
        to.iov_len = from.len();
        count += 1;
    }
    // SAFETY: the pieces lie in the buffer, one behind the other.
    unsafe { libc::readv(fd, pieces.as_ptr(), count) }
}

/// A TAP interface that is gone with its last descriptor.
pub struct Tap {
    pub file: OwnedFd,
    name: String,
}

impl Tap {
    pub fn new(name: &str) -> Result<Self> {
        let file: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: a structure of numbers; all bits zero is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        // SAFETY: the command takes this structure.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        // The host shall say nothing on it by itself. It may not know IPv6.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let queue = QUEUE.to_string();
        let mut ip = Command::new("ip");
        ip.args(["link", "set", name, "up", "txqueuelen", &queue]);
        if !ip.status()?.success() {
            return Err("ip link set: it failed".into());
        }
        Ok(Self { file: file.into(), name: name.to_owned() })
    }
}

/// The host's end of a tap, to put frames in.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn new(tap: &Tap) -> Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // Straight to the tap, with a virtio header before each frame.
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_QDISC_BYPASS] {
            let (on, len): (c_int, u32) = (1, 4);
            // SAFETY: an integer and its size.
            check(unsafe {
                libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const on).cast(), len)
            })?;
        }
        let name = CString::new(tap.name.clone())?;
        // SAFETY: a structure of numbers; all bits zero is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        // SAFETY: a string that ends in a zero.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
        let len = size_of_val(&address) as u32;
        // SAFETY: an address of that length.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), len) })?;
        Ok(Self(socket))
    }

    /// Has `count` frames of `len` bytes wait on the tap.
    pub fn fill(&self, len: usize, count: usize) -> Result<()> {
        let mut frame = vec![0x5a; HEADER + len];
        write_frame(&mut frame, len);
        // The header here is the shorter one, without the buffers' number.
        frame.copy_within(..PACKET_HEADER, HEADER - PACKET_HEADER);
        let frame = &frame[HEADER - PACKET_HEADER..];
        for _ in 0..count {
            // SAFETY: pointer and length of a slice.
            let sent =
                unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if usize::try_from(sent).ok() != Some(frame.len()) {
                return Err(io::Error::last_os_error().into());
            }
        }
        Ok(())
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
