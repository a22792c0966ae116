//! Snapshots whose memory another process has, which is asked for each page.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mote_tests::api::Server;
use mote_tests::{Scratch, Vm, have_kvm, mote, run, tiny, wait_until};
use serde_json::{Value, json};

const PAGE: u64 = 4096;
/// `_IOWR(0xaa, 0x03, struct uffdio_copy)`
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
/// Of `struct uffd_msg`.
const PAGEFAULT: u8 = 0x12;

/// A process that has a snapshot's memory, as Firecracker's example has it.
struct Pager {
    path: PathBuf,
    served: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Pager {
    /// Listens at `path`, and serves so many pages of the file for one VM.
    fn start(path: &Path, memory: &Path, most: u64) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let memory = File::open(memory).unwrap();
        let served = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&served);
        let thread = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let (text, faults) = receive(socket.as_raw_fd());
            let regions: Value = serde_json::from_str(&text).unwrap();
            let mut faults = File::from(faults);
            while count.load(Ordering::Relaxed) < most && wait(&socket, &faults) {
                let mut message = [0; 32];
                match faults.read(&mut message) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    read => assert_eq!(read.unwrap(), 32),
                }
                assert_eq!(message[0], PAGEFAULT);
                let address = u64::from_le_bytes(message[16..24].try_into().unwrap());
                serve(&faults, &memory, &regions, address / PAGE * PAGE);
                count.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing but the regions is said.
            socket.set_nonblocking(true).unwrap();
            assert!(!matches!(socket.read(&mut [0]), Ok(1)));
        });
        Self { path: path.to_owned(), served, thread }
    }

    /// Waits for its end, and returns how many pages it has served.
    fn end(self) -> u64 {
        self.thread.join().unwrap();
        self.served.load(Ordering::Relaxed)
    }
}

/// A message and the descriptor that comes with it.
fn receive(socket: i32) -> (String, OwnedFd) {
    let mut bytes = [0_u8; 4096];
    let mut control = [0_u64; 8];
    let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to live buffers of the lengths beside them, and a
    // descriptor that is received belongs to nobody else.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket, &raw mut header, libc::MSG_CMSG_CLOEXEC);
        let length = usize::try_from(length).unwrap();
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        assert!(!first.is_null(), "no descriptor");
        assert_eq!((*first).cmsg_type, libc::SCM_RIGHTS);
        let number = libc::CMSG_DATA(first).cast::<i32>().read_unaligned();
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        (text, OwnedFd::from_raw_fd(number))
    }
}

/// Waits for a fault; false when the VM's process has gone.
fn wait(socket: &impl std::os::fd::AsRawFd, faults: &File) -> bool {
    let mut fds = [socket.as_raw_fd(), faults.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: two live structures.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, 60_000) };
    assert!(ready > 0, "nothing happens");
    fds[0].revents == 0
}

fn serve(faults: &File, memory: &File, regions: &Value, address: u64) {
    let number = |region: &Value, key: &str| region[key].as_u64().unwrap();
    let mut all = regions.as_array().unwrap().iter();
    let region = all.find(|region| {
        let start = number(region, "base_host_virt_addr");
        (start..start + number(region, "size")).contains(&address)
    });
    let region = region.expect("a fault beside the regions");
    assert_eq!(number(region, "page_size"), PAGE);
    let offset = number(region, "offset") + address - number(region, "base_host_virt_addr");
    let mut page = [0_u8; PAGE as usize];
    memory.read_exact_at(&mut page, offset).unwrap();
    // dst, src, len, mode, copy
    let mut copy = [address, page.as_ptr().addr() as u64, PAGE, 0, 0];
    // SAFETY: struct uffdio_copy; it writes to the VM's memory alone.
    let result = unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // Two of its threads may have asked for the same one.
    let there = error.raw_os_error() == Some(libc::EEXIST);
    assert!(result == 0 || there, "{error}");
}

/// A snapshot's state alone in a directory, its memory elsewhere, and what the
/// guest says of it. Its runtime writes the first boot marker, so it is the VM
/// that is restored at that which gets to the guest's own.
fn saved(scratch: &Scratch, memory: &str) -> (PathBuf, PathBuf, String) {
    let [start, to] = ["start", "saved"].map(|name| scratch.join(name));
    fs::create_dir(&start).unwrap();
    fs::create_dir(&to).unwrap();
    let args = ["--memory", memory, "--then", "exit", "--snapshot"];
    run(tiny("snapshot", args).arg(&start)).expect(0);
    let mut restore = mote(["restore", "--then", "exit", "--snapshot"]);
    let end = run(restore.args([&to, &start]));
    let hash = end.expect(0).out.lines().next().unwrap().to_owned();
    let elsewhere = scratch.join("pages");
    fs::rename(to.join("memory"), &elsewhere).unwrap();
    (to, elsewhere, hash.strip_prefix("hash ").unwrap().to_owned())
}

/// Whether there are virtual machines here, and a userfaultfd for the kernel's faults.
fn can() -> bool {
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        mote_tests::vm::skip("not root");
    }
    root && have_kvm()
}

