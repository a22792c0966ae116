//! The serial console on pipes, files and pseudo-terminals: whole and in order while
//! somebody reads, and never a reason for the VM to hang when nobody does.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mote_tests::files::noise;
use mote_tests::vm::LIMIT;
use mote_tests::{Scratch, Vm, have_kvm, proc, run, tiny, wait_until};

const NOTHING: [&str; 0] = [];
const CTRL_D: u8 = 4;

/// Ten thousand bytes of every value but the one that ends the guest.
fn typed() -> Vec<u8> {
    let mut bytes = noise(10_000);
    bytes.iter_mut().for_each(|byte| {
        if *byte == CTRL_D {
            *byte = b'D';
        }
    });
    bytes
}

#[test]
fn what_is_typed_comes_back_whole_and_in_order() {
    if !have_kvm() {
        return;
    }
    for (guest, flags, last) in [
        ("echo", &[][..], ""),
        ("echo_irq", &[], "\ninterrupts ok\n"),
        ("echo_irq", &["--cmdline", "late"], "\ninterrupts ok\n"),
    ] {
        let mut vm = Vm::start(&mut tiny(guest, flags));
        let mut input = vm.take_input();
        let mut bytes = typed();
        let mut expected = b"ready\n".to_vec();
        expected.extend_from_slice(&bytes);
        expected.extend_from_slice(last.as_bytes());
        bytes.push(CTRL_D);
        // All at once: more than any buffer on the way has room for.
        let typist = thread::spawn(move || input.write_all(&bytes));
        let end = vm.end();
        typist.join().unwrap().unwrap();
        assert!(end.expect(0).bytes == expected, "{guest} {flags:?}: {} bytes", end.bytes.len());
    }
}

#[test]
fn bytes_come_through_one_at_a_time() {
    if !have_kvm() {
        return;
    }
    for guest in ["echo", "echo_irq"] {
        let mut vm = Vm::start(&mut tiny(guest, NOTHING));
        vm.wait_for("ready\n");
        for byte in 0..40 {
            vm.send([b'a' + byte % 26]);
            let came = |bytes: &[u8]| bytes.len() == 7 + usize::from(byte);
            assert!(vm.out.wait(LIMIT, came), "{guest}: {:?}", vm.out.text());
        }
        vm.send([CTRL_D]);
        vm.end().expect(0);
    }
}

/// Without a person, the escape key is a byte like any other.
#[test]
fn a_pipe_has_no_escape_key() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut tiny("echo", NOTHING));
    vm.send(b"\x01x\x01\x01\x01h\x03\x1a\x1c\x04");
    let expected = b"ready\n\x01x\x01\x01\x01h\x03\x1a\x1c";
    assert_eq!(vm.end().expect(0).bytes, expected);
}

#[test]
fn the_end_of_input_is_not_the_end_of_the_vm() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut tiny("idle", NOTHING));
    vm.wait_for("idle");
    drop(vm.take_input());
    let before = proc::ticks(vm.pid());
    thread::sleep(Duration::from_millis(500));
    assert!(!vm.has_ended());
    // Nor does it make a thread turn round and round.
    let after = proc::ticks(vm.pid());
    assert!(after - before < 10, "{before}, {after} hundredths of a second");
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
}

/// Memory of a VM whose guest never reads, while it is typed to.
fn stays_flat(mut vm: Vm, feed: impl FnOnce()) {
    vm.wait_for("deaf");
    // Buffers that are there for good are filled first.
    thread::sleep(Duration::from_millis(300));
    let before = proc::status(vm.pid(), "VmRSS:");
    feed();
    let after = proc::status(vm.pid(), "VmRSS:");
    assert!(after < before + 1024, "{before} KiB, then {after} KiB");
    assert!(!vm.has_ended());
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
}

fn deaf() -> Command {
    tiny("deaf", ["--cmdline", "ticks=1000000000000"])
}

/// Line 5 of the flaws that hit systems like this one: input for a guest that
/// never reads grew a buffer without bound (CVE-2020-27173).
#[test]
fn a_hundred_megabytes_for_a_guest_that_never_reads_cost_nothing() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut deaf());
    let mut input = vm.take_input();
    // SAFETY: changes a flag of a descriptor of ours.
    unsafe { libc::fcntl(input.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    stays_flat(vm, move || {
        let some = [b'x'; 64 << 10];
        let (mut sent, begin) = (0, Instant::now());
        while sent < 100_000_000 && begin.elapsed() < Duration::from_secs(1) {
            match input.write(&some) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn endless_input_for_a_guest_that_never_reads_costs_nothing() {
    if !have_kvm() {
        return;
    }
    let mut command = deaf();
    command.stdin(File::open("/dev/zero").unwrap()).stdout(Stdio::piped());
    stays_flat(Vm::spawn(&mut command), || {
        thread::sleep(Duration::from_secs(1));
    });
}

/// Starts a command without some of its standard descriptors.
fn without(command: &mut Command, closed: &'static [RawFd]) {
    // SAFETY: close may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            closed.iter().for_each(|fd| {
                libc::close(*fd);
            });
            Ok(())
        });
    }
}

