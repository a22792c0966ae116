//! Network interfaces on the real KVM, each on a TAP in a network namespace of
//! the test's own: frames both ways, byte for byte, and guests that attack.
//! "Line N" is one of the flaws that hit systems like this one.

use std::fs;
use std::iter;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mote_tests::network::{self, Interface, attach, frame};
use mote_tests::vm::LIMIT;
use mote_tests::{BUSES, Scratch, Vm, have_kvm, mote, proc, run, tiny};

const USAGE: i32 = 2;
const HOST: i32 = 4;
const MAC: &str = "mac=02:00:00:00:00:01";

/// The guest `net` on the tap `vm0`.
fn guest(options: &str) -> Command {
    let net = format!("tap=vm0,{MAC}");
    tiny("net", ["--net", &net, "--cmdline", options])
}

/// Runs `body` with a tap and the guest on it, on either bus, then has the guest end well.
fn with_guest(options: &str, body: impl Fn(&Interface, &mut Vm) + Send + Sync) {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        for bus in BUSES {
            println!("options: {options}, {bus}");
            let tap = Interface::new("vm0");
            let mut vm = Vm::start(guest(options).args(["--bus", bus]));
            body(&tap, &mut vm);
            ends_well(&tap, vm);
        }
    });
}

/// The guest sends back what it gets, and ends without a complaint.
fn ends_well(tap: &Interface, vm: Vm) {
    vm.wait_for(" done");
    ends(tap, vm);
}

fn ends(tap: &Interface, mut vm: Vm) {
    tap.wait_for_echo(&frame(100, 1));
    while !vm.has_ended() {
        tap.send(&frame(15, 0));
        thread::sleep(Duration::from_millis(5));
    }
    let end = vm.end();
    end.expect(0);
    let words = ["FAIL", "EXCEPTION"];
    assert!(!words.iter().any(|word| end.out.contains(word)), "{}", end.out);
    assert!(end.out.contains(" ok"), "{}", end.out);
    // Line 25: a guest does not write the host's logs.
    assert!(end.err.len() < 4096, "{}", end.err);
}

/// Frames of every kind of length come back as they were.
fn comes_back(tap: &Interface, vm: &Vm, longest: usize) {
    // The host's kernel may take a moment to see that the tap has a carrier,
    // and until then it drops what is sent.
    tap.wait_for_echo(&frame(40, 9));
    let lengths =
        [14, 16, 59, 60, 61, 1513, 1514, 1515, 2035, 2036, 2037, 4096, 9014, 32_768, 65_535];
    let lengths = lengths.into_iter().filter(|len| *len <= longest);
    for (seed, len) in lengths.enumerate() {
        let sent = frame(len, seed);
        assert!(tap.send(&sent));
        // Echoes of what was sent before may be late on a busy host.
        let back = iter::repeat_with(|| tap.receive_within(LIMIT).unwrap_or_default())
            .take(100_000)
            .find(|back| back.is_empty() || *back == sent);
        let out = vm.out.text();
        assert!(back == Some(sent), "{out}\n{len} bytes did not come back");
    }
}

/// A snapshot with frames on their way; its clones have another tap, MAC and
/// limit, and lose nothing that comes after they are there.
#[test]
fn a_restored_interface_works_on_another_tap() {
    if !have_kvm() {
        return;
    }
    let (start, saved) = (Scratch::new(), Scratch::new());
    network::alone(|| {
        let first = Interface::new("vm0");
        let then = ["--then", "exit", "--snapshot"];
        run(guest("do=marked").args(then).arg(&*start)).expect(0);
        let restore = |from: &Path, tap: &str| {
            let net = format!("tap={tap},mac=02:00:00:00:00:77,rx-bw=100M");
            let mut command = mote(["restore"]);
            command.arg(from).args(["--net", &net]);
            command
        };
        let mut command = restore(&start, "vm0");
        let mut vm = Vm::start(command.args(then).arg(&*saved));
        vm.wait_for("marked done");
        comes_back(&first, &vm, 4096);
        while !vm.has_ended() {
            assert!(first.send(&frame(200, 3)));
            first.send(&frame(17, 0));
        }
        vm.end().expect(0);
        let second = Interface::new("vm1");
        for (name, tap) in [("vm0", &first), ("vm1", &second)] {
            let vm = Vm::start(&mut restore(&saved, name));
            comes_back(tap, &vm, 65_535);
            ends(tap, vm);
        }
    });
}

