//! The control API: Firecracker's clients configure, start and control a VM.
//!
//! There is no second process and no second thread. The main thread *is* the
//! control thread:
//!
//! 1. **Before InstanceStart** [`run`] waits for its socket alone. Requests
//!    collect the entries of a config file ([`crate::config::File`]) one by
//!    one; each is checked when it comes, with the checks and the words of
//!    `--config`, and files are opened once to see that they can be.
//! 2. **InstanceStart** makes a [`VmConfig`](crate::config::VmConfig) of them
//!    and starts it as one-shot mode does: [`Opened::open`] opens, and
//!    [`Opened::make`] makes the VM and reads what it boots from. Until then a
//!    failure gives everything back, and the client may try again;
//!    [`Made::run`](crate::run::Made::run) gives up everything that a VM does
//!    not need, and if that fails the process ends.
//! 3. **After it** the loop that serves console and signals also serves the
//!    socket ([`Control`]).
//!
//! | file | what |
//! |---|---|
//! | `options` | what the command line says (`cli/api` parses it) |
//! | `http` | bytes to requests and answers to bytes; no socket |
//! | `server` | the socket and its connections; never waits for a client |
//! | `router`, `entries`, `snapshots` | what a request does; no socket, no KVM: it can be fuzzed |
//! | `running_vm`, `machine` | the VM as `router` needs it |
//! | `log`, `metrics` | where both go, and how much of them |
//!
//! The HTTP is our own around `httparse`: the crate that is published as
//! micro-http is an asynchronous server by others, and rust-vmm's brings an
//! separate epoll, which would need system calls and a second loop.
//!
//! A client that is slow has what it is sent kept up to a bound and is not
//! heard until it reads; one that sends too much gets an error and is closed; of too
//! many, the one that has been quiet for longest is closed.

mod entries;
pub mod http;
pub mod log;
mod machine;
pub mod metrics;
mod options;
pub mod router;
pub mod running_vm;
mod server;
mod snapshots;

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::getpid;
use rustix::time::{ClockId, clock_gettime};
use vmm_sys_util::eventfd::EventFd;

use self::http::Response;
use self::log::{Level, Place};
pub use self::options::Options;
use self::router::{State, Verdict};
use self::running_vm::HostFiles;
use self::server::Server;
use crate::config::{Mode, VmConfig};
use crate::error::{Error, exit};
use crate::host::signals;
use crate::run::{self, Control, Machine, Opened, PageMap, SnapshotWriter};
use crate::sandbox::{self, MainThread, Rules, Sandbox, Slot, Thread};
use crate::timings::Timings;
use crate::vm::vcpu;

/// Default permissions of the socket: its owner's.
const SOCKET_MODE: u32 = 0o600;

/// The socket and its server.
struct Api {
    server: Server,
    state: State,
}

