//! A person at a terminal who starts a jail: its console works as without, and
//! the terminal is afterwards as it was, whatever ends it.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mote_tests::jail::{BUSYBOX, INPUT, JAIL, as_user, children, jail, root, rooted};
use mote_tests::vm::{self, LIMIT};
use mote_tests::{Scratch, Terminal, Vm, files, guest, have_kvm, proc, tap, wait_until};

/// A jail in which a shell runs `script`.
fn shell(id: &str, script: &str) -> Command {
    let mut command = rooted(id, BUSYBOX);
    command.args(["--kvm", "none", "--", "sh", "-c", script]);
    command
}

/// A jail in which mote runs one of the tiny guests.
fn tiny(id: &str, name: &str) -> Command {
    let mut command = rooted(id, vm::binary());
    let kernel = format!("{},as=kernel", guest(name).display());
    command.args(["--file", &kernel, "--", "run", "--kernel", "/kernel"]);
    command
}

fn terminal() -> Terminal {
    let terminal = Terminal::open();
    terminal.personalise(true);
    terminal
}

fn start(terminal: &Terminal, command: &mut Command) -> Vm {
    terminal.attach(command);
    Vm::spawn(command)
}

#[track_caller]
fn shows(terminal: &Terminal, text: &str) {
    let came = |bytes: &[u8]| tap::count(bytes, text) > 0;
    let screen = &terminal.screen;
    assert!(screen.wait(LIMIT, came), "no {text:?} in {}", screen.text());
}

/// The process in the jail that this process keeps.
fn program(jailer: u32) -> u32 {
    children(children(jailer)[0])[0]
}

fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: a plain system call; the process is one of this test's.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

fn letters_in_order(bytes: &[u8], word: &str) -> bool {
    let mut bytes = bytes.iter();
    word.bytes().all(|letter| bytes.any(|byte| *byte == letter))
}

