//! Snapshots of what has changed since another one: merged with that they are
//! the same as a full one of that moment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_tests::api::{Client, Server};
use mote_tests::network::{self, Interface, frame};
use mote_tests::{Scratch, Vm, guest, have_kvm, mote, run};
use serde_json::json;

const PAUSED: &str = r#"{"state":"Paused"}"#;
const RESUMED: &str = r#"{"state":"Resumed"}"#;

/// A VM that is saved again and again, in directories of its own.
struct Saved {
    scratch: Scratch,
    server: Server,
    client: Client,
}

impl Saved {
    /// Starts a guest of which it is known what changes.
    fn start(name: &str, args: &str, mib: u64, more: impl FnOnce(&mut Client, &Path)) -> Self {
        let scratch = Scratch::new();
        let allow = ["--on-reset", "restart", "--allow-path"];
        let allow = [&allow[..], &[scratch.to_str().unwrap()]].concat();
        let server = Server::start(&scratch, &allow);
        let mut client = server.client();
        let kernel = scratch.join("kernel");
        fs::copy(guest(name), &kernel).unwrap();
        let boot = json!({"kernel_image_path": kernel, "boot_args": args});
        client.put("/boot-source", &boot.to_string());
        let machine = json!({"vcpu_count": 1, "mem_size_mib": mib, "track_dirty_pages": true});
        client.put("/machine-config", &machine.to_string());
        more(&mut client, &scratch);
        client.start();
        Self { scratch, server, client }
    }

    fn request(&self, name: &str, kind: &str) -> String {
        let folder = self.scratch.join(name);
        let _ = fs::create_dir(&folder);
        let (state, memory) = (folder.join("state"), folder.join("memory"));
        json!({"snapshot_path": state, "mem_file_path": memory, "snapshot_type": kind}).to_string()
    }

    /// Saves the VM, which goes on then, once for each name.
    fn save(&mut self, all: &[(&str, &str)]) {
        self.client.patch("/vm", PAUSED);
        for (name, kind) in all {
            let body = self.request(name, kind);
            self.client.put("/snapshot/create", &body);
        }
        self.client.patch("/vm", RESUMED);
    }

    fn tell(&mut self, word: &str, until: &str) {
        self.server.vm.send(word);
        self.server.vm.wait_for(until);
    }

    /// Merges these into a new directory.
    fn merge(&self, from: &[&str], into: &str) -> PathBuf {
        let into = self.scratch.join(into);
        fs::create_dir(&into).unwrap();
        let paths = from.iter().map(|name| self.scratch.join(name));
        let mut command = mote(["merge"]);
        run(command.args(paths).arg(&into)).expect(0);
        into
    }

    /// Both have the same memory, whose length is in MiB.
    fn same(&self, one: &Path, other: &str, mib: u64) {
        let (one, other) = (one.join("memory"), self.scratch.join(other).join("memory"));
        let mut compare = Command::new("cmp");
        compare.args(["-n", &(mib << 20).to_string()]);
        let output = compare.arg(&one).arg(&other).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        assert_eq!(length(&one), length(&other));
    }

    /// KiB on disk.
    fn size(&self, name: &str) -> u64 {
        let file = fs::metadata(self.scratch.join(name).join("memory"));
        file.unwrap().blocks() / 2
    }
}

#[test]
fn a_chain_is_the_same_as_all_at_once() {
    if !have_kvm() {
        return;
    }
    for mib in [128, 5 << 10] {
        let mut image = PathBuf::new();
        let mut vm = Saved::start("snapshot", "disk=1", mib, |client, folder| {
            image = folder.join("disk");
            let sectors: Vec<u8> = (0..64u8).flat_map(|n| [n + 100; 512]).collect();
            fs::write(&image, sectors).unwrap();
            let drive = json!({"drive_id": "disk0", "path_on_host": image,
                "is_root_device": false, "is_read_only": false});
            client.put("/drives/disk0", &drive.to_string());
        });
        vm.server.vm.wait_for("disk ok");
        // To nothing there is no difference.
        vm.client.patch("/vm", PAUSED);
        let body = vm.request("none", "Diff");
        let answer = vm.client.request("PUT", "/snapshot/create", &body);
        let why = answer.expect(400).json()["fault_message"].to_string();
        assert!(why.contains("full"), "{why}");
        assert!(!vm.scratch.join("none/state").exists());
        vm.client.patch("/vm", RESUMED);
        vm.save(&[("base", "Full")]);
        vm.tell("w", "changed");
        vm.save(&[("1", "Diff")]);
        vm.tell("d", "sector 100 true");
        vm.save(&[("2", "Diff")]);
        vm.tell("z", "changed");
        vm.tell("d", "sector 101 true");
        // All three of the same moment.
        vm.save(&[("3", "Diff"), ("4", "Diff"), ("full", "Full")]);
        let merged = vm.merge(&["base", "1", "2", "3"], "merged");
        vm.same(&merged, "full", mib);
        if mib == 128 {
            let merged = vm.merge(&["base", "1", "2", "3", "4"], "also");
            vm.same(&merged, "full", mib);
        }
        // One page of each MiB, and what the program and its tables have.
        assert!(vm.size("1") < 4 * mib + (4 << 10), "{}", vm.size("1"));
        assert!(vm.size("2") < 1 << 10, "{}", vm.size("2"));
        assert!(vm.size("3") < 1 << 10, "{}", vm.size("3"));
        assert!(vm.size("4") < 300, "{}", vm.size("4"));
        vm.tell("m", "marked");
        vm.tell("q", "marked");
        let out = vm.server.vm.end().expect(0).out.clone();
        let hash = out.lines().find_map(|line| line.strip_prefix("marked "));
        let mut again = Vm::start(mote(["restore", "--verify", "--disk"]).args([&image, &merged]));
        again.send("md");
        again.wait_for(&format!("marked {}", hash.unwrap()));
        again.wait_for("sector 102 true");
        again.send("q");
        again.end().expect(0);
    }
}

