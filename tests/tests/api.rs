//! The control API: every documented request and error, with its status code,
//! before and after the start; what clients may do to it; and what it does to a
//! running VM.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mote_tests::api::Server;
use mote_tests::{Client, Scratch, Vm, guest, have_kvm, mote, run, wait_until};
use serde_json::{Value, json};

const START: &str = r#"{"action_type":"InstanceStart"}"#;

/// A request, the status of its answer, and a word of it.
struct Case {
    status: u16,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    word: &'static str,
}

/// A section of the table: requests whose answer does not depend on whether a VM
/// runs, those to one that is being described, and those to that one when it runs.
fn cases(section: &str) -> Vec<Case> {
    let table = include_str!("api.txt");
    let (_, rest) = table.split_once(&format!("[{section}]\n")).unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let case = |line: &'static str| {
        let (line, word) = line.split_once(" -- ").unwrap_or((line, ""));
        let mut parts = line.splitn(4, ' ');
        Case {
            status: parts.next().unwrap().parse().unwrap(),
            method: parts.next().unwrap(),
            path: parts.next().unwrap(),
            body: parts.next().unwrap_or_default(),
            word,
        }
    };
    lines.map(case).collect()
}

#[track_caller]
fn check(client: &mut Client, case: &Case, dir: &str) {
    let body = case.body.replace("DIR", dir);
    let answer = client.request(case.method, case.path, &body);
    let said = format!("{} {} {body}: {answer:?}", case.method, case.path);
    assert_eq!(answer.status, case.status, "{said}");
    answer.expect(case.status);
    assert!(answer.body.contains(case.word), "{said}");
    if answer.head.contains("close") {
        // After what is no request, as another method.
        assert!(client.is_closed());
    }
}

#[test]
fn every_request_has_its_status() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    scratch.file("disk", vec![0; 1 << 20]);
    fs::copy(guest("spin"), scratch.join("kernel")).unwrap();
    let server = Server::start(&scratch, &["--id", "table"]);
    let dir = scratch.to_str().unwrap();
    for case in &cases("always") {
        check(&mut server.client(), case, dir);
    }
    for case in &cases("before") {
        check(&mut server.client(), case, dir);
    }
    let mut client = server.client();
    // The CD of the table is the disk, which only one of them may have.
    let cd = scratch.file("cd", vec![0; 1 << 20]);
    let entry =
        json!({"drive_id": "c", "is_root_device": false, "media": "cdrom", "path_on_host": cd});
    client.put("/drives/c", &entry.to_string());
    assert_eq!(client.get("/").json()["state"], "Not started");
    client.start();
    assert_eq!(client.get("/").json()["state"], "Running");
    // The guest's output is in the file, nothing of it elsewhere.
    wait_until("output in the file", || {
        fs::read_to_string(scratch.join("serial")).unwrap().contains("spin")
    });
    for case in cases("always").iter().chain(&cases("after")) {
        check(&mut server.client(), case, dir);
    }
    assert_eq!(client.get("/").json()["id"], "table");
    let lines = metrics(&scratch.join("metrics"));
    assert!(sum(&lines, "/put_api_requests/actions_fails") >= 2);
    assert!(sum(&lines, "/vcpu/exit_io_out") > 0);
    assert!(lines[0]["block_a"]["read_bytes"].is_u64());
    let log = fs::read_to_string(scratch.join("log")).unwrap();
    assert!(log.contains(" [table:main:ERROR] "), "{log}");
    assert_eq!(server.vm.out.text(), "");
    server.vm.signal(libc::SIGTERM);
    server.vm.end().expect(128 + libc::SIGTERM);
}

