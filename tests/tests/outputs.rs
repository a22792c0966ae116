//! Files that Mote writes to: never one that a VM reads, by whatever name.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mote_tests::files::{Scratch, fnv, noise};
use mote_tests::{Client, Vm, guest, have_kvm, mote, proc, run, tiny, wait_until};

const INPUT: i32 = 3;

/// The names that a file can be reached by.
fn names(of: &Path, scratch: &Path) -> Vec<PathBuf> {
    let stem = of.file_name().unwrap().to_str().unwrap();
    let (hard, soft) = (scratch.join(format!("{stem}.hard")), scratch.join(format!("{stem}.soft")));
    fs::hard_link(of, &hard).unwrap();
    symlink(of, &soft).unwrap();
    let dotted = of.parent().unwrap().join(".").join(stem);
    vec![of.to_owned(), dotted, hard, soft]
}

/// A VM in `scratch` with a file of each kind that it reads; what is run, and
/// these files.
fn inputs(scratch: &Scratch) -> (Vec<(&'static str, PathBuf)>, PathBuf) {
    let kernel = scratch.file("kernel", fs::read(guest("hello")).unwrap());
    let initrd = scratch.file("initrd", noise(5000));
    let disk = scratch.file("disk", noise(1 << 20));
    let read_only = scratch.file("read-only", noise(1 << 20));
    let config = scratch.join("vm.json");
    let text = format!(
        r#"{{"boot-source": {{"kernel_image_path": {kernel:?}, "initrd_path": {initrd:?}}},
           "drives": [{{"drive_id": "a", "path_on_host": {disk:?}, "is_root_device": false}},
                      {{"drive_id": "b", "path_on_host": {read_only:?}, "is_root_device": false,
                        "is_read_only": true}}]}}"#
    );
    fs::write(&config, text).unwrap();
    let files = vec![
        ("kernel", kernel),
        ("initrd", initrd),
        ("disk", disk),
        ("disk", read_only),
        ("config file", config.clone()),
    ];
    (files, config)
}

/// Every way to write to a file, by a command for a VM of `config`.
fn outputs(config: &Path, path: &Path) -> Vec<(Command, &'static str)> {
    let path = path.to_str().unwrap();
    let config = config.to_str().unwrap();
    let serial = [format!("file:{path}"), format!("file:{path},append")];
    let api = ["--no-api", "--config-file", config];
    let mut all = Vec::new();
    for to in &serial {
        let mut command = mote(["run", "--config", config, "--serial"]);
        command.arg(to);
        all.push((command, "serial file"));
        let mut command = mote(api);
        command.args(["--serial", to]);
        all.push((command, "serial file"));
    }
    for (flag, word) in [("--log-path", "log"), ("--metrics-path", "metrics")] {
        let mut command = mote(api);
        command.args([flag, path]);
        all.push((command, word));
    }
    all
}

/// Flaw table line 41.
#[test]
fn no_output_goes_to_a_file_that_the_vm_reads() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (files, config) = inputs(&scratch);
    for (what, file) in files {
        let before = fnv(&fs::read(&file).unwrap());
        for name in names(&file, &scratch) {
            for (mut command, word) in outputs(&config, &name) {
                let end = run(&mut command);
                assert!([2, INPUT].contains(&end.code), "{command:?}: {end:?}");
                let is = format!("is this VM's {what}");
                end.complains(&[word, name.to_str().unwrap(), &is]);
                assert_eq!(fnv(&fs::read(&file).unwrap()), before, "{command:?}");
            }
        }
    }
}

/// A shell opens it, and by then only appends.
#[test]
fn standard_output_is_no_file_that_the_vm_reads() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (files, config) = inputs(&scratch);
    for (what, file) in files {
        let before = fnv(&fs::read(&file).unwrap());
        let mut command = mote(["run", "--config"]);
        let output = fs::OpenOptions::new().append(true).open(&file).unwrap();
        command.arg(&config).stdin(Stdio::null()).stdout(output);
        let end = command.stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&end.stderr);
        assert_eq!(end.status.code(), Some(INPUT), "{what}: {text}");
        assert!(text.contains(&format!("is this VM's {what}")), "{text}");
        assert_eq!(fnv(&fs::read(&file).unwrap()), before, "{what}");
    }
}

