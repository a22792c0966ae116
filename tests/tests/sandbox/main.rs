//! What a monitor that its guest has taken over can still do: a build of it
//! whose threads make the calls that they are told to, each of which has to be
//! refused, by the filter of system calls and, where there is one, by the layer
//! below.

mod attempts;
mod stage;

use std::fs;

use libc::{EACCES, EBADF, EPERM};
use mote_tests::api::Server;
use mote_tests::network;
use mote_tests::{End, Scratch, Terminal, Vm, have_kvm, proc, run, tiny};

use self::attempts::Layer::{Capabilities, Filter, Landlock, Scope, WriteXorExecute};
use self::attempts::{ATTEMPTS, Attempt};
use self::stage::Stage;

/// On a stage of its own; skipped without KVM or a network namespace.
fn on_stage(body: impl FnOnce(&mut Stage) + Send) {
    if have_kvm() {
        network::alone(|| body(&mut Stage::new()));
    }
}

/// What the calls returned, negative for errors.
fn results(end: &End) -> Vec<i64> {
    let lines = end.err.lines().filter(|line| line.starts_with("breakout: "));
    let results = lines.filter_map(|line| line.rsplit(" = ").next()?.parse().ok());
    results.collect()
}

fn each_is_fatal(thread: &str) {
    all_but(thread, &[]);
}

fn all_but(thread: &str, may: &[&str]) {
    on_stage(|stage| fatal_but(stage, thread, may));
}

fn fatal_but(stage: &Stage, thread: &str, may: &[&str]) {
    for Attempt(what, calls, _) in ATTEMPTS {
        if may.contains(what) {
            continue;
        }
        let end = stage.run(thread, calls, &[]);
        assert_eq!(end.code, -libc::SIGSYS, "{thread}: {what}\n{}", end.err);
        // The first call already is one too many.
        assert_eq!(results(&end), [0; 0], "{thread}: {what}\n{}", end.err);
        assert!(!end.out.contains("memory ok"), "{thread}: {what}: the guest ran");
    }
}

/// While the VM is made, commands to it are free; that it makes no process is
/// the test after this one.
#[test]
fn the_process_is_killed_for_most_while_it_makes_the_vm() {
    let may = ["other memory for the VM", "another vCPU", "another processor", "fork"];
    all_but("Start", &may);
}

#[test]
fn a_starting_process_makes_threads_only() {
    on_stage(|stage| {
        let end = stage.run("Start", &[(libc::SYS_clone3, "*,88")], &[]);
        let absent = -i64::from(libc::ENOSYS);
        assert_eq!(results(end.expect(0)), [absent], "{}", end.err);
    });
}

#[test]
fn the_main_thread_is_killed_for_each() {
    each_is_fatal("Main");
}

#[test]
fn the_api_thread_is_killed_for_each() {
    for thread in ["Control", "Opener"] {
        each_is_fatal(thread);
    }
    on_stage(|stage| {
        // To read, beneath what is allowed, and nothing else: 526336 is
        // O_NONBLOCK | O_CLOEXEC.
        let open = |path: &str, flags: u32| {
            let arguments = format!("-100,\"{path},{flags}");
            stage.run("Opener", &[(libc::SYS_openat, &arguments)], &[])
        };
        let opened = results(open("/usr/bin/env", 526_336).expect(0));
        assert!(opened.iter().all(|fd| *fd > 2) && !opened.is_empty());
        let refused = results(open("/etc/passwd", 526_336).expect(0));
        assert_eq!(refused, [-i64::from(EACCES)]);
        assert_eq!(open("/usr/bin/env", 526_337).code, -libc::SIGSYS);
    });
}

#[test]
fn a_vcpu_is_killed_for_each() {
    each_is_fatal("Vcpu");
}

#[test]
fn the_boot_thread_is_killed_for_each() {
    each_is_fatal("FirstVcpu");
}

#[test]
fn a_disk_is_killed_for_each() {
    each_is_fatal("Disk");
}

#[test]
fn a_cdrom_is_killed_for_each() {
    each_is_fatal("ReadOnly");
}

#[test]
fn a_network_interface_is_killed_for_each() {
    each_is_fatal("Net");
}

#[test]
fn a_reader_of_a_strangers_file_is_killed_for_each() {
    each_is_fatal("Reader");
}

/// Nothing of this rests on having been root. Whoever runs the tests without
/// rights has seen that in all others.
#[test]
fn a_user_without_rights_is_killed_for_each_too() {
    // SAFETY: only asks.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    on_stage(|stage| {
        stage.nobody = true;
        for thread in ["Main", "Vcpu", "Disk"] {
            fatal_but(stage, thread, &[]);
        }
        refuse(stage, "Vcpu", true);
    });
}

/// Calls that take it to describe a VM and to make one, which other layers bound.
const EARLY: &[(&str, i32)] = &[
    ("read a file", EACCES),
    ("the old way", EACCES),
    ("make a file", EACCES),
    ("look into /proc", EACCES),
    ("list a directory", EACCES),
    ("remove a file", EACCES),
    ("connect to an abstract socket", EPERM),
    ("connect to a socket with a path", libc::ENOENT),
    ("other memory for the VM", EBADF),
    ("another vCPU", EBADF),
    ("another processor", EBADF),
    ("fork", libc::ENOSYS),
];

