//! Kernels start, and find the machine that the command line asked for.

use std::path::Path;

use mote_tests::files::{fnv, noise};
use mote_tests::{End, Scratch, Vm, guest, have_kvm, mote, run, tiny};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_smallest_guest_says_one_byte() {
    if !have_kvm() {
        return;
    }
    let end = run(&mut tiny("hello", ["--timings"]));
    assert_eq!(end.expect(0).out, "H");
    // It writes no boot marker, so that none must be made up.
    assert!(!end.err.contains("boot marker"), "{}", end.err);
}

/// Where RAM must be, as `start length` pairs.
fn ram(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(3 * GIB);
    let mut ram = vec![(0, 0x9_fc00), (MIB, low - MIB)];
    if size > low {
        ram.push((4 * GIB, size - low));
    }
    ram
}

#[test]
fn memory_is_where_it_belongs_below_at_and_beyond_the_hole() {
    if !have_kvm() {
        return;
    }
    for mib in [5, 128, 3072, 3584, 5120] {
        let end = run(&mut tiny("memory", ["--memory", &format!("{mib}M")]));
        end.expect(0);
        let regions: Vec<(u64, u64)> = end
            .out
            .lines()
            .filter_map(|line| line.strip_prefix("region "))
            .filter_map(|line| line.strip_suffix(" 1"))
            .map(|line| {
                let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
                let (start, len) = line.split_once(' ').unwrap();
                (number(start), number(len))
            })
            .collect();
        assert_eq!(regions, ram(mib * MIB), "{mib}M");
        let words = 2 * regions.len();
        let last = format!("memory ok {words} words");
        assert_eq!(end.out.lines().last(), Some(&*last), "{mib}M");
    }
}

#[test]
fn all_vcpus_start_with_ids_of_their_own() {
    if !have_kvm() {
        return;
    }
    for cpus in [1, 4, 32] {
        let end = run(&mut tiny("cpus", ["--cpus", &cpus.to_string()]));
        let ids: Vec<String> = (0..cpus).map(|id| id.to_string()).collect();
        let expected = format!("{cpus} of {cpus} cpus: {}\n", ids.join(" "));
        assert_eq!(end.expect(0).out, expected);
    }
}

#[test]
fn no_command_line_means_the_default_for_a_stock_kernel() {
    if !have_kvm() {
        return;
    }
    let end = run(&mut tiny("cmdline", [""; 0]));
    let text = &end.expect(0).out;
    for word in ["console=ttyS0", "quiet", "panic=-1"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn a_command_line_arrives_as_it_was_given() {
    if !have_kvm() {
        return;
    }
    // The longest there may be, one that a shell would have split, none at all.
    let longest = "0123456789abcde ".repeat(128)[..2047].to_owned();
    for text in [&*longest, "a  'b\"c\\d\te=ü --kernel x", ""] {
        let end = run(&mut tiny("cmdline", ["--cmdline", text]));
        let expected = format!("cmdline {} [{text}]\n", text.len());
        assert!(end.expect(0).out.starts_with(&expected), "{}", end.out);
    }
}

#[test]
fn an_initrd_arrives_whole_whatever_its_size() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for size in [1, 4095, 4096, 4097, 1_000_003, 40 << 20] {
        let bytes = noise(size);
        let initrd = scratch.file("initrd", &bytes);
        let end = run(&mut tiny("cmdline", ["--initrd", path(&initrd)]));
        let line = end.expect(0).out.lines().last().unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let hash = format!("{:016x}", fnv(&bytes));
        assert_eq!(words[0], "initrd");
        assert_eq!(words[2..], [&*size.to_string(), &*hash], "{line}");
        let address = u64::from_str_radix(&words[1][2..], 16).unwrap();
        assert_eq!(address % 4096, 0, "{line}");
        assert!(address + size as u64 <= 128 * MIB, "{line}");
    }
}

#[test]
fn an_initrd_stays_below_the_device_hole() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let bytes = noise(123_456);
    let initrd = scratch.file("initrd", &bytes);
    let end = run(&mut tiny("cmdline", ["--memory", "5G", "--initrd", path(&initrd)]));
    let expected = format!("{} {:016x}\n", bytes.len(), fnv(&bytes));
    assert!(end.expect(0).out.ends_with(&expected), "{}", end.out);
}