/// The same of a snapshot that is restored.
#[test]
fn no_output_goes_to_a_snapshot_that_is_restored() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let saved = scratch.join("saved");
    fs::create_dir(&saved).unwrap();
    let saved = saved.to_str().unwrap();
    run(&mut tiny("memory", ["--memory", "16M", "--snapshot", saved, "--then", "exit"])).expect(0);
    run(mote(["restore", saved]).args(["--record", "marker"])).expect(0);
    for name in ["state", "memory", "working-set"] {
        let file = Path::new(saved).join(name);
        let before = fnv(&fs::read(&file).unwrap());
        for name in names(&file, &scratch) {
            let to = format!("file:{}", name.display());
            let end = run(mote(["restore", saved, "--serial"]).arg(to));
            end.expect(INPUT).complains(&["serial file", "is this VM's snapshot"]);
            assert_eq!(fnv(&fs::read(&file).unwrap()), before);
        }
    }
    // What is recorded takes the place of no disk either.
    let disk = Path::new(saved).join("working-set");
    fs::write(&disk, noise(1 << 20)).unwrap();
    let mut command = mote(["restore", saved, "--record", "marker", "--disk"]);
    let end = run(command.arg(&disk));
    end.expect(INPUT).complains(&["--record", "is this VM's disk"]);
    assert!(disk.exists());
}

#[test]
fn no_output_goes_to_another_vms_image() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (_, config) = inputs(&scratch);
    let image = scratch.file("image", noise(1 << 20));
    for flags in [",ro", ""] {
        let disk = format!("{}{flags}", image.display());
        let mut vm = Vm::start(&mut tiny("spin", ["--disk", &disk]));
        let pid = vm.pid();
        wait_until("the drive is open", || {
            assert!(!vm.has_ended());
            let open = mote_tests::proc::descriptors(pid);
            open.iter().any(|file| Path::new(file) == image)
        });
        for name in names(&image, &Scratch::new()) {
            for (mut command, word) in outputs(&config, &name) {
                let end = run(&mut command);
                assert!([2, INPUT].contains(&end.code), "{command:?}: {end:?}");
                end.complains(&[word, name.to_str().unwrap(), "in use by another VM"]);
            }
        }
        assert!(fs::read(&image).unwrap() == noise(1 << 20));
        vm.signal(libc::SIGTERM);
        vm.end().expect(143);
    }
}

