//! `mote ctl` and a server that is not to be trusted.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use mote_tests::{Scratch, mote, run};

/// Answers one request, whatever it is.
fn answer(mut client: UnixStream, status: &str, body: &str) {
    let mut head = [0; 4096];
    let _ = client.read(&mut head);
    let length = body.len();
    let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
}

/// What a server says never controls the terminal: it is printed as text.
#[test]
fn no_answer_reaches_the_terminal_as_control_characters() {
    const EVIL: &str = r"a\u001b[31mb\u009b31m\u202ec\u0007";
    let bodies = [
        format!(r#"{{"fault_message":"{EVIL}"}}"#),
        format!(r#"{{"id":"{EVIL}","state":"{EVIL}","{EVIL}":{{"{EVIL}":"{EVIL}"}}}}"#),
        format!(r#"["{EVIL}"]"#),
        "\u{1b}[31m is no JSON".to_owned(),
        String::new(),
    ];
    for status in ["200 OK", "204 No Content", "400 \u{1b}[31m", "\u{1b}]0;title\u{7}"] {
        for body in &bodies {
            for command in [&["info"][..], &["info", "--json"], &["metrics"], &["pause"]] {
                let scratch = Scratch::new();
                let socket = scratch.join("socket");
                let listener = UnixListener::bind(&socket).unwrap();
                let (status, body) = (status.to_owned(), body.clone());
                thread::spawn(move || {
                    listener.incoming().for_each(|client| answer(client.unwrap(), &status, &body));
                });
                let end = run(mote(["ctl", "--socket"]).arg(&socket).args(command));
                let shown = format!("{}{}", end.out, end.err);
                let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
                assert!(!shown.contains(bad), "{command:?} {end:?}");
                assert!(end.code >= 0, "{command:?} {end:?}");
            }
        }
    }
}
