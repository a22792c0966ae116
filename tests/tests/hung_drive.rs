//! A drive's file on the host that hangs takes away neither the control of its VM nor the
//! end of its process; and when it answers again, all is as it was.

use std::thread;

use mote_tests::api::{Answer, Server};
use mote_tests::fuse::{FSYNC, GETATTR, READ};
use mote_tests::{BUSES, Client, Fuse, Hang, Scratch, Vm, guest, have_kvm, tiny, wait_until};
use serde_json::json;

/// What a request on a drive whose file hangs is answered.
const HUNG: &str = "drive d: its host file has not responded for 5 s";

const PAUSE: Request = ("PATCH", "/vm", r#"{"state":"Paused"}"#);
const RESUME: Request = ("PATCH", "/vm", r#"{"state":"Resumed"}"#);
const EJECT: Request = ("PATCH", "/drives/d", r#"{"drive_id":"d","eject":true}"#);
const INSERT: Request = ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"OTHER"}"#);
const GROW: Request = ("PATCH", "/drives/d", r#"{"drive_id":"d","path_on_host":"IMAGE"}"#);
const SAVE: Request =
    ("PUT", "/snapshot/create", r#"{"snapshot_path":"HERE/state","mem_file_path":"HERE/memory"}"#);
const LIMIT: Request = (
    "PATCH",
    "/drives/d",
    r#"{"drive_id":"d","rate_limiter":{"ops":{"size":1000,"refill_time":1}}}"#,
);
const BUTTON: Request = ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#);

type Request = (&'static str, &'static str, &'static str);

/// A way to take away the control of a VM.
struct Row {
    media: &'static str,
    /// What is done before the file hangs.
    first: &'static [Request],
    hang: Hang,
    /// What the guest does then, see the guest `disk`.
    orders: &'static str,
    /// What the guest says when the file answers again.
    then: &'static str,
    /// Requests that are refused while it hangs, and done later.
    refused: &'static [Request],
    /// Requests that are done, or refused, as ever.
    done: &'static [Request],
}

const ROW: Row = Row {
    media: "disk",
    first: &[],
    hang: Hang::Unanswered(READ),
    orders: "r",
    then: "read 0\n",
    refused: &[],
    done: &[LIMIT],
};

const ROWS: &[Row] = &[
    Row { refused: &[PAUSE], ..ROW },
    Row { refused: &[PAUSE], hang: Hang::Untaken, ..ROW },
    Row { refused: &[GROW], ..ROW },
    Row { refused: &[EJECT], media: "cdrom", ..ROW },
    Row { refused: &[INSERT], media: "cdrom", ..ROW },
    // The worker is idle when the image's size is asked for, or a flush.
    Row { refused: &[GROW], hang: Hang::Unanswered(GETATTR), orders: "", then: "", ..ROW },
    Row {
        refused: &[SAVE],
        first: &[PAUSE],
        hang: Hang::Unanswered(FSYNC),
        orders: "",
        then: "",
        ..ROW
    },
    // A vCPU waits for the worker, too.
    Row { refused: &[PAUSE, GROW], orders: "rd", then: "device reset\n", ..ROW },
    Row { refused: &[EJECT], orders: "rd", then: "device reset\n", media: "cdrom", ..ROW },
    // The machine's reset waits for it.
    Row { refused: &[PAUSE], orders: "rb", then: "ready\nready\n", ..ROW },
];

/// Requests that are refused name the drive, and leave the VM as it is; the others are
/// answered as ever; and what was refused is done once the file answers.
#[test]
fn every_request_is_answered() {
    if !have_kvm() {
        return;
    }
    thread::scope(|scope| {
        for row in ROWS {
            for bus in BUSES.iter().filter(|bus| row.orders == "rd" || **bus == "mmio") {
                scope.spawn(move || request(row, bus));
            }
        }
    });
}

fn request(row: &Row, bus: &str) {
    // Dropped last: until then a process may wait for the file system.
    let mut server;
    let scratch = Scratch::new();
    let other = scratch.file("other", [7; 4096]);
    std::fs::copy(guest("disk"), scratch.join("kernel")).unwrap();
    let Some(fuse) = Fuse::new(scratch.join("far"), &[("image", 8192)]) else { return };
    let image = fuse.path("image");
    let mut args = vec!["--allow-path", scratch.to_str().unwrap(), "--on-reset", "restart"];
    args.extend((bus == "pci").then_some("--enable-pci"));
    server = Server::start(&scratch, &args);
    let mut client = server.client();
    let boot = json!({"kernel_image_path": scratch.join("kernel"), "boot_args": "do=orders"});
    client.put("/boot-source", &boot.to_string());
    let drive = json!({"drive_id": "d", "is_root_device": false, "media": row.media,
        "path_on_host": image});
    client.put("/drives/d", &drive.to_string());
    client.put("/actions", r#"{"action_type":"InstanceStart"}"#);
    server.vm.wait_for("ready\n");
    let ask = |client: &mut Client, (method, path, body): Request| -> Answer {
        let body = body.replace("OTHER", other.to_str().unwrap());
        let body = body.replace("IMAGE", image.to_str().unwrap());
        client.request(method, path, &body.replace("HERE", scratch.to_str().unwrap()))
    };
    for first in row.first {
        ask(&mut client, *first).expect(204);
    }
    let before = client.get("/").body;
    fuse.resize("image", 16384);
    fuse.hang(Some(row.hang));
    order(&mut server.vm, &fuse, row.orders);
    for refused in row.refused {
        let fault = ask(&mut client, *refused).expect(400).body.clone();
        assert!(fault.contains(HUNG), "{refused:?}: {fault}");
        assert_eq!(client.get("/").body, before, "{refused:?}");
    }
    for done in row.done {
        ask(&mut client, *done).expect(204);
    }
    ask(&mut client, BUTTON).expect(400);
    client.get("/metrics").expect(200);
    if row.orders == "r" {
        server.vm.send("1");
        server.vm.wait_for("echo 1\n");
    }
    fuse.hang(None);
    wait_until(row.then, || server.vm.out.text().contains(row.then));
    for refused in row.refused {
        ask(&mut client, *refused).expect(204);
    }
    ask(&mut client, RESUME).expect(204);
    server.vm.send("r2q");
    let out = server.vm.end().expect(0).out.clone();
    assert!(out.contains("echo 2\n"), "{out}");
}

/// Has a guest do this, the first of it with a file that hangs.
fn order(vm: &mut Vm, fuse: &Fuse, orders: &str) {
    if let Some((first, others)) = orders.split_at_checked(1) {
        vm.send(first);
        fuse.wait_until_used();
        vm.send(others);
    }
}

/// A way to end a VM.
struct End {
    hang: Hang,
    orders: &'static str,
    args: &'static [&'static str],
    signal: Option<i32>,
    code: i32,
}

const END: End = End { hang: Hang::Untaken, orders: "r", args: &[], signal: None, code: 0 };

const ENDS: &[End] = &[
    End { signal: Some(libc::SIGTERM), code: 143, ..END },
    End { signal: Some(libc::SIGINT), code: 130, args: &["--graceful", "1"], ..END },
    // A vCPU waits for its device; a reset of the machine does.
    End { signal: Some(libc::SIGTERM), code: 143, orders: "rd", ..END },
    End { signal: Some(libc::SIGTERM), code: 143, orders: "rb", ..END },
    End { orders: "rq", ..END },
    End { orders: "rb", args: &["--on-reset", "exit"], code: 7, ..END },
    // What nothing ends but an answer is said before.
    End { signal: Some(libc::SIGTERM), code: 143, hang: Hang::Unanswered(READ), ..END },
    End { orders: "rq", hang: Hang::Unanswered(READ), ..END },
];

/// The process ends with the code that is documented, and says which drive's file may
/// keep it.
#[test]
fn every_end_is_one() {
    if !have_kvm() {
        return;
    }
    thread::scope(|scope| {
        for row in ENDS {
            scope.spawn(move || end(row));
        }
    });
}

fn end(row: &End) {
    // Dropped last, as above.
    let mut vm;
    let scratch = Scratch::new();
    let Some(fuse) = Fuse::new(scratch.join("far"), &[("image", 8192)]) else { return };
    let disk = format!("{},id=d", fuse.path("image").display());
    let mut command = tiny("disk", ["--disk", &disk, "--cmdline", "do=orders"]);
    vm = Vm::start(command.args(row.args));
    vm.wait_for("ready\n");
    fuse.hang(Some(row.hang));
    order(&mut vm, &fuse, row.orders);
    if let Some(signal) = row.signal {
        vm.signal(signal);
    }
    if row.hang != Hang::Untaken {
        let said = "drive d: its host file does not respond";
        wait_until("a line on stderr", || vm.err.text().contains(said));
        assert!(!vm.has_ended());
        fuse.hang(None);
    }
    let end = vm.end();
    assert!(end.expect(row.code).err.contains("drive d: its host file"), "{}", end.err);
}

/// A snapshot whose disk cannot be flushed is not taken; the guest goes on, if it may, and
/// the exit code says so.
#[test]
fn a_snapshot_that_cannot_be_taken_ends_no_guest() {
    if !have_kvm() {
        return;
    }
    for (then, code) in [("resume", 10), ("exit", 4)] {
        let mut vm;
        let scratch = Scratch::new();
        let Some(fuse) = Fuse::new(scratch.join("far"), &[("image", 8192)]) else { return };
        let disk = format!("{},id=d", fuse.path("image").display());
        let saved = scratch.join("saved");
        let mut command = tiny("disk", ["--disk", &disk, "--cmdline", "do=orders", "--then", then]);
        fuse.hang(Some(Hang::Unanswered(FSYNC)));
        vm = Vm::start(command.arg("--snapshot").arg(&saved));
        wait_until("a line on stderr", || vm.err.text().contains(HUNG) || then == "exit");
        if then == "resume" {
            vm.wait_for("ready\n");
            fuse.hang(None);
            vm.send("r1q");
        } else {
            let told = "the process may not exit";
            wait_until("a line on stderr", || vm.err.text().contains(told));
            fuse.hang(None);
        }
        let end = vm.end();
        assert!(end.expect(code).err.contains(HUNG), "{}", end.err);
        assert_eq!(end.out.contains("echo 1\n"), then == "resume", "{}", end.out);
        assert!(!saved.join("state").exists(), "{then}");
    }
}