/// A drive that is described after the log is the log.
#[test]
fn a_log_is_no_drive_that_is_named_later() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.join("api.sock");
    let image = scratch.file("image", noise(1 << 20));
    let (image, kernel) = (image.to_str().unwrap(), guest("hello"));
    let _vm = Vm::start(mote(["--api-sock"]).arg(&socket));
    wait_until("the API is there", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let mut client = Client::connect(&socket);
    client.put("/logger", &format!(r#"{{"log_path": {image:?}, "level": "Off"}}"#));
    client.put("/boot-source", &format!(r#"{{"kernel_image_path": {kernel:?}}}"#));
    let drive =
        format!(r#"{{"drive_id": "a", "path_on_host": {image:?}, "is_root_device": false}}"#);
    client.put("/drives/a", &drive);
    let answer = client.request("PUT", "/actions", r#"{"action_type": "InstanceStart"}"#);
    let why = &answer.expect(400).body;
    assert!(why.contains("is this VM's disk"), "{why}");
    assert!(fs::read(image).unwrap() == noise(1 << 20));
}

#[test]
fn what_is_in_a_file_is_replaced_with_a_word_or_kept() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let log = scratch.file("a, log", "before\n");
    let hello = |append: &str| {
        // A comma in a path is written twice.
        let to = format!("file:{}{append}", log.to_str().unwrap().replace(',', ",,"));
        run(&mut tiny("hello", ["--serial", &to]))
    };
    let end = hello("");
    end.expect(0);
    let words = ["serial file", log.to_str().unwrap(), "7 bytes are replaced", ",append"];
    end.complains(&words);
    let once = fs::read_to_string(&log).unwrap();
    assert!(!once.contains("before") && !once.is_empty(), "{once}");
    assert_eq!(hello(",append").expect(0).complaints(), [""; 0]);
    assert_eq!(fs::read_to_string(&log).unwrap(), once.repeat(2));
    // Many may add to one file, but none may replace it meanwhile.
    let to = format!("file:{}", log.to_str().unwrap().replace(',', ",,"));
    let appends = format!("{to},append");
    let vm = Vm::start(&mut tiny("echo", ["--serial", &appends]));
    wait_until("it appends", || fs::read_to_string(&log).unwrap().ends_with("ready\n"));
    assert_eq!(hello(",append").expect(0).complaints(), [""; 0]);
    hello("").expect(INPUT).complains(&["in use by another VM"]);
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
    for (to, word) in [("pty,append", "only a file"), ("none,append", "only a file")] {
        run(&mut tiny("hello", ["--serial", to])).expect(2).complains(&["--serial", word]);
    }
}

#[test]
fn devices_are_written_to_and_disks_are_not() {
    if !have_kvm() {
        return;
    }
    run(&mut tiny("hello", ["--serial", "file:/dev/null"])).expect(0);
    let Some(disk) = ["/dev/loop0", "/dev/sda", "/dev/vda", "/dev/nvme0n1"]
        .into_iter()
        .find(|path| fs::File::options().read(true).open(path).is_ok())
    else {
        return;
    };
    let to = format!("file:{disk}");
    let end = run(&mut tiny("hello", ["--serial", &to]));
    end.expect(INPUT).complains(&["is a block device"]);
}

/// A reader that takes its time holds the guest, and gets every byte in order.
#[test]
fn a_slow_reader_holds_the_guest() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.join("console");
    for to in ["stdio,hold", &format!("socket:{},hold", socket.display())] {
        let args = ["--cmdline", "bytes=160000 wait", "--serial", to];
        let mut command = tiny("flood", args);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut vm = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut reader: Box<dyn Read> = if to.starts_with("stdio") {
            Box::new(vm.stdout.take().unwrap())
        } else {
            wait_until("the socket is there", || socket.exists());
            stands_still(vm.id());
            Box::new(UnixStream::connect(&socket).unwrap())
        };
        let (mut all, mut some) = (Vec::new(), [0; 20_000]);
        loop {
            if all.len() < 40_000 {
                stands_still(vm.id());
            }
            match reader.read(&mut some).unwrap() {
                0 => break,
                count => all.extend_from_slice(&some[..count]),
            }
        }
        let end = vm.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&end.stderr);
        assert!(end.status.success() && said.is_empty(), "{to}: {said}");
        assert_eq!(all.len(), 160_000, "{to}");
        for (number, line) in all.chunks(16).enumerate() {
            assert!(line == format!("{number:015}\n").as_bytes(), "{to}: {number}");
        }
    }
}

/// Whom a guest is not held for: a reader that has gone, a disk that is full, and
/// whoever ends it meanwhile.
#[test]
fn a_held_guest_can_be_ended() {
    if !have_kvm() {
        return;
    }
    let flood = ["--cmdline", "bytes=80000 wait", "--serial"];
    let end = run(tiny("flood", flood).arg("file:/dev/full,hold"));
    end.expect(0).complains(&["80000 bytes were lost"]);
    let mut command = tiny("flood", flood);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let end = run(command.arg("stdio,hold").stdout(writer));
    end.expect(0);
    let mut vm = Vm::start(tiny("flood", flood).arg("pty,hold"));
    stands_still(vm.pid());
    assert!(!vm.has_ended(), "it was not held");
    vm.signal(libc::SIGTERM);
    vm.end().expect(143);
}

/// Waits until a VM has done nothing for longer than a slow reader is waited for.
fn stands_still(pid: u32) {
    wait_until("the guest is held", || {
        let before = proc::ticks(pid);
        std::thread::sleep(Duration::from_millis(300));
        proc::ticks(pid) == before
    });
}

/// Flaw table line 49: what is lost is counted, whatever the guest ends with.
#[test]
fn lost_output_is_told() {
    if !have_kvm() {
        return;
    }
    let flood = ["--cmdline", "bytes=80000", "--serial"];
    // A full disk.
    let end = run(tiny("flood", flood).arg("file:/dev/full"));
    end.expect(0).complains(&["serial output", "80000 bytes were lost", "no space"]);
    // Nobody reads the terminal.
    let end = run(tiny("flood", flood).arg("pty"));
    let lines = end.expect(0).complaints();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("bytes were lost: the reader was too slow"));
    // What goes nowhere is not missed.
    let end = run(tiny("flood", flood).arg("none"));
    assert_eq!(end.expect(0).complaints(), [""; 0]);
}
