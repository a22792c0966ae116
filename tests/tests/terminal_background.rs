//! A VM in the background of a shell with job control: it leaves the terminal to the
//! foreground, and runs to its end.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mote_tests::{Terminal, Vm, have_kvm, proc, tiny, wait_until};

/// A shell with job control on the terminal, which runs mote in the background.
fn in_the_background(terminal: &Terminal, guest: &str) -> Vm {
    let mote = tiny(guest, [""; 0]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "set -m; \"$@\" & echo pid=$!.; wait $!; echo code=$?."])
        .arg("sh")
        .arg(mote.get_program())
        .args(mote.get_args());
    terminal.attach(&mut shell);
    Vm::spawn(shell.stderr(Stdio::null()))
}

/// In the background, a program is stopped when it reads the terminal or
/// changes its modes, and when it writes, if the terminal is set up so.
#[test]
fn in_the_background_a_vm_runs_to_its_end() {
    if !have_kvm() {
        return;
    }
    for tostop in [false, true] {
        let terminal = Terminal::open();
        terminal.personalise(tostop);
        let before = terminal.modes();
        let shell = in_the_background(&terminal, "memory");
        terminal.shows("code=0.");
        assert!(terminal.screen.text().contains("memory ok"));
        assert_eq!(terminal.modes(), before);
        shell.end().expect(0);
    }
}

/// What is typed belongs to the foreground, and so do the terminal's modes.
#[test]
fn in_the_background_a_vm_leaves_the_keyboard_alone() {
    if !have_kvm() {
        return;
    }
    let mut terminal = Terminal::open();
    terminal.personalise(false);
    let before = terminal.modes();
    let shell = in_the_background(&terminal, "spin");
    terminal.shows("spin");
    let screen = terminal.screen.text();
    let job = screen.split("pid=").nth(1).and_then(|t| t.split('.').next());
    let job: i32 = job.unwrap().parse().unwrap();
    assert_eq!(terminal.modes(), before);
    terminal.keys("\x01x for the shell\n");
    thread::sleep(Duration::from_millis(300));
    assert_ne!(proc::state(job.cast_unsigned()), 'T', "it was stopped");
    // SAFETY: a plain system call; the shell waits for this process.
    unsafe { libc::kill(job, libc::SIGTERM) };
    terminal.shows("code=143.");
    shell.end().expect(0);
}

/// Stopped in the foreground, which gives the terminal to the shell, and then
/// ended: giving the terminal its modes back must not stop it once more.
#[test]
fn ending_in_the_background_does_not_stop() {
    if !have_kvm() {
        return;
    }
    let mut terminal = Terminal::open();
    terminal.personalise(true);
    let before = terminal.modes();
    let mote = tiny("spin", [""; 0]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "set -m; \"$@\"; echo code=$?.; read line; exit 0"])
        .arg("sh")
        .arg(mote.get_program())
        .args(mote.get_args());
    terminal.attach(&mut shell);
    let shell = Vm::spawn(shell.stderr(Stdio::null()));
    terminal.shows("spin");
    let children = format!("/proc/{0}/task/{0}/children", shell.pid());
    let job = fs::read_to_string(children).unwrap();
    let job: u32 = job.trim().parse().unwrap();
    let send = |signal| {
        // SAFETY: a plain system call; the process is stopped, so it is still
        // there, until both signals have been sent.
        unsafe { libc::kill(job.cast_signed(), signal) };
    };
    send(libc::SIGSTOP);
    terminal.shows("code=147.");
    assert_eq!(proc::state(job), 'T');
    send(libc::SIGTERM);
    send(libc::SIGCONT);
    // The shell may have waited for it by then: it does so between commands.
    wait_until("the end", || {
        let status = fs::read_to_string(format!("/proc/{job}/status"));
        status.map_or(true, |text| text.contains("State:\tZ"))
    });
    assert_eq!(terminal.modes(), before);
    terminal.keys("\n");
    shell.end().expect(0);
}
