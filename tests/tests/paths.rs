//! A path that is empty, or would be a socket without a name in the file system,
//! is refused wherever a path can be given.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use mote_tests::api::Server;
use mote_tests::{Scratch, mote, run};

/// Command lines with `PATH` where a path goes; those of sockets.
const LINES: &[&str] = &[
    "run --kernel PATH",
    "run --kernel k --initrd PATH",
    "run --config PATH",
    "run --disk PATH",
    "run --cdrom PATH",
    "run --kernel k --serial file:PATH",
    "run --kernel k --snapshot PATH",
    "restore PATH",
    "restore d --snapshot PATH",
    "merge PATH b c",
    "merge a PATH c",
    "merge a b PATH",
    "doctor PATH",
    "--api-sock s --config-file PATH",
    "--api-sock s --log-path PATH",
    "--api-sock s --metrics-path PATH",
    "--api-sock s --allow-path PATH",
    "--api-sock s --serial file:PATH",
];
const SOCKETS: &[&str] = &[
    "run --kernel k --serial socket:PATH",
    "restore d --uffd PATH",
    "--api-sock PATH",
    "api --socket PATH",
    "--api-sock s --serial socket:PATH",
    "ctl --socket PATH info",
];

#[test]
fn no_flag_takes_an_empty_or_abstract_path() {
    let scratch = Scratch::new();
    let lines = LINES.iter().map(|line| (line, &[""][..]));
    let sockets = SOCKETS.iter().map(|line| (line, &["", "@mote", "@"][..]));
    for (line, paths) in lines.chain(sockets) {
        for path in paths {
            let words = line.split(' ').map(|word| word.replace("PATH", path));
            let mut command = mote(words);
            let end = run(command.current_dir(&*scratch).stdin(Stdio::null()));
            let why = if path.is_empty() { "path" } else { "abstract" };
            end.expect(2).complains(&[why]);
            let left: Vec<_> = fs::read_dir(&*scratch).unwrap().collect();
            assert!(left.is_empty(), "{line} {path}: {left:?}");
        }
    }
}

/// What is no directory has nothing beneath it that could be opened.
#[test]
fn only_directories_are_allowed() {
    let scratch = Scratch::new();
    let file = scratch.join("file");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink("loop", scratch.join("loop")).unwrap();
    for (path, why) in [
        ("missing", "no such file"),
        ("file", "not a directory"),
        ("/dev/null", "not a directory"),
        ("loop", "symbolic links"),
    ] {
        let mut command = mote(["api", "--socket", "s", "--allow-path", path]);
        let end = run(command.current_dir(&*scratch).stdin(Stdio::null()));
        end.expect(3).complains(&["--allow-path", path, why]);
        assert!(!scratch.join("s").exists(), "{path}");
    }
}

/// Requests with `PATH` where a path goes.
const REQUESTS: &[(&str, &str)] = &[
    ("/boot-source", r#"{"kernel_image_path":"PATH"}"#),
    ("/boot-source", r#"{"kernel_image_path":"/dev/null","initrd_path":"PATH"}"#),
    ("/drives/d", r#"{"drive_id":"d","is_root_device":false,"path_on_host":"PATH"}"#),
    ("/logger", r#"{"log_path":"PATH"}"#),
    ("/metrics", r#"{"metrics_path":"PATH"}"#),
    ("/serial", r#"{"serial_out_path":"PATH"}"#),
    ("/snapshot/create", r#"{"snapshot_path":"PATH","mem_file_path":"m"}"#),
    ("/snapshot/create", r#"{"snapshot_path":"s","mem_file_path":"PATH"}"#),
    ("/snapshot/load", r#"{"snapshot_path":"PATH","mem_file_path":"m"}"#),
    ("/snapshot/load", r#"{"snapshot_path":"s","mem_file_path":"PATH"}"#),
    ("/snapshot/load", r#"{"snapshot_path":"s","mem_file_path":"m","working_set_path":"PATH"}"#),
    (
        "/snapshot/load",
        r#"{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"PATH"}}"#,
    ),
    (
        "/snapshot/load",
        r#"{"snapshot_path":"s","mem_backend":{"backend_type":"Uffd","backend_path":"PATH"}}"#,
    ),
];

#[test]
fn no_request_takes_an_empty_or_abstract_path() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    let mut client = server.client();
    for (path, body) in REQUESTS {
        for bad in ["", r"\u0000mote", r"a\u0000b"] {
            let body = body.replace("PATH", bad);
            let answer = client.request("PUT", path, &body);
            let said = answer.expect(400).json()["fault_message"].to_string();
            assert!(said.contains("the path"), "{body}: {said}");
        }
    }
    let (path, body) = REQUESTS.last().unwrap();
    let answer = client.request("PUT", path, &body.replace("PATH", "@mote"));
    assert!(answer.expect(400).body.contains("abstract"), "{answer:?}");
    let config = r#"{"boot-source":{"kernel_image_path":"PATH"},"drives":[DRIVE]}"#;
    let drive = r#"{"drive_id":"d","is_root_device":false,"path_on_host":"PATH"}"#;
    let logger = r#"{"logger":{"log_path":"PATH"}}"#;
    let metrics = r#"{"metrics":{"metrics_path":"PATH"}}"#;
    let drives = config.replace("PATH", "k").replace("DRIVE", drive);
    for text in [&config.replace("DRIVE", ""), &drives, logger, metrics] {
        let file = scratch.file("vm.json", text.replace("PATH", ""));
        let mut command = mote(["--no-api", "--config-file"]);
        run(command.arg(&file)).expect(2).complains(&["the path is empty"]);
    }
}

/// The socket is its owner's alone from its first moment on, or whose it is said
/// to be.
#[test]
fn the_socket_is_its_owners() {
    let scratch = Scratch::new();
    for (flags, mode) in [
        (&[][..], 0o600),
        (&["--api-sock-mode", "660"], 0o660),
        (&["--api-sock-mode", "0666"], 0o666),
    ] {
        let server = Server::start(&scratch, flags);
        let found = fs::metadata(&server.socket).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{flags:?}");
    }
}
