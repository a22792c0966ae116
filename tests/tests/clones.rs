//! Snapshots by the control API: taken of a paused VM, loaded by another
//! process, with what the devices have behind them given again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use mote_tests::api::{Client, Server};
use mote_tests::network::{self, Interface, frame};
use mote_tests::proc::status;
use mote_tests::{Scratch, guest, have_kvm, mote, run, vm};
use serde_json::{Value, json};

const PAUSED: &str = r#"{"state":"Paused"}"#;
const RESUMED: &str = r#"{"state":"Resumed"}"#;

/// The two files of a snapshot, as a request names them.
fn files(folder: &Path) -> Value {
    json!({"snapshot_path": folder.join("s"), "mem_file_path": folder.join("m")})
}

/// A request to load them.
fn load(folder: &Path, more: Value) -> String {
    let mut body = files(folder);
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body.to_string()
}

/// A server that may open files in `folder`, with its socket there.
fn server(folder: &Path) -> Server {
    Server::start(folder, &["--allow-path", folder.to_str().unwrap()])
}

fn folder(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let folder = scratch.join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

/// Describes a guest, whose file has to be where files may be opened.
fn describe(client: &mut Client, folder: &Path, name: &str, args: &str) {
    let kernel = folder.join("kernel");
    fs::copy(guest(name), &kernel).unwrap();
    let boot = json!({"kernel_image_path": kernel, "boot_args": args});
    client.put("/boot-source", &boot.to_string());
}

/// What is typed comes back.
fn echoes(server: &mut Server, word: &str) {
    server.vm.send(word);
    server.vm.wait_for(word);
}

#[test]
fn a_vm_is_saved_and_restored_elsewhere() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let first = folder(&scratch, "first");
    let mut server_ = server(&first);
    let mut client = server_.client();
    describe(&mut client, &first, "echo", "");
    let create = files(&first).to_string();
    client.request("PUT", "/snapshot/create", &create).expect(400);
    client.put("/machine-config", r#"{"vcpu_count":2,"mem_size_mib":96}"#);
    client.start();
    server_.vm.wait_for("ready\n");
    let refused = |client: &mut Client, body: &str, word: &str| {
        let answer = client.request("PUT", "/snapshot/create", body);
        let why = answer.expect(400).json()["fault_message"].to_string();
        assert!(why.contains(word), "{why}");
    };
    refused(&mut client, &create, "paused");
    client.patch("/vm", PAUSED);
    // Nothing appears where it may not, or where something is.
    let there = scratch.file("there", b"mine");
    for (path, word) in [
        (scratch.join("elsewhere"), "ermission denied"),
        (there.clone(), "ermission denied"),
        (first.join("no").join("such"), "parent directory"),
        (first.join("api.sock"), "api.sock"),
        ("".into(), ""),
        (first.clone(), "exists"),
    ] {
        let body = json!({"snapshot_path": path, "mem_file_path": first.join("m")});
        refused(&mut client, &body.to_string(), word);
        let body = json!({"mem_file_path": path, "snapshot_path": first.join("s")});
        refused(&mut client, &body.to_string(), word);
    }
    let both = first.join("m");
    let body = json!({"snapshot_path": both, "mem_file_path": both});
    refused(&mut client, &body.to_string(), "exists");
    assert_eq!(fs::read(&there).unwrap(), b"mine");
    assert!(!first.join("m").exists() && !first.join("s").exists());
    client.put("/snapshot/create", &create);
    let bytes = fs::read(first.join("s")).unwrap();
    refused(&mut client, &create, "exists");
    assert_eq!(fs::read(first.join("s")).unwrap(), bytes);
    // It goes on, and can be saved again.
    client.patch("/vm", RESUMED);
    echoes(&mut server_, "one");
    client.patch("/vm", PAUSED);
    let ctl = |words: &[&str]| {
        let mut command = mote(["ctl", "--socket"]);
        run(command.arg(&server_.socket).args(words)).expect(0);
    };
    let again = ["s2", "m2"].map(|name| first.join(name));
    let [state, memory] = again.each_ref().map(|path| path.to_str().unwrap());
    ctl(&["snapshot", state, memory]);
    ctl(&["resume"]);
    server_.vm.send("\u{4}");
    server_.vm.end().expect(0);

    // Two clones at once: one is paused at first.
    let clones = ["a", "b"].map(|name| folder(&scratch, name));
    for (index, clone) in clones.iter().enumerate() {
        fs::copy(first.join("s"), clone.join("s")).unwrap();
        fs::copy(first.join("m"), clone.join("m")).unwrap();
        let mut server = server(clone);
        let mut client = server.client();
        let body = load(clone, json!({"resume_vm": index == 1}));
        client.put("/snapshot/load", &body);
        assert_eq!(client.get("/machine-config").json()["mem_size_mib"], 96);
        assert_eq!(client.get("/machine-config").json()["vcpu_count"], 2);
        client.request("PUT", "/snapshot/load", &body).expect(400);
        if index == 0 {
            assert_eq!(client.get("/").json()["state"], "Paused");
            server.vm.send("early");
            // Saved before it ever ran, it is the same.
            let body =
                json!({"snapshot_path": clone.join("s2"), "mem_file_path": clone.join("m2")});
            client.put("/snapshot/create", &body.to_string());
            let memory = |name| fs::read(clone.join(name)).unwrap();
            let (was, is) = (memory("m"), memory("m2"));
            let differs = was.chunks(4096).zip(is.chunks(4096)).filter(|(a, b)| a != b);
            // The VM generation ID, and whose it is.
            assert_eq!(differs.count(), 2);
            client.patch("/vm", RESUMED);
            server.vm.wait_for("early");
        }
        assert_eq!(client.get("/").json()["state"], "Running");
        echoes(&mut server, "two");
        server.vm.send("\u{4}");
        let out = server.vm.end().expect(0).out.clone();
        assert!(!out.contains("ready") && !out.contains("one"), "{out}");
    }
}

/// What cannot be loaded is refused by name, and the next try may be better.
#[test]
fn what_cannot_be_loaded_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let first = folder(&scratch, "first");
    let server_ = server(&first);
    let mut client = server_.client();
    describe(&mut client, &first, "echo", "");
    client.start();
    server_.vm.wait_for("ready\n");
    client.patch("/vm", PAUSED);
    client.put("/snapshot/create", &files(&first).to_string());
    fs::remove_file(first.join("api.sock")).unwrap();

    let server_ = server(&first);
    let mut client = server_.client();
    let mut refused = |body: Value, word: &str| {
        let answer = client.request("PUT", "/snapshot/load", &body.to_string());
        let why = answer.expect(400).json()["fault_message"].to_string();
        assert!(why.contains(word), "{why}");
    };
    let (state, memory) = (first.join("s"), first.join("m"));
    refused(json!({"snapshot_path": first.join("no"), "mem_file_path": memory}), "no such file");
    refused(json!({"snapshot_path": memory, "mem_file_path": memory}), "not a file of a snapshot");
    refused(json!({"snapshot_path": state}), "mem_file_path");
    let backend = |kind| json!({"backend_type": kind, "backend_path": memory});
    refused(json!({"snapshot_path": state, "mem_backend": backend("Uffd")}), "uffd");
    let both =
        json!({"snapshot_path": state, "mem_file_path": memory, "mem_backend": backend("File")});
    refused(both, "mem_file_path");
    fs::write(first.join("cut"), &fs::read(&state).unwrap()[..4000]).unwrap();
    let body = json!({"snapshot_path": first.join("cut"), "mem_backend": backend("File")});
    refused(body, "4000 bytes long");
    // The same process still takes what is right.
    client.put("/snapshot/load", &files(&first).to_string());
    client.patch("/vm", RESUMED);
}

