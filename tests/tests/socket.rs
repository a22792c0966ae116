//! The serial console on a Unix socket: one client after the other, nothing
//! lost in between, and no file left behind.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mote_tests::tap::Tap;
use mote_tests::vm::LIMIT;
use mote_tests::{Scratch, Vm, have_kvm, proc, run, tiny, wait_until};

const CTRL_D: u8 = 4;

/// Connects to the console's socket as soon as it is there.
fn connect(path: &Path) -> UnixStream {
    wait_until("the socket", || path.exists());
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client
}

fn expect(client: &mut UnixStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, text);
}

#[test]
fn a_socket_serves_one_client_after_the_other() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let vm = Vm::start(&mut tiny("echo", ["--serial", &to]));
    // What was printed before anybody came has been kept.
    let mut first = connect(&path);
    expect(&mut first, b"ready\n");
    first.write_all(b"one\x01x").unwrap();
    expect(&mut first, b"one\x01x");
    // The second one waits for its turn.
    let mut second = connect(&path);
    second.write_all(b"two").unwrap();
    first.write_all(b"1").unwrap();
    expect(&mut first, b"1");
    drop(first);
    expect(&mut second, b"two");
    second.write_all(&[CTRL_D]).unwrap();
    let end = vm.end();
    assert_eq!(end.expect(0).out, "");
    let mut rest = Vec::new();
    second.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    // A sandboxed VM cannot remove it, but the next takes its place.
    run(&mut tiny("memory", ["--serial", &to])).expect(0);
}

/// A client may get the number of a descriptor that was passed in and closed.
#[test]
fn a_client_is_served_where_readiness_was_told() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let mut command = tiny("echo", ["--serial", &to, "--ready-fd", "3"]);
    // SAFETY: both calls may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::dup2(2, 3);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let mut client = connect(&path);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(child.try_wait().unwrap(), None, "it was killed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Output between two clients is kept for the second one.
#[test]
fn a_socket_keeps_output_until_a_client_connects() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let vm = Vm::start(&mut tiny("echo", ["--serial", &to]));
    let mut first = connect(&path);
    expect(&mut first, b"ready\n");
    // Half closed and closed: it has gone either way.
    first.write_all(b"last words").unwrap();
    drop(first);
    thread::sleep(Duration::from_millis(200));
    let mut second = connect(&path);
    second.write_all(b"!").unwrap();
    let mut last = [0];
    while last != [b'!'] {
        second.read_exact(&mut last).unwrap();
    }
    second.write_all(&[CTRL_D]).unwrap();
    vm.end().expect(0);
}

/// A client that leaves while the guest does not listen makes room for the
/// next one all the same.
#[test]
fn a_client_of_a_deaf_guest_can_be_replaced() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let vm = Vm::start(&mut tiny("deaf", ["--cmdline", "ticks=1000000000000", "--serial", &to]));
    let mut first = connect(&path);
    expect(&mut first, b"deaf\n");
    first.write_all(&[b'x'; 10_000]).unwrap();
    thread::sleep(Duration::from_millis(200));
    let sockets = || {
        let mut all = proc::descriptors(vm.pid());
        all.retain(|fd| fd.starts_with("socket:"));
        all
    };
    let with_first = sockets();
    drop(first);
    let second = connect(&path);
    wait_until("the second client is served", || {
        sockets().iter().any(|fd| !with_first.contains(fd))
    });
    drop(second);
    // Only the listener is left.
    wait_until("the second client is forgotten", || sockets().len() == 1);
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let vm = Vm::start(&mut tiny("echo", ["--serial", &to]));
    let visit = || {
        let mut client = connect(&path);
        client.write_all(b"hello").unwrap();
        let mut byte = [0];
        while byte != [b'o'] {
            client.read_exact(&mut byte).unwrap();
        }
    };
    (0..3).for_each(|_| visit());
    let mut before = Vec::new();
    // The last one's leaving takes a moment.
    let settled = |fds: &mut Vec<String>| {
        thread::sleep(Duration::from_millis(100));
        *fds = proc::descriptors(vm.pid());
    };
    settled(&mut before);
    (0..100).for_each(|_| visit());
    wait_until("as many descriptors as before", || {
        proc::descriptors(vm.pid()).len() == before.len()
    });
}

#[test]
fn an_existing_path_is_not_taken_for_a_socket() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.file("console", "precious");
    let to = format!("socket:{}", path.display());
    let end = run(&mut tiny("echo", ["--serial", &to]));
    end.expect(3).complains(&["console", "exists"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

/// A second VM on the first one's socket is refused, and takes nothing away.
#[test]
fn a_socket_in_use_stays_with_its_owner() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let vm = Vm::start(&mut tiny("echo", ["--serial", &to]));
    wait_until("the socket", || path.exists());
    let end = run(&mut tiny("echo", ["--serial", &to]));
    end.expect(3).complains(&["console", "exists"]);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    connect(&path).write_all(&[CTRL_D]).unwrap();
    vm.end().expect(0);
}

/// The name of a socket can be used again after every end, also a crash.
#[test]
fn a_dead_socket_is_replaced_however_the_vm_ended() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for (guest, code) in [("triple", 5), ("memory", 0)] {
        let path = scratch.join(guest);
        let to = format!("socket:{}", path.display());
        for _ in 0..2 {
            run(&mut tiny(guest, ["--serial", &to])).expect(code);
        }
    }
}

/// What was printed before the client came, while it reads, and just before
/// the end: all of it arrives.
#[test]
fn a_client_gets_a_flood_complete_and_in_order() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("console");
    let to = format!("socket:{}", path.display());
    let flags = ["--serial", &to, "--cmdline", "bytes=100000"];
    let vm = Vm::start(&mut tiny("flood", flags));
    let tap = Tap::new(connect(&path));
    vm.end().expect(0);
    assert!(tap.wait_for_end(LIMIT));
    let expected: String = (0..6_250).map(|n| format!("{n:015}\n")).collect();
    assert!(tap.text() == expected, "{} bytes", tap.bytes().len());
}
