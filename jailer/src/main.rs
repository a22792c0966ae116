//! `mote-jailer`: runs a virtual machine monitor where it can do no harm.
//!
//! arguments ([`args`]) → plan ([`plan`], [`cgroup`]: plain data) → steps in
//! order, outside ([`supervisor`]: [`lock`], groups, descriptors, process) and
//! inside ([`child`]: session, root, limits, user namespace, privileges, table,
//! execution) → the end ([`wait`], [`terminal`]). No two files import each other.

mod args;
mod cgroup;
mod child;
mod credentials;
mod descriptors;
mod error;
mod lock;
mod messages;
mod namespaces;
mod paths;
mod plan;
mod root;
mod supervisor;
mod syscalls;
mod terminal;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use args::{Args, Command};
use error::Error;
use plan::{Host, Plan};

fn main() -> ExitCode {
    match start() {
        Ok(code) => code.into(),
        Err(error) => {
            messages::say(&error);
            error.exit_code().into()
        }
    }
}

fn start() -> Result<u8, Error> {
    match args::parse(std::env::args_os().skip(1))? {
        Command::Print(text) => Ok(print(text)),
        Command::Plan(args) => Ok(print(&plan(&args)?.to_string())),
        Command::Run(args) => supervisor::run(&plan(&args)?),
    }
}

fn plan(args: &Args) -> Result<Plan, Error> {
    let asked = !args.cgroup.is_empty() || args.parent_cgroup.is_some();
    let host = Host {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        terminals: terminal::standard(),
        time_namespaces: std::path::Path::new("/proc/self/ns/time").exists(),
        cgroups: if asked { cgroup::Mounts::read() } else { cgroup::Mounts::default() },
    };
    Plan::new(args, &host)
}

/// A reader that left early is no error.
fn print(text: &str) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}
