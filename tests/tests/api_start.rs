//! What a VM is started with over the API is opened under the filter that holds before a
//! VM runs: everything that `mote run` takes works here, too.

use std::ffi::CString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use mote_tests::api::{Client, Server, boot_source};
use mote_tests::medium::iso;
use mote_tests::{Loop, Scratch, Terminal, Vm, guest, have_kvm, mote, wait_until};
use serde_json::json;

const DRIVE: &str = r#"{"drive_id":"d","path_on_host":"PATH","is_root_device":false}"#;

#[test]
fn every_console_and_drive_can_be_opened() {
    if !have_kvm() {
        return;
    }
    for serial in ["none", "pty", "file:old", "file:new", "socket:dead"] {
        for allow in [false, true] {
            let scratch = Scratch::new();
            scratch.file("old", "what was there");
            // Its listener is gone.
            drop(UnixListener::bind(scratch.join("dead")).unwrap());
            let image = scratch.file("image", [0; 4096]);
            let device = Loop::new(&image, 512, false);
            let serial = serial.replace(':', &format!(":{}/", scratch.display()));
            let mut args = vec!["--serial", serial.as_str()];
            if allow {
                args.extend(["--allow-path", scratch.to_str().unwrap()]);
            }
            fs::copy(guest("hello"), scratch.join("kernel")).unwrap();
            let server = Server::start(&scratch, &args);
            let mut client = server.client();
            let kernel = json!({"kernel_image_path": scratch.join("kernel")});
            client.put("/boot-source", &kernel.to_string());
            if let Some(device) = device.as_ref().filter(|_| !allow) {
                client.put("/drives/d", &DRIVE.replace("PATH", device.name()));
            }
            client.start();
            server.vm.end().expect(0);
        }
    }
}

/// Without a kernel the firmware is what boots.
#[test]
fn the_firmware_starts() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let medium = iso(&scratch, "empty", &[("readme", b"nothing to boot")]);
    let server = Server::start(&scratch, &[]);
    let mut client = server.client();
    let drive = DRIVE.replace("PATH", &medium).replace("}", ",\"is_read_only\":true}");
    client.put("/drives/d", &drive);
    client.start();
    server.vm.end().expect(8);
}

/// A console on a terminal.
#[test]
fn a_terminal_is_taken() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.join("api.sock");
    let mut terminal = Terminal::open();
    let mut command = mote(["api", "--socket"]);
    terminal.attach(command.arg(&socket));
    let vm = Vm::spawn(&mut command);
    wait_until("the socket is there", || socket.exists());
    let mut client = Client::connect(&socket);
    client.put("/boot-source", &boot_source("echo", ""));
    client.start();
    wait_until("raw", || terminal.modes().is_raw());
    terminal.keys(b"\x01x");
    vm.end().expect(0);
    assert!(!terminal.modes().is_raw());
}

/// A config file that never comes: a signal ends the wait, and no socket is left.
#[test]
fn a_wait_for_a_config_file_can_be_ended() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let scratch = Scratch::new();
        let fifo = scratch.join("config");
        let name = CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: a plain system call with a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let mut command = mote(["api", "--socket"]);
        command.arg(scratch.join("socket")).arg("--config-file").arg(&fifo);
        let vm = Vm::start(command.stdin(Stdio::null()));
        let waits = format!("/proc/{}/wchan", vm.pid());
        wait_until("the open", || fs::read_to_string(&waits).unwrap().contains("partner"));
        vm.signal(signal);
        assert_ne!(vm.end().code, 0);
        assert!(!scratch.join("socket").exists(), "signal {signal} left a socket");
    }
}
