//! A file system whose files hang when a test says so, as those of a network do
//! when their server is gone (Linux: include/uapi/linux/fuse.h).

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::{vm, wait_until};

/// Asks for a file's size.
pub const GETATTR: u32 = 3;
/// Reads from a file.
pub const READ: u32 = 15;
/// Makes a file durable.
pub const FSYNC: u32 = 20;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Node of the root, which the first file follows.
const ROOT: u64 = 1;
/// Most bytes of a write; a request has a head besides.
const MOST: u32 = 128 << 10;

/// How files hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hang {
    /// Requests are not taken: who waits can be killed, as with NFS.
    Untaken,
    /// Requests of this kind are taken, and answered later: nothing ends the wait.
    Unanswered(u32),
}

#[derive(Default)]
struct State {
    hang: Option<Hang>,
    /// Requests that were taken and have no answer.
    held: Vec<Vec<u8>>,
    /// Whether a request waits.
    waits: bool,
    files: Vec<(String, Vec<u8>)>,
}

/// A mounted file system; it is gone when the test ends, and with it what hangs.
pub struct Fuse {
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts one with these files, each of so many bytes, at a new directory, for the
    /// calling thread and what it starts; `None` where that cannot be done.
    ///
    /// # Panics
    /// It cannot be done, and nothing may be skipped.
    #[must_use]
    pub fn new(folder: PathBuf, files: &[(&str, usize)]) -> Option<Self> {
        match mount(&folder) {
            Ok(device) => {
                let file = |&(name, size): &(&str, usize)| (name.to_owned(), vec![0; size]);
                let state = State { files: files.iter().map(file).collect(), ..State::default() };
                let state = Arc::new(Mutex::new(state));
                let over = Arc::new(AtomicBool::new(false));
                let server = serve(device, Arc::clone(&state), Arc::clone(&over));
                let fuse = Self { folder, state, over, server: Some(server) };
                // From its answer to the first close Linux learns that it wants no others.
                fs::read(fuse.path(files[0].0)).unwrap();
                Some(fuse)
            }
            Err(error) => {
                vm::skip(&format!("a FUSE file system cannot be mounted: {error}"));
                None
            }
        }
    }

    /// The path of a file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Gives a file another size.
    ///
    /// # Panics
    /// There is no such file.
    pub fn resize(&self, name: &str, size: usize) {
        let mut state = self.state.lock().unwrap();
        let file = state.files.iter_mut().find(|(other, _)| other == name);
        file.unwrap().1.resize(size, 0);
    }

    /// From now on files hang like this, or answer again.
    ///
    /// # Panics
    /// The server has failed.
    pub fn hang(&self, how: Option<Hang>) {
        let mut state = self.state.lock().unwrap();
        (state.hang, state.waits) = (how, false);
    }

    /// Waits until somebody waits for a file that hangs.
    ///
    /// # Panics
    /// Nobody does.
    pub fn wait_until_used(&self) {
        wait_until("a request that waits", || self.state.lock().unwrap().waits);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // With its descriptor the server closes the connection: whatever waits fails.
        let ended = self.server.take().map(JoinHandle::join);
        let target = path(&self.folder);
        // SAFETY: a C string.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        if !thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the file system's server failed");
        }
    }
}

fn path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn mount(folder: &Path) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    fs::create_dir(folder)?;
    let number = device.as_raw_fd();
    let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other");
    let (options, target) = (CString::new(options)?, path(folder));
    let (root, none) = (c"/".as_ptr(), std::ptr::null());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: C strings and plain flags; the namespace is the calling thread's, so that
    // nothing stays mounted when the process is killed.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, private, none.cast()) == 0
            && libc::mount(
                c"hang".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV,
                options.as_ptr().cast(),
            ) == 0
    };
    done.then_some(device).ok_or_else(io::Error::last_os_error)
}

