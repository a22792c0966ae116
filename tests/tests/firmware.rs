//! A machine without a kernel: it looks for one on its drives, boots what it
//! finds there, and says why it cannot.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use mote_tests::files::{fnv, noise};
use mote_tests::medium::{disk, iso};
use mote_tests::tap;
use mote_tests::vm::{LIMIT, binary};
use mote_tests::{End, Scratch, Terminal, Vm, guest, have_kvm, mote, run, tiny};

/// Exit codes.
const NOTHING_TO_BOOT: i32 = 8;
const RESET: i32 = 7;

/// The tiny operating system, and a GRUB entry that boots it.
fn system() -> Vec<u8> {
    fs::read(guest("system")).unwrap()
}

fn entry(title: &str, arguments: &str) -> String {
    format!("menuentry '{title}' {{\n linux /boot/system {arguments}\n initrd /boot/initrd\n}}\n")
}

fn boots(arguments: &[&str]) -> End {
    run(mote(["run"]).args(arguments))
}

/// The story that a computer tells: the CD-ROM installs a system, the machine
/// restarts and boots it from the disk, and so it does the next time.
#[test]
fn a_system_installs_itself() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let extlinux = "label l0\n linux /system\n append do=run\n initrd /system\n";
    let system = system();
    for fat in [true, false] {
        let files: &[(&str, &[u8])] =
            &[("extlinux/extlinux.conf", extlinux.as_bytes()), ("system", &system)];
        let installed = fs::read(disk(&scratch, &format!("installed-{fat}"), fat, files)).unwrap();
        let cfg = entry("Install", "do=install disk=0");
        let files: &[(&str, &[u8])] = &[
            ("boot/grub/grub.cfg", cfg.as_bytes()),
            ("boot/system", &system),
            ("boot/initrd", &installed),
        ];
        let cd = iso(&scratch, &format!("cd-{fat}"), files);
        let target = scratch.join(format!("target-{fat}"));
        let target = target.to_str().unwrap();
        let create = format!("{target},size=40M,create");
        // The whole of the initial RAM disk is installed.
        let end = boots(&["--cdrom", &cd, "--disk", &create, "--no-cdrom-hint"]);
        let end = end.expect(0);
        let lines: Vec<&str> = end.out.lines().map(str::trim_end).collect();
        let size = installed.len();
        let system_size = system.len();
        assert_eq!(
            lines,
            [
                "mote: cdrom0: Install",
                "cmdline: do=install disk=0 console=ttyS0",
                &format!("initrd: {size} bytes"),
                &format!("{} sectors installed", size / 512),
                "mote: disk0: l0",
                "cmdline: do=run console=ttyS0",
                &format!("initrd: {system_size} bytes"),
                "This is the installed system.",
            ]
        );
        assert!(fs::read(target).unwrap()[..size] == installed, "what was installed");
        // The next start needs no CD; with one, that comes first.
        let end = boots(&["--disk", target]);
        assert!(end.expect(0).out.ends_with("This is the installed system.\n"));
        let end =
            boots(&["--cdrom", &cd, "--disk", target, "--on-reset", "exit", "--no-cdrom-hint"]);
        assert!(end.expect(RESET).out.starts_with("mote: cdrom0: Install"));
        let end = boots(&["--cdrom", &cd, "--disk", target, "--boot", "disk"]);
        assert!(end.expect(0).out.starts_with("mote: disk0: l0"));
    }
}

/// What a kernel is told is the same as with --kernel.
#[test]
fn a_kernel_finds_what_it_finds_without_firmware() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    // Of no whole number of sectors, and large enough for several requests.
    let initrd = noise(9_000_001);
    let cfg = entry("Look", "do=look quiet");
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", &initrd),
    ];
    let cd = iso(&scratch, "cd", files);
    let file = scratch.file("initrd", &initrd);
    for memory in ["64M", "3584M"] {
        let machine = ["--memory", memory, "--cpus", "2", "--disk", &cd];
        let end = boots(&[&machine[..], &["--boot", "disk0"]].concat());
        let booted = end.expect(0).out.replace('\r', "");
        let (first, rest) = booted.split_once('\n').unwrap();
        assert_eq!(first, "mote: disk0: Look");
        let mut given = tiny("system", machine);
        given.arg("--initrd").arg(&file);
        given.args(["--cmdline", "do=look quiet console=ttyS0"]);
        let end = run(&mut given);
        // Initial RAM disks are cut to what the kernel is told: a multiple of 4.
        let given = end.expect(0).out.replace("9000001 bytes", "9000004 bytes");
        let sum = |bytes: &[u8]| format!("initrd sum: {:#x}", fnv(bytes));
        let padded = [&initrd[..], &[0; 3]].concat();
        assert_eq!(rest, given.replace(&sum(&initrd), &sum(&padded)), "{memory}");
    }
}

