//! Configuration of the process and its snapshots, apart from the machine.

/// Which memory a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotKind {
    /// All of it.
    #[default]
    Full,
    /// What has changed since the last one, or since the one restored.
    Difference,
}

/// What happens on a disallowed system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The process is killed, by SIGSYS.
    #[default]
    Kill,
    /// The kernel's log names it, and it is made.
    Log,
    /// There is no sandbox at all.
    Off,
}

/// How a VM's process is to be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// About system calls.
    pub mode: Mode,
    /// The least version of Landlock's interface; with less, no VM starts.
    pub landlock: Option<u32>,
    /// The main thread may keep opening files beneath the directories passed to
    /// [`confine_early`](crate::sandbox::confine_early); every other thread gives that up.
    pub opens: bool,
}
