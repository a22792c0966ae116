//! The console on a terminal with a person at it: keys one by one, a way out,
//! and a terminal that is afterwards as it was.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mote_tests::vm::LIMIT;
use mote_tests::{End, Terminal, Vm, have_kvm, proc, tiny, wait_until};

const CTRL_A: &str = "\x01";

/// A VM on a terminal that somebody has set up to their own taste; standard
/// error is elsewhere, so that nothing gets between the guest's words.
fn start(guest: &str, flags: &[&str]) -> (Terminal, Vm) {
    let terminal = Terminal::open();
    terminal.personalise(false);
    let mut command = tiny(guest, flags);
    terminal.attach(&mut command);
    let vm = Vm::spawn(command.stderr(Stdio::null()));
    (terminal, vm)
}

fn letters_in_order(bytes: &[u8], word: &str) -> bool {
    let mut bytes = bytes.iter();
    word.bytes().all(|letter| bytes.any(|byte| *byte == letter))
}

/// Starts a guest, waits for what it says, does `deed`, and waits for the end:
/// then the terminal must be as it was. Returns the end and the screen.
fn restored(guest: &str, word: &str, deed: impl FnOnce(&mut Terminal, &Vm)) -> (End, String) {
    let mut terminal = Terminal::open();
    terminal.personalise(false);
    let before = terminal.modes();
    let mut command = tiny(guest, [""; 0]);
    terminal.attach(&mut command);
    let vm = Vm::spawn(&mut command);
    // The boot marker's line may come between two of the guest's letters.
    let came = |bytes: &[u8]| letters_in_order(bytes, word);
    let screen = &terminal.screen;
    assert!(screen.wait(LIMIT, came), "no {word:?} in {}", screen.text());
    // A guest that crashes may be gone already.
    assert!(guest == "triple" || terminal.modes().is_raw());
    deed(&mut terminal, &vm);
    let end = vm.end();
    assert_eq!(terminal.modes(), before);
    // What is still on its way to the screen.
    terminal.screen.wait(Duration::from_millis(200), |_| false);
    (end, terminal.screen.text())
}

#[test]
fn ctrl_a_x_leaves_with_code_0() {
    if !have_kvm() {
        return;
    }
    for leave in ["\x01x", "\x01X"] {
        let (end, _) = restored("echo", "ready", |terminal, _| terminal.keys(leave));
        end.expect(0);
    }
}

/// A person can leave a guest that does not listen and fills every buffer.
#[test]
fn a_deaf_guest_can_be_left() {
    if !have_kvm() {
        return;
    }
    for (times, lost) in [(300, false), (20_000, true)] {
        let (end, screen) = restored("idle", "idle", |terminal, _| {
            terminal.keys("let me out ".repeat(times));
            terminal.keys("\x01x");
        });
        end.expect(0);
        let told = screen.contains("bytes were lost: the guest did not take them");
        assert_eq!(told, lost, "{screen}");
    }
}

/// What a signal does to a VM on a terminal.
fn outcome(signal: i32) -> Option<i32> {
    match signal {
        libc::SIGCHLD
        | libc::SIGURG
        | libc::SIGWINCH
        | libc::SIGPIPE
        | libc::SIGXFSZ
        | libc::SIGCONT
        | libc::SIGTTOU => None,
        // Taken for a file that guest memory is mapped from.
        libc::SIGBUS => Some(6),
        signal => Some(128 + signal),
    }
}

/// Every signal that can be caught: it ends the VM with its own code and the
/// terminal as it was, or changes nothing.
#[test]
fn every_signal_leaves_the_terminal_as_it_should_be() {
    if !have_kvm() {
        return;
    }
    // The C library keeps two for itself, and three stop.
    let mut signals: Vec<i32> = (1..32).chain([libc::SIGRTMIN() + 9, libc::SIGRTMAX()]).collect();
    let others = [libc::SIGKILL, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN];
    signals.retain(|signal| !others.contains(signal));
    for signal in signals {
        let (end, _) = restored("spin", "spin", |terminal, vm| {
            vm.signal(signal);
            if outcome(signal).is_none() {
                thread::sleep(Duration::from_millis(50));
                assert!(terminal.modes().is_raw(), "signal {signal}");
                vm.signal(libc::SIGTERM);
            }
        });
        end.expect(outcome(signal).unwrap_or(143));
    }
}