#[test]
fn a_kernel_with_a_pvh_note_is_entered_by_it() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let kernel = fs::read(guest("pvh")).unwrap();
    let cfg = "menuentry PVH { linux /pvh }";
    let files: &[(&str, &[u8])] = &[("boot/grub/grub.cfg", cfg.as_bytes()), ("pvh", &kernel)];
    let end = boots(&["--cdrom", &iso(&scratch, "cd", files)]);
    assert_eq!(end.expect(0).out, "mote: cdrom0: PVH\r\nPVH ok\n");
}

#[test]
fn entries_can_be_chosen() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cfg = [
        "set default=1\n",
        &entry("First one", "do=run n=1"),
        &entry("Second one", "do=run n=2"),
        "submenu More {\n",
        &entry("Third", "do=run n=3"),
        "}\n",
    ]
    .concat();
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", b"initrd"),
    ];
    let cd = iso(&scratch, "cd", files);
    for (name, number) in [
        ("1", 1),
        ("Second one", 2),
        ("More > Third", 3),
        ("3", 3),
        ("First", 1),
        // As GRUB writes places in its menu.
        ("2>0", 3),
        ("More>Third", 3),
        ("2>Third", 3),
    ] {
        let end = boots(&["--cdrom", &cd, "--boot-entry", name]);
        let wanted = format!("cmdline: do=run n={number} console=ttyS0");
        assert!(end.expect(0).out.contains(&wanted), "{name}");
    }
    let end = boots(&["--cdrom", &cd]);
    assert!(end.expect(0).out.contains("n=2"));
    // A name that is none boots nothing, least of all the default.
    for (name, why) in [
        ("Fourth", "no entry 'Fourth'"),
        ("0", "no entry '0'"),
        ("4", "no entry '4'"),
        ("2>1", "no entry '2>1'"),
        ("First one ", "no entry 'First one '"),
    ] {
        let end = boots(&["--cdrom", &cd, "--boot-entry", name]);
        let out = &end.expect(NOTHING_TO_BOOT).out;
        let listed = out.contains("   3  More > Third");
        assert!(out.contains(why) && listed, "{name}: {out}");
        assert!(!out.contains("cmdline:"), "{name}: {out}");
    }
}

/// One that a drive has is booted, in whatever place of the order.
#[test]
fn an_entry_is_looked_for_on_all_drives() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let system = system();
    let make = |name: &str, cfg: &str| {
        let files: &[(&str, &[u8])] = &[
            ("boot/grub/grub.cfg", cfg.as_bytes()),
            ("boot/system", &system),
            ("boot/initrd", b"initrd"),
        ];
        iso(&scratch, name, files)
    };
    let one = make("one", &entry("Install", "do=run n=1"));
    let two =
        make("two", &[entry("Rescue a", "do=run n=2"), entry("Rescue b", "do=run n=3")].concat());
    let both = ["--cdrom", &one, "--cdrom", &two, "--boot-entry"];
    let out = |name| boots(&[&both[..], &[name]].concat());
    assert!(out("Rescue b").expect(0).out.contains("n=3"));
    let end = out("Rescue");
    let told = &end.expect(NOTHING_TO_BOOT).out;
    assert!(told.contains("more than one entry begins with 'Rescue'"), "{told}");
    assert!(told.contains("   1  Install") && told.contains("   2  Rescue b"), "{told}");
    // A drive that was asked for is the only one.
    let plain = iso(&scratch, "plain", &[("readme", b"nothing here")]);
    let both = ["--cdrom", &plain, "--cdrom", &one, "--boot"];
    let end = boots(&[&both[..], &["cdrom0"]].concat());
    let told = &end.expect(NOTHING_TO_BOOT).out;
    assert!(told.contains("cdrom0") && !told.contains("cdrom1"), "{told}");
    let end = boots(&["--cdrom", &one, "--boot", "disk"]);
    assert!(end.code == NOTHING_TO_BOOT || end.code == 2, "{}", end.out);
}