#[test]
fn a_pvh_note_decides_how_the_kernel_is_entered() {
    if !have_kvm() {
        return;
    }
    assert_eq!(run(&mut tiny("pvh", [""; 0])).expect(0).out, "PVH ok\n");
}

#[test]
fn a_reader_gets_a_flood_complete_and_in_order() {
    if !have_kvm() {
        return;
    }
    let end = run(&mut tiny("flood", ["--cmdline", "bytes=200000"]));
    let expected: String = (0..12_500).map(|n| format!("{n:015}\n")).collect();
    // Not assert_eq: so many lines in a message help nobody.
    assert!(end.expect(0).out == expected, "{} bytes", end.out.len());
}

/// The story of a computer: from the CD to the disk to the end, each line with
/// its time.
fn check_demo(end: &End) {
    let text = &end.expect(0).out;
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once(" ms  ")).collect();
    let told: Vec<&str> = lines.iter().map(|(_, line)| line.trim()).collect();
    let steps = [
        "mote: cdrom: Mote demo",
        "Hello from a virtual machine of your own.",
        "memory 128 MiB, vCPUs 1, a CD-ROM, an empty disk",
        "installed: ",
        "mote: disk: Installed",
        "This is the installed system",
    ];
    assert_eq!(told.len(), steps.len(), "{text}");
    for (line, step) in told.iter().zip(steps) {
        assert!(line.starts_with(step), "no {step:?} in:\n{text}");
    }
    let times: Vec<f64> = lines.iter().map(|(ms, _)| ms.trim().parse().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 0.0, "{text}");
}

#[test]
fn the_demo_says_what_it_is_and_ends() {
    if !have_kvm() {
        return;
    }
    check_demo(&run(&mut mote(["demo"])));
}

const CONFIG: &str = r#"{
  "boot-source": { "kernel_image_path": "KERNEL", "boot_args": "from the file", "initrd_path": "INITRD" },
  "machine-config": { "vcpu_count": 3, "mem_size_mib": 64, "smt": false }
}"#;

fn config(scratch: &Scratch, kernel: &str) -> String {
    let initrd = scratch.file("initrd", "disk");
    let text = CONFIG.replace("KERNEL", path(&guest(kernel)));
    let text = text.replace("INITRD", path(&initrd));
    path(&scratch.file("vm.json", text)).to_owned()
}

#[test]
fn a_config_file_does_what_the_flags_do() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let initrd = scratch.join("initrd");
    let flags =
        ["--memory", "64M", "--cpus", "3", "--cmdline", "from the file", "--initrd", path(&initrd)];
    for (name, proof) in [
        ("cmdline", "[from the file]"),
        ("cpus", "3 of 3 cpus: 0 1 2\n"),
        ("memory", "region 0x100000 0x3f00000 1\n"),
    ] {
        let file = config(&scratch, name);
        let by_file = run(&mut mote(["run", "--config", &file]));
        let by_flags = run(&mut tiny(name, flags));
        assert_eq!(by_file.expect(0).out, by_flags.expect(0).out);
        assert!(by_file.out.contains(proof), "{}", by_file.out);
    }
}

/// What Mote adds to a command line is the kernel's: not init's, behind `--`. A
/// config file's kernel is told of its devices, as Firecracker tells it.
#[test]
fn what_is_added_to_a_command_line_comes_before_what_is_inits() {
    if !have_kvm() {
        return;
    }
    const DEVICES: &str = "virtio_mmio.device=4K@0xd0000000:7 virtio_mmio.device=4K@0xd0001000:8";
    let scratch = Scratch::new();
    let disks = ["one", "two"].map(|name| scratch.file(name, vec![0; 4096]));
    let [one, two] = disks.each_ref().map(|disk| path(disk));
    for (given, own, rest) in [
        ("a -- quiet", "a ", " -- quiet"),
        ("-- quiet", "", " -- quiet"),
        ("a --- b -- c", "a ", " --- b -- c"),
        ("a=\"b -- c\"", "a=\"b -- c\" ", ""),
    ] {
        let shows = |end: &End, added: &str| {
            let expected = format!("[{own}{added}{rest}]\n");
            assert!(end.expect(0).out.contains(&expected), "{}", end.out);
        };
        let flags = ["--disk", one, "--disk", two, "--cmdline", given];
        let end = run(&mut tiny("cmdline", flags));
        assert!(end.expect(0).out.contains(&format!("[{given}]\n")));
        let end = run(tiny("cmdline", flags).arg("--cmdline-devices"));
        shows(&end, DEVICES);
        let config = serde_json::json!({
            "boot-source": {"kernel_image_path": guest("cmdline"), "boot_args": given},
            "drives": [{"drive_id": "one", "path_on_host": one, "is_root_device": true},
                       {"drive_id": "two", "path_on_host": two, "is_root_device": false}],
        });
        let file = scratch.file("vm.json", config.to_string());
        for how in [&["run", "--config"][..], &["--no-api", "--config-file"]] {
            let end = run(mote(how).arg(&file));
            shows(&end, &format!("root=/dev/vda rw {DEVICES}"));
        }
    }
}

