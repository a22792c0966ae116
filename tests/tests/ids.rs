//! Ids of drives and interfaces, of every kind and length that Firecracker takes:
//! as clients name them, a guest reads them, and snapshots and metrics keep them.

use std::fs;
use std::path::Path;

use mote_tests::api::{Client, Server, boot_source};
use mote_tests::{Scratch, guest, have_kvm, run, tiny};
use serde_json::json;

/// Ids of one VM's drives, and what the guest reads of each.
fn ids() -> Vec<(String, String)> {
    let pair = |id: &str, serial: &str| (id.to_owned(), serial.to_owned());
    vec![
        pair("rootfs", "rootfs"),
        pair("диск_٣", "диск_٣"),
        pair("12345678901234567890", "12345678901234567890"),
        pair("5f3a0c1e-9b7d-4c22-8f10-3d2b1a000001", "5f3a0c1e-9b7d-4c22-8"),
        pair("volume_of_a_tenant_called_a", "volume_of_a_tenan:4"),
        pair("volume_of_a_tenant_called_b", "volume_of_a_tenan:5"),
        (format!("根{}", "é".repeat(480)), format!("根{}", "é".repeat(8))),
    ]
}

fn describe(client: &mut Client, disk: &Path) {
    for (id, _) in ids() {
        let body = json!({"drive_id": id, "is_root_device": false, "is_read_only": true,
            "path_on_host": disk});
        client.put(&format!("/drives/{id}"), &body.to_string());
    }
}

#[test]
fn a_guest_reads_them_as_serial_numbers() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.file("disk", [0; 4096]);
    let server = Server::start(&scratch, &[]);
    let mut client = server.client();
    client.put("/boot-source", &boot_source("disk", "do=serials"));
    describe(&mut client, &disk);
    client.start();
    server.vm.wait_for("serials ok");
    let out = server.vm.out.text();
    let read: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("serial ")).collect();
    let wanted: Vec<String> = ids().into_iter().map(|(_, serial)| serial).collect();
    assert_eq!(read, wanted);
}

#[test]
fn requests_metrics_and_snapshots_keep_them() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.file("disk", [0; 4096]);
    let guests = guest("");
    let [own, guests] = [&*scratch as &Path, &guests].map(|path| path.to_str().unwrap());
    let allow = ["--allow-path", own, "--allow-path", guests];
    let files = [scratch.join("state"), scratch.join("memory")];
    let files = json!({"snapshot_path": files[0], "mem_file_path": files[1]}).to_string();
    for restored in [false, true] {
        let folder = scratch.join(if restored { "second" } else { "first" });
        fs::create_dir(&folder).unwrap();
        let server = Server::start(&folder, &allow);
        let mut client = server.client();
        describe(&mut client, &disk);
        if restored {
            client.put("/snapshot/load", &files);
        } else {
            client.put("/boot-source", &boot_source("spin", ""));
            client.start();
            server.vm.wait_for("spin");
            client.patch("/vm", r#"{"state":"Paused"}"#);
            client.put("/snapshot/create", &files);
        }
        let metrics = client.get("/metrics").body;
        for (id, _) in ids() {
            assert!(metrics.contains(&format!("{{id=\"{id}\"}}")), "{id}: {metrics}");
            let limit =
                json!({"drive_id": id, "rate_limiter": {"ops": {"size": 9, "refill_time": 9}}});
            client.patch(&format!("/drives/{id}"), &limit.to_string());
        }
    }
}

/// What is no id is refused without a word to the terminal or to the log's reader.
#[test]
fn what_is_no_id_is_refused_in_print() {
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let server = Server::start(&scratch, &["--log-path", log.to_str().unwrap()]);
    let mut client = server.client();
    let long = "a".repeat(40_000);
    for id in ["", "a b", "a\u{1b}[31mb", "a\u{7f}", "\u{9b}31m", "\u{202e}a", "🖴", &long] {
        for (path, body) in [
            ("/drives/a", json!({"drive_id": id, "is_root_device": false, "path_on_host": "d"})),
            ("/network-interfaces/a", json!({"iface_id": id, "host_dev_name": "t"})),
        ] {
            client.request("PUT", path, &body.to_string()).expect(400);
        }
        if id != long {
            let end = run(&mut tiny("hello", ["--disk", &format!("d,id={id}")]));
            assert!(!end.expect(2).err.trim_end().contains(char::is_control), "{:?}", end.err);
        }
    }
    let log = fs::read_to_string(log).unwrap();
    assert!(log.lines().all(|line| !line.contains(char::is_control)), "{log:?}");
}
