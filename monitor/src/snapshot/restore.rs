//! Restores a VM from a snapshot.

use std::os::unix::fs::FileExt as _;

use mote_snapshot::{MAX_STATE, StateV1, check_memory, decode, verify_memory};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::save::unusable;
use super::source::Saved;
use super::working_set;
use crate::error::Error;
use crate::host::memory::GuestRam;
use crate::host::prefault::PrefaultQueue;
use crate::layout;
use crate::vm::Shared;

/// Reads a snapshot's state, which is untrusted until it has been checked, and
/// maps its memory over the guest's.
///
/// # Errors
/// The file is not a snapshot, is damaged, or is not for this machine; and why.
pub(crate) fn read(
    saved: &Saved,
    ram: &GuestRam,
    cpus: u8,
    ahead: &PrefaultQueue,
) -> Result<StateV1, Error> {
    let in_state = |e| unusable(&saved.state.path, &e);
    if saved.state.len > MAX_STATE as u64 {
        let why = mote_snapshot::Error::Length(saved.state.len, MAX_STATE as u64);
        return Err(in_state(why));
    }
    let mut bytes = vec![0; saved.state.len as usize];
    let read = saved.state.file.read_exact_at(&mut bytes, 0);
    read.map_err(|e| Error::file("snapshot", &saved.state.path, &e))?;
    let state = decode(&bytes).map_err(in_state)?;
    if state.memory.base.is_some() {
        return Err(in_state(mote_snapshot::Error::Difference));
    }
    if let Some(memory) = &saved.memory {
        let in_memory = |e| unusable(&memory.path, &e);
        check_memory(&memory.file, memory.len, &state.memory).map_err(in_memory)?;
        if saved.verify {
            verify_memory(&memory.file, &state.memory).map_err(in_memory)?;
        }
    }
    let ours = ram.iter().map(|r| (r.start_addr().0, r.len()));
    if !ours.eq(state.memory.ranges.iter().copied()) || state.vcpus.len() != usize::from(cpus) {
        let why = "its memory layout or number of vCPUs does not match this VM";
        return Err(Error::Snapshot(why.to_owned()));
    }
    let set = match &saved.working_set {
        Some((path, bytes)) => {
            let set = mote_snapshot::working_set::decode(bytes, &state.memory);
            set.map_err(|e| Error::Input("working set", path.clone(), e.to_string()))?
        }
        None => Vec::new(),
    };
    if let Some(memory) = &saved.memory {
        let ranges = &state.memory.ranges;
        working_set::place(ram, &memory.file, saved.copy, ranges, &set, ahead)
            .map_err(|e| Error::file("snapshot", &memory.path, &e))?;
    }
    Ok(state)
}

/// Connects what the saved VM had connected; after this the devices and vCPUs can
/// resume.
///
/// # Errors
/// KVM refuses.
pub(crate) fn connect(shared: &Shared) -> Result<(), Error> {
    // A guest that does not listen has nothing to renew.
    shared.interrupt(layout::GENERATION_GSI)?;
    shared.bus.devices().connect_doorbells()
}
