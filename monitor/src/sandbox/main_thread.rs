//! What the main thread of a VM becomes.

use std::os::fd::RawFd;

use super::{Rules, Sandbox, Slot, Thread};

/// What kind of thread the main one becomes, and the numbers that its filter
/// needs beyond those of every VM.
pub struct MainThread {
    /// Its kind.
    pub thread: Thread,
    /// That of the whole process while the VM is made. Without one it has been
    /// confined already, as one that may try again.
    pub start: Option<Thread>,
    /// Numbers of the main thread's descriptors.
    pub slots: Vec<(Slot, RawFd)>,
    /// What it may still open once the VM runs.
    pub files: Option<Rules>,
}

impl Default for MainThread {
    fn default() -> Self {
        Self { thread: Thread::Main, start: Some(Thread::Start), slots: Vec::new(), files: None }
    }
}

impl MainThread {
    /// Fills the slots with the numbers of the main thread's descriptors.
    pub fn numbers(&self, sandbox: Sandbox) -> Sandbox {
        let slots = self.slots.iter();
        slots.fold(sandbox, |all, (slot, number)| all.with(*slot, *number))
    }
}
