//! The control API's socket and its clients, however they behave.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use mote_tests::api::Server;
use mote_tests::{Client, Scratch, Vm, have_kvm, mote, run, vm};

/// Clients that are slow, broken or many stop neither the VM nor each other.
#[test]
fn bad_clients_do_no_harm() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &[]);
    server.with_guest("echo").start();
    // Many that say nothing, or not all of it, and stay.
    let mut quiet: Vec<Client> = (0..40).map(|_| server.client()).collect();
    for client in quiet.iter_mut().skip(30) {
        client.send(b"PUT /actions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{");
    }
    // One that asks for more and more and never reads. It is heard until its
    // answers fill what is kept for it.
    let mut greedy = server.client();
    let patience = Some(Duration::from_millis(100));
    greedy.stream().set_write_timeout(patience).unwrap();
    let request = b"GET /vm/config HTTP/1.1\r\n\r\n".repeat(64);
    use std::io::Write as _;
    let sent: usize = (0..10_000).map_while(|_| greedy.stream().write(&request).ok()).sum();
    assert!(sent < 10_000 * request.len(), "it was never held back");
    let mut good = server.client();
    good.get("/").expect(200);
    server.vm.send("still here\n");
    server.vm.wait_for("still here");
    let memory = mote_tests::proc::status(server.vm.pid(), "VmRSS");
    assert!(memory < 20 << 10, "{memory} KiB");
    // It gets all answers when it reads after all.
    let complete = (sent / (request.len() / 64)).min(100);
    for _ in 0..complete {
        greedy.answer().expect(200);
    }
    // One that hangs up in the middle, and one that talks nonsense.
    let mut broken = server.client();
    broken.send(b"PUT /vm HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
    drop(broken);
    let mut nonsense = server.client();
    nonsense.send(b"\x16\x03\x01 hello\r\n\r\n");
    nonsense.answer().expect(400);
    assert!(nonsense.is_closed());
    good.get("/").expect(200);
}

#[test]
fn requests_may_come_as_they_like() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &["--http-api-max-payload-size", "100"]);
    // Byte by byte.
    let mut client = server.client();
    for byte in b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.answer().json()["mote_version"], env!("CARGO_PKG_VERSION"));
    // Several at once.
    client.send(&b"GET /version HTTP/1.1\r\n\r\n".repeat(50));
    for _ in 0..50 {
        client.answer().expect(200);
    }
    // With leave.
    client.send(b"PUT /vsock HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send(b"{}");
    client.answer().expect(400);
    // More than the limit: told so, though it is never read.
    client.send(b"PUT /vsock HTTP/1.1\r\nContent-Length: 101\r\n\r\n");
    let answer = client.answer();
    assert!(answer.expect(400).body.contains("limit of 100"), "{answer:?}");
    client.send(&[b'x'; 101]);
    assert!(client.is_closed());
    // Headers without end.
    let mut client = server.client();
    client.send(&[b'G'; 9000]);
    client.answer().expect(400);
    // Without being asked to stay, HTTP/1.0 does not.
    let mut client = server.client();
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    client.answer().expect(200);
    assert!(client.is_closed());
    // One that ends its side still gets its answer.
    let mut client = server.client();
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    client.answer().expect(200);
    assert!(client.is_closed());
}

/// The socket may be the caller's, and readiness a line.
#[test]
fn the_socket_may_be_passed_in() {
    let scratch = Scratch::new();
    let socket = scratch.join("own.sock");
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    let mut command = Command::new("sh");
    let line = r#"exec "$0" --api-fd 5 --ready-fd 6 5<&0 6>&1 </dev/null"#;
    command.args(["-c", line]).arg(vm::binary()).stdin(listener);
    let process = Vm::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    process.wait_for("ready\n");
    Client::connect(&socket).get("/").expect(200);
    drop(process);
    let end = run(&mut mote(["--api-fd", "99"]));
    end.expect(2).complains(&["--api-fd", "99"]);
    // No socket at all.
    command = Command::new("sh");
    let line = r#"exec "$0" --api-fd 5 5</dev/null"#;
    command.args(["-c", line]).arg(vm::binary());
    run(&mut command).expect(2).complains(&["--api-fd", "5"]);
}

#[test]
fn a_socket_is_taken_over_from_the_dead_only() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    let path = server.socket.to_str().unwrap();
    run(&mut mote(["--api-sock", path])).expect(3).complains(&["already exists", "api.sock"]);
    server.client().get("/").expect(200);
    drop(server);
    let server = Server::start(&scratch, &[]);
    server.client().get("/").expect(200);
    drop(server);
    let file = scratch.file("file", "mine");
    run(&mut mote(["--api-sock", file.to_str().unwrap()])).expect(3).complains(&["already exists"]);
    assert_eq!(fs::read(file).unwrap(), b"mine");
}