/// Every way the guest ends has its code, whoever reads what it prints.
const ENDS: [(&str, i32); 3] = [("flood", 0), ("triple", 5), ("memory", 0)];

#[test]
fn closed_standard_descriptors_do_not_matter() {
    if !have_kvm() {
        return;
    }
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        for (guest, code) in ENDS {
            let mut command = tiny(guest, ["--cmdline", "bytes=3000", "--timings"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            without(&mut command, closed);
            let end = Vm::spawn(&mut command).end();
            assert_eq!(end.code, code, "{guest} without {closed:?}: {}", end.err);
        }
    }
}

/// With standard input closed, the next file that is opened gets its number:
/// its contents must not be typed to the guest.
#[test]
fn no_file_takes_the_place_of_closed_input() {
    if !have_kvm() {
        return;
    }
    let mut command = tiny("echo", NOTHING);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    without(&mut command, &[0]);
    let vm = Vm::spawn(&mut command);
    vm.wait_for("ready\n");
    thread::sleep(Duration::from_millis(300));
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.end().expect(143).out, "ready\n");
}

/// With standard error closed, what is said there must not end up in a file
/// that got its number.
#[test]
fn no_file_takes_the_place_of_closed_stderr() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let log = scratch.join("log");
    let to = format!("file:{}", log.display());
    for closed in [&[2][..], &[0, 1, 2]] {
        let mut command = tiny("memory", ["--serial", &to, "--timings"]);
        without(&mut command, closed);
        run(&mut command).expect(0);
        let text = fs::read_to_string(&log).unwrap();
        assert!(!text.contains("mote:"), "{text}");
        assert!(text.ends_with(" words\n"), "{text}");
    }
}

#[test]
fn full_devices_do_not_matter() {
    if !have_kvm() {
        return;
    }
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (guest, code) in ENDS {
        let mut command = tiny(guest, ["--cmdline", "bytes=3000", "--timings"]);
        command.stdout(full()).stderr(full());
        let end = Vm::spawn(&mut command).end();
        assert_eq!(end.code, code, "{guest}");
    }
}

/// A pipe that has no room left; the reader must be kept.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let flag = |flags: libc::c_int| {
        // SAFETY: changes a flag of a descriptor of ours.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) }
    };
    flag(libc::O_NONBLOCK);
    let mut to = &writer;
    while to.write(&[b'.'; 4096]).is_ok() {}
    while to.write(b".").is_ok() {}
    // As a shell makes it: writing to it waits.
    flag(0);
    (reader, writer)
}

/// Line 11: whoever logs to a pipe that is full must not wait for ever
/// (Firecracker #6086).
#[test]
fn unread_output_does_not_stop_the_guest() {
    if !have_kvm() {
        return;
    }
    let (_reader, stdout) = full_pipe();
    for (guest, code) in ENDS {
        let mut command = tiny(guest, ["--cmdline", "bytes=100000"]);
        command.stdout(stdout.try_clone().unwrap());
        let mut vm = Vm::spawn(command.stderr(Stdio::null()));
        let begin = Instant::now();
        wait_until(guest, || vm.has_ended());
        vm.end().expect(code);
        // It may wait for a reader, but not for every byte again.
        assert!(begin.elapsed() < Duration::from_secs(30), "{guest}");
    }
}

#[test]
fn unread_errors_do_not_stop_the_guest() {
    if !have_kvm() {
        return;
    }
    let (_reader, stderr) = full_pipe();
    for (guest, code) in ENDS {
        let mut command = tiny(guest, ["--cmdline", "bytes=3000", "--timings"]);
        command.stdout(Stdio::piped());
        let mut vm = Vm::spawn(command.stderr(stderr.try_clone().unwrap()));
        wait_until(guest, || vm.has_ended());
        let end = vm.end();
        end.expect(code);
        assert!(!end.out.is_empty(), "{guest} prints");
    }
    // Not only the end must come: a signal has to be heard, too.
    let vm = Vm::spawn(tiny("spin", NOTHING).stdout(Stdio::piped()).stderr(stderr));
    vm.wait_for("spin");
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
}

/// A reader that goes away in the middle, as `head` does.
#[test]
fn a_reader_that_leaves_does_not_matter() {
    if !have_kvm() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut vm = Vm::spawn(tiny("flood", ["--cmdline", "bytes=50000"]).stdout(writer));
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    wait_until("the end", || vm.has_ended());
    vm.end().expect(0);
}