#[test]
fn frames_go_both_ways_unchanged() {
    with_guest("", |tap, vm| {
        vm.wait_for("echo done");
        comes_back(tap, vm, 65_535);
        // Several at a time, in order.
        for round in 0..50 {
            let sent: Vec<_> =
                (0..20).map(|i| frame(14 + (round * 53 + i * 71) % 3000, i)).collect();
            sent.iter().for_each(|frame| assert!(tap.send(frame)));
            for frame in &sent {
                assert!(tap.receive() == *frame, "round {round}");
            }
        }
    });
}

/// Line 21: the header has 12 bytes whatever is negotiated, and may lie in
/// any number of descriptors. The guest checks what it receives. Line 22: also
/// that nothing behind the length said was touched, and lengths are never
/// greater than the buffer.
#[test]
fn any_features_and_any_split() {
    // None, merged buffers, also with EVENT_IDX, and everything but offloads.
    for (features, buffer, longest) in [
        ("0", 2048, 2036),
        ("8000", 2048, 65_535),
        ("20008000", 300, 65_535),
        ("30018028", 2048, 65_535),
    ] {
        for pieces in [1, 2, 5, 12, 13] {
            // Long frames need more buffers than descriptors leave room for.
            let longest = if pieces > 1 { longest.min(2036) } else { longest };
            let options =
                format!("features={features} buffer={buffer} parts={pieces} cut={pieces}");
            with_guest(&options, |tap, vm| {
                vm.wait_for("echo done");
                comes_back(tap, vm, longest);
            });
        }
    }
}

/// Processor time of the interface's worker, in ticks.
fn worker_ticks(vm: &Vm) -> u64 {
    proc::thread_ticks(vm.pid(), "net0")
}

/// Line 4: a flood while the guest has no buffers, few, or useless ones; then
/// it gets good ones and all is well. Meanwhile nobody works.
#[test]
fn a_flood_leaves_nothing_behind() {
    for options in [
        "do=deaf",
        "do=deaf give=1",
        "do=deaf give=1 features=0",
        "do=deaf give=3 small=1",
        "do=deaf give=3 small=11 features=0",
        "do=deaf give=200 small=12",
        "do=deaf give=200 small=64 features=0",
    ] {
        with_guest(options, |tap, vm| {
            vm.wait_for("deaf");
            let flood = frame(1514, 7);
            let sent = (0..50_000).filter(|_| tap.send(&flood)).count();
            thread::sleep(Duration::from_millis(100));
            let before = proc::ticks(vm.pid());
            thread::sleep(Duration::from_millis(500));
            let busy = proc::ticks(vm.pid()) - before;
            // Of fifty.
            assert!(busy < 15, "{busy} ticks at rest, {sent} frames sent");
            let memory = proc::status(vm.pid(), "RssAnon:");
            vm.send("g");
            vm.wait_for("deaf done");
            // What waits in the tap comes back first.
            while tap.receive_within(Duration::from_millis(200)).is_some() {}
            let grown = proc::status(vm.pid(), "RssAnon:").saturating_sub(memory);
            assert!(grown < 8192, "grown by {grown} KiB"); // the guest's own buffers
            tap.wait_for_echo(&frame(60, 3));
            comes_back(tap, vm, 1514);
        });
    }
}

/// Line 7: chains of 16 MiB each, all at once.
#[test]
fn long_chains_do_not_stall() {
    with_guest("do=long", |tap, vm| {
        vm.wait_for("long done");
        assert_eq!(tap.receive_within(Duration::from_millis(100)), None);
    });
}

/// Line 13: two chains with one head. One after the other they are served; at
/// the same time they break the device.
#[test]
fn a_chain_offered_twice_is_never_used_twice_at_once() {
    with_guest("do=twice", |tap, vm| {
        vm.wait_for("twice sent");
        (0..2).for_each(|_| assert_eq!(tap.receive().len(), 64));
    });
}

