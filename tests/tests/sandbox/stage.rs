//! What a VM and the attempts need around them.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::chown;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mote_tests::network::Interface;
use mote_tests::{End, Scratch, Vm, guest, run, vm, wait_until};

/// A user who owns nothing.
pub(super) const NOBODY: u32 = 65534;
pub(super) const NAME: &str = "mote-neighbour\0";

/// What a VM and the attempts need around them.
pub(super) struct Stage {
    /// The monitor runs as a user with no rights at all, who is given `/dev/kvm`.
    pub(super) nobody: bool,
    pub(super) scratch: Scratch,
    pub(super) neighbour: Child,
    _socket: UnixListener,
    _tap: Interface,
}

impl Stage {
    pub(super) fn new() -> Self {
        let name = SocketAddr::from_abstract_name(NAME).unwrap();
        Self {
            nobody: false,
            scratch: Scratch::new(),
            neighbour: Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap(),
            _socket: UnixListener::bind_addr(&name).unwrap(),
            _tap: Interface::new("vm0"),
        }
    }

    /// A VM with one of every device, whose thread does that.
    pub(super) fn run(&self, thread: &str, calls: &[(libc::c_long, &str)], more: &[&str]) -> End {
        let disk = self.scratch.file("disk", vec![0; 1 << 20]);
        let cd = self.scratch.file("cd", vec![0; 1 << 20]);
        let cd = cd.to_str().unwrap();
        let mut command = if self.nobody {
            self.as_nobody()
        } else if thread == "Early" {
            return self.run_early(calls, more);
        } else if thread == "Reader" {
            let mut command = Command::new(vm::breakout());
            command.arg("doctor").arg(&disk);
            command.env("MOTE_BREAKOUT", self.orders(thread, calls, cd));
            return run(&mut command);
        } else if ["Control", "Opener"].contains(&thread) {
            return self.run_api(thread, calls, more);
        } else {
            let mut command = Command::new(vm::breakout());
            command.args(["run", "--net", "tap=vm0", "--kernel"]);
            command.arg(guest("memory"));
            command
        };
        command.args(["--cpus", "2", "--disk"]).arg(disk).arg("--cdrom").arg(cd).args(more);
        command.env("MOTE_BREAKOUT", self.orders(thread, calls, cd));
        run(command.stdin(Stdio::null()))
    }

    pub(super) fn orders(
        &self,
        thread: &str,
        calls: &[(libc::c_long, &str)],
        file: &str,
    ) -> String {
        let name: String = NAME.bytes().map(|b| format!("{b:02x}")).collect();
        let calls: Vec<_> = calls.iter().map(|(n, args)| format!("{n},{args}")).collect();
        let calls = calls
            .join(";")
            .replace("NEIGHBOUR", &self.neighbour.id().to_string())
            .replace("PARENT", &std::process::id().to_string())
            .replace("FILE", file)
            .replace("NAME", &name);
        format!("{thread}:{calls}")
    }

    /// The same with a control API, which an opener has leave to open files for.
    pub(super) fn run_api(
        &self,
        thread: &str,
        calls: &[(libc::c_long, &str)],
        more: &[&str],
    ) -> End {
        let file = self.scratch.file("cd", vec![0; 1 << 20]);
        let kernel = guest("memory").display().to_string();
        let config = format!(r#"{{"boot-source": {{"kernel_image_path": "{kernel}"}}}}"#);
        let mut command = Command::new(vm::breakout());
        let socket = self.scratch.join("api");
        let _ = fs::remove_file(&socket);
        command.arg("--api-sock").arg(socket).arg("--config-file");
        command.arg(self.scratch.file("config", config)).args(more);
        if thread == "Opener" {
            command.args(["--allow-path", "/usr", "--allow-path"]);
            command.arg(guest("memory").parent().unwrap());
        }
        let orders = self.orders(thread, calls, file.to_str().unwrap());
        run(command.env("MOTE_BREAKOUT", orders).stdin(Stdio::null()))
    }
}

impl Stage {
    /// A process with a control API that has heard no request yet; it is ended
    /// when it has made the calls.
    pub(super) fn run_early(&self, calls: &[(libc::c_long, &str)], more: &[&str]) -> End {
        let file = self.scratch.file("file", "not to be removed");
        let socket = self.scratch.join("api");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(vm::breakout());
        command.arg("--api-sock").arg(socket).args(more);
        let orders = self.orders("Early", calls, file.to_str().unwrap());
        let mut vm = Vm::start(command.env("MOTE_BREAKOUT", orders).stdin(Stdio::null()));
        wait_until("the calls", || {
            let made = vm.err.text().matches(" = ").count();
            vm.has_ended() || made >= calls.len()
        });
        if !vm.has_ended() {
            vm.signal(libc::SIGTERM);
        }
        vm.end()
    }

    /// Where everybody can read it, and owned by whom it is for.
    pub(super) fn as_nobody(&self) -> Command {
        let copy = |name: &str, from: &Path| {
            let to = self.scratch.join(name);
            if !to.exists() {
                fs::copy(from, &to).unwrap();
            }
            to
        };
        let (mote, kernel) = (copy("mote", &vm::breakout()), copy("kernel", &guest("memory")));
        for name in ["disk", "cd"] {
            chown(self.scratch.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // Opened by root, and all that is handed on.
        let mut command = Command::new("sh");
        let id = NOBODY.to_string();
        let user = format!("setpriv --reuid {id} --regid {id} --clear-groups");
        command.args(["-c", &format!("exec 3<>/dev/kvm; exec {user} \"$@\""), "sh"]);
        command.arg(mote).args(["run", "--kvm-fd", "3", "--kernel"]);
        command.arg(kernel);
        command
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let alive = self.neighbour.try_wait().unwrap().is_none();
        let _ = self.neighbour.kill();
        let _ = self.neighbour.wait();
        if !std::thread::panicking() {
            assert!(alive, "the neighbour was killed");
        }
    }
}