#[test]
fn pages_come_from_another_process() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, pages, hash) = saved(&scratch, "3600M");
    let socket = scratch.join("pager");
    let text = socket.to_str().unwrap();
    let restore = |args: &[&str]| {
        let mut command = mote(["restore", from.to_str().unwrap(), "--uffd", text]);
        command.args(args);
        command
    };
    run(&mut restore(&[])).expect(3).complains(&["uffd", text]);
    for flag in [&["--verify"][..], &["--record", "1"], &["--hugepages", "2M"]] {
        run(&mut restore(flag)).expect(2).complains(&[flag[0], "--uffd"]);
    }
    let pager = Pager::start(&socket, &pages, u64::MAX);
    assert_eq!(pager.path, socket);
    let mut vm = Vm::start(&mut restore(&[]));
    vm.wait_for(&format!("again {hash}"));
    vm.send("wmq");
    vm.end().expect(0);
    let served = pager.end();
    // One word in each MiB is what this guest looks at.
    assert!((3600..10_000).contains(&served), "{served}");
    fs::remove_file(&socket).unwrap();
}

/// The right that a pager is handed is one to all of the VM's process, and so not
/// for other users, whatever the path's permissions say.
#[test]
fn no_other_user_is_handed_the_process() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, _, _) = saved(&scratch, "32M");
    let socket = scratch.join("pager");
    let listen = format!(
        "use Socket; use POSIX; POSIX::setuid(12345); socket(S, AF_UNIX, SOCK_STREAM, 0); \
         bind(S, pack_sockaddr_un('{0}.new')) or die; listen(S, 1); \
         rename('{0}.new', '{0}'); accept(C, S); recv(C, $m, 1, 0); exit(length $m)",
        socket.display()
    );
    fs::set_permissions(&*scratch, fs::Permissions::from_mode(0o777)).unwrap();
    let mut stranger = Command::new("perl").args(["-e", &listen]).spawn().unwrap();
    wait_until("the stranger listens", || socket.exists());
    let end = run(mote(["restore", "--uffd"]).args([&socket, &from]));
    end.expect(3).complains(&["uffd", "12345", "root"]);
    // Not a byte, and no descriptor, which comes with one.
    assert!(stranger.wait().unwrap().success());
}

/// All of them are asked for before the guest goes on.
#[test]
fn all_pages_may_come_first() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, pages, hash) = saved(&scratch, "32M");
    let socket = scratch.join("pager");
    let pager = Pager::start(&socket, &pages, u64::MAX);
    let mut vm = Vm::start(mote(["restore", "--prefault", "--uffd"]).args([&socket, &from]));
    vm.wait_for(&format!("again {hash}"));
    vm.send("q");
    vm.end().expect(0);
    assert_eq!(pager.end(), 32 << 20 >> 12);
}

/// What nobody has asked for yet is saved, too.
#[test]
fn a_vm_with_pages_elsewhere_is_saved_whole() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, pages, hash) = saved(&scratch, "32M");
    let (socket, to) = (scratch.join("pager"), scratch.join("again"));
    fs::create_dir(&to).unwrap();
    let pager = Pager::start(&socket, &pages, u64::MAX);
    let mut vm = Vm::start(
        mote(["restore", "--uffd"])
            .args([&socket, &from])
            .args(["--then", "exit", "--snapshot"])
            .arg(&to),
    );
    vm.wait_for("again");
    vm.send("m");
    vm.end().expect(0);
    assert_eq!(pager.end(), 32 << 20 >> 12);
    let mut vm = Vm::start(mote(["restore", "--verify"]).arg(&to));
    vm.wait_for(&format!("marked {hash}"));
    vm.send("q");
    vm.end().expect(0);
}

/// A page that nobody brings is waited for, and is not taken to be zeroes.
#[test]
fn without_its_pager_a_guest_waits() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, pages, _) = saved(&scratch, "32M");
    let socket = scratch.join("pager");
    // Before the guest runs, and when it does.
    for most in [0, 12] {
        let pager = Pager::start(&socket, &pages, most);
        let vm = Vm::start(mote(["restore", "--uffd"]).args([&socket, &from]));
        assert_eq!(pager.end(), most);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(vm.out.text().find("again"), None);
        vm.signal(libc::SIGTERM);
        vm.end().expect(128 + libc::SIGTERM);
        fs::remove_file(&socket).unwrap();
    }
}

#[test]
fn firecrackers_request_for_it() {
    if !can() {
        return;
    }
    let scratch = Scratch::new();
    let (from, pages, hash) = saved(&scratch, "32M");
    let socket = scratch.join("pager");
    let mut server = Server::start(&scratch, &[]);
    let mut client = server.client();
    let body = |more: &Value| {
        let mut body = json!({
            "snapshot_path": from.join("state"),
            "mem_backend": {"backend_type": "Uffd", "backend_path": &socket},
            "resume_vm": true,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let mut refused = |more: Value, word: &str| {
        let answer = client.request("PUT", "/snapshot/load", &body(&more));
        let why = answer.expect(400).json()["fault_message"].to_string();
        assert!(why.contains(word), "{why}");
    };
    refused(json!({}), "pager");
    refused(json!({"working_set_path": "w"}), "working_set_path");
    let pager = Pager::start(&socket, &pages, u64::MAX);
    client.put("/snapshot/load", &body(&json!({})));
    server.vm.wait_for(&format!("again {hash}"));
    server.vm.send("q");
    server.vm.end().expect(0);
    assert!(pager.end() > 30);
}
