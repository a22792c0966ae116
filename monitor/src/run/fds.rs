//! The numbers that the filters of system calls check, known before the first
//! thread starts: what a VM has is opened by then but for the VM itself, its
//! vCPUs and a console's client, which get the lowest numbers that are free.

use std::os::fd::{AsRawFd, RawFd};

use rustix::process::getpid;

use super::source::Source;
use crate::config::Policy;
use crate::devices::Devices;
use crate::error::Error;
use crate::host::console::{Console, Output};
use crate::host::files::New;
use crate::sandbox::{self, Sandbox, Slot};
use crate::vm::{Shared, vcpu};

/// Descriptors that are open before the VM is made.
pub(super) struct Open<'a> {
    pub(super) host: RawFd,
    /// Closed when the guest is about to run, as that one is.
    pub(super) closed: Vec<RawFd>,
    pub(super) wake: RawFd,
    pub(super) line: RawFd,
    pub(super) output: &'a Output,
    pub(super) console: &'a Console,
    pub(super) devices: &'a Devices,
    pub(super) source: &'a Source,
    /// Closed when they have their names.
    pub(super) new: &'a [New],
}

/// The numbers that the VM and its vCPUs will have.
pub(super) struct PredictedFds {
    vm: RawFd,
    vcpus: Vec<RawFd>,
}

impl PredictedFds {
    /// Of `cpus` vCPUs; and the filters' numbers, but for what differs from
    /// thread to thread.
    ///
    /// # Errors
    /// Too many descriptors are open, or too few allowed.
    pub(super) fn find(policy: &Policy, cpus: u8, open: &Open) -> Result<(Self, Sandbox), Error> {
        let (vm, vcpus, spare) = free_numbers(cpus)?;
        let [kernel, initrd] = open.source.numbers();
        // When a client comes, these are closed and their numbers free.
        let closed = open.closed.iter().copied().chain([open.host]);
        let closed = closed.chain(open.new.iter().flat_map(New::all));
        let client = closed.fold(spare, RawFd::min);
        let events = || open.devices.events().chain([open.line, open.wake]);
        let others = open.devices.backends().chain(vcpus.iter().copied());
        let others = others.chain(open.output.number()).chain([vm, client]).chain(kernel);
        // What a filter takes for an event must be one.
        let (first, last) = (events().min(), events().max());
        if others.map(Some).any(|other| first <= other && other <= last) {
            return Err(sandbox::crowded());
        }
        let row = first.unwrap_or(0)..=last.unwrap_or(-1);
        if row.into_iter().any(|at| !events().any(|e| e == at) && is_open(at)) {
            return Err(sandbox::crowded());
        }
        // Without a socket no descriptor follows that anything may be done with.
        let client = match open.console.serves_clients() {
            true => client,
            false => -1,
        };
        let sandbox = Sandbox::new(policy)
            .with(Slot::Host, open.host)
            .with(Slot::Vm, vm)
            .with_row((Slot::VcpuFirst, Slot::VcpuLast), vcpus.iter().copied())
            .with_row((Slot::EventFirst, Slot::EventLast), events())
            .with_row((Slot::CdromFirst, Slot::CdromLast), open.devices.cdrom_fds())
            .with(Slot::Wake, open.wake)
            .with(Slot::Kernel, kernel.unwrap_or(-1))
            .with(Slot::Initrd, initrd.unwrap_or(-1))
            .with(Slot::ConsoleOut, open.output.number().unwrap_or(-1))
            .with_fd(Slot::ConsoleIn, open.console.opened_input().as_ref())
            .with_fd(Slot::Listener, open.console.listener().as_ref())
            .with(Slot::Client, client)
            .with(Slot::Process, getpid().as_raw_nonzero().get())
            .with(Slot::Kick, vcpu::kick_signal());
        Ok((Self { vm, vcpus }, sandbox))
    }

    /// Number of the first vCPU.
    pub(super) fn first(&self) -> RawFd {
        self.vcpus.first().copied().unwrap_or(-1)
    }

    /// Whether the created descriptors have the predicted numbers.
    ///
    /// # Errors
    /// It has not: nothing would work.
    pub(super) fn check(&self, shared: &Shared) -> Result<(), Error> {
        let vcpus = shared.vcpus().iter().map(|vcpu| vcpu.number());
        if shared.fd.as_raw_fd() == self.vm && vcpus.eq(self.vcpus.iter().copied()) {
            Ok(())
        } else {
            Err(sandbox::crowded())
        }
    }
}

/// The numbers that the VM, its vCPUs and one thing more will get.
fn free_numbers(cpus: u8) -> Result<(RawFd, Vec<RawFd>, RawFd), Error> {
    let copy = |_| rustix::stdio::stderr().try_clone_to_owned();
    let copies: Result<Vec<_>, _> = (0..usize::from(cpus) + 2).map(copy).collect();
    let copies = copies.map_err(|e| Error::System("descriptors", e))?;
    let mut numbers = copies.iter().map(AsRawFd::as_raw_fd);
    let vm = numbers.next().unwrap_or(-1);
    let vcpus = numbers.by_ref().take(cpus.into()).collect();
    Ok((vm, vcpus, numbers.next().unwrap_or(-1)))
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: only asks, and takes no pointer.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}