/// Line 17, in both directions: what no driver may build makes the device ask
/// for a reset, and after it it works. Line 19: more chains than entries.
#[test]
fn bad_chains_end_in_needs_reset() {
    for how in [
        "loop", "self", "head", "next", "zero", "address", "hole", "end", "order", "ahead",
        "nested", "odd", "empty", "large", "both", "far",
    ] {
        for queue in ["rx", "tx"] {
            with_guest(&format!("do={queue}-{how}"), |_, _| {});
        }
    }
}

/// Line 17: queues of size 0, odd, too large, and where there is no RAM.
#[test]
fn bad_queues_are_not_taken() {
    with_guest("do=setup", |_, _| {});
}

/// Lines 1 and 14: every register, in every width, before and after the start.
#[test]
fn any_register_access_is_harmless() {
    with_guest("do=registers", |_, _| {});
}

/// Line 25: a million kicks of a broken device.
#[test]
fn a_storm_of_kicks_leaves_silence() {
    with_guest("do=storm", |_, vm| {
        vm.wait_for("stormed");
        let before = proc::ticks(vm.pid());
        thread::sleep(Duration::from_millis(500));
        let busy = proc::ticks(vm.pid()) - before;
        assert!(busy < 15, "{busy} of 50 ticks at rest");
        vm.send("g");
    });
}

/// The tap goes down and up again, then away; the guest is told, and lives.
#[test]
fn the_link_is_as_the_tap_is() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let tap = Interface::new("vm0");
        let mut vm = Vm::start(&mut guest("do=link"));
        vm.wait_for("link up");
        tap.set_up(false);
        vm.send("s");
        vm.wait_for("link down");
        tap.set_up(true);
        vm.wait_for_times("link up", 2);
        tap.remove();
        vm.wait_for_times("link down", 2);
        let before = worker_ticks(&vm);
        vm.send("sss");
        vm.wait_for_times("sent", 4);
        thread::sleep(Duration::from_millis(500));
        assert!(worker_ticks(&vm) - before < 15);
        vm.signal(libc::SIGTERM);
        vm.end().expect(143);
    });
}

/// A tap that is down when the VM starts.
#[test]
fn a_link_may_come_later() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let tap = Interface::new("vm0");
        tap.set_up(false);
        let vm = Vm::start(&mut guest("do=link"));
        vm.wait_for("link down");
        tap.set_up(true);
        vm.wait_for("link up");
    });
}

/// A descriptor that was passed in does as well as a name.
#[test]
fn a_tap_can_be_passed_in() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let file = attach("vm0", true);
        let tap = Interface::of("vm0");
        let vm = Vm::spawn(&mut passing("net", &file));
        drop(file);
        vm.wait_for("echo done");
        comes_back(&tap, &vm, 65_535);
        ends_well(&tap, vm);
    });
}

/// The command `mote run` with a tiny guest, and a file as descriptor 9.
fn passing(guest: &str, file: &fs::File) -> Command {
    let inner = tiny(guest, ["--net", "tap-fd=9"]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 9<&0 </dev/null", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(file.try_clone().unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn bad_taps_are_refused_in_one_line() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let refused = |net: &str, code: i32, words: &[&str]| {
            let end = run(&mut tiny("hello", ["--net", net]));
            end.expect(code).complains(words);
            assert_eq!(end.err.lines().count(), 1, "{}", end.err);
            assert_eq!(end.out, "");
        };
        let _tap = Interface::new("vm0");
        let make = ["ip tuntap add dev none mode tap user $USER", "ip link set none up"];
        refused("tap=none", HOST, &["none", "no such interface", make[0], make[1]]);
        refused("tap=lo", HOST, &["lo", "no TAP interface"]);
        refused("tap=sixteen-letters-", USAGE, &["--net", "1 to 15 characters"]);
        refused("tap=a/b", USAGE, &["--net", "a/b"]);
        refused("tap-fd=77", USAGE, &["tap-fd=77", "not open"]);
        refused("tap-fd=1", USAGE, &["tap-fd=1", "above 2"]);
        let held = attach("vm1", true);
        refused("tap=vm1", HOST, &["vm1", "in use"]);
        drop(held);
        let null = fs::File::open("/dev/null").unwrap();
        let plain = attach("vm2", false);
        for file in [null, plain] {
            let end = run(&mut passing("hello", &file));
            end.expect(USAGE).complains(&["tap-fd=9", "no TAP interface"]);
        }
        let config = Scratch::new();
        let text = r#"{"network-interfaces":[{"iface_id":"n","host_dev_name":"none"}]}"#;
        let file = config.file("vm.json", text);
        let end = run(&mut tiny("hello", ["--config", file.to_str().unwrap()]));
        end.expect(HOST).complains(&["none", make[0]]);
    });
}

