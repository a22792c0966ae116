//! What the control API changes in a running VM, as its guest finds it.

use std::fs::File;

use mote_tests::api::Server;
use mote_tests::network::{self, Interface, frame};
use mote_tests::{Client, Scratch, Vm, guest, have_kvm, mote, run};
use serde_json::{Value, json};

/// Times out of the guest's last line that says how long its reads took.
fn pace(server: &mut Server, times: usize) -> f64 {
    server.vm.send("\n");
    let lines = || -> Vec<String> {
        let out = server.vm.out.text();
        // The last one may not be whole yet.
        let lines = out.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
        let lines = lines.filter(|line| line.starts_with("pace took "));
        lines.map(str::to_owned).collect()
    };
    mote_tests::wait_until("the reads", || lines().len() >= times);
    let last = lines().pop().unwrap();
    last.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A count of `GET /metrics`.
fn count(client: &mut Client, name: &str) -> u64 {
    let text = client.get("/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

fn with_disk(scratch: &Scratch, server: &Server) -> Client {
    let disk = scratch.file("disk", vec![0; 1 << 20]);
    let mut client = server.client();
    let boot = mote_tests::api::boot_source("disk", "do=changes");
    client.put("/boot-source", &boot);
    let entry = json!({"drive_id": "d", "is_root_device": false, "path_on_host": disk});
    client.put("/drives/d", &entry.to_string());
    client.start();
    server.vm.wait_for("2048 sectors\n");
    client
}

/// The guest is told by an interrupt that its disk has grown, and uses what is
/// new; also when that happened while it was paused. A file that has become
/// smaller, or is no whole sectors, is refused and changes nothing.
#[test]
fn a_disk_grows_under_its_driver() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &[]);
    let mut client = with_disk(&scratch, &server);
    let path = scratch.join("disk");
    let patch = json!({"drive_id": "d", "path_on_host": path}).to_string();
    let grow = |size: u64| {
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
    };
    grow(2 << 20);
    client.patch("/drives/d", &patch);
    server.vm.wait_for("4096 sectors now\n");
    let end = |from: usize| std::fs::read(&path).unwrap()[from..].to_vec();
    assert_eq!(end((2 << 20) - 4096), [0x5a; 4096]);
    grow((2 << 20) + 100);
    client.request("PATCH", "/drives/d", &patch).expect(400);
    client.patch("/vm", r#"{"state":"Paused"}"#);
    grow(3 << 20);
    run(mote(["ctl", "grow", "d", "--socket"]).arg(&server.socket)).expect(0);
    client.patch("/vm", r#"{"state":"Resumed"}"#);
    server.vm.wait_for("6144 sectors now\n");
    assert_eq!(end((3 << 20) - 4096), [0x5a; 4096]);
    pace(&mut server, 1);
    server.vm.send("q");
    let end = server.vm.end();
    assert_eq!(end.expect(0).out.matches("sectors now").count(), 2);
}

/// So it is of a larger disk that a snapshot is restored with.
#[test]
fn a_larger_disk_at_a_restore_is_announced() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let beneath = scratch.join(".");
    let beneath = beneath.to_str().unwrap();
    let kernel = guest("disk");
    let kernels = kernel.parent().unwrap().to_str().unwrap();
    let allowed = ["--allow-path", beneath, "--allow-path", kernels];
    let server = Server::start(&scratch, &allowed);
    let mut client = with_disk(&scratch, &server);
    client.patch("/vm", r#"{"state":"Paused"}"#);
    let [state, memory] = ["state", "memory"].map(|name| scratch.join(name));
    let body = json!({"snapshot_path": state, "mem_file_path": memory});
    client.put("/snapshot/create", &body.to_string());
    drop((client, server));
    for sectors in [2048, 4096] {
        let disk = scratch.file("other", vec![0; sectors * 512]);
        let disk = format!("{},id=d", disk.display());
        let mut restore = mote(["restore", beneath, "--disk", &disk]);
        let mut vm = Vm::start(&mut restore);
        vm.send("\n");
        if sectors > 2048 {
            vm.wait_for("4096 sectors now\n");
        }
        vm.wait_for("pace took ");
        vm.send("q");
        let end = vm.end();
        let told = end.expect(0).out.matches("sectors now").count();
        assert_eq!(told, usize::from(sectors > 2048));
    }
}

/// A driver that reads the capacity between two looks at the generation never has
/// one of two sizes, however often the medium changes meanwhile.
#[test]
fn a_capacity_is_read_whole() {
    const CHANGES: usize = 20_000;
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let [small, large] = [("small", 0x800), ("large", 0x1_0000_1000)].map(|(name, sectors)| {
        let path = scratch.file(name, []);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(sectors * 512).unwrap();
        json!({"drive_id": "cd", "path_on_host": path}).to_string()
    });
    let mut server = Server::start(&scratch, &["--allow-path", "/"]);
    let mut client = server.client();
    client.put("/boot-source", &mote_tests::api::boot_source("disk", "do=capacity"));
    let cd = json!({"drive_id": "cd", "media": "cdrom", "is_root_device": false,
                    "path_on_host": scratch.join("small")});
    client.put("/drives/cd", &cd.to_string());
    client.start();
    server.vm.wait_for("watching\n");
    for _ in 0..CHANGES / 2 {
        client.patch("/drives/cd", &large);
        client.patch("/drives/cd", &small);
    }
    server.vm.send("q");
    let out = server.vm.end().expect(0).out.clone();
    let (_, counts) = out.split_once("changes ").unwrap();
    let (changes, torn) = counts.split_once(", torn ").unwrap();
    assert_eq!(torn, "0\ncapacity ok\n", "{out}");
    assert!(changes.parse::<usize>().unwrap() > CHANGES / 200, "{out}");
}

/// Limits are set, changed and taken away while a driver is at work: 120 reads
/// with nothing in the bucket to begin with but what one refill gives.
#[test]
fn a_drives_limit_changes_under_its_driver() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let mut server = Server::start(&scratch, &[]);
    let mut client = with_disk(&scratch, &server);
    let throttled = "mote_block_rate_limiter_throttled_events_total{id=\"d\"}";
    let mut times = Vec::new();
    for (index, size) in [0, 5, 10, 0].into_iter().enumerate() {
        let ops = json!({"size": size, "refill_time": 100});
        let limit = json!({"drive_id": "d", "rate_limiter": {"ops": ops}});
        let before = count(&mut client, throttled);
        client.patch("/drives/d", &limit.to_string());
        times.push(pace(&mut server, index + 1));
        let waited = count(&mut client, throttled) > before;
        assert_eq!(waited, size > 0, "{size}");
    }
    let [free, slow, fast, freed] = times[..] else { unreachable!() };
    assert!(slow > 1.5 * fast && fast > 2.0 * free, "{times:?}");
    assert!(fast > 2.0 * freed, "{times:?}");
    // Bytes have a bucket of their own: 120 reads of 4096 bytes.
    let bandwidth = json!({"size": 20480, "refill_time": 100});
    let limit = json!({"drive_id": "d", "rate_limiter": {"bandwidth": bandwidth}});
    client.patch("/drives/d", &limit.to_string());
    let slow = pace(&mut server, 5);
    assert!(slow > 2.0 * freed, "{slow} {times:?}");
    server.vm.send("q");
    server.vm.end().expect(0);
}

/// The same of a network interface, each direction by itself.
#[test]
fn an_interfaces_limits_change_under_its_driver() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let scratch = Scratch::new();
        let tap = Interface::new("vm0");
        let server = Server::start(&scratch, &[]);
        let mut client = server.client();
        client.put("/boot-source", &mote_tests::api::boot_source("net", "do=echo"));
        client.put(
            "/network-interfaces/n",
            r#"{"iface_id":"n","host_dev_name":"vm0","guest_mac":"02:00:00:00:00:01"}"#,
        );
        client.start();
        server.vm.wait_for("echo done");
        tap.wait_for_echo(&frame(100, 1));
        let directions = ["rx", "tx"];
        let waits = |client: &mut Client| {
            directions.map(|direction| {
                let name = format!("mote_net_{direction}_rate_limiter_throttled_total");
                count(client, &(name + "{id=\"n\"}"))
            })
        };
        let limit = |client: &mut Client, direction: &str, size: u64| {
            let mut patch = json!({"iface_id": "n"});
            patch[format!("{direction}_rate_limiter")] =
                json!({"ops": {"size": size, "refill_time": 50}});
            client.patch("/network-interfaces/n", &patch.to_string());
        };
        for (limited, direction) in directions.into_iter().enumerate() {
            for size in [1, 0] {
                limit(&mut client, direction, size);
                let before = waits(&mut client);
                (0..10).for_each(|seed| assert!(tap.send(&frame(200, seed))));
                (0..10).for_each(|seed| assert_eq!(tap.receive(), frame(200, seed)));
                let after = waits(&mut client);
                for side in 0..2 {
                    let waited = after[side] > before[side];
                    assert_eq!(waited, side == limited && size > 0, "{direction} {size}");
                }
            }
        }
    });
}

/// The power button, as Firecracker's clients press it: the guest gets the
/// interrupt of its ACPI event device, and ends in order.
#[test]
fn the_power_button_is_pressed() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    let mut client = server.client();
    let boot = mote_tests::api::boot_source("button", "then=off");
    client.put("/boot-source", &boot);
    client.start();
    server.vm.wait_for("ready\n");
    // Pressed while it is paused, it is there afterwards.
    client.patch("/vm", r#"{"state":"Paused"}"#);
    client.put("/actions", r#"{"action_type":"SendCtrlAltDel"}"#);
    let state: Value = client.get("/").json();
    assert_eq!(state["state"], "Paused");
    assert_eq!(server.vm.out.text(), "ready\n");
    client.patch("/vm", r#"{"state":"Resumed"}"#);
    assert_eq!(server.vm.end().expect(0).out, "ready\npressed\n");
}