/// Someone who reads late, but reads, loses nothing that fits the buffers.
#[test]
fn a_slow_reader_gets_everything() {
    if !have_kvm() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let vm = Vm::spawn(tiny("flood", ["--cmdline", "bytes=100000"]).stdout(writer));
    // The guest is at its end before the first byte is read, or waits.
    thread::sleep(Duration::from_millis(50));
    let mut all = Vec::new();
    let mut some = [0; 4096];
    loop {
        match reader.read(&mut some).unwrap() {
            0 => break,
            count => all.extend_from_slice(&some[..count]),
        }
        thread::sleep(Duration::from_millis(5));
    }
    vm.end().expect(0);
    let expected: String = (0..6_250).map(|n| format!("{n:015}\n")).collect();
    assert!(all == expected.as_bytes(), "{} bytes", all.len());
}

/// What is still on its way when the guest powers off is not lost to a reader
/// who comes soon.
#[test]
fn the_last_words_arrive() {
    if !have_kvm() {
        return;
    }
    // A reader who is late on a busy host proves nothing: some attempts.
    let arrived = (0..5).any(|_| {
        let (mut reader, writer) = full_pipe();
        let mut command = tiny("memory", ["--timings"]);
        let vm = Vm::spawn(command.stdout(writer).stderr(Stdio::piped()));
        drop(command);
        assert!(vm.err.wait(LIMIT, |text| text.ends_with(b"\n")));
        // The guest never waits, so its vCPU's thread does not before the end.
        wait_until("the guest's end", || proc::thread_sleeps(vm.pid(), "vcpu0"));
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        vm.end().expect(0);
        all.ends_with("memory ok 4 words\n")
    });
    assert!(arrived);
}

/// The flags of an open file are shared with whoever else has it: a shell
/// whose terminal or pipe stays non-blocking is broken.
#[test]
fn the_flags_of_shared_descriptors_stay_as_they_were() {
    if !have_kvm() {
        return;
    }
    let (input, _typist) = std::io::pipe().unwrap();
    let (_reader, output) = std::io::pipe().unwrap();
    let flags = |fd: RawFd| {
        // SAFETY: reads the flags of a descriptor of ours.
        unsafe { libc::fcntl(fd, libc::F_GETFL) }
    };
    let all = || [flags(input.as_raw_fd()), flags(output.as_raw_fd())];
    let before = all();
    let mut command = tiny("idle", ["--timings"]);
    command
        .stdin(input.try_clone().unwrap())
        .stdout(output.try_clone().unwrap())
        .stderr(Stdio::piped());
    let vm = Vm::spawn(&mut command);
    let came = |bytes: &[u8]| bytes.ends_with(b"\n");
    assert!(vm.err.wait(LIMIT, came));
    assert_eq!(all(), before);
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
    assert_eq!(all(), before);
}

#[test]
fn serial_to_a_file_is_complete_and_replaces_what_was_there() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let log = scratch.file("log", "x".repeat(300_000));
    let to = format!("file:{}", log.display());
    let end = run(&mut tiny("flood", ["--cmdline", "bytes=50000", "--serial", &to]));
    assert_eq!(end.expect(0).out, "");
    let expected: String = (0..3_125).map(|n| format!("{n:015}\n")).collect();
    assert!(fs::read_to_string(&log).unwrap() == expected);
}

#[test]
fn serial_to_nowhere_is_silent() {
    if !have_kvm() {
        return;
    }
    let mut command = tiny("flood", ["--cmdline", "bytes=100000", "--serial", "none"]);
    let end = run(&mut command);
    assert_eq!(end.expect(0).out, "");
    assert_eq!(end.complaints(), NOTHING);
}

#[test]
fn a_pseudo_terminal_is_a_console() {
    if !have_kvm() {
        return;
    }
    let vm = Vm::start(&mut tiny("echo", ["--serial", "pty", "--timings"]));
    assert!(vm.err.wait(LIMIT, |text| text.ends_with(b"us\n")));
    let text = vm.err.text();
    let name = text.lines().find_map(|line| line.strip_prefix("mote: serial console on "));
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.open(name.unwrap()).unwrap()
    };
    // Bytes as they are: no echo, no newline made into two, no ^C. Somebody
    // else may come after the first has gone.
    for number in 0..3 {
        let mut client = open();
        let mut said = if number == 0 { "ready\n" } else { "" }.to_owned();
        said.push_str("a\r\nb\x03\x01x");
        client.write_all(b"a\r\nb\x03\x01x").unwrap();
        let mut got = vec![0; said.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, said.as_bytes());
    }
    open().write_all(&[CTRL_D]).unwrap();
    assert_eq!(vm.end().expect(0).out, "");
}
