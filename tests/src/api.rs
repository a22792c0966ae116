//! A client of the control API that does as it is told, also what no client
//! should.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::vm::{self, LIMIT, Vm, wait_until};

/// A connection.
pub struct Client {
    stream: UnixStream,
    /// What has come and is not an answer yet.
    pending: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Line and headers.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts the status, and the shape of an answer with it.
    ///
    /// # Panics
    /// It is another one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        match status {
            204 => assert!(self.body.is_empty(), "{self:?}"),
            400 => {
                let fault = self.json()["fault_message"].clone();
                assert!(fault.as_str().is_some_and(|text| !text.is_empty()));
            }
            _ => {}
        }
        self
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// Nobody listens.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// They are not taken.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer.
    ///
    /// # Panics
    /// There is none.
    pub fn answer(&mut self) -> Answer {
        let end = loop {
            let ends = self.pending.windows(4).position(|end| end == b"\r\n\r\n");
            match ends {
                Some(end) => break end + 4,
                None => assert!(self.more(), "closed: {:?}", self.text()),
            }
        };
        let head: Vec<u8> = self.pending.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.pending.len() < length {
            assert!(self.more(), "closed: {head:?} {:?}", self.text());
        }
        let body = self.pending.drain(..length).collect();
        Answer { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Whether the server closes the connection.
    ///
    /// # Panics
    /// It sends something, or neither.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        !self.more() && self.pending.is_empty()
    }

    fn more(&mut self) -> bool {
        let mut some = [0; 4096];
        match self.stream.read(&mut some) {
            Ok(count) => {
                self.pending.extend_from_slice(&some[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// Makes a request and waits for its answer.
    ///
    /// # Panics
    /// There is none.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        self.send(head.as_bytes());
        self.send(body.as_bytes());
        self.answer()
    }

    /// `GET`
    ///
    /// # Panics
    /// There is no answer.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.answer()
    }

    /// `PUT` that has to succeed.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn put(&mut self, path: &str, body: &str) {
        self.request("PUT", path, body).expect(204);
    }

    /// `PATCH` that has to succeed.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn patch(&mut self, path: &str, body: &str) {
        self.request("PATCH", path, body).expect(204);
    }

    /// Starts the VM.
    ///
    /// # Panics
    /// It does not start.
    #[track_caller]
    pub fn start(&mut self) {
        self.put("/actions", r#"{"action_type":"InstanceStart"}"#);
    }
}

/// A `mote` that serves the API.
pub struct Server {
    /// Its process.
    pub vm: Vm,
    /// Its socket.
    pub socket: PathBuf,
}

impl Server {
    /// Starts one with its socket in `folder`.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let socket = folder.join("api.sock");
        let mut command = Command::new(vm::binary());
        command.arg("--api-sock").arg(&socket).args(args);
        Self::of(&mut command, socket)
    }

    /// The same of a command that makes this socket.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn of(command: &mut Command, socket: PathBuf) -> Self {
        let mut vm = Vm::start(command);
        wait_until("the socket accepts", || {
            assert!(!vm.has_ended(), "{}", vm.err.text());
            UnixStream::connect(&socket).is_ok()
        });
        Self { vm, socket }
    }

    /// A new connection.
    ///
    /// # Panics
    /// Nobody listens.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// A connection that gives up soon.
    ///
    /// # Panics
    /// Nobody listens.
    #[must_use]
    pub fn impatient(&self, patience: Duration) -> Client {
        let client = self.client();
        client.stream.set_read_timeout(Some(patience)).unwrap();
        client
    }

    /// A connection on which a VM with this guest has been described.
    ///
    /// # Panics
    /// Something of it is refused.
    #[must_use]
    pub fn with_guest(&self, guest: &str) -> Client {
        let mut client = self.client();
        client.put("/boot-source", &boot_source(guest, "console=ttyS0"));
        client
    }
}

/// A boot source with a tiny guest of this project.
#[must_use]
pub fn boot_source(guest: &str, args: &str) -> String {
    let kernel = crate::guest(guest);
    serde_json::json!({"kernel_image_path": kernel, "boot_args": args}).to_string()
}