#[test]
fn a_reset_changes_everything() {
    if !have_kvm() {
        return;
    }
    // Memory in which nothing else is.
    let args = "start=33554432 bytes=8388608";
    let mut vm = Saved::start("touch", args, 128, |_, _| {});
    vm.server.vm.wait_for("ready");
    vm.tell("w", "written");
    vm.save(&[("base", "Full")]);
    vm.server.vm.send("b");
    vm.server.vm.wait_for_times("ready", 2);
    vm.save(&[("1", "Diff"), ("full", "Full")]);
    let merged = vm.merge(&["base", "1"], "merged");
    vm.same(&merged, "full", 128);
    assert!(vm.size("merged") < vm.size("base") - (7 << 10));
    vm.tell("q", "ready");
    vm.server.vm.end().expect(0);
}

#[test]
fn what_a_network_brings_is_a_change() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let tap = Interface::new("vm0");
        let mut vm = Saved::start("net", "do=echo", 128, |client, _| {
            let nic =
                json!({"iface_id": "n", "host_dev_name": "vm0", "guest_mac": "02:00:00:00:00:01"});
            client.put("/network-interfaces/n", &nic.to_string());
        });
        vm.server.vm.wait_for("echo done");
        tap.wait_for_echo(&frame(100, 1));
        vm.save(&[("base", "Full")]);
        for turn in 2..40 {
            tap.wait_for_echo(&frame(1000, turn));
        }
        vm.save(&[("1", "Diff"), ("full", "Full")]);
        let merged = vm.merge(&["base", "1"], "merged");
        vm.same(&merged, "full", 128);
        // Frames that come while nobody looks are there later.
        tap.wait_for_echo(&frame(500, 50));
        vm.save(&[("2", "Diff"), ("more", "Full")]);
        let merged = vm.merge(&["full", "2"], "longer");
        vm.same(&merged, "more", 128);
    });
}

#[test]
fn what_is_not_asked_for_or_does_not_fit_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let folder = |name: &str| {
        let folder = scratch.join(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let [base, one, two, into] = ["base", "one", "two", "into"].map(folder);
    let kernel = guest("snapshot");
    let to = |command: &mut Command, to: &Path| {
        run(command.args(["--then", "exit", "--snapshot"]).arg(to)).expect(0);
    };
    to(mote(["run", "--kernel"]).arg(kernel), &base);
    // Of a guest that is restored once more: its second marker is its own.
    to(mote(["restore", "--diff"]).arg(&base), &one);
    to(mote(["restore"]).arg(&base), &two);
    let refused = |command: &mut Command, code: i32, words: &[&str]| {
        let end = run(command);
        end.expect(code).complains(words);
    };
    let only = ["one", "state", "only what changed", "merge"];
    refused(mote(["restore"]).arg(&one), 3, &only);
    refused(mote(["merge"]).args([&one, &one, &into]), 3, &only);
    let merge = |paths: [&PathBuf; 3], words: &[&str]| {
        refused(mote(["merge"]).args(paths), 3, words);
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    };
    merge([&base, &two, &into], &["two", "full"]);
    // Nobody is waited for at the other end of a pipe.
    let pipe = scratch.join("pipe");
    fs::create_dir(&pipe).unwrap();
    run(Command::new("mkfifo").arg(pipe.join("state"))).expect(0);
    merge([&pipe, &one, &into], &["pipe", "state", "not a file"]);
    merge([&two, &one, &into], &["one", "does not follow"]);
    refused(mote(["merge"]).args([&base, &one, &two]), 3, &["two"]);
    refused(mote(["merge"]).args([&base, &one]), 2, &["INTO"]);
    refused(mote(["restore", "--diff"]).arg(&base), 2, &["--diff"]);
    // A bit of what has changed, and a byte of what it is now.
    let whole = fs::read(one.join("memory")).unwrap();
    for at in [whole.len() - 4000, 12345] {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(one.join("memory"), bad).unwrap();
        merge([&base, &one, &into], &["one", "memory", "checksum"]);
    }
    fs::write(one.join("memory"), whole).unwrap();
    run(mote(["merge"]).args([&base, &one, &into])).expect(0);
    let hash = |from: &Path| {
        let mut vm = Vm::start(mote(["restore", "--verify"]).arg(from));
        vm.send("mq");
        let out = vm.end().expect(0).out.clone();
        let found = out.lines().find_map(|line| line.strip_prefix("marked "));
        found.unwrap().to_owned()
    };
    assert_eq!(hash(&into), hash(&two));
}