/// Before its VM is described a process with a control API is killed for most, and
/// the rest is refused it where directories are given.
#[test]
fn an_api_without_a_vm_is_killed_for_most() {
    on_stage(|stage| {
        let may: Vec<&str> = EARLY.iter().map(|(what, _)| *what).collect();
        fatal_but(stage, "Early", &may);
        for Attempt(what, calls, _) in ATTEMPTS {
            let Some((_, error)) = EARLY.iter().find(|(may, _)| may == what) else {
                continue;
            };
            let end = stage.run("Early", calls, &["--allow-path", "/usr"]);
            let last = results(end.expect(128 + libc::SIGTERM)).last().copied();
            assert_eq!(last, Some(-i64::from(*error)), "{what}\n{}", end.err);
        }
        // Networks and abstract sockets are out of reach without them, too.
        let socket = ATTEMPTS.iter().find(|a| a.0 == "connect to an abstract socket");
        let end = stage.run("Early", socket.unwrap().1, &[]);
        assert_eq!(results(&end).last(), Some(&-i64::from(EPERM)), "{}", end.err);
    });
}

/// What the kernel shows of that process.
#[test]
fn an_api_without_a_vm_has_nothing_left() {
    let scratch = Scratch::new();
    for allow in [&[][..], &["--allow-path", "/usr"]] {
        let server = Server::start(&scratch, allow);
        server.client().get("/").expect(200);
        let pid = server.vm.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
        }
        assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"));
    }
}

/// Devices that a VM may need are open by then: others of that kind, as the
/// terminals of the same user, are not opened later.
#[test]
fn no_device_is_opened_while_a_vm_runs() {
    on_stage(|stage| {
        let terminal = Terminal::open();
        let devices = ["/dev/kvm", "/dev/net/tun", "/dev/ptmx", "/dev/userfaultfd"];
        for device in devices.map(str::to_owned).into_iter().chain([terminal.name()]) {
            let open = format!("-100,\"{device},526336");
            let end = stage.run("Opener", &[(libc::SYS_openat, &open)], &[]);
            assert_eq!(results(end.expect(0)), [-i64::from(EACCES)], "{device}");
        }
        // What may still be opened is a medium for a drive: nothing reads it here.
        let open = "-100,\"/usr/bin/env,526336";
        let end = stage.run("Opener", &[(libc::SYS_openat, open), (libc::SYS_read, "$,*,1")], &[]);
        assert_eq!(end.code, -libc::SIGSYS, "{}", end.err);
        assert_eq!(results(&end).len(), 1, "{}", end.err);
    });
}

/// What the layer below says where the filter only logs, and before there is
/// one.
fn layers_refuse(thread: &str, log: bool) {
    on_stage(|stage| refuse(stage, thread, log));
}

fn refuse(stage: &Stage, thread: &str, log: bool) {
    let more: &[&str] = if log { &["--seccomp", "log"] } else { &[] };
    for Attempt(what, calls, layer) in ATTEMPTS {
        let end = match layer {
            // It would succeed, and be an end of another kind.
            Filter => continue,
            _ => stage.run(thread, calls, more),
        };
        end.expect(0);
        let expected: &[i32] = match layer {
            Landlock | WriteXorExecute => &[EACCES],
            Scope | Capabilities => &[EPERM],
            Filter => &[],
        };
        let last = results(&end).last().copied();
        let refused = expected.iter().any(|error| last == Some(-i64::from(*error)));
        assert!(refused, "{thread}: {what}: {layer:?}: {last:?}\n{}", end.err);
    }
}

#[test]
fn a_thread_without_its_filter_still_reaches_nothing() {
    layers_refuse("Vcpu", true);
}

#[test]
fn the_process_reaches_nothing_before_there_are_filters() {
    layers_refuse("Process", false);
}

/// Without a sandbox the same attempts succeed: the tests would notice if the
/// calls were wrong, not refused.
#[test]
fn without_a_sandbox_the_attempts_work() {
    on_stage(|stage| {
        let works = ["read a file", "connect to an abstract socket", "write and execute"];
        for Attempt(what, calls, _) in ATTEMPTS {
            // There is no thread to begin in but the whole process.
            if works.contains(what) {
                let end = stage.run("Process", calls, &["--no-sandbox"]);
                end.expect(0);
                let last = results(&end).last().copied();
                assert!(last.is_some_and(|last| last >= 0), "{what}\n{}", end.err);
            }
        }
    });
}

