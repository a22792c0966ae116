//! *Refuse, correct, retry*: whatever a client of the control API says wrongly is
//! refused with a word, leaves nothing behind however often it is said, and the
//! same process does what is right when it is said.

use std::fs;
use std::path::Path;

use mote_tests::api::{Client, Server, boot_source};
use mote_tests::{Scratch, guest, have_kvm, proc, run, tiny, wait_until};
use serde_json::{Value, json};

const START: (&str, &str) = ("/actions", r#"{"action_type":"InstanceStart"}"#);
/// How often each mistake is made.
const TIMES: usize = 20;

/// What a process holds: KiB of addresses, descriptors, threads, and the files
/// around it.
#[derive(Debug, PartialEq)]
struct Held(u64, Vec<String>, u64, Vec<String>);

fn held(server: &Server, folder: &Path) -> Held {
    let pid = server.vm.pid();
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let descriptors = proc::descriptors(pid);
    Held(
        proc::status(pid, "VmSize:"),
        descriptors,
        proc::status(pid, "Threads:"),
        files,
    )
}

/// Says it so often, and each time it is refused with this word; the second time
/// and all later ones leave nothing.
#[track_caller]
fn refused(server: &Server, client: &mut Client, (path, body): (&str, &str), word: &str) {
    let folder = server.socket.parent().unwrap();
    let mut before = None;
    for _ in 0..TIMES {
        let answer = client.request("PUT", path, body);
        let said = answer.expect(400).json()["fault_message"].to_string();
        assert!(said.contains(word), "{path} {body}: {said}");
        let now = held(server, folder);
        assert_eq!(*before.get_or_insert_with(|| held(server, folder)), now);
        assert!(!now.3.contains(&"serial".to_owned()), "{now:?}");
    }
    assert_eq!(client.get("/").json()["state"], "Not started");
}

/// What is said wrongly before the start, what is wrong with it, and what is
/// right.
struct Mistake {
    path: &'static str,
    wrong: Value,
    word: &'static str,
    right: Value,
}

fn mistakes(folder: &Path) -> Vec<Mistake> {
    let kernel = |path: &Path| json!({"kernel_image_path": path});
    let with_initrd =
        |initrd: &Path| json!({"kernel_image_path": guest("spin"), "initrd_path": initrd});
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let whole = fs::read(guest("spin")).unwrap();
    let text = file("text", "this is no kernel\n".repeat(999).as_bytes());
    let cut = file("cut", &whole[..whole.len() / 2]);
    let mut spoilt = whole.clone();
    // The address of the first segment.
    spoilt[64 + 24..64 + 32].fill(0x7f);
    let spoilt = file("spoilt", &spoilt);
    let large = file("large", b"");
    fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let odd = file("odd", &[0; 700]);
    let disk = file("disk", &[0; 4096]);
    let drive =
        |path: &Path| json!({"drive_id": "d", "is_root_device": false, "path_on_host": path});
    let good = || kernel(&guest("spin"));
    let mistake = |path, wrong, word, right| Mistake {
        path,
        wrong,
        word,
        right,
    };
    vec![
        mistake("/boot-source", kernel(&text), "not a kernel", good()),
        mistake("/boot-source", kernel(&cut), "truncated", good()),
        mistake(
            "/boot-source",
            kernel(&spoilt),
            "outside the guest's RAM",
            good(),
        ),
        mistake(
            "/boot-source",
            with_initrd(&large),
            "leaves room",
            with_initrd(&text),
        ),
        mistake(
            "/machine-config",
            json!({"vcpu_count": 1, "mem_size_mib": 4096, "huge_pages": "2M"}),
            "huge pages",
            json!({"vcpu_count": 2, "mem_size_mib": 256}),
        ),
        mistake("/drives/d", drive(&odd), "whole sectors", drive(&disk)),
        mistake(
            "/serial",
            json!({"serial_out_path": folder.join("none/serial")}),
            "no such file",
            json!({"serial_out_path": folder.join("output")}),
        ),
    ]
}

#[test]
fn a_refused_start_can_be_corrected() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let all = mistakes(&scratch).len();
    for (index, allow) in (0..all).flat_map(|index| [(index, false), (index, true)]) {
        let scratch = Scratch::new();
        let folder = scratch.join("vm");
        fs::create_dir(&folder).unwrap();
        let Mistake {
            path,
            wrong,
            word,
            right,
        } = mistakes(&scratch).swap_remove(index);
        let guests = guest("spin");
        let may = [&*scratch as &Path, guests.parent().unwrap()].map(|path| path.to_str().unwrap());
        let flags = ["--allow-path", may[0], "--allow-path", may[1]];
        let server = Server::start(&folder, if allow { &flags } else { &[] });
        let mut client = server.client();
        client.put("/boot-source", &boot_source("spin", ""));
        client.put(path, &wrong.to_string());
        refused(&server, &mut client, START, word);
        client.put(path, &right.to_string());
        client.start();
        assert_eq!(client.get("/").json()["state"], "Running");
        match path {
            "/serial" => wait_until("output", || {
                fs::read_to_string(scratch.join("output"))
                    .unwrap()
                    .contains("spin")
            }),
            _ => server.vm.wait_for("spin"),
        }
    }
}