/// The lines of metrics in a file; one may just be written.
fn metrics(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What all lines together say of a count.
fn sum(lines: &[Value], count: &str) -> u64 {
    let of = |line: &Value| line.pointer(count).and_then(Value::as_u64).unwrap();
    lines.iter().map(of).sum()
}

/// A line when the VM starts, which says what that took, one every now and then,
/// and one at the end, with or without a socket.
#[test]
fn metrics_are_written_by_themselves() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.join("metrics");
    let path = file.to_str().unwrap();
    let started = "/start_us/vm__memory__interrupt_controllers";
    let periodic = ["--metrics-path", path, "--metrics-period", "1"];
    let server = Server::start(&scratch, &periodic);
    let mut client = server.with_guest("spin");
    assert_eq!(metrics(&file).len(), 0);
    client.start();
    wait_until("three lines", || metrics(&file).len() >= 3);
    assert!(metrics(&file)[0].pointer(started).unwrap().as_u64() > Some(0));
    client.get("/version");
    let before = metrics(&file).len();
    server.vm.signal(libc::SIGTERM);
    server.vm.end().expect(128 + libc::SIGTERM);
    let lines = metrics(&file);
    assert!(lines.len() > before);
    assert_eq!(sum(&lines, "/get_api_requests/vmm_version_count"), 1);
    assert_eq!(sum(&lines, "/put_api_requests/boot_source_count"), 1);
    fs::remove_file(&file).unwrap();
    let config = json!({"boot-source": {"kernel_image_path": guest("hello")}});
    let vm = scratch.file("vm.json", config.to_string());
    let command = &mut mote(["--no-api", "--metrics-path", path, "--config-file"]);
    run(command.arg(vm)).expect(0);
    let lines = metrics(&file);
    assert!(sum(&lines, "/vcpu/exit_io_out") > 0, "{lines:?}");
    assert!(lines[0].pointer(started).unwrap().as_u64() > Some(0));
}

