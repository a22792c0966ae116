//! `--config`: what is wrong with a config file is said in one line that names the
//! file and the key.

use std::io;

use mote_tests::vm::refused;
use mote_tests::{Scratch, guest, have_kvm, mote, run};

const USAGE: i32 = 2;
const INPUT: i32 = 3;

#[test]
fn config_files_name_file_and_key() {
    let scratch = Scratch::new();
    for (text, words) in [
        ("", &["is empty", "JSON"][..]),
        (" \n", &["is empty"]),
        ("{", &["not JSON", "line 1"]),
        ("[]", &["a JSON object is expected"]),
        ("null", &["a JSON object is expected"]),
        ("\"kernel\"", &["a JSON object is expected"]),
        (r#"{"drives":[5]}"#, &["drives[0]", "a JSON object"]),
        ("kernel = vmlinux", &["expected"]),
        ("{} {}", &["trailing"]),
        ("\u{feff}{}", &["expected"]),
        (r#"{"vsock":{}}"#, &["vsock", "no such device"]),
        (r#"{"boot-source":{"kernel":"k"}}"#, &["boot-source.kernel", "unknown"]),
        (r#"{"boot-source":[]}"#, &["boot-source", "a JSON object"]),
        (r#"{"machine-config":[]}"#, &["machine-config", "a JSON object"]),
        (r#"{"logger":[]}"#, &["logger", "a JSON object"]),
        (r#"{"metrics":[]}"#, &["metrics", "a JSON object"]),
        (r#"{"drives":[[]]}"#, &["drives[0]", "a JSON object"]),
        (r#"{"network-interfaces":[[]]}"#, &["network-interfaces[0]", "a JSON object"]),
        (
            r#"{"boot-source":{"kernel_image_path":1}}"#,
            &["boot-source.kernel_image_path", "invalid type"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":"1","mem_size_mib":128}}"#,
            &["machine-config.vcpu_count", "invalid type"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":1.5,"mem_size_mib":128}}"#,
            &["machine-config.vcpu_count", "invalid type"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":1,"mem_size_mib":-1}}"#,
            &["machine-config.mem_size_mib"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":1,"vcpu_count":2,"mem_size_mib":128}}"#,
            &["machine-config", "duplicate", "vcpu_count"],
        ),
        (r#"{"boot-source":{},"boot-source":{}}"#, &["duplicate", "boot-source"]),
        (r#"{"machine-config":{"vcpu_count":1}}"#, &["mem_size_mib", "missing"]),
        (
            r#"{"machine-config":{"vcpu_count":33,"mem_size_mib":128}}"#,
            &["machine-config.vcpu_count", "1 to 32"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":1,"mem_size_mib":17592186044416}}"#,
            &["machine-config.mem_size_mib"],
        ),
        (
            r#"{"machine-config":{"vcpu_count":1,"mem_size_mib":128,"smt":true}}"#,
            &["machine-config.smt"],
        ),
        ("{}", &["--kernel"]),
    ] {
        let file = scratch.file("vm.json", text);
        let end = refused(mote(["run", "--config"]).arg(&file), USAGE, words);
        let named = end.err.contains(file.to_str().unwrap());
        assert!(named || text == "{}", "{}", end.err);
    }
}

/// Process substitution (`--config <(make-config)`) is a pipe.
#[test]
fn a_config_may_come_through_a_pipe() {
    if !have_kvm() {
        return;
    }
    let (reader, mut writer) = io::pipe().unwrap();
    let kernel = guest("hello");
    let text = format!(r#"{{"boot-source":{{"kernel_image_path":{kernel:?}}}}}"#);
    io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
    drop(writer);
    let mut command = mote(["run", "--config", "/dev/stdin", "--serial", "none"]);
    run(command.stdin(reader)).expect(0);
}

/// A config file can be large, deep, missing, no file, or no text.
#[test]
fn config_files_that_are_none_are_refused() {
    let scratch = Scratch::new();
    let deep = scratch.file("deep", "[".repeat(500_000));
    let deep_inside = format!("{{\"boot-source\":{}", "[".repeat(500_000));
    for file in [
        scratch.join("none"),
        scratch.to_path_buf(),
        scratch.file("large", vec![b' '; 2 << 20]),
        scratch.file("binary", [0xff, 0xfe, 0, 1]),
        scratch.file("inside", deep_inside),
        deep,
        "/dev/zero".into(),
    ] {
        let words = ["config", file.to_str().unwrap()];
        refused(mote(["run", "--config"]).arg(&file), USAGE, &words);
    }
}

/// What a config file names is checked as what a flag names.
#[test]
fn a_kernel_named_by_a_config_file_is_named_in_the_error() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let text = r#"{"boot-source":{"kernel_image_path":"/no/kernel"}}"#;
    let file = scratch.file("vm.json", text);
    let mut command = mote(["run", "--config"]);
    let words = ["kernel /no/kernel", "no such file"];
    refused(command.arg(&file), INPUT, &words);
}
