//! The `mote` program.
//!
//! It has a C `main`: what Rust's own does before (reading /proc/self/maps,
//! a signal stack for every thread) costs a tenth of the start-up time and
//! would need system calls that the sandbox has no other use for.
#![no_main]

use std::ffi::{c_char, c_int};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use mote::api;
use mote::boot;
use mote::cli::demo::Drives;
use mote::cli::{self, Command};
use mote::doctor::{self, Host};
use mote::error::{Error, exit};
use mote::host::console;
use mote::host::signals;
use mote::run;
use mote::run::Source;
use mote::timings::Timings;

/// The entry point that the C library calls.
// SAFETY: no other symbol of the program is called `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    let timings = Arc::new(Timings::start());
    if !prepare_process() {
        // The reason cannot be printed: standard error may be missing.
        return c_int::from(exit::HOST);
    }
    signals::this_is_main();
    // The standard hook would look into files.
    std::panic::set_hook(Box::new(|info| {
        console::say(&format!("mote: a bug: {info}\r\n"));
        signals::give_up(exit::INTERNAL);
    }));
    match start(&timings) {
        Ok(code) => leave(code),
        Err(error) => {
            console::complain(&error);
            leave(error.exit_code())
        }
    }
}

/// Ends the process at once: threads still hold the VM, and taking it apart
/// piece by piece would only be slower than the kernel doing it.
fn leave(code: u8) -> c_int {
    let _ = std::io::stdout().flush();
    c_int::from(code)
}

/// What Rust's own `main` would have done that matters, and one thing more.
fn prepare_process() -> bool {
    // SAFETY: changes the disposition of three signals before there is any other thread.
    unsafe {
        // A reader that has gone is an error of the write, not our end.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        // So is a file that may not grow.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        // In the background, output and restored modes of a terminal must not
        // stop the VM (input is left alone there, see the console).
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: settings of the allocator, before there is any other thread.
    unsafe {
        // One heap for all threads: they hardly use it.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        // And no mapping for a large piece: a thread could not unmap it.
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
    fill_standard_descriptors()
}

/// Opens what was closed of standard input, output and error, lest the next
/// file that is opened takes its number and gets what is meant for it; tells
/// whether it could.
fn fill_standard_descriptors() -> bool {
    let closed = |fd| libc::pollfd { fd, events: 0, revents: 0 };
    let mut all = [closed(0), closed(1), closed(2)];
    // SAFETY: poll gets a live array and its length; open gets a C string. A
    // new descriptor is the lowest that is free, so it fills the gap.
    unsafe {
        libc::poll(all.as_mut_ptr(), 3, 0);
        all.iter()
            .filter(|fd| fd.revents & libc::POLLNVAL != 0)
            .all(|_| libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) >= 0)
    }
}

/// Each command has a separate frame: all of them in one would be pages of stack that
/// every start of a VM touches.
fn start(timings: &Arc<Timings>) -> Result<u8, Error> {
    match cli::parse(std::env::args_os().skip(1))? {
        Command::Print(text) => print(text),
        Command::Doctor(images, json) => doctor(&images, json),
        Command::Run(config) => {
            let (config, source) = Source::open(*config)?;
            timings.mark("arguments, files");
            run::run(&config, source, timings, false)
        }
        Command::Control(order) => print(&order.run()?),
        Command::Api(options) => api::run(*options, timings),
        Command::Merge(paths) => run::merge(&paths).map(|()| exit::OK),
        Command::Demo => demo(timings),
    }
}

fn print(text: &str) -> Result<u8, Error> {
    // As with any filter, a reader that left early is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(exit::OK)
}

#[inline(never)]
fn doctor(images: &[PathBuf], json: bool) -> Result<u8, Error> {
    // Asked before the process is confined.
    let colors = std::io::stdout().is_terminal();
    let report = doctor::examine(&Host::new("/"), images);
    print(&if json { report.json() } else { report.table(colors) })?;
    Ok(report.exit_code())
}

#[inline(never)]
fn demo(timings: &Arc<Timings>) -> Result<u8, Error> {
    // In the place of files, for as long as the VM runs.
    let drives = Drives::new()?;
    let config = drives.config();
    let source = Source::boot(boot::Source::firmware(&config, false)?)?;
    run::run(&config, source, timings, true)
}