/// A configuration whose default is none says so.
#[test]
fn a_default_that_is_none_is_told() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let grub = |default: &str| format!("set default='{default}'\n{}", entry("One", "do=run"));
    let gone =
        format!("set default=1\n{}menuentry Gone {{ linux /gone }}\n", entry("One", "do=run"));
    for (number, (cfg, lost)) in [
        (grub("0"), None),
        (grub("One"), None),
        (grub("Rescue"), Some("Rescue")),
        (grub("7"), Some("7")),
        (gone, Some("Gone")),
    ]
    .into_iter()
    .enumerate()
    {
        let files: &[(&str, &[u8])] = &[
            ("boot/grub/grub.cfg", cfg.as_bytes()),
            ("boot/system", &system()),
            ("boot/initrd", b"initrd"),
        ];
        let end = boots(&["--cdrom", &iso(&scratch, &format!("cd{number}"), files)]);
        let told = end.expect(0).out.contains("its default: ");
        assert_eq!(told, lost.is_some(), "{cfg}: {}", end.out);
        assert!(lost.is_none_or(|name| end.out.contains(&format!("'{name}'"))));
    }
}

/// What a configuration saves is there after the VM's reset, so that an entry to boot
/// once is booted once, as long as the medium says the same.
#[test]
fn an_entry_to_boot_next_is_booted_once() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cfg = [
        "load_env\nif [ \"${next_entry}\" ]; then\nset default=\"${next_entry}\"\nset next_entry=\n\
         save_env next_entry\nset boot_once=true\nelse\nset default=\"${saved_entry}\"\nfi\n\
         function savedefault {\nif [ -z \"${boot_once}\" ]; then\nsaved_entry=\"${chosen}\"\n\
         save_env saved_entry\nfi\n}\n",
        "menuentry One --id one { savedefault\nlinux /boot/system do=restart n=1\n}\n",
        "menuentry Two { saved_entry=three\nsave_env saved_entry\n\
         linux /boot/system do=restart n=2\n}\n",
        "menuentry Three --id three { savedefault\nlinux /boot/system do=run n=3\n}\n",
        "menuentry Never { saved_entry=one\nsave_env saved_entry\nlinux /boot/system do=run\n}\n",
    ]
    .concat();
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/grub/grubenv", b"# GRUB Environment Block\nnext_entry=0\nsaved_entry=1\n####"),
        ("boot/system", &system()),
    ];
    let end = boots(&["--disk", &disk(&scratch, "disk", false, files)]);
    let out = end.expect(0).out.replace('\r', "");
    let booted: Vec<&str> = out.lines().filter(|line| line.starts_with("mote: ")).collect();
    assert_eq!(booted, ["mote: disk0: One", "mote: disk0: Two", "mote: disk0: Three"]);
}

/// Nothing can be booted: the machine says why, for each drive, and ends.
#[test]
fn nothing_to_boot_is_told() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let empty = scratch.file("empty", vec![0; 1 << 20]);
    let plain = iso(&scratch, "plain", &[("readme", b"nothing here")]);
    let missing = entry("Gone", "x");
    let files: &[(&str, &[u8])] = &[("boot/grub/grub.cfg", missing.as_bytes())];
    let gone = iso(&scratch, "gone", files);
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", missing.as_bytes()),
        ("boot/system", &[0; 5000]),
        ("boot/initrd", b"initrd"),
    ];
    let broken = disk(&scratch, "broken", false, files);
    let empty = format!("{},ro", empty.to_str().unwrap());
    let end = boots(&["--cdrom", &plain, "--cdrom", &gone, "--disk", &broken, "--disk", &empty]);
    let out = end.expect(NOTHING_TO_BOOT).out.replace('\r', "");
    let (_, told) = out.split_once("mote: there is nothing to boot\n").unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "  cdrom0: cd0 (ISO 9660): no boot configuration",
            "  cdrom1: cd1 (ISO 9660): /boot/grub/grub.cfg: (cd1)/boot/system: no such kernel",
            "  disk0: hd0,gpt1 (ext4): /boot/grub/grub.cfg: Gone: /boot/system: a file that is not a kernel (bzImage or ELF) is not supported",
            "  disk1: no partitions, and no known file system",
        ]
    );
}