/// A start that is refused a hundred times takes nothing, and the VM has what it
/// was described with then.
#[test]
fn a_hundred_refused_starts_take_nothing() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let text = scratch.file("text", "this is no kernel\n".repeat(999));
    let server = Server::start(&scratch, &[]);
    let mut client = server.client();
    client.put("/machine-config", r#"{"vcpu_count":4,"mem_size_mib":2048}"#);
    client.put(
        "/boot-source",
        &json!({"kernel_image_path": text}).to_string(),
    );
    for _ in 0..100 / TIMES {
        refused(&server, &mut client, START, "not a kernel");
    }
    client.put("/boot-source", &boot_source("spin", ""));
    client.put("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":3072}"#);
    client.start();
    server.vm.wait_for("spin");
}

/// A snapshot of a guest with a disk, and the requests that load it.
struct Saved {
    scratch: Scratch,
}

impl Saved {
    fn new() -> Self {
        let scratch = Scratch::new();
        let disk = scratch.file("disk", vec![0; 1 << 20]);
        let folder = scratch.join("saved");
        fs::create_dir(&folder).unwrap();
        let mut command = tiny("snapshot", ["--then", "exit", "--disk"]);
        command.arg(&disk).arg("--snapshot").arg(&folder);
        run(&mut command).expect(0);
        Self { scratch }
    }

    fn load(&self, state: &str, memory: &str) -> String {
        let path = |name: &str| self.scratch.join(name);
        let files = json!({"snapshot_path": path(state), "mem_file_path": path(memory)});
        files.to_string()
    }
}

#[test]
fn a_refused_snapshot_can_be_corrected() {
    if !have_kvm() {
        return;
    }
    let saved = Saved::new();
    let file = |name: &str| fs::read(saved.scratch.join(name)).unwrap();
    let write = |name: &str, bytes: &[u8]| saved.scratch.file(name, bytes);
    let mut state = file("saved/state");
    write("cut", &state[..state.len() / 2]);
    let middle = state.len() / 2;
    state[middle] ^= 1;
    write("flipped", &state);
    write("short", &file("saved/memory")[..1 << 20]);
    let good = saved.load("saved/state", "saved/memory");
    let disk = saved.scratch.join("disk");
    let other = saved.scratch.file("other", vec![0; 1 << 20]);
    let entry = |id: &str, path: &Path| {
        let entry = json!({"drive_id": id, "is_root_device": false, "path_on_host": path});
        entry.to_string()
    };
    let uffd = json!({"snapshot_path": saved.scratch.join("saved/state"),
        "mem_backend": {"backend_type": "Uffd", "backend_path": saved.scratch.join("none")}});
    let nic = r#","network_overrides":[{"iface_id":"n","host_dev_name":"no-such-tap"}]}"#;
    let with_nic = good.trim_end_matches('}').to_owned() + nic;
    let bad = [
        (saved.load("none", "saved/memory"), "no such file"),
        (saved.load("saved/state", "none"), "no such file"),
        (saved.load("saved/memory", "saved/state"), "snapshot"),
        (saved.load("cut", "saved/memory"), "snapshot"),
        (saved.load("flipped", "saved/memory"), "checksum"),
        (saved.load("saved/state", "short"), "snapshot"),
        (uffd.to_string(), "no such file"),
        (with_nic, "no-such-tap"),
    ];
    let folder = saved.scratch.join("vm");
    fs::create_dir(&folder).unwrap();
    let server = Server::start(&folder, &[]);
    let mut client = server.client();
    // The snapshot's disk is missing at first, and then has another name.
    refused(
        &server,
        &mut client,
        ("/snapshot/load", &good),
        "1 devices were saved",
    );
    let config = client.get("/vm/config").json();
    client.put("/drives/wrong", &entry("wrong", &other));
    refused(&server, &mut client, ("/snapshot/load", &good), "disk0");
    drop((server, client));
    fs::remove_file(folder.join("api.sock")).unwrap();
    let server = Server::start(&folder, &[]);
    let mut client = server.client();
    assert_eq!(
        client.get("/vm/config").json(),
        config,
        "something was kept"
    );
    client.put("/drives/disk0", &entry("disk0", &disk));
    let config = client.get("/vm/config").json();
    for (body, word) in &bad {
        refused(&server, &mut client, ("/snapshot/load", body), word);
        assert_eq!(client.get("/vm/config").json(), config, "{body}");
    }
    client.put("/snapshot/load", &good);
    assert_eq!(client.get("/").json()["state"], "Paused");
    client.patch("/vm", r#"{"state":"Resumed"}"#);
}
