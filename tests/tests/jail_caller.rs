//! What a jail has of its caller's: nothing that is shared, however the caller
//! was started, and nothing that reaches it, its terminal, its keys or another
//! jail of its.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mote_tests::jail::{BUSYBOX, alive, children, kill, root, rooted, start};
use mote_tests::vm::LIMIT;
use mote_tests::{Scratch, Terminal, Vm, proc, run, tap, wait_until};

/// Joins a session keyring with this key in it, and returns the key's number.
fn keyring() -> io::Result<i64> {
    // SAFETY: plain system calls with C strings.
    let key = unsafe {
        let none = std::ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none);
        let (kind, name) = (c"user".as_ptr(), KEY.as_ptr());
        let ring = libc::KEY_SPEC_SESSION_KEYRING;
        libc::syscall(libc::SYS_add_key, kind, name, c"s".as_ptr(), 1, ring)
    };
    if key < 0 { Err(io::Error::last_os_error()) } else { Ok(key) }
}

const KEY: &std::ffi::CStr = c"mote-test-secret";

/// Everything that a process can leave to its children, all of it awkward.
fn burdened() -> io::Result<()> {
    // Where root may do that.
    let _ = fs::write("/proc/self/oom_score_adj", "-500");
    keyring()?;
    // SAFETY: plain system calls and live locals.
    unsafe {
        let high = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
        libc::setrlimit(libc::RLIMIT_RTPRIO, &raw const high);
        libc::setrlimit(libc::RLIMIT_NICE, &raw const high);
        libc::setgroups(3, [1, 2, 3].as_ptr());
        libc::personality(0x004_0000); // ADDR_NO_RANDOMIZE
        libc::umask(0);
        libc::prctl(libc::PR_SET_SECUREBITS, 1 << 2); // SECBIT_NO_SETUID_FIXUP
        let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
        for signal in 1..=64 {
            let none = std::ptr::null::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, ignore.as_ptr(), none, 8);
        }
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
    Ok(())
}

/// Session, process group and terminal, as a process of the host sees them.
fn session(pid: u32) -> [i32; 3] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    [3, 2, 4].map(|at| fields[at].parse().unwrap())
}

/// The value of a line of a file in /proc.
fn value(pid: u32, file: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let words = line.unwrap_or_else(|| panic!("no {key} in {text}"));
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_jail_inherits_nothing_of_its_caller() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let mut command = rooted("heir", BUSYBOX);
    command.args(["--ready-fd", "1", "--", "cat"]);
    // SAFETY: only system calls, and a file, between fork and exec.
    unsafe { command.current_dir(&*scratch).pre_exec(burdened) };
    let (jailer, program) = start(&mut command);
    let keeper = children(jailer.pid())[0];
    let none = "0000000000000000";
    for (file, key, want) in [
        ("status", "SigIgn:", none),
        ("status", "SigBlk:", none),
        ("status", "Groups:", ""),
        ("status", "Umask:", "0022"),
        ("status", "CapBnd:", none),
        ("personality", "", "00000000"),
        ("oom_score_adj", "", "0"),
        ("limits", "Max nice priority", "0 0"),
        ("limits", "Max realtime priority", "0 0"),
        ("limits", "Max core file size", "0 0 bytes"),
    ] {
        assert_eq!(value(program, file, key), want, "{file} {key}");
    }
    let (own, keeps) = (program.cast_signed(), keeper.cast_signed());
    assert_eq!(session(program), [own, own, 0]);
    assert_eq!(session(keeper)[1], keeps);
    wait_until("the keeper leaves the directory", || {
        fs::read_link(format!("/proc/{keeper}/cwd")).unwrap() == Path::new("/")
    });
    // It closes the one that it reports on once it has reported.
    wait_until("the keeper has no descriptor of its caller's", || {
        let kept = proc::descriptors(keeper);
        (0..3).all(|number| {
            let theirs = fs::read_link(format!("/proc/{}/fd/{number}", jailer.pid())).unwrap();
            !kept.contains(&theirs.to_string_lossy().into_owned())
        })
    });
    drop(jailer);
}

/// In background, a hang-up of the caller's session does not reach the keeper.
#[test]
fn a_jail_in_background_leaves_the_callers_session() {
    if !root() {
        return;
    }
    let mut command = rooted("session", BUSYBOX);
    command.args(["--daemonize", "--ready-fd", "1", "--", "sleep", "600"]);
    let end = run(&mut command);
    let pid = end.expect(0).out.trim().strip_prefix("ready ").unwrap();
    let program: u32 = pid.parse().unwrap();
    let keeper: u32 = value(program, "status", "PPid:").parse().unwrap();
    for pid in [program, keeper].map(u32::cast_signed) {
        assert_eq!(session(pid.cast_unsigned()), [pid, pid, 0]);
    }
    kill(program);
    wait_until("the keeper is gone", || !alive(keeper));
}