/// Answers requests until it is over.
fn serve(mut device: File, state: Arc<Mutex<State>>, over: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; MOST as usize + 4096];
        while !over.load(Ordering::Relaxed) {
            let mut fd = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: a live structure.
            let ready = unsafe { libc::poll(&raw mut fd, 1, 5) } > 0;
            let mut state = state.lock().unwrap();
            if state.hang.is_none() {
                for request in std::mem::take(&mut state.held) {
                    answer(&mut device, &mut state, &request);
                }
            }
            if !ready {
                continue;
            }
            if state.hang == Some(Hang::Untaken) {
                state.waits = true;
                drop(state);
                thread::sleep(std::time::Duration::from_millis(5));
                continue;
            }
            // A request that was interrupted may be gone.
            let Ok(length) = device.read(&mut buffer) else { continue };
            let request = &buffer[..length];
            if state.hang == Some(Hang::Unanswered(number(request, 4))) {
                state.held.push(request.to_vec());
                state.waits = true;
                continue;
            }
            answer(&mut device, &mut state, request);
        }
    })
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Answers one request: head, then what its kind brings.
fn answer(device: &mut File, state: &mut State, request: &[u8]) {
    let (kind, id, node) = (number(request, 4), long(request, 8), long(request, 16));
    let body = &request[40..];
    let result = match kind {
        FORGET | BATCH_FORGET | INTERRUPT => return,
        INIT => Ok(start()),
        LOOKUP => lookup(state, body),
        GETATTR => attributes(state, node).map(|found| [&[0; 16], &found[..]].concat()),
        // Handle 0, without a cache.
        OPEN => Ok([[0; 8], [1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        READ => file(state, node).map(|bytes| {
            let start = (long(body, 8) as usize).min(bytes.len());
            let end = (start + number(body, 16) as usize).min(bytes.len());
            bytes[start..end].to_vec()
        }),
        WRITE => file(state, node).and_then(|bytes| {
            let (start, data) = (long(body, 8) as usize, &body[40..]);
            let place = bytes.get_mut(start..start + data.len()).ok_or(libc::ENOSPC)?;
            place.copy_from_slice(data);
            Ok((data.len() as u64).to_le_bytes().to_vec())
        }),
        FSYNC | RELEASE => Ok(Vec::new()),
        _ => Err(libc::ENOSYS),
    };
    let (error, bytes) = match result {
        Ok(bytes) => (0, bytes),
        Err(error) => (-error, Vec::new()),
    };
    let mut reply = (16 + bytes.len() as u32).to_le_bytes().to_vec();
    reply.extend(error.to_le_bytes());
    reply.extend(id.to_le_bytes());
    reply.extend(bytes);
    // Who asked may have gone.
    let _ = device.write(&reply);
}

/// `fuse_init_out`, of protocol 7.31.
fn start() -> Vec<u8> {
    let mut reply = Vec::new();
    for value in [7, 31, 0, 0, 0x000c_0010, MOST, 1] {
        reply.extend(u32::to_le_bytes(value));
    }
    reply.resize(64, 0);
    reply
}

fn file(state: &mut State, node: u64) -> Result<&mut Vec<u8>, i32> {
    let index = node.checked_sub(ROOT + 1).ok_or(libc::EISDIR)?;
    state.files.get_mut(index as usize).map(|(_, bytes)| bytes).ok_or(libc::ENOENT)
}

/// `fuse_entry_out`
fn lookup(state: &mut State, name: &[u8]) -> Result<Vec<u8>, i32> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let index = state.files.iter().position(|(other, _)| other.as_bytes() == name);
    let node = ROOT + 1 + index.ok_or(libc::ENOENT)? as u64;
    let found = attributes(state, node)?;
    Ok([&node.to_le_bytes()[..], &[0; 32], &found].concat())
}

/// `fuse_attr`
fn attributes(state: &mut State, node: u64) -> Result<Vec<u8>, i32> {
    let (mode, size) = match node {
        ROOT => (libc::S_IFDIR | 0o755, 0),
        _ => (libc::S_IFREG | 0o644, file(state, node)?.len() as u64),
    };
    let mut reply = Vec::new();
    for value in [node, size, size.div_ceil(512), 0, 0, 0] {
        reply.extend(value.to_le_bytes());
    }
    for value in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        reply.extend(u32::to_le_bytes(value));
    }
    Ok(reply)
}