#[test]
fn flags_go_before_the_config_file() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let file = config(&scratch, "hello");
    let with = |kernel: &str, flags: &[&str]| {
        // Before or after --config: the order of flags must not matter.
        let end = run(tiny(kernel, flags).args(["--config", &file]));
        end.expect(0).out.clone()
    };
    let out = with("cmdline", &["--cmdline", "from the flag"]);
    assert!(out.starts_with("cmdline 13 [from the flag]\n"), "{out}");
    assert!(out.contains(&format!(" 4 {:016x}", fnv(b"disk"))), "{out}");
    assert_eq!(with("cpus", &["--cpus", "2"]), "2 of 2 cpus: 0 1\n");
    let out = with("memory", &["--memory", "32M"]);
    assert!(out.contains("region 0x100000 0x1f00000 1\n"), "{out}");
}

/// The microseconds in each row of `--timings`: for the stage, since exec.
fn table(end: &End) -> Vec<(u64, u64, String)> {
    let lines = end.err.lines();
    let rows = lines.skip_while(|line| !line.contains("stage")).skip(1);
    let rows = rows.take_while(|line| !line.contains("page faults"));
    rows.map(|line| {
        let mut words = line.split_whitespace();
        let mut number = || words.next().unwrap().parse().unwrap();
        let (took, at) = (number(), number());
        (took, at, words.collect::<Vec<_>>().join(" "))
    })
    .collect()
}

#[test]
fn timings_account_for_the_whole_start() {
    if !have_kvm() {
        return;
    }
    let end = run(&mut tiny("memory", ["--timings"]));
    end.expect(0);
    let rows = table(&end);
    assert!(rows.len() > 5, "{}", end.err);
    let sum: u64 = rows.iter().map(|row| row.0).sum();
    let last = rows.last().unwrap();
    assert_eq!(last.2, "boot marker");
    // Each row loses less than a microsecond to rounding.
    assert!(sum.abs_diff(last.1) <= rows.len() as u64, "{}", end.err);
    assert!(rows.is_sorted_by_key(|row| row.1), "{}", end.err);
    // The line that the marker itself makes tells the same time.
    let line = end.err.lines().next().unwrap();
    let marker = line.strip_prefix("mote: boot marker after ").unwrap();
    let marker: u64 = marker.trim().strip_suffix(" us").unwrap().parse().unwrap();
    assert!(marker.abs_diff(last.1) < 10_000, "{}", end.err);
}

#[test]
fn without_timings_nothing_is_on_stderr() {
    if !have_kvm() {
        return;
    }
    let end = run(&mut tiny("memory", [""; 0]));
    assert_eq!(end.expect(0).complaints(), [""; 0]);
}

/// Runs beside each other do not disturb each other.
#[test]
fn many_vms_run_at_once() {
    if !have_kvm() {
        return;
    }
    let vms: Vec<Vm> = (0..8).map(|_| Vm::start(&mut tiny("echo", ["--memory", "32M"]))).collect();
    for (number, mut vm) in vms.into_iter().enumerate() {
        vm.wait_for("ready");
        vm.send(format!("I am {number}\x04"));
        assert_eq!(vm.end().expect(0).out, format!("ready\nI am {number}"));
    }
}
