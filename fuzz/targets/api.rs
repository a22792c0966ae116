//! Bytes on a connection of the control API, before and after a start, against
//! a VM and files that are none. Whatever comes, it is answered with one of the
//! documented statuses, and what is shown can be read again.
#![no_main]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mote::api::Options;
use mote::api::http::{MAX_HEAD, Method, Parsed, Request, Response, parse};
use mote::api::router::{State, Verdict};
use mote::api::running_vm::{Files, Vm};
use mote::config::{self, Drive, SnapshotKind, VmConfig};
use mote::counts::Counts;
use mote::error::Error;
use mote_virtio::rate::RateLimiter;

/// The most bytes of a body here.
const MAX_BODY: usize = 2048;

/// Whether a path "exists": half of them do.
fn exists(path: &Path) -> io::Result<()> {
    match path.as_os_str().len() % 2 {
        0 => Ok(()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

struct NoFiles;

impl Files for NoFiles {
    fn append(&self, what: &'static str, path: &Path, _: &VmConfig) -> Result<File, Error> {
        let null = || File::options().write(true).open("/dev/null");
        let file = exists(path).and_then(|()| null());
        file.map_err(|e| Error::file(what, path, &e))
    }

    fn check_kernel(&self, kernel: &Path, _: Option<&Path>) -> Result<(), Error> {
        exists(kernel).map_err(|e| Error::file("kernel", kernel, &e))
    }

    fn check_drive(&self, drive: &Drive) -> Result<(), Error> {
        exists(&drive.path).map_err(|e| Error::file("disk", &drive.path, &e))
    }
}

#[derive(Default)]
struct NoVm {
    paused: bool,
    devices: usize,
    presses: Cell<u32>,
}

impl Vm for NoVm {
    fn is_paused(&self) -> bool {
        self.paused
    }

    fn pause(&mut self) -> Result<(), Error> {
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn power_button(&mut self) -> Result<(), String> {
        self.presses.set(self.presses.get() + 1);
        Ok(())
    }

    fn limit(&mut self, device: usize, _: [Option<RateLimiter>; 2]) {
        assert!(device < self.devices);
    }

    fn resize(&mut self, device: usize) -> Result<(), String> {
        assert!(device < self.devices);
        Ok(())
    }

    fn change(&mut self, device: usize, path: Option<&Path>) -> Result<(), String> {
        assert!(device < self.devices);
        let exists = path.map_or(Ok(()), exists);
        exists.map_err(|e| e.to_string())
    }

    fn save(&mut self, state: &Path, _: &Path, _: SnapshotKind) -> Result<(), String> {
        assert!(self.paused);
        exists(state).map_err(|e| e.to_string())
    }

    fn metrics(&self, to: &mut Counts) {
        to.add("block", "x", &[("read_bytes", self.presses.get().into())]);
    }
}

/// The answer is one that is documented for such a request.
fn check(request: &Request, answer: &Response, runs: bool) {
    match answer.status {
        200 => assert_eq!(request.method, Method::Get),
        204 => assert!(request.method != Method::Get && answer.body.is_empty()),
        400 => {
            let fault: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(!fault["fault_message"].as_str().unwrap().is_empty());
        }
        other => panic!("status {other}"),
    }
    // A CD-ROM that was taken out of a running VM is no drive to start with.
    if !runs && answer.status == 200 && request.path == "/vm/config" {
        let shown: Result<config::File, _> = config::from_json(&answer.body);
        shown.unwrap().config().unwrap();
    }
    let mut bytes = Vec::new();
    answer.write(&mut bytes, request.keep);
    assert!(bytes.starts_with(b"HTTP/1.1 ") && bytes.ends_with(&answer.body));
}

fuzz_target!(|data: &[u8]| {
    let options = Options { id: "fuzz".to_owned(), ..Options::default() };
    let mut state = State::new(options, Box::new(NoFiles)).unwrap();
    let (mut vm, mut rest): (Option<NoVm>, _) = (None, data);
    loop {
        let (request, used) = match parse(rest, MAX_BODY) {
            Parsed::Whole(request, used) => (request, used),
            Parsed::Part(_) => {
                // What is kept for a client is bounded.
                assert!(rest.len() <= MAX_HEAD + MAX_BODY);
                return;
            }
            Parsed::Bad(why) => return assert!(!why.is_empty()),
        };
        assert!(used > 0 && used <= rest.len() && request.body.len() <= MAX_BODY);
        rest = &rest[used..];
        let runs = vm.as_mut().map(|vm| -> &mut dyn Vm { vm });
        match state.handle(&request, runs) {
            Verdict::Answer(answer) => check(&request, &answer, vm.is_some()),
            Verdict::Start(both) => {
                let (config, file) = *both;
                assert!(vm.is_none());
                let devices = config.drives.len() + config.nics.len();
                assert!(devices <= config::MAX_DEVICES && (1..=32).contains(&config.cpus));
                let boots = config.kernel.is_some() || !config.drives.is_empty();
                assert!(boots || config.restore.is_some());
                let paused = config.restore.as_ref().is_some_and(|saved| saved.paused);
                check(&request, &state.started(config, file), true);
                vm = Some(NoVm { paused, devices, ..NoVm::default() });
            }
        }
    }
});