#[test]
fn a_console_in_a_jail_is_one() {
    if !have_kvm() || !root() {
        return;
    }
    let mut terminal = terminal();
    let before = terminal.modes();
    let vm = start(&terminal, tiny("keys", "echo").stderr(Stdio::null()));
    shows(&terminal, "ready\n");
    assert!(terminal.modes().is_raw());
    terminal.keys("\x01h");
    shows(&terminal, "this help\r\n");
    let from = terminal.screen.bytes().len();
    terminal.keys("<\x01\x01\x03\x1a\x1c\r>");
    let came = |bytes: &[u8]| bytes.ends_with(b">");
    assert!(terminal.screen.wait(LIMIT, came));
    // As they are: not echoed, no signals, nothing added.
    assert_eq!(terminal.screen.bytes()[from..], *b"<\x01\x03\x1a\x1c\r>");
    terminal.keys("\x01x");
    vm.end().expect(0);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn every_end_restores_the_terminal() {
    if !have_kvm() || !root() {
        return;
    }
    let exit = |code| shell("end", &format!("echo up; read x; exit {code}"));
    let mut late = rooted("end", BUSYBOX);
    late.args(["--ready-by", "fd", "--cgroup", "cpu.cfs_quota_us=1"]);
    late.args(["--cgroup-version", "1", "--parent-cgroup", "mote-test-end"]);
    late.args(["--", "sh", "-c", "echo up; read x; echo >&3; read x; read x"]);
    for (mut command, up, deed, code, last) in [
        (exit(7), "up", "\r", 7, ""),
        (tiny("end", "echo"), "ready", "\x01x", 0, ""),
        (tiny("end", "spin"), "spin", "TERM", 143, ""),
        (tiny("end", "spin"), "spin", "INT", 130, ""),
        (tiny("end", "spin"), "spin", "HUP", 129, ""),
        (tiny("end", "triple"), "", "", 5, "triple fault on vCPU 0\r\n"),
        (exit(0), "up", "program", 137, "killed by SIGKILL\r\n"),
        (exit(0), "up", "keeper", JAIL, "killed by SIGKILL\r\n"),
        (rooted("end", "/none"), "", "", INPUT, "no such file or directory\r\n"),
        (late, "up", "\r", JAIL, "\r\n"),
    ] {
        let mut terminal = terminal();
        let before = terminal.modes();
        let vm = start(&terminal, &mut command);
        if !up.is_empty() {
            // The boot marker's line may come between two of the guest's letters.
            wait_until(up, || letters_in_order(&terminal.screen.bytes(), up));
            wait_until("raw", || terminal.modes().is_raw());
        }
        match deed {
            "TERM" => vm.signal(libc::SIGTERM),
            "INT" => vm.signal(libc::SIGINT),
            "HUP" => vm.signal(libc::SIGHUP),
            "program" => signal(program(vm.pid()), libc::SIGKILL),
            "keeper" => signal(children(vm.pid())[0], libc::SIGKILL),
            keys => terminal.keys(keys),
        }
        vm.end().expect(code);
        assert_eq!(terminal.modes(), before, "{up} {deed}");
        terminal.screen.wait(Duration::from_millis(200), |bytes| bytes.ends_with(last.as_bytes()));
        let screen = terminal.screen.text();
        assert!(screen.ends_with(last), "{screen:?}");
    }
}

#[test]
fn a_jail_has_the_size_of_the_window() {
    if !root() {
        return;
    }
    let mut terminal = terminal();
    terminal.resize(33, 101);
    let script = "trap 'stty size' WINCH; stty size; read x || read x; stty size; read x; exit 9";
    let vm = start(&terminal, &mut shell("size", script));
    shows(&terminal, "33 101\r\n");
    terminal.resize(44, 102);
    // Before it is told to read on.
    wait_until("the new size", || {
        terminal.keys("\r");
        terminal.screen.text().contains("44 102\r\n")
    });
    terminal.keys("\r\r");
    vm.end().expect(9);
}

/// In a jail whose program leaves its terminal as it is, keys make signals.
#[test]
fn keys_that_interrupt_reach_the_jail_alone() {
    if !root() {
        return;
    }
    let mut terminal = terminal();
    let script = "stty intr ^C quit ^Y; trap 'echo int' INT; trap 'echo quit; exit 3' QUIT; echo up; \
                  while :; do read x; done";
    let vm = start(&terminal, &mut shell("int", script));
    shows(&terminal, "up\r\n");
    terminal.keys("\x03");
    shows(&terminal, "int\r\n");
    terminal.keys("\x19");
    vm.end().expect(3);
}

/// A shell with job control; what it starts is in a group of its own.
fn job(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", &format!("set -m; {script}"), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stderr(Stdio::null());
    shell
}

#[test]
fn a_jail_stops_and_continues_in_foreground_and_background() {
    if !have_kvm() || !root() {
        return;
    }
    let mut terminal = terminal();
    let before = terminal.modes();
    let script = "\"$@\"; echo stopped $?.; read x; bg; echo back.; read x; fg; echo code $?.";
    let command = tiny("job", "echo");
    let mut shell = job(&command, script);
    let shell = start(&terminal, &mut shell);
    shows(&terminal, "ready\n");
    wait_until("raw", || terminal.modes().is_raw());
    let jailer = children(shell.pid())[0];
    let inside = program(jailer);
    signal(jailer, libc::SIGTSTP);
    shows(&terminal, "stopped 147.");
    assert_eq!(terminal.modes(), before);
    wait_until("the program stops", || proc::state(inside) == 'T');
    terminal.keys("\r");
    shows(&terminal, "back.");
    wait_until("the program goes on", || proc::state(inside) != 'T');
    assert_eq!(terminal.modes(), before);
    // To the shell, which then takes it to the foreground.
    terminal.keys("\r");
    wait_until("raw again", || terminal.modes().is_raw());
    terminal.keys("again\r");
    shows(&terminal, "again\r");
    terminal.keys("\x01x");
    shows(&terminal, "code 0.");
    shell.end().expect(0);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn in_the_background_a_jail_leaves_the_keyboard_alone() {
    if !have_kvm() || !root() {
        return;
    }
    let mut terminal = terminal();
    let before = terminal.modes();
    let command = tiny("back", "memory");
    let mut shell = job(&command, "\"$@\" & read x; echo read $x.; wait $!; echo code $?.");
    let shell = start(&terminal, &mut shell);
    shows(&terminal, "memory");
    terminal.keys("mine\r");
    shows(&terminal, "read mine.");
    shows(&terminal, "code 0.");
    assert_eq!(terminal.modes(), before);
    shell.end().expect(0);
}

/// Started so that hanging up does not end it.
#[test]
fn signals_that_the_caller_ignores_end_no_jail() {
    if !root() {
        return;
    }
    let terminal = terminal();
    let jail = shell("nohup", "trap 'echo hup' HUP; echo up; read x; exit 4");
    let mut command = Command::new(BUSYBOX);
    command.args(["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(jail.get_program()).args(jail.get_args());
    let vm = start(&terminal, &mut command);
    shows(&terminal, "up\r\n");
    vm.signal(libc::SIGHUP);
    thread::sleep(Duration::from_millis(100));
    let mut terminal = terminal;
    terminal.keys("\r");
    vm.end().expect(4);
    assert!(!terminal.screen.text().contains("hup"));
}

/// Where only output is a terminal, that is left as it is, and no other output
/// goes there.
#[test]
fn without_a_keyboard_the_terminal_is_left_alone() {
    if !root() {
        return;
    }
    let terminal = terminal();
    let before = terminal.modes();
    let scratch = Scratch::new();
    let errors = scratch.join("errors");
    let script = format!("\"$@\" </dev/null 2>{}; echo code $?.", errors.display());
    let command = shell("mute", "echo one; echo two >&2; stty <&1 >&2; exit 6");
    let shell = start(&terminal, &mut job(&command, &script));
    shows(&terminal, "code 6.");
    shell.end().expect(0);
    assert_eq!(terminal.modes(), before);
    assert!(terminal.screen.text().starts_with("one\r\n"));
    let errors = fs::read_to_string(errors).unwrap();
    assert!(errors.starts_with("two\n") && errors.contains("-opost"), "{errors}");
}

/// More than any buffer on the way holds.
#[test]
fn all_that_is_typed_and_printed_arrives() {
    if !root() {
        return;
    }
    let terminal = terminal();
    let mut command = shell("much", "stty raw -echo; echo up; head -c 300000; exit 8");
    let vm = start(&terminal, &mut command);
    shows(&terminal, "up\n");
    let from = terminal.screen.bytes().len();
    let noise = files::noise(300_000);
    let (mut keyboard, typed) = (terminal.keyboard(), noise.clone());
    let typist = thread::spawn(move || keyboard.write_all(&typed).unwrap());
    vm.end().expect(8);
    typist.join().unwrap();
    let came = |bytes: &[u8]| bytes.len() >= from + noise.len();
    terminal.screen.wait(LIMIT, came);
    assert!(terminal.screen.bytes()[from..] == noise);
}

/// Runs in the jail, as its only program: prints until it is asked to end.
#[test]
#[ignore = "for a jail"]
fn prints() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: may be called by a signal's handler.
        unsafe { libc::_exit(3) };
    }
    if std::process::id() == 1 {
        let handler: extern "C" fn(libc::c_int) = end;
        // SAFETY: the handler makes one system call.
        unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
        loop {
            println!("more");
        }
    }
}

/// Also where the terminal is another user's, who has become this one.
#[test]
fn a_terminal_that_takes_nothing_holds_up_no_signal() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let program = scratch.join("prints");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [&*scratch, &*program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Several times: it is stopped at any point of a write.
    for foreign in [false, true, true, true] {
        let terminal = terminal();
        let mut command = if foreign { jail("held", &program) } else { rooted("held", &program) };
        command.args(["--kvm", "none", "--", "--exact", "prints", "--ignored", "--nocapture"]);
        terminal.attach(&mut command);
        if foreign {
            as_user(&mut command, 10_001);
        }
        let vm = Vm::spawn(&mut command);
        shows(&terminal, "more\r\n");
        let slave = fs::File::open(terminal.name()).unwrap();
        // SAFETY: a plain system call on an open descriptor.
        assert_eq!(unsafe { libc::tcflow(slave.as_raw_fd(), libc::TCOOFF) }, 0);
        thread::sleep(Duration::from_millis(300));
        vm.signal(libc::SIGTERM);
        vm.end().expect(3);
    }
}

/// Users' jails have one too.
#[test]
fn without_root_a_jail_has_a_terminal_too() {
    let mut terminal = terminal();
    let mut command = jail("rootless", BUSYBOX);
    terminal.attach(&mut command);
    if root() {
        as_user(&mut command, 65_534);
    }
    command.args(["--kvm", "none", "--", "sh", "-c", "read x; echo got $x; exit 9"]);
    let vm = Vm::spawn(&mut command);
    terminal.keys("word\r");
    let end = vm.end();
    if end.code == JAIL && terminal.screen.text().contains("namespaces: ") {
        println!("skipped: this host has no user namespaces for users");
        return;
    }
    end.expect(9);
    shows(&terminal, "got word\r\n");
}