/// What a caller has ignored (`nohup`, a shell's `&`) stays ignored.
#[test]
fn what_is_ignored_stays_ignored() {
    if !have_kvm() {
        return;
    }
    for (signal, ends) in [(libc::SIGHUP, false), (libc::SIGINT, false), (libc::SIGTERM, true)] {
        let mut command = tiny("spin", [""; 0]);
        // SAFETY: may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::signal(signal, libc::SIG_IGN);
                Ok(())
            });
        }
        let mut vm = Vm::start(&mut command);
        vm.wait_for("spin");
        vm.signal(signal);
        if !ends {
            thread::sleep(Duration::from_millis(100));
            assert!(!vm.has_ended(), "signal {signal}");
            vm.signal(libc::SIGTERM);
        }
        vm.end().expect(143);
    }
}

/// What a person does to a job, with a shell that has job control.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Move {
    /// The VM is sent this signal.
    Signal(i32),
    /// The shell continues it in the background, or fetches it.
    Background,
    Foreground,
}

/// A shell at the terminal, and the VM that it has started.
struct Job {
    terminal: Terminal,
    shell: Vm,
    pid: i32,
}

impl Job {
    fn start(shell: &str, background: bool) -> Self {
        let mut terminal = Terminal::open();
        terminal.personalise(false);
        let mut command = Command::new("env");
        command.args(["PS1=ready>", "ENV=", shell]);
        command.args(if shell == "bash" {
            &["--norc", "--noprofile", "--noediting", "-i"][..]
        } else {
            &["-i"]
        });
        terminal.attach(&mut command);
        let shell = Vm::spawn(&mut command);
        terminal.shows("ready>");
        let mote = tiny("echo_irq", [""; 0]);
        let args: Vec<_> = mote.get_args().map(|arg| arg.to_str().unwrap()).collect();
        let line = format!("{} {}", mote.get_program().to_str().unwrap(), args.join(" "));
        terminal.keys(format!("{line}{}\n", if background { " &" } else { "" }));
        let children = format!("/proc/{0}/task/{0}/children", shell.pid());
        let mut pid = None;
        wait_until("the job", || {
            pid = fs::read_to_string(&children).unwrap().trim().parse().ok();
            // It is the shell's own copy until it is executed.
            let name =
                pid.and_then(|pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            name.is_some_and(|name| name.trim() == "mote")
        });
        let job = Self { terminal, shell, pid: pid.unwrap() };
        wait_until("the VM runs", || {
            proc::threads(job.pid.cast_unsigned()).iter().any(|name| name == "vcpu0")
        });
        job
    }

    fn state(&self) -> char {
        proc::state(self.pid.cast_unsigned())
    }

    /// The shell's prompt is back, and so are its modes.
    fn shell_has_it(&mut self, mark: usize) {
        wait_until("the shell has the terminal", || !self.terminal.modes().is_raw());
        let word = format!("mark{mark}");
        self.terminal.keys(format!("echo {}''{}\n", &word[..2], &word[2..]));
        self.terminal.shows(&word);
    }

    /// Keys go to the guest one by one, which sends them back.
    fn guest_has_it(&mut self, mark: usize) {
        wait_until("raw", || self.terminal.modes().is_raw());
        let word = format!("<{mark}>");
        self.terminal.keys(&word);
        self.terminal.shows(&word);
    }

    fn apply(&mut self, step: Move, mark: usize) {
        match step {
            Move::Signal(signal) => {
                // SAFETY: a plain system call; the shell has not waited for its end.
                unsafe { libc::kill(self.pid, signal) };
                if signal != libc::SIGCONT {
                    wait_until("the stop", || self.state() == 'T');
                }
            }
            Move::Background => self.terminal.keys("bg\n"),
            Move::Foreground => self.terminal.keys("fg\n"),
        }
        match step {
            Move::Foreground => self.guest_has_it(mark),
            _ => {
                self.shell_has_it(mark);
                if step == Move::Background {
                    wait_until("it runs", || self.state() != 'T');
                    thread::sleep(Duration::from_millis(400));
                    assert_ne!(self.state(), 'T', "it has touched the terminal");
                    assert!(!self.terminal.modes().is_raw());
                }
            }
        }
    }
}

/// Every way a shell moves a job: the terminal is raw while the VM has it, and the
/// shell's whenever the shell has it.
#[test]
fn every_order_of_job_control() {
    use Move::{Background, Foreground, Signal};
    if !have_kvm() {
        return;
    }
    let [stop, halt] = [libc::SIGTSTP, libc::SIGSTOP].map(Signal);
    // SIGSTOP gives nothing back; only a shell that does so itself can follow.
    for (shell, background, moves) in [
        ("sh", false, &[stop, Foreground, stop, Foreground][..]),
        ("sh", false, &[stop, Background, Foreground]),
        ("sh", true, &[Foreground, stop, Background, Foreground]),
        ("bash", false, &[stop, Foreground, halt, Foreground]),
        ("bash", false, &[halt, Background, Foreground, stop, Foreground]),
        ("bash", true, &[Foreground, halt, Background, Foreground]),
    ] {
        let mut job = Job::start(shell, background);
        match background {
            true => job.shell_has_it(0),
            false => job.guest_has_it(0),
        }
        for (number, step) in moves.iter().enumerate() {
            println!("{shell}: {step:?}");
            job.apply(*step, number + 1);
        }
        // Powers off, and the shell is there again.
        job.terminal.keys("\x04");
        job.shell_has_it(99);
        job.terminal.keys("exit\n");
        let _ = job.shell.end();
    }
}

/// A job that no shell could continue does not stop, and stays raw.
#[test]
fn an_orphan_does_not_stop() {
    if !have_kvm() {
        return;
    }
    let (end, _) = restored("echo", "ready", |terminal, vm| {
        for _ in 0..2 {
            vm.signal(libc::SIGTSTP);
            thread::sleep(Duration::from_millis(100));
            assert_ne!(proc::state(vm.pid()), 'T');
            assert!(terminal.modes().is_raw());
        }
        terminal.keys("\x04");
    });
    end.expect(0);
}

/// A person is told how to leave, where somebody can read it.
#[test]
fn the_way_out_is_told_on_a_terminal() {
    if !have_kvm() {
        return;
    }
    let (_, screen) = restored("echo", "ready", |terminal, _| terminal.keys("\x04"));
    let hint = "mote: Ctrl-A x leaves, Ctrl-A h shows all keys\r\n";
    assert_eq!(screen.matches(hint).count(), 1, "{screen:?}");
    let (mut terminal, vm) = start("echo", &[]);
    terminal.shows("ready\n");
    terminal.keys("\x04");
    vm.end().expect(0);
    assert!(!terminal.screen.text().contains("mote:"));
}

#[test]
fn a_crash_restores_the_terminal_and_says_so_on_a_line_of_its_own() {
    if !have_kvm() {
        return;
    }
    let (end, screen) = restored("triple", "triple", |_, _| ());
    end.expect(5);
    // With the carriage return that only a terminal in its own modes adds.
    let line = "\nmote: the guest crashed: triple fault on vCPU 0\r\n";
    assert!(screen.ends_with(line), "{screen:?}");
}

#[test]
fn power_off_restores_the_terminal() {
    if !have_kvm() {
        return;
    }
    let (end, screen) = restored("echo", "ready", |terminal, _| terminal.keys("\x04"));
    end.expect(0);
    assert!(letters_in_order(screen.as_bytes(), "ready"), "{screen:?}");
}

#[test]
fn ctrl_a_h_shows_the_keys_and_ctrl_a_ctrl_a_is_one() {
    if !have_kvm() {
        return;
    }
    let (mut terminal, vm) = start("echo", &[]);
    // With its newline, which would land behind the help otherwise.
    terminal.shows("ready\n");
    terminal.keys(format!("{CTRL_A}h"));
    terminal.shows("Ctrl-A x");
    terminal.shows("this help\r\n");
    let before = terminal.screen.bytes().len();
    // Ctrl-A twice sends one; one before anything else sends neither; the rest
    // is the guest's: Ctrl-C, Ctrl-Z, Ctrl-\, carriage return.
    terminal.keys(format!("<{CTRL_A}{CTRL_A}{CTRL_A}q\x03\x1a\x1c\r>"));
    let came = |bytes: &[u8]| bytes.ends_with(b">");
    assert!(terminal.screen.wait(LIMIT, came));
    let screen = terminal.screen.bytes();
    // The guest's bytes as they are: no newline added, no echo of the keys.
    assert_eq!(screen[before..], *b"<\x01\x03\x1a\x1c\r>");
    terminal.keys("\x04");
    vm.end().expect(0);
}

/// More than Mote keeps: the terminal holds back what its guest has yet to take.
#[test]
fn a_large_paste_arrives() {
    if !have_kvm() {
        return;
    }
    let (terminal, vm) = start("echo_irq", &[]);
    terminal.shows("ready\n");
    let before = terminal.screen.bytes().len();
    let text: String = (0..3600).map(|n| format!("{n:019}\n")).collect();
    let mut keyboard = terminal.keyboard();
    keyboard.write_all(text.as_bytes()).unwrap();
    let came = |bytes: &[u8]| bytes.len() >= before + text.len();
    assert!(terminal.screen.wait(2 * LIMIT, came));
    assert!(terminal.screen.bytes()[before..] == *text.as_bytes());
    keyboard.write_all(b"\x04").unwrap();
    vm.end().expect(0);
}

#[test]
fn megabytes_of_keys_for_a_guest_that_never_reads_cost_nothing() {
    if !have_kvm() {
        return;
    }
    let (mut terminal, vm) = start("deaf", &["--cmdline", "ticks=1000000000000"]);
    terminal.shows("deaf");
    terminal.keys("x".repeat(10_000));
    thread::sleep(Duration::from_millis(300));
    let before = proc::status(vm.pid(), "VmRSS:");
    let mut keyboard = terminal.keyboard();
    let typist = thread::spawn(move || {
        let some = [b'x'; 4096];
        let (mut sent, begin) = (0, Instant::now());
        // Well above the threshold in any case; then as much as goes quickly.
        while sent < 4_000_000 || begin.elapsed() < Duration::from_secs(3) {
            keyboard.write_all(&some).unwrap();
            sent += some.len();
        }
    });
    typist.join().unwrap();
    let after = proc::status(vm.pid(), "VmRSS:");
    assert!(after < before + 1024, "{before} KiB, then {after} KiB");
    terminal.keys("\x01x");
    vm.end().expect(0);
}

/// Errors before the VM starts leave the terminal alone.
#[test]
fn mistakes_do_not_touch_the_terminal() {
    let terminal = Terminal::open();
    terminal.personalise(false);
    let before = terminal.modes();
    let mut command = mote_tests::mote(["run", "--kernel", "/nonexistent"]);
    terminal.attach(&mut command);
    Vm::spawn(&mut command).end().expect(3);
    assert_eq!(terminal.modes(), before);
    terminal.shows("mote: kernel /nonexistent");
}