/// A caller's narrower mask holds for the program too.
#[test]
fn a_jail_makes_no_file_more_readable_than_its_caller() {
    if !root() {
        return;
    }
    let mut command = rooted("mask", BUSYBOX);
    // With nodes whose directories a mask must not close either.
    command.args(["--netns", "/proc/self/ns/net", "--ready-fd", "1"]);
    let script = "read x; [ -r /dev/net/tun ] && echo tun; umask; read x";
    command.args(["--", "sh", "-c", script]);
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0o077);
            Ok(())
        })
    };
    let (mut jailer, program) = start(&mut command);
    assert_eq!(value(program, "status", "Umask:"), "0077");
    jailer.send("\n");
    jailer.wait_for("tun\n0077\n");
}

/// Runs in the jail, as its only program: tries what `credentials(7)`,
/// `session-keyring(7)` and `tty_ioctl(4)` know, and says what came of it.
#[test]
#[ignore = "for a jail"]
fn attempts() {
    if std::process::id() != 1 {
        return;
    }
    let argument = std::env::args().find_map(|word| word.strip_prefix("key=").map(str::to_owned));
    let key: i64 = argument.unwrap().parse().unwrap();
    let say = |what: &str, result: i64| {
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let result = if result < 0 { -i64::from(error) } else { result };
        println!("<{what} = {result}>");
    };
    for fd in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        let file = File::from(fd.try_clone_to_owned().unwrap());
        say("device", file.metadata().unwrap().rdev().cast_signed());
    }
    let number = |call: libc::c_long, words: &[i64]| {
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        // SAFETY: calls with numbers, or pointers to C strings that live.
        unsafe { libc::syscall(call, word(0), word(1), word(2), word(3), word(4)) }
    };
    let (user, name) = (c"user".as_ptr() as i64, KEY.as_ptr() as i64);
    let letter = c"\n".as_ptr() as i64;
    let rings = [
        libc::KEY_SPEC_SESSION_KEYRING,
        libc::KEY_SPEC_USER_SESSION_KEYRING,
        libc::KEY_SPEC_USER_KEYRING,
        libc::KEY_SPEC_PROCESS_KEYRING,
    ];
    for ring in rings {
        let words = [libc::KEYCTL_SEARCH.into(), ring.into(), user, name, 0];
        say("find the key", number(libc::SYS_keyctl, &words));
    }
    let read = [libc::KEYCTL_READ.into(), key, 0, 0];
    say("read the key", number(libc::SYS_keyctl, &read));
    let link = [i64::from(libc::KEYCTL_LINK), key, rings[0].into()];
    say("take the key", number(libc::SYS_keyctl, &link));
    say("ask for the key", number(libc::SYS_request_key, &[user, name, 0, 0]));
    let own = [user, c"own".as_ptr() as i64, letter, 1, rings[0].into()];
    say("own key", number(libc::SYS_add_key, &own).signum());
    say("session", number(libc::SYS_getsid, &[0]));
    say("group", number(libc::SYS_getpgrp, &[]));
    say("parent", number(libc::SYS_getppid, &[]));
    say("terminal by name", number(libc::SYS_open, &[c"/dev/tty".as_ptr() as i64, 0, 0]));
    say("hang up", number(libc::SYS_vhangup, &[]));
    say("groups", number(libc::SYS_setgroups, &[0, 0]));
    say("root", number(libc::SYS_setuid, &[0]));
    say("securebits", number(libc::SYS_prctl, &[libc::PR_SET_SECUREBITS.into(), 1]));
    say("urgent", number(libc::SYS_setpriority, &[0, 0, -1]));
    let priority = [1i32, 0];
    let policy = [0, libc::SCHED_FIFO.into(), priority.as_ptr() as i64];
    say("realtime", number(libc::SYS_sched_setscheduler, &policy));
    // The rest may work; whom it reaches is seen from outside.
    for (what, call, words) in [
        ("type", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, letter]),
        ("take the terminal", libc::SYS_ioctl, [0, libc::TIOCSCTTY as i64, 1]),
        ("slow the group", libc::SYS_setpriority, [1, 0, 19]),
        ("slow the user", libc::SYS_setpriority, [2, 0, 19]),
        ("starve the group", libc::SYS_ioprio_set, [2, 0, 3 << 13]),
        ("starve the user", libc::SYS_ioprio_set, [3, 10_001, 3 << 13]),
        ("kill the group", libc::SYS_kill, [0, 9, 0]),
        ("kill all", libc::SYS_kill, [-1, 9, 0]),
        ("leave the terminal", libc::SYS_ioctl, [0, libc::TIOCNOTTY as i64, 0]),
        ("type again", libc::SYS_ioctl, [1, libc::TIOCSTI as i64, letter]),
    ] {
        say(what, number(call, &words));
    }
    println!("<tried>");
    // What it has typed itself is not the end.
    let mut lines = io::stdin().lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| line != "end")) {}
}

