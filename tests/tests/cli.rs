//! What `mote` says about itself.

use std::process::Command;

use mote_tests::{Scratch, mote, run};

#[test]
fn help_is_on_stdout_and_code_0() {
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let end = run(&mut mote(args));
        assert_eq!(end.expect(0).err, "");
        for word in ["Usage: mote", "run", "demo", "doctor", "--version", "Exit codes"] {
            assert!(end.out.contains(word), "no {word} in:\n{}", end.out);
        }
    }
}

#[test]
fn help_for_run_names_every_flag() {
    for args in [&["run", "--help"][..], &["run", "-h"]] {
        let end = run(&mut mote(args));
        assert_eq!(end.expect(0).err, "");
        for flag in [
            "--kernel",
            "--initrd",
            "--cmdline",
            "--memory",
            "--cpus",
            "--serial",
            "--on-reset",
            "--config",
            "--timings",
            "Ctrl-A",
        ] {
            assert!(end.out.contains(flag), "no {flag} in:\n{}", end.out);
        }
    }
}

/// Every command has a help of its own, which fits a terminal of 80 columns.
#[test]
fn every_command_has_its_own_help() {
    for command in ["run", "restore", "merge", "demo", "doctor", "api", "ctl", "--help"] {
        let end = run(&mut mote([command, "--help"]));
        let usage =
            format!("Usage: mote {}", if command == "--help" { "COMMAND" } else { command });
        assert!(end.out.contains(&usage), "no '{usage}' in:\n{}", end.out);
        for line in end.expect(0).out.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}

#[test]
fn the_version_is_one_line() {
    for flag in ["--version", "-V"] {
        let end = run(&mut mote([flag]));
        let expected = format!("mote {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(end.expect(0).out, expected);
        assert_eq!(end.err, "");
    }
}

#[test]
fn wrong_usage_is_code_2_and_points_to_the_help() {
    for (args, word) in [
        (&[][..], "--help"),
        (&["fly"], "'fly'"),
        (&["--fly"], "--fly"),
        (&["run", "--fly"], "--fly"),
        (&["run", "fly"], "fly"),
        (&["demo", "--fly"], "--fly"),
        (&["run"], "--kernel"),
    ] {
        let end = run(&mut mote(args));
        end.expect(2).complains(&[word]);
        assert_eq!(end.out, "", "{args:?}");
    }
}

/// Whatever is wrong with a command's arguments, it is that command's help that
/// is pointed to, and that help is there.
#[test]
fn every_command_names_its_own_help() {
    for (command, help) in [
        ("run", "run"),
        ("restore", "restore"),
        ("merge", "merge"),
        ("demo", "demo"),
        ("doctor", "doctor"),
        ("api", "api"),
        ("ctl", "ctl"),
        ("--api-sock=s", "api"),
    ] {
        let hint = format!("; see 'mote {help} --help'");
        for wrong in ["--bogus", "-z"] {
            let end = run(&mut mote([command, wrong]));
            let complaints = end.expect(2).complaints();
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].ends_with(&hint), "{complaints:?}");
        }
        let end = run(&mut mote([help, "--help"]));
        assert!(!end.expect(0).out.is_empty());
    }
    for (command, value) in [
        ("run", "--kernel"),
        ("run", "--disk"),
        ("restore", "--uffd"),
        ("restore", "--serial"),
        ("ctl", "--socket"),
        ("api", "--id"),
    ] {
        let end = run(&mut mote([command, value]));
        end.expect(2).complains(&[value, &format!("see 'mote {command} --help'")]);
    }
}

/// A reader that closes early (`mote --help | head -1`) is no failure.
#[test]
fn help_into_a_closed_pipe_is_code_0() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = mote(["--help"]);
    let end = mote_tests::Vm::spawn(command.stdout(writer)).end();
    end.expect(0);
}

/// The units for systemd say nothing that it does not know.
#[test]
fn the_units_are_sound() {
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitor/systemd");
    let scratch = Scratch::new();
    for unit in std::fs::read_dir(units).unwrap() {
        let unit = unit.unwrap();
        let text = std::fs::read_to_string(unit.path()).unwrap();
        // The program is not installed here.
        let here =
            text.replace("/usr/bin/mote ", &format!("{} ", mote_tests::vm::binary().display()));
        assert_ne!(text, here);
        let path = scratch.join(unit.file_name().to_str().unwrap());
        std::fs::write(&path, here).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&path);
        let Ok(output) = command.output() else {
            return mote_tests::vm::skip("no systemd-analyze");
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