#[test]
fn a_tap_of_another_user_is_refused() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let _tap = Interface::owned("vm0", 12_345);
        let mut command = tiny("hello", ["--net", "tap=vm0"]);
        // SAFETY: prctl may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                const CAP_NET_ADMIN: libc::c_ulong = 12;
                libc::prctl(libc::PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0);
                Ok(())
            });
        }
        let end = run(&mut command);
        let words = ["vm0", "not permitted", "ip tuntap add dev vm0 mode tap user $USER"];
        end.expect(HOST).complains(&words);
    });
}

/// What a guest says that a thousand frames took, and the worker's ticks.
fn blast(limit: &str) -> (f64, u64) {
    let mut took = (0.0, 0);
    network::alone(|| {
        let tap = Interface::new("vm0");
        let net = format!("tap=vm0{limit}");
        let options = "do=blast count=600";
        let vm = Vm::start(&mut tiny("net", ["--net", &net, "--cmdline", options]));
        vm.wait_for("blast done");
        let out = vm.out.text();
        let cycles = out.lines().find_map(|line| line.strip_prefix("blast took "));
        took = (cycles.unwrap().parse().unwrap(), worker_ticks(&vm));
        (0..600).for_each(|_| drop(tap.receive()));
        vm.signal(libc::SIGTERM);
        vm.end().expect(143);
    });
    took
}

/// A limit holds, twice the limit is faster, and waiting costs no time. The
/// first bucketful is free: 400 of 600 frames wait at 200 a second, 200 at
/// 400, and none without a limit.
#[test]
fn a_rate_limit_holds_and_does_not_spin() {
    if !have_kvm() {
        return;
    }
    let (free, _) = blast("");
    if free == 0.0 {
        return;
    }
    let (slow, ticks) = blast(",tx-ops=200");
    let (fast, _) = blast(",tx-ops=400");
    assert!(slow > 2.0 * fast, "{slow} cycles, {fast} at twice the limit");
    assert!(fast > 2.0 * free, "{fast} cycles, {free} without a limit");
    // Two seconds are two hundred ticks.
    assert!(ticks < 60, "{ticks} ticks of 200");
    // The same in bytes: 64 a frame.
    let (bytes, _) = blast(",bw=12800");
    assert!(bytes > 2.0 * fast, "{bytes} cycles, {fast} at twice the limit");
}

/// What the host sends at once comes in at the limit's pace.
#[test]
fn receiving_is_limited_too() {
    if !have_kvm() {
        return;
    }
    let mut taken = Vec::new();
    for limit in ["rx-ops=100", "rx-ops=50"] {
        network::alone(|| {
            let tap = Interface::new("vm0");
            let net = format!("tap=vm0,{limit}");
            let mut vm = Vm::start(&mut tiny("net", ["--net", &net]));
            vm.wait_for("echo done");
            tap.wait_for_echo(&frame(40, 9));
            let begin = std::time::Instant::now();
            (0..200).for_each(|i| assert!(tap.send(&frame(60, i))));
            (0..200).for_each(|i| assert!(tap.receive() == frame(60, i)));
            taken.push(begin.elapsed().as_secs_f64());
            tap.send(&frame(15, 0));
            let _ = vm.has_ended();
            vm.end().expect(0);
        });
    }
    // One second of waiting, and three.
    if let [fast, slow] = taken[..] {
        assert!(slow > 1.8 * fast, "{slow} s, {fast} s at twice the limit");
    }
}