/// Serves the API until its VM ends; returns the process's exit code.
///
/// # Errors
/// The socket or a file cannot be used, or KVM cannot run the guest.
#[inline(never)]
pub fn run(options: Options, timings: &Arc<Timings>) -> Result<u8, Error> {
    // Before anything is created: a refused path leaves nothing behind.
    for folder in &options.allow {
        let found = folder.metadata();
        if !found.map_err(|e| Error::file("--allow-path", folder, &e))?.is_dir() {
            let why = "is not a directory".to_owned();
            return Err(Error::Input("--allow-path", folder.clone(), why));
        }
    }
    // Before signals are caught and a socket is created: a config file may be a pipe that
    // stays empty, and a signal must end that wait.
    let state = State::new(options, Box::new(HostFiles))?;
    let options = state.options();
    let wake = Arc::new(sandbox::event()?);
    signals::catch(&wake)?;
    let server = match (&options.socket, options.socket_fd) {
        _ if options.no_api => Server::silent(options.max_body),
        (_, Some(number)) => Server::inherit(number, options.max_body)?,
        (Some(path), None) => {
            let mode = options.mode.unwrap_or(SOCKET_MODE);
            Server::bind(path, mode, options.max_body)?
        }
        (None, None) => Server::silent(options.max_body),
    };
    let ready = options.vm.ready_fd.filter(|_| !options.no_api);
    let starts = options.vm.config_file.is_some();
    let mut api = Api { server, state };
    let options = api.state.options();
    // Before it is confined; with nothing to be opened nothing is saved.
    let pages = match options.vm.sandbox.opens || options.vm.sandbox.mode == Mode::Off {
        true => PageMap::open().ok().map(Arc::new),
        false => None,
    };
    let files = match options.vm.sandbox.mode {
        Mode::Off => None,
        _ => confine(options)?,
    };
    api.measure_startup();
    timings.mark("API socket");
    if let Some(number) = ready {
        run::tell_ready(number);
    }
    let mut context = StartContext { wake, timings, pages, files };
    let mut machine = None;
    if starts {
        let config = api.state.config().map_err(Error::Usage)?;
        let started = start(config, api.server.slots(), &api.state, &mut context);
        let (started, config) = started.map_err(|failed| failed.error)?;
        machine = Some(started);
        let file = api.state.described().clone();
        api.state.started(config, file);
    }
    while machine.is_none() {
        // Empties the counter; it only says that there is a signal.
        let _ = context.wake.read();
        // One that was not started may have been on a terminal.
        if signals::take_stop() {
            signals::stop();
        }
        if let Some(signal) = signals::take() {
            return Ok(exit::SIGNAL + signal);
        }
        let happened = wait(&context.wake, &api.server)?;
        machine = api.serve_before(&happened, &mut context)?;
    }
    let (Some(machine), Some(config)) = (machine, api.state.running().cloned()) else {
        return Ok(exit::OK);
    };
    let said = api.state.options().vm.on_reset;
    let result = machine.run(&config, &mut api);
    api.end(&result);
    match result {
        // As Firecracker's process ends.
        Ok(exit::RESET) if said.is_none() => Ok(exit::OK),
        other => other,
    }
}

/// What a clock shows, in microseconds.
fn micros(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let all = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000);
    u64::try_from(all).unwrap_or(0)
}

/// Waits for a signal or for clients.
fn wait(wake: &EventFd, server: &Server) -> Result<Vec<PollFlags>, Error> {
    // SAFETY: the descriptor lives as long as `wake`, which outlives this.
    let wake = unsafe { BorrowedFd::borrow_raw(wake.as_raw_fd()) };
    let mut fds = vec![PollFd::from_borrowed_fd(wake, PollFlags::IN)];
    server.waits(&mut fds);
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(Error::System("poll", error.into())),
    }
    Ok(fds.iter().skip(1).map(PollFd::revents).collect())
}

/// Confines the process before it hears its first request; returns what it may
/// still open when its VM runs.
fn confine(options: &Options) -> Result<Option<Rules>, Error> {
    let files = sandbox::confine_early(&options.vm.sandbox, &options.allow)?;
    // A config file's VM starts at once, with the filters of any other.
    if options.vm.config_file.is_none() {
        Sandbox::new(&options.vm.sandbox)
            .with(Slot::Process, getpid().as_raw_nonzero().get())
            .with(Slot::Kick, vcpu::kick_signal())
            .enter_thread(Thread::Early)?;
    }
    Ok(files)
}

/// What every try to start a VM needs.
struct StartContext<'a> {
    /// Wakes the main thread.
    wake: Arc<EventFd>,
    timings: &'a Arc<Timings>,
    pages: Option<Arc<PageMap>>,
    /// What may be opened once the VM runs.
    files: Option<Rules>,
}

/// Why a VM did not start.
struct Failed {
    error: Error,
    /// The process has given up what another try would need.
    fatal: bool,
}