/// Calls that a thread may make, with what is not its own.
#[test]
fn only_what_is_its_own() {
    on_stage(|stage| {
        let fatal: &[(&str, libc::c_long, &str)] = &[
            // The disk's worker on the console, the doorbell as an image, the size.
            ("Disk", libc::SYS_pwritev, "@ConsoleOut,*,0,0"),
            ("Disk", libc::SYS_preadv, "@Kernel,*,0,0"),
            ("Disk", libc::SYS_fallocate, "@Own,0,0,4096"),
            ("Disk", libc::SYS_ftruncate, "@Own,0"),
            // Behind the image's end, and so much that it may fill the host.
            ("Disk", libc::SYS_pwritev, "@Own,*,0,1048576"),
            ("Disk", libc::SYS_pwritev, "@Own,*,0,-4096"),
            ("Disk", libc::SYS_fallocate, "@Own,3,1048576,4096"),
            ("Disk", libc::SYS_fallocate, "@Own,17,0,4294967296"),
            ("Disk", libc::SYS_write, "@Vm,*,8"),
            ("Disk", libc::SYS_ioctl, "@Own,8837,0"), // SG_IO, line 27
            ("ReadOnly", libc::SYS_pwritev, "@Own,*,0,0"),
            ("ReadOnly", libc::SYS_fallocate, "@Own,3,0,4096"),
            ("ReadOnly", libc::SYS_fdatasync, "@Own"),
            ("Net", libc::SYS_ioctl, "@Own,1074025674,*"), // TUNSETIFF
            ("Net", libc::SYS_ioctl, "@Own,1074025676,0"), // TUNSETOWNER
            ("Net", libc::SYS_writev, "@ConsoleOut,*,0"),
            ("Vcpu", libc::SYS_ioctl, "@Vcpu,1094233732,*"), // KVM_SET_SREGS
            ("Vcpu", libc::SYS_read, "@ConsoleIn,*,1"),
            ("Vcpu", libc::SYS_pread64, "@Kernel,*,1,0"),
            ("Vcpu", libc::SYS_write, "@Kernel,*,1"),
            ("Main", libc::SYS_ioctl, "@VcpuFirst,44672,0"), // KVM_RUN
            ("Main", libc::SYS_tgkill, "@Process,1,9"),
            ("Main", libc::SYS_read, "@Kernel,*,1"),
            ("Main", libc::SYS_pwrite64, "@Kernel,*,1,0"),
            ("FirstVcpu", libc::SYS_pwrite64, "@Kernel,*,1,0"),
            ("FirstVcpu", libc::SYS_mmap, "0,4096,5,2,@Kernel,0"),
        ];
        for (thread, call, arguments) in fatal {
            let end = stage.run(thread, &[(*call, arguments)], &[]);
            assert_eq!(end.code, -libc::SIGSYS, "{thread} {call} {arguments}\n{}", end.err);
        }
        // A read-only drive's descriptor cannot be written to, filter or not;
        // behind the end of an image there is nothing.
        let log = &["--seccomp", "log"][..];
        let last = |thread, call, arguments, more| {
            let end = stage.run(thread, &[(call, arguments)], more);
            results(end.expect(0)).last().copied()
        };
        let refused = last("ReadOnly", libc::SYS_pwrite64, "@Own,*,8,0", log);
        assert_eq!(refused, Some(-i64::from(EBADF)));
        let behind = last("Disk", libc::SYS_pread64, "@Own,*,8,1048576", log);
        assert_eq!(behind, Some(0));
    });
}

/// What the process has left, thread by thread, as the kernel shows it.
#[test]
fn a_vm_keeps_no_privilege() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.file("disk", vec![0; 1 << 20]);
    let flags = ["--cpus", "2", "--disk", disk.to_str().unwrap()];
    let vm = Vm::start(&mut tiny("idle", flags));
    vm.wait_for("idle");
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.pid())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        // KVM's own, which never runs a program's instruction.
        if name.starts_with("kvm-") {
            continue;
        }
        let status = fs::read_to_string(task.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1", "{status}");
        assert_eq!(field("Seccomp:"), "2", "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{status}");
        }
        threads += 1;
    }
    assert_eq!(threads, 4);
    let limits = fs::read_to_string(format!("/proc/{}/limits", vm.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let addresses = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    let most: u64 =
        addresses.split_whitespace().nth(4).and_then(|most| most.parse().ok()).expect(addresses);
    // The guest has 128 MiB.
    assert!((128 << 20..256 << 20).contains(&most), "{addresses}");
    // Not /dev/kvm: it could make further VMs.
    let open = proc::descriptors(vm.pid());
    assert!(!open.iter().any(|to| to == "/dev/kvm"), "{open:?}");
    drop(vm);
}

/// What no kernel has is refused, and what this one has is not.
#[test]
fn landlock_can_be_insisted_on() {
    if !have_kvm() {
        return;
    }
    run(&mut tiny("memory", ["--require-landlock", "1"])).expect(0);
    let end = run(&mut tiny("memory", ["--require-landlock", "4000"]));
    end.expect(4).complains(&["--require-landlock 4000", "this kernel has Landlock"]);
}

/// Whoever runs without it is told.
#[test]
fn no_sandbox_is_loud() {
    if !have_kvm() {
        return;
    }
    for (flags, words) in [
        (&["--no-sandbox"][..], "WARNING: --no-sandbox"),
        (&["--seccomp", "log"], "WARNING: --seccomp log"),
    ] {
        run(&mut tiny("memory", flags)).expect(0).complains(&[words]);
    }
}
