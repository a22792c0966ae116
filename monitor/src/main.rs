//! The `mote` program.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use mote::boot::Source;
use mote::cli::{self, Command};
use mote::config::VmConfig;
use mote::error::Error;
use mote::timings::Timings;
use mote::{console, run};

fn main() -> ExitCode {
    let timings = Arc::new(Timings::start());
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console::restore();
        report(info);
    }));
    match start(&timings) {
        Ok(code) => leave(code),
        Err(error) => {
            // A closed stderr is no reason to fail differently.
            let _ = writeln!(std::io::stderr(), "mote: {error}");
            leave(error.exit_code())
        }
    }
}

/// Ends the process at once: threads still hold the VM, and taking it apart
/// piece by piece would only be slower than the kernel doing it.
fn leave(code: u8) -> ExitCode {
    let _ = std::io::stdout().flush();
    ExitCode::from(code)
}

fn start(timings: &Arc<Timings>) -> Result<u8, Error> {
    match cli::parse(std::env::args_os().skip(1))? {
        Command::Print(text) => {
            // As with any filter, a reader that left early is no error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(0)
        }
        Command::Run(config) => {
            let kernel = config.kernel.as_deref().unwrap_or_else(|| "".as_ref());
            let source = Source::open(kernel, config.initrd.as_deref(), config.cmdline.as_deref())?;
            timings.mark("arguments, files");
            run::run(&config, &source, timings, false)
        }
        Command::Demo => {
            let source = Source::embedded(include_bytes!(env!("MOTE_DEMO")), "demo")?;
            run::run(&VmConfig::default(), &source, timings, true)
        }
    }
}