/// An initial RAM disk that is not there stops the entry, as GRUB does, and is named.
#[test]
fn a_missing_initrd_stops_its_entry() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for (number, initrd) in ["/ucode (hd7,gpt1)/initrd", "/none"].into_iter().enumerate() {
        let cfg = format!("menuentry A {{ linux /boot/system do=run\ninitrd {initrd}\n}}");
        let files: &[(&str, &[u8])] = &[
            ("boot/grub/grub.cfg", cfg.as_bytes()),
            ("boot/system", &system()),
            ("ucode", b"microcode"),
        ];
        let end = boots(&["--cdrom", &iso(&scratch, &format!("cd{number}"), files)]);
        let told = &end.expect(NOTHING_TO_BOOT).out;
        let name = initrd.rsplit(' ').next().unwrap();
        assert!(told.contains(name) && !told.contains("cmdline:"), "{told}");
    }
}

/// What is nested as deep as may be is run or refused; it breaks nothing.
#[test]
fn deep_scripts_end() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for (number, (depth, calls)) in [(12, 6), (15, 20), (5000, 1)].into_iter().enumerate() {
        let (ifs, ends) = ("if true; then ".repeat(depth), "; fi".repeat(depth));
        let function = |n: usize| format!("function f{n} {{ {ifs} f{} {ends} }}\n", n + 1);
        let mut cfg: String = (0..calls).map(function).collect();
        cfg += &format!("function f{calls} {{ true }}\nf0\n{}", entry("End", "do=run"));
        let files: &[(&str, &[u8])] = &[
            ("boot/grub/grub.cfg", cfg.as_bytes()),
            ("boot/system", &system()),
            ("boot/initrd", b"initrd"),
        ];
        let end = boots(&["--cdrom", &iso(&scratch, &format!("cd{number}"), files)]);
        assert!(!end.out.contains("EXCEPTION"), "{depth} {calls}: {}", end.out);
        end.expect(if number == 0 { 0 } else { NOTHING_TO_BOOT });
    }
}

/// A configuration that would take more memory than there is ends with a reason.
#[test]
fn large_configurations_are_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let text = "y".repeat(12_000);
    let initrds = "initrd $x\n".repeat(14);
    let modules = "module_path: boot():/${x}\n".repeat(14);
    let grub = "boot/grub/grub.cfg";
    for (number, (path, cfg)) in [
        (grub, format!("function f {{ {} }}\n", "a ".repeat(130_000))),
        (grub, format!("function f {{ {} }}\n", "a;".repeat(130_000))),
        (
            grub,
            format!(
                "x={text}\nfor i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do \
                 for k in 0 1 2 3 4 5 6 7 8 9; do set v$i$j$k=$x; done; done; done"
            ),
        ),
        (
            grub,
            format!(
                "x={text}\nfor i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do \
                 menuentry $i$j {{ linux /boot/system\n{initrds} }}; done; done"
            ),
        ),
        (
            "limine.conf",
            format!("${{x}}={text}\n")
                + &format!("/a\npath: boot():/boot/system\n{modules}").repeat(200),
        ),
        ("isolinux.cfg", format!("menu begin {text}\n").repeat(20) + &"label a\n".repeat(999)),
    ]
    .into_iter()
    .enumerate()
    {
        let files: &[(&str, &[u8])] = &[(path, cfg.as_bytes()), ("boot/system", &system())];
        let cd = iso(&scratch, &format!("cd{number}"), files);
        let end = boots(&["--cdrom", &cd, "--memory", "64M"]);
        assert!(!end.out.contains("panicked"), "{number}: {}", end.out);
        assert!(end.out.contains("too large") || number == 2, "{number}: {}", end.out);
    }
}

/// Too little memory is told as well, and the next drive has its chance.
#[test]
fn what_does_not_fit_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cfg = entry("Large", "do=run");
    let large: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", &noise(20 << 20)),
    ];
    let small: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", b"i"),
    ];
    let (large, small) = (iso(&scratch, "large", large), iso(&scratch, "small", small));
    let end = boots(&["--cdrom", &large, "--cdrom", &small, "--memory", "16M"]);
    let out = &end.expect(0).out;
    assert!(out.contains("needs 24 MiB of memory"), "{out}");
    assert!(out.contains("mote: cdrom1: Large"), "{out}");
}