#[test]
fn restored_devices_use_the_files_given_again() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let scratch = Scratch::new();
        let first = folder(&scratch, "first");
        let old = Interface::new("vm0");
        let server_ = server(&first);
        let mut client = server_.client();
        describe(&mut client, &first, "net", "do=echo");
        let nic =
            json!({"iface_id": "n", "host_dev_name": "vm0", "guest_mac": "02:00:00:00:00:01"});
        client.put("/network-interfaces/n", &nic.to_string());
        client.start();
        server_.vm.wait_for("echo done");
        old.wait_for_echo(&frame(100, 1));
        client.patch("/vm", PAUSED);
        client.put("/snapshot/create", &files(&first).to_string());
        drop(client);
        server_.vm.signal(libc::SIGTERM);
        let _ = server_.vm.end();

        let new = Interface::new("vm1");
        let second = folder(&scratch, "second");
        let server = Server::start(&second, &["--allow-path", first.to_str().unwrap()]);
        let mut client = server.client();
        let taps = json!([{"iface_id": "n", "host_dev_name": "vm1"}]);
        let more = json!({"resume_vm": true, "network_overrides": taps});
        client.put("/snapshot/load", &load(&first, more));
        let shown = client.get("/vm/config").json();
        assert_eq!(shown["network-interfaces"][0]["host_dev_name"], "vm1");
        new.wait_for_echo(&frame(300, 2));
    });
}