/// A person's shell that starts a jail, and another in which the attempts are
/// made. Both, and all of the shell's own, are of one process group.
#[test]
fn nothing_in_a_jail_reaches_its_caller() {
    use libc::{EACCES, EINVAL, ENOENT, ENOKEY, EPERM};
    if !root() {
        return;
    }
    let terminal = Terminal::open();
    let mut keyboard = terminal.keyboard();
    let key = keyring().unwrap();
    let neighbour = rooted("one", BUSYBOX);
    let scratch = Scratch::new();
    let program = scratch.join("attempts");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let hostile = rooted("two", &program);
    let script = format!(
        "mkfifo {fifo}; exec 8<>{fifo}
         {} --kvm none -- cat <{fifo} >/dev/null 8>&- & one=$!
         sleep 1000 8>&- & three=$!
         {} --kvm none -- --exact attempts key={key} --ignored --nocapture 8>&-
         echo left.; read x; kill $three; exec 8>&-; wait $one; echo code $?.",
        words(&neighbour),
        words(&hostile),
        fifo = scratch.join("fifo").display(),
    );
    let mut shell = Command::new(BUSYBOX);
    terminal.attach(shell.args(["sh", "-c", &script]));
    let shell = Vm::spawn(shell.stderr(Stdio::null()));
    let shows = |text: &str| {
        let came = |bytes: &[u8]| tap::count(bytes, text) > 0;
        assert!(terminal.screen.wait(LIMIT, came), "no {text} in {}", terminal.screen.text());
    };
    shows("<tried>");
    let screen = terminal.screen.text();
    let results = |what: &str| -> Vec<i64> {
        let start = format!("<{what} = ");
        let parts = screen.split(&start).skip(1);
        parts.map(|part| part.split('>').next().unwrap().parse().unwrap()).collect()
    };
    for (what, want) in [
        ("find the key", &[-ENOKEY][..]),
        ("read the key", &[-EACCES]),
        ("take the key", &[-EACCES]),
        ("ask for the key", &[-ENOKEY]),
        ("own key", &[1]),
        ("session", &[1]),
        ("group", &[1]),
        ("parent", &[0]),
        ("terminal by name", &[-ENOENT]),
        ("hang up", &[-EPERM]),
        ("groups", &[-EPERM]),
        ("root", &[-EPERM, -EINVAL]),
        ("securebits", &[-EPERM]),
        ("urgent", &[-EACCES, -EPERM]),
        ("realtime", &[-EPERM]),
    ] {
        let found = results(what);
        let all = found.iter().all(|result| want.contains(&(*result as i32)));
        assert!(all && !found.is_empty(), "{what}: {found:?} in {screen}");
    }
    // Standard error is no terminal here.
    let devices = results("device");
    assert!(!devices.contains(&terminal.device().cast_signed()), "{devices:?}");
    // Alive, and as they were, are the shell and all in its group.
    let session_of = session(shell.pid());
    let group = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|_| session(*pid)[1] == session_of[1])
    };
    let members: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(group)
        .collect();
    assert_eq!(members.len(), 4, "shell, two jailers, sleep: {members:?}");
    let nice = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().to_owned()
    };
    for pid in members {
        assert_eq!(nice(&pid.to_string()), nice("self"), "{pid}");
        // SAFETY: a plain system call.
        let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) };
        assert_eq!(priority >> 13, 0, "{pid}");
    }
    keyboard.write_all(b"end\r").unwrap();
    shows("left.");
    assert!(!terminal.screen.text().contains("code"), "somebody typed");
    keyboard.write_all(b"\r").unwrap();
    // Not that of a signal: its input has ended.
    shows("code 0.");
    shell.end().expect(0);
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    words.join(" ")
}