#[test]
fn what_is_described_is_shown() {
    let scratch = Scratch::new();
    let disk = scratch.file("disk", vec![0; 1 << 20]);
    let server = Server::start(&scratch, &[]);
    let mut client = server.with_guest("hello");
    assert_eq!(
        client.get("/").json(),
        json!({"id": "anonymous-instance", "state": "Not started",
               "vmm_version": env!("CARGO_PKG_VERSION"), "app_name": "Mote"})
    );
    let usual = json!({"vcpu_count": 1, "mem_size_mib": 128, "smt": false,
                       "track_dirty_pages": false, "cpu_template": "None", "huge_pages": "None"});
    assert_eq!(client.get("/machine-config").json(), usual);
    client.put("/machine-config", r#"{"vcpu_count":3,"mem_size_mib":99}"#);
    client.patch("/machine-config", r#"{"mem_size_mib":98}"#);
    let entry = json!({"drive_id": "d", "is_root_device": false, "path_on_host": disk});
    client.put("/drives/d", &entry.to_string());
    let nic = r#"{"iface_id":"n","host_dev_name":"tap9"}"#;
    client.put("/network-interfaces/n", nic);
    let all = client.get("/vm/config").json();
    assert_eq!(all["machine-config"]["vcpu_count"], 3);
    assert_eq!(all["machine-config"]["mem_size_mib"], 98);
    assert_eq!(all["boot-source"]["boot_args"], "console=ttyS0");
    assert_eq!(all["drives"][0]["drive_id"], "d");
    assert_eq!(all["network-interfaces"][0]["host_dev_name"], "tap9");
    // What is shown is a config file.
    let file = scratch.file("again.json", all.to_string());
    let other = Scratch::new();
    drop(client);
    drop(server);
    let config = fs::read_to_string(&file).unwrap().replace("tap9", "/");
    let bad = scratch.file("bad.json", config);
    let mut command = mote(["--api-sock", "x", "--config-file"]);
    let end = run(command.current_dir(&*other).arg(bad));
    end.expect(2).complains(&["bad.json", "host_dev_name"]);
}

/// Starts by a file, with and without a socket, and ends as Firecracker's
/// process ends: with 0, also when the guest resets.
#[test]
fn a_config_file_starts_at_once() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for (name, on_reset, code) in
        [("hello", &[][..], 0), ("reset", &[], 0), ("reset", &["--on-reset", "exit"], 7)]
    {
        let kernel = guest(name);
        let boot = json!({"kernel_image_path": kernel, "boot_args": "by=i8042"});
        let config = json!({"boot-source": boot, "drives": [],
                            "vsock": null, "balloon": null, "pmem": []});
        let file = scratch.file("vm.json", config.to_string());
        let mut command = mote(["--no-api", "--config-file"]);
        let mut vm = Vm::start(command.arg(file).args(on_reset));
        if name == "reset" {
            vm.wait_for("boot");
            vm.send("r");
        }
        vm.end().expect(code);
    }
    let config = json!({"boot-source": {"kernel_image_path": guest("spin")}});
    let file = scratch.file("vm.json", config.to_string());
    let server = Server::start(&scratch, &["--config-file", file.to_str().unwrap()]);
    assert_eq!(server.client().get("/").json()["state"], "Running");
}

#[test]
fn a_start_that_fails_can_be_tried_again() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    let mut client = server.with_guest("hello");
    client.put("/network-interfaces/n", r#"{"iface_id":"n","host_dev_name":"no-such-tap"}"#);
    let disk = scratch.file("disk", vec![0; 1 << 20]);
    let entry = json!({"drive_id": "d", "is_root_device": false, "path_on_host": disk}).to_string();
    client.put("/drives/d", &entry);
    fs::remove_file(&disk).unwrap();
    for _ in 0..3 {
        let answer = client.request("PUT", "/actions", START);
        assert!(answer.expect(400).body.contains("no such file"), "{answer:?}");
    }
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let answer = client.request("PUT", "/actions", START);
    assert!(answer.expect(400).body.contains("no-such-tap"), "{answer:?}");
    assert_eq!(client.get("/").json()["state"], "Not started");
}

#[test]
fn a_guest_is_paused_and_resumed() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &[]);
    let mut client = server.with_guest("echo");
    client.start();
    for round in 0..20 {
        let word = format!("word{round}.\n");
        server.vm.send(&word);
        server.vm.wait_for(&word[..word.len() - 1]);
        client.patch("/vm", r#"{"state":"Paused"}"#);
        assert_eq!(client.get("/").json()["state"], "Paused");
        let late = format!("late{round}.\n");
        server.vm.send(&late);
        // Nothing of a paused VM runs.
        let pid = server.vm.pid();
        thread::sleep(Duration::from_millis(20));
        assert!(mote_tests::proc::thread_sleeps(pid, "vcpu0"));
        assert!(!server.vm.out.text().contains(&late[..late.len() - 1]));
        client.patch("/vm", r#"{"state":"Resumed"}"#);
        server.vm.wait_for(&late[..late.len() - 1]);
    }
}

/// What the OpenAPI file describes is exactly what is there: its paths and
/// methods, the keys of its bodies, what has to be in them, and the statuses.
#[test]
fn the_openapi_file_is_true() {
    let text = include_str!("../../monitor/src/api/openapi.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    let path_of = |path: &str| path.replace("{drive_id}", "a").replace("{iface_id}", "a");
    let mut known = Vec::new();
    for (path, methods) in file["paths"].as_object().unwrap() {
        for (method, told) in methods.as_object().unwrap() {
            let (path, method) = (path_of(path), method.to_uppercase());
            if method == "GET" {
                let answer = server.client().get(&path);
                let content = &told["responses"]["200"]["content"];
                if let Some(schema) = content.pointer("/application~1json/schema") {
                    conforms(&file, schema, &answer.expect(200).json());
                }
            } else {
                let schema = &told["requestBody"]["content"]["application/json"]["schema"];
                check_body(&server, (&method, &path), &file, schema);
            }
            known.push((method, path));
        }
    }
    // And nothing else is.
    for case in ["always", "before", "after"].iter().flat_map(|name| cases(name)) {
        let (path, _) = case.path.split_once('?').unwrap_or((case.path, ""));
        let parts: Vec<&str> = path.split('/').collect();
        let path = match parts[..] {
            ["", first @ ("drives" | "network-interfaces"), _] => format!("/{first}/a"),
            _ => path.to_owned(),
        };
        let found = known.contains(&(case.method.to_owned(), path));
        let absent = ["Invalid request", "method ", "snapshots"];
        let absent = absent.iter().any(|word| case.word.starts_with(word))
            || case.word.starts_with("no ") && !case.word.starts_with("no such");
        assert!(found != absent, "{} {}", case.method, case.path);
    }
}

fn resolve<'a>(file: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => file.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// A value has what it must have, and nothing but what it may have.
fn conforms(file: &Value, schema: &Value, value: &Value) {
    let schema = resolve(file, schema);
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(!value[key.as_str().unwrap()].is_null(), "no {key}: {value}");
    }
    for (key, value) in value.as_object().unwrap() {
        assert!(properties.contains_key(key), "{key}: {value}");
        conforms(file, &properties[key], value);
    }
}

/// What a refusal says is taken, is what the file says is taken.
fn check_body(server: &Server, (method, path): (&str, &str), file: &Value, schema: &Value) {
    let schema = resolve(file, schema);
    let mut client = server.client();
    let answer = client.request(method, path, r#"{"no-such-key":1}"#);
    let fault = answer.expect(400).json()["fault_message"].to_string();
    let properties = schema["properties"].as_object().unwrap();
    let (_, expected) = fault.split_once("expected").unwrap();
    let mut taken: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let mut told: Vec<&str> = properties.keys().map(String::as_str).collect();
    taken.sort_unstable();
    told.sort_unstable();
    assert_eq!(taken, told, "{method} {path}: {fault}");
    if let Some(required) = schema["required"].as_array() {
        let answer = client.request(method, path, "{}");
        let fault = answer.expect(400).json()["fault_message"].to_string();
        let names = |key: &Value| fault.contains(&format!("`{}`", key.as_str().unwrap()));
        assert!(required.iter().any(names), "{method} {path}: {fault}");
    }
}

/// A guest that asks for its drives' first bytes finds another medium, or none,
/// when its CD-ROM is changed; and only images beneath the directories allowed
/// can be inserted.
#[test]
fn cdroms_are_changed_while_the_vm_runs() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let images = scratch.join("images");
    fs::create_dir(&images).unwrap();
    let image = |name: &str, blocks: usize| {
        let path = images.join(name);
        fs::write(&path, vec![7; blocks * 2048]).unwrap();
        path
    };
    let (first, second) = (image("first", 10), image("second", 20));
    let outside = scratch.file("outside", vec![0; 4096]);
    fs::copy(guest("spin"), images.join("kernel")).unwrap();
    let server = Server::start(&scratch, &["--allow-path", images.to_str().unwrap()]);
    let mut client = server.client();
    // Outside nothing can be opened, not even before the start.
    let boot = json!({"kernel_image_path": guest("spin")}).to_string();
    let answer = client.request("PUT", "/boot-source", &boot);
    assert!(answer.expect(400).body.contains("ermission denied"), "{answer:?}");
    let boot = json!({"kernel_image_path": images.join("kernel")}).to_string();
    client.put("/boot-source", &boot);
    let entry =
        json!({"drive_id": "c", "is_root_device": false, "media": "cdrom", "path_on_host": first});
    client.put("/drives/c", &entry.to_string());
    client.start();
    let insert = |path: &Path| json!({"drive_id": "c", "path_on_host": path}).to_string();
    client.patch("/drives/c", &insert(&second));
    let shown = client.get("/vm/config").json();
    assert_eq!(shown["drives"][0]["path_on_host"], second.to_str().unwrap());
    // The new one is locked against writers, the old one is free.
    assert_eq!((is_locked(&first), is_locked(&second)), (false, true));
    let answer = client.request("PATCH", "/drives/c", &insert(&outside));
    assert!(answer.expect(400).body.contains("ermission denied"), "{answer:?}");
    client.patch("/drives/c", r#"{"drive_id":"c","eject":true}"#);
    assert!(!is_locked(&second));
    client.patch("/drives/c", &insert(&first));
    assert!(is_locked(&first));
    let answer = client.request("PATCH", "/drives/c", &insert(&images));
    assert!(answer.expect(400).body.contains("regular file"), "{answer:?}");
    client.get("/").expect(200);
}

/// Whether a VM reads the file: no writer gets its lock.
fn is_locked(path: &Path) -> bool {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::options().write(true).open(path).unwrap();
    // SAFETY: a lock request on a live descriptor with a live structure.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as libc::c_short;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) != 0
    }
}

/// `mote ctl` for people, with the words of the API where it refuses.
#[test]
fn people_have_a_client_too() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &["--id", "mine"]);
    server.with_guest("spin").start();
    let ctl = |args: &[&str]| {
        let mut command = mote(["ctl", "--socket"]);
        run(command.arg(&server.socket).args(args))
    };
    assert!(ctl(&["info"]).expect(0).out.contains("state    Running\n"));
    ctl(&["pause"]).expect(0);
    let info: Value = serde_json::from_str(&ctl(&["info", "--json"]).expect(0).out).unwrap();
    assert_eq!((&info["state"], &info["id"]), (&json!("Paused"), &json!("mine")));
    ctl(&["resume"]).expect(0);
    assert!(ctl(&["metrics"]).expect(0).out.contains("mote_vcpu_exit_io_out_total"));
    let all: Value = serde_json::from_str(&ctl(&["metrics", "--json"]).expect(0).out).unwrap();
    assert!(all["mote_put_api_requests_actions_count_total"].as_u64() > Some(0));
    ctl(&["eject", "x"]).expect(1).complains(&["Invalid block device ID"]);
    ctl(&["grow", "x"]).expect(1).complains(&["Invalid block device ID"]);
    ctl(&["power"]).expect(1).complains(&["power button"]);
    ctl(&["fly"]).expect(2).complains(&["'fly'"]);
    drop(server);
    let mut command = mote(["ctl", "info", "--socket"]);
    run(command.arg(scratch.join("api.sock"))).expect(3);
}