/// What nobody has touched takes neither room nor memory when it is saved.
#[test]
fn a_save_touches_no_page() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let first = folder(&scratch, "first");
    let again = folder(&scratch, "again");
    // KiB of memory, and of page tables, that the save has taken.
    let grows = |server: &Server, client: &mut Client, to: &Path| {
        let used = || ["VmRSS", "VmPTE"].map(|key| status(server.vm.pid(), key));
        let before = used();
        client.put("/snapshot/create", &files(to).to_string());
        let after = used();
        [0, 1].map(|of| after[of].saturating_sub(before[of]))
    };
    let server_ = server(&first);
    let mut client = server_.client();
    describe(&mut client, &first, "echo", "");
    client.put("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":3584}"#);
    client.start();
    server_.vm.wait_for("ready\n");
    client.patch("/vm", PAUSED);
    let [memory, tables] = grows(&server_, &mut client, &first);
    assert!(memory < 1 << 10 && tables < 100, "{memory} {tables}");
    drop(client);
    server_.vm.signal(libc::SIGTERM);
    let _ = server_.vm.end();
    // The same of one whose memory is in a file, most of it in a hole.
    let server = Server::start(&again, &["--allow-path", scratch.to_str().unwrap()]);
    let mut client = server.client();
    client.put("/snapshot/load", &load(&first, json!({"resume_vm": false})));
    let [memory, tables] = grows(&server, &mut client, &again);
    assert!(memory < 1 << 10 && tables < 100, "{memory} {tables}");
    let [one, other] = [&first, &again].map(|folder| fs::metadata(folder.join("m")).unwrap());
    let more = 512 * other.blocks().abs_diff(one.blocks());
    assert!(more <= 64 << 10, "{more}");
}

/// Filters know the numbers of descriptors before they are made: no thread may
/// have one for itself meanwhile, however slow it is.
#[test]
fn a_slow_thread_takes_no_number() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let first = folder(&scratch, "first");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null"]);
    strace.args(["-e", "trace=ioctl,landlock_restrict_self"]);
    strace.args(["-e", "inject=ioctl:delay_enter=10000"]);
    strace.args(["-e", "inject=landlock_restrict_self:delay_enter=200000"]);
    let socket = first.join("api.sock");
    strace.arg(vm::binary()).arg("--api-sock").arg(&socket);
    strace.arg("--allow-path").arg(&first);
    let mut server = Server::of(&mut strace, socket);
    let mut client = server.client();
    describe(&mut client, &first, "echo", "");
    client.put("/machine-config", r#"{"vcpu_count":4,"mem_size_mib":64}"#);
    client.start();
    server.vm.wait_for("ready\n");
    server.vm.send("\u{4}");
    server.vm.end().expect(0);
}
