//! *Refuse, correct, retry*: whatever a client of the control API says wrongly is
//! refused with a word, leaves nothing behind however often it is said, and the
//! same process does what is right when it is said.

use std::fs;
use std::path::Path;

use mote_tests::api::{Client, Server, boot_source};
use mote_tests::network::{self, Interface};
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
    Held(proc::status(pid, "VmSize:"), descriptors, proc::status(pid, "Threads:"), files)
}

/// Says it so often, and each time it is refused with this word; the second time
/// and all later ones leave nothing, and the VM is what it was.
#[track_caller]
fn refused(server: &Server, client: &mut Client, (path, body): (&str, &str), word: &str) {
    let folder = server.socket.parent().unwrap();
    let mut before = None;
    let state = ["/", "/vm/config"].map(|path| client.get(path).json());
    for _ in 0..TIMES {
        let answer = client.request("PUT", path, body);
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        let said = answer.expect(400).json()["fault_message"].to_string();
        assert!(said.contains(word), "{path} {body}: {said}");
        let now = held(server, folder);
        assert_eq!(*before.get_or_insert_with(|| held(server, folder)), now);
        assert!(!now.3.contains(&"serial".to_owned()), "{now:?}");
    }
    let now = ["/", "/vm/config"].map(|path| client.get(path).json());
    assert_eq!(state, now, "{path} {body}");
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
    fs::File::options().write(true).open(&large).unwrap().set_len(1 << 30).unwrap();
    let odd = file("odd", &[0; 700]);
    let disk = file("disk", &[0; 4096]);
    let drive =
        |path: &Path| json!({"drive_id": "d", "is_root_device": false, "path_on_host": path});
    let good = || kernel(&guest("spin"));
    let mistake = |path, wrong, word, right| Mistake { path, wrong, word, right };
    vec![
        mistake("/boot-source", kernel(&text), "not a kernel", good()),
        mistake("/boot-source", kernel(&cut), "truncated", good()),
        mistake("/boot-source", kernel(&spoilt), "outside the guest's RAM", good()),
        mistake("/boot-source", with_initrd(&large), "leaves room", with_initrd(&text)),
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
        let Mistake { path, wrong, word, right } = mistakes(&scratch).swap_remove(index);
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
                fs::read_to_string(scratch.join("output")).unwrap().contains("spin")
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
    client.put("/boot-source", &json!({"kernel_image_path": text}).to_string());
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
    refused(&server, &mut client, ("/snapshot/load", &good), "1 devices were saved");
    let config = client.get("/vm/config").json();
    client.put("/drives/wrong", &entry("wrong", &other));
    refused(&server, &mut client, ("/snapshot/load", &good), "disk0");
    drop((server, client));
    fs::remove_file(folder.join("api.sock")).unwrap();
    let server = Server::start(&folder, &[]);
    let mut client = server.client();
    assert_eq!(client.get("/vm/config").json(), config, "something was kept");
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

/// An object with this in place of, or on top of, what is in it.
fn with(object: &Value, key: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[key] = value;
    object
}

/// Every request that describes a VM, one after the other in one process, is made
/// wrongly first; the VM is what was said rightly.
#[test]
fn refused_descriptions_can_be_corrected() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let _tap = Interface::new("retry0");
        let scratch = Scratch::new();
        let folder = scratch.join("vm");
        fs::create_dir(&folder).unwrap();
        let server = Server::start(&folder, &[]);
        let mut client = server.client();
        fs::write(scratch.join("disk"), [0; 4096]).unwrap();
        fs::write(scratch.join("empty"), b"").unwrap();
        let table = include_str!("api_retry.txt")
            .replace("DIR", scratch.to_str().unwrap())
            .replace("SPIN", guest("spin").to_str().unwrap());
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (path, body) = line.split_once(' ').unwrap();
            match body.split_once(" -- ") {
                Some((body, word)) => refused(&server, &mut client, (path, body), word),
                None => client.put(path, body),
            }
        }
        let config = client.get("/vm/config").json();
        assert_eq!(config["drives"][0]["drive_id"], "d");
        assert_eq!(config["network-interfaces"][0]["iface_id"], "n");
        assert_eq!(config["machine-config"]["vcpu_count"], 2);
        for (name, word) in [("output", "spin"), ("log", "no such file")] {
            let has = || fs::read_to_string(scratch.join(name)).unwrap().contains(word);
            wait_until(name, has);
        }
        client.put(START.0, r#"{"action_type":"FlushMetrics"}"#);
        assert!(!fs::read(scratch.join("metrics")).unwrap().is_empty());
    });
}

/// A snapshot that is refused leaves the VM, its files and those of others as they
/// were; then one is made, and can be loaded.
#[test]
fn a_refused_save_can_be_corrected() {
    if !have_kvm() {
        return;
    }
    for tracked in [false, true] {
        let scratch = Scratch::new();
        let may = [scratch.to_str().unwrap(), guest("").to_str().unwrap()].map(str::to_owned);
        let server = Server::start(&scratch, &["--allow-path", &may[0], "--allow-path", &may[1]]);
        let mut client = server.client();
        let [state, memory, old] = ["state", "memory", "old"].map(|name| scratch.join(name));
        fs::write(&old, "old").unwrap();
        let none = scratch.join("none/file");
        let outside = std::env::temp_dir().join("mote-retry-outside");
        let full = json!({"snapshot_path": state, "mem_file_path": memory});
        let difference = with(&full, "snapshot_type", json!("Diff"));
        let create = "/snapshot/create";
        refused(&server, &mut client, (create, &full.to_string()), "before starting");
        client.put("/boot-source", &boot_source("spin", ""));
        let machine = json!({"vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": tracked});
        client.put("/machine-config", &machine.to_string());
        client.start();
        server.vm.wait_for("spin");
        refused(&server, &mut client, (create, &full.to_string()), "must be paused");
        client.patch("/vm", r#"{"state":"Paused"}"#);
        let refusals = ["snapshot_path", "mem_file_path"].map(|key| {
            [
                (with(&full, key, json!(none)), "parent directory is missing"),
                (with(&full, key, json!(old)), "already exists"),
                (with(&full, key, json!(*scratch)), "already exists"),
                (with(&full, key, json!(outside)), "Permission denied"),
                (with(&full, key, json!("")), key),
                (with(&full, key, json!(7)), key),
            ]
        });
        let same = with(&full, "mem_file_path", json!(state));
        let since =
            if tracked { "take a full snapshot first" } else { "dirty-page tracking is off" };
        let more = [(same, "of this name"), (difference.clone(), since)];
        for (body, word) in refusals.concat().iter().chain(&more) {
            refused(&server, &mut client, (create, &body.to_string()), word);
        }
        client.put(create, &full.to_string());
        refused(&server, &mut client, (create, &full.to_string()), "already exists");
        if tracked {
            let [state, memory] = ["state2", "memory2"].map(|name| json!(scratch.join(name)));
            let second = with(&with(&difference, "snapshot_path", state), "mem_file_path", memory);
            client.put(create, &second.to_string());
        }
        client.patch("/vm", r#"{"state":"Resumed"}"#);
        assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        let folder = scratch.join("second");
        fs::create_dir(&folder).unwrap();
        let second = Server::start(&folder, &[]);
        let mut client = second.client();
        client.put("/snapshot/load", &full.to_string());
        assert_eq!(client.get("/").json()["state"], "Paused");
    }
}