fn shows(terminal: &Terminal, text: &str) {
    let came = |bytes: &[u8]| tap::count(bytes, text) > 0;
    let screen = &terminal.screen;
    assert!(screen.wait(LIMIT, came), "no {text:?} in {}", screen.text());
}

#[test]
fn a_person_may_choose() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cfg = [entry("One", "do=run n=1"), entry("Two", "do=run n=2")].concat();
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", b"initrd"),
    ];
    let cd = iso(&scratch, "cd", files);
    for (keys, number) in
        [("2\r", 2), ("\r", 1), ("7\r2\r", 2), ("12\x7f\x7f2\r", 2), ("\x1b[B\r", 2)]
    {
        let mut terminal = Terminal::open();
        let mut command = mote(["run", "--cdrom", &cd]);
        terminal.attach(&mut command);
        let vm = Vm::spawn(&mut command);
        shows(&terminal, "or Enter for 1");
        terminal.keys(keys);
        shows(&terminal, &format!("do=run n={number} "));
        assert_eq!(vm.end().code, 0, "{keys:?}");
    }
}

/// Ctrl-C in the menu ends the VM, which boots nothing.
#[test]
fn a_person_may_end_it() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let cfg = [entry("One", "do=run n=1"), entry("Two", "do=run n=2")].concat();
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", b"initrd"),
    ];
    let cd = iso(&scratch, "cd", files);
    let mut terminal = Terminal::open();
    let mut command = mote(["run", "--cdrom", &cd]);
    terminal.attach(&mut command);
    let vm = Vm::spawn(&mut command);
    shows(&terminal, "or Enter for 1");
    terminal.keys("\x03");
    assert_eq!(vm.end().code, NOTHING_TO_BOOT);
    assert!(!terminal.screen.text().contains("cmdline:"));
}

/// System calls that a VM makes once its guest runs: names, and the commands
/// of `ioctl`.
fn calls_while_running(flags: &[&str]) -> BTreeSet<String> {
    let scratch = Scratch::new();
    let trace = scratch.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(&trace);
    run(strace.arg(binary()).arg("run").args(flags)).expect(0);
    let trace = fs::read_to_string(trace).unwrap();
    let running = trace.lines().skip_while(|line| !line.contains("KVM_RUN"));
    let call = |line: &str| {
        let (_, call) = line.split_once(' ')?;
        let call = Some(call.trim_start()).filter(|call| !call.starts_with("<..."))?;
        let (name, arguments) = call.split_once('(')?;
        let command = arguments.split([',', ' ']).nth(2).filter(|_| name == "ioctl");
        Some(format!("{name} {}", command.unwrap_or_default()))
    };
    running.filter_map(call).collect()
}

/// While the firmware looks for a kernel and loads it, the host does nothing
/// that it would not do for any guest that reads a drive.
#[test]
fn the_firmware_is_a_guest_like_any_other() {
    if !have_kvm() {
        return;
    }
    /// How long something takes decides on these.
    const BY_CHANCE: [&str; 7] =
        ["futex ", "ppoll ", "poll ", "madvise ", "brk ", "restart_syscall ", "rt_sigreturn "];
    let scratch = Scratch::new();
    let cfg = entry("Run", "do=run");
    let initrd = noise(3_000_000);
    let files: &[(&str, &[u8])] = &[
        ("boot/grub/grub.cfg", cfg.as_bytes()),
        ("boot/system", &system()),
        ("boot/initrd", &initrd),
    ];
    let cd = iso(&scratch, "cd", files);
    let empty = scratch.file("empty", vec![0; 1 << 20]);
    let drives = ["--disk", empty.to_str().unwrap(), "--cdrom", &cd];
    let kernel = guest("disk");
    let given = ["--kernel", kernel.to_str().unwrap(), "--cmdline", "do=readonly"];
    let any_guest = calls_while_running(&[&drives[..], &given].concat());
    let firmware = calls_while_running(&drives);
    assert!(firmware.contains("preadv "), "{firmware:?}");
    let more: Vec<&String> = firmware
        .difference(&any_guest)
        .filter(|call| !BY_CHANCE.contains(&call.as_str()))
        .collect();
    assert!(more.is_empty(), "{more:?} besides {any_guest:?}");
}