fn start(
    config: VmConfig,
    mut slots: Vec<(Slot, RawFd)>,
    state: &State,
    context: &mut StartContext<'_>,
) -> Result<(Machine, VmConfig), Failed> {
    let failed = |fatal| move |error| Failed { error, fatal };
    context.timings.mark("wait for InstanceStart");
    state.check_outputs(&config).map_err(failed(false))?;
    let (config, source) = run::Source::open(config).map_err(failed(false))?;
    let wake = Arc::clone(&context.wake);
    let opened = Opened::open(&config, source, wake, None).map_err(failed(false))?;
    let opened = opened.with_pages(context.pages.clone());
    slots.extend(state.log.number().map(|number| (Slot::Log, number)));
    slots.extend(state.metrics.number().map(|number| (Slot::Metrics, number)));
    let (thread, start) = match config.sandbox.opens {
        true => {
            slots.extend(SnapshotWriter::slots());
            (Thread::Opener, Thread::StartOpen)
        }
        false => (Thread::Control, Thread::StartApi),
    };
    let main = MainThread {
        thread,
        start: state.options().vm.config_file.is_some().then_some(start),
        slots,
        files: context.files.take(),
    };
    match opened.make(&config, context.timings, &main) {
        Ok(made) => {
            let machine = made.run(&config, main).map_err(failed(true))?;
            Ok((machine, config))
        }
        Err(error) => {
            context.files = main.files;
            let fatal = main.start.is_some();
            Err(Failed { error, fatal })
        }
    }
}

impl Api {
    /// Notes how long it took until here, since the caller began.
    fn measure_startup(&mut self) {
        let State { options, metrics, .. } = &mut self.state;
        let wall = |began| micros(ClockId::Monotonic).saturating_sub(began);
        metrics.startup_us = options.start_time_us.map_or(0, wall);
        metrics.startup_cpu_us =
            micros(ClockId::ProcessCPUTime).saturating_add(options.parent_cpu_time_us);
    }

    /// Answers requests until one of them has started the VM.
    ///
    /// # Errors
    /// It could not be started, and another try is of no use.
    fn serve_before(
        &mut self,
        happened: &[PollFlags],
        context: &mut StartContext<'_>,
    ) -> Result<Option<Machine>, Error> {
        let (mut machine, mut fatal) = (None, None);
        let (server, state) = (&mut self.server, &mut self.state);
        let slots = server.slots();
        server.serve(happened, &mut |request| {
            let vm = machine.as_mut().map(|vm: &mut Machine| -> &mut dyn running_vm::Vm { vm });
            let (config, file) = match state.handle(request, vm) {
                Verdict::Answer(answer) => return answer,
                Verdict::Start(both) => *both,
            };
            match start(config, slots.clone(), state, context) {
                Ok((started, config)) => {
                    machine = Some(started);
                    state.started(config, file)
                }
                Err(failed) => {
                    let answer = state.fault(&failed.error.to_string());
                    fatal = failed.fatal.then_some(failed.error);
                    answer
                }
            }
        });
        fatal.map_or(Ok(machine), Err)
    }

    /// Last words.
    fn end(&mut self, result: &Result<u8, Error>) {
        let text = match result {
            Ok(code) => format!("The VM ended; exit code {code}."),
            Err(error) => error.to_string(),
        };
        self.state.log.line(Place::State, Level::Info, &text);
        self.server.finish();
    }
}

impl Control for Api {
    fn waits<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        self.server.waits(fds);
    }

    fn due(&self) -> Option<Duration> {
        self.state.metrics.due(Instant::now())
    }

    fn serve(&mut self, happened: &[PollFlags], machine: &mut Machine) {
        let state = &mut self.state;
        if state.metrics.due(Instant::now()) == Some(Duration::ZERO) {
            state.write_metrics(machine);
        }
        self.server.serve(happened, &mut |request| {
            match state.handle(request, Some(machine)) {
                Verdict::Answer(answer) => answer,
                // Only without a VM.
                Verdict::Start(_) => Response::fault("The VM runs already."),
            }
        });
    }

    fn ended(&mut self, machine: &Machine) {
        self.state.write_metrics(machine);
    }
}
