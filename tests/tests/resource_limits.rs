//! Limits of a process (`setrlimit(2)`): a VM runs with what containers and units
//! allow, and one that cannot says which limit it met.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use mote_tests::api::Server;
use mote_tests::{Client, Scratch, have_kvm, mote, run, tiny, vm};

/// Lets a command have at most so much of each, soft and hard.
fn limited(command: &mut Command, limits: &'static [(u32, u64)]) {
    // SAFETY: a plain system call with a live structure, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (resource, most) in limits {
                let limit = libc::rlimit { rlim_cur: *most, rlim_max: *most };
                if libc::setrlimit(*resource, &raw const limit) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// With few of anything, a VM with a disk and a CD-ROM either runs, or ends with
/// its own code and one line that names the limit.
#[test]
fn every_limit_is_met_or_named() {
    if !have_kvm() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let scratch = Scratch::new();
    let image = scratch.file("disk", vec![0; 1 << 20]);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o666)).unwrap();
    let create = format!("{},size=2M,create", scratch.join("new").display());
    let image = image.to_str().unwrap();
    for (limits, name, runs) in [
        (&[(libc::RLIMIT_NOFILE, 0u64)][..], "", false),
        (&[(libc::RLIMIT_NOFILE, 4)], "RLIMIT_NOFILE", false),
        (&[(libc::RLIMIT_NOFILE, 8)], "RLIMIT_NOFILE", false),
        (&[(libc::RLIMIT_NOFILE, 16)], "RLIMIT_NOFILE", false),
        (&[(libc::RLIMIT_NOFILE, 64)], "", true),
        (&[(libc::RLIMIT_NOFILE, 250)], "", true),
        (&[(libc::RLIMIT_NOFILE, 1024)], "", true),
        (&[(libc::RLIMIT_AS, 64 * MIB)], "RLIMIT_AS", false),
        (&[(libc::RLIMIT_AS, 130 * MIB)], "RLIMIT_AS", false),
        (&[(libc::RLIMIT_AS, 256 * MIB)], "", true),
        (&[(libc::RLIMIT_DATA, 16 * MIB)], "RLIMIT_DATA", false),
        (&[(libc::RLIMIT_FSIZE, 0)], "RLIMIT_FSIZE", false),
        (&[(libc::RLIMIT_MEMLOCK, 0)], "", true),
        (&[(libc::RLIMIT_STACK, 256 << 10)], "", true),
        (&[(libc::RLIMIT_SIGPENDING, 0)], "", true),
        (&[(libc::RLIMIT_MSGQUEUE, 0)], "", true),
        (&[(libc::RLIMIT_CORE, 0), (libc::RLIMIT_RTPRIO, 0)], "", true),
        (&[(libc::RLIMIT_LOCKS, 0), (libc::RLIMIT_NICE, 0)], "", true),
    ] {
        let mut command = tiny("hello", ["--disk", image, "--disk", &create, "--cdrom"]);
        limited(command.arg(vm::binary()), limits);
        let end = run(&mut command);
        let _ = fs::remove_file(scratch.join("new"));
        if runs {
            assert_eq!(end.expect(0).complaints(), [""; 0], "{limits:?}");
        } else if name.is_empty() {
            // Without a descriptor it cannot even be asked whether somebody reads.
            end.expect(3);
        } else {
            assert!([3, 4].contains(&end.code), "{limits:?}: {end:?}");
            end.complains(&[name]);
        }
    }
}

/// Threads count for a user, who is not root here.
#[test]
fn too_few_threads_are_called_that() {
    // SAFETY: asks who runs the tests.
    if !have_kvm() || unsafe { libc::geteuid() } != 0 {
        return;
    }
    let scratch = Scratch::new();
    // Where the programs were built, others may not look.
    let [program, kernel] = ["mote", "kernel"].map(|name| scratch.join(name));
    fs::copy(vm::binary(), &program).unwrap();
    fs::copy(mote_tests::guest("hello"), &kernel).unwrap();
    for path in [&program, &kernel] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let device = fs::File::options().read(true).write(true).open("/dev/kvm").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&device);
    let mut command = Command::new(&program);
    command.args(["run", "--cpus", "4", "--kvm-fd", &number.to_string(), "--kernel"]);
    command.arg(&kernel);
    limited(&mut command, &[(libc::RLIMIT_NPROC, 2)]);
    // SAFETY: a plain system call between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        });
    }
    command.uid(65_000).gid(65_000);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("RLIMIT_NPROC") && said.lines().count() == 1, "{said}");
}

/// The control API with as few: its connections and a snapshot have their places
/// below the limit, whatever that is.
#[test]
fn the_api_needs_no_descriptor_above_the_limit() {
    if !have_kvm() {
        return;
    }
    for limits in [
        &[(libc::RLIMIT_NOFILE, 64u64)][..],
        &[(libc::RLIMIT_NOFILE, 200)],
        &[(libc::RLIMIT_NOFILE, 250)],
        &[(libc::RLIMIT_NOFILE, 1024)],
    ] {
        let scratch = Scratch::new();
        let socket = scratch.join("socket");
        let allow = scratch.to_str().unwrap();
        let guests = mote_tests::guest("echo");
        let guests = guests.parent().unwrap().to_str().unwrap();
        let mut command = mote(["--allow-path", allow, "--allow-path", guests, "--api-sock"]);
        limited(command.arg(&socket), limits);
        let server = Server::of(&mut command, socket);
        let mut client = server.with_guest("echo");
        client.start();
        // Those that stay, and one too many.
        let mut others: Vec<Client> = (0..20).map(|_| server.client()).collect();
        for other in others.iter_mut().rev().take(2) {
            other.get("/").expect(200);
        }
        let mut client = server.client();
        client.patch("/vm", r#"{"state": "Paused"}"#);
        let [state, memory] = ["state", "memory"].map(|name| scratch.join(name));
        let body = format!(
            r#"{{"snapshot_path": "{}", "mem_file_path": "{}"}}"#,
            state.display(),
            memory.display()
        );
        client.put("/snapshot/create", &body);
        assert!(state.exists() && memory.exists());
    }
}
