//! Kinds of threads, what a rule of a filter can compare, and the numbers that are known
//! at start-up. Part of the build script, as `table` is.

/// Kinds of threads; a filter for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// A process with a control API until its VM runs: it opens what clients name.
    /// It is under the filters of its threads to come.
    Early,
    /// The whole process while it makes the VM and its threads, which all
    /// have this filter and add their own.
    Start,
    /// The same where there is a control API.
    StartApi,
    /// The same where that may open files while the VM runs.
    StartOpen,
    /// The same where the VM is to be saved.
    StartSaver,
    /// Console, signals, resets.
    Main,
    /// The same where there is a control API.
    Control,
    /// The same where that may open files while the VM runs.
    Opener,
    /// The same where the VM is to be saved.
    Saver,
    /// A vCPU.
    Vcpu,
    /// The first vCPU, whose thread reads the kernel and the initrd before.
    FirstVcpu,
    /// A worker of a disk.
    Disk,
    /// A worker of a disk or CD-ROM that is only read.
    ReadOnly,
    /// The worker of a network interface.
    Net,
    /// A process that reads strangers' files and is no VM: merges snapshots, looks
    /// at an image.
    Reader,
}

/// All kinds, and the most system calls that each may have.
pub const THREADS: [(Thread, usize); 15] = [
    (Thread::Early, 78),
    (Thread::Start, 49),
    (Thread::StartApi, 52),
    (Thread::StartOpen, 61),
    (Thread::StartSaver, 51),
    (Thread::Main, 20),
    (Thread::Control, 25),
    (Thread::Opener, 35),
    (Thread::Saver, 26),
    (Thread::Vcpu, 12),
    (Thread::FirstVcpu, 14),
    (Thread::Disk, 12),
    (Thread::ReadOnly, 10),
    (Thread::Net, 10),
    (Thread::Reader, 16),
];

/// A number that is known at start-up: mostly a descriptor's. One that a VM
/// does not have is all ones, which no descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Slot {
    /// The kernel's file.
    Kernel,
    /// The initrd's file.
    Initrd,
    /// `/dev/kvm`.
    Host,
    /// The VM.
    Vm,
    /// The calling thread's vCPU.
    Vcpu,
    /// First and last of all vCPUs.
    VcpuFirst,
    /// See [`Slot::VcpuFirst`].
    VcpuLast,
    /// First and last of the events that stand for interrupts and doorbells,
    /// which lie in a row.
    EventFirst,
    /// See [`Slot::EventFirst`].
    EventLast,
    /// The event that wakes the main thread.
    Wake,
    /// Where the console's input comes from.
    ConsoleIn,
    /// Where the console's output goes.
    ConsoleOut,
    /// The console's listening socket.
    Listener,
    /// Its client: the number that the next descriptor gets.
    Client,
    /// The image or tap that the calling worker serves.
    Own,
    /// Lower and upper half of the length of the calling worker's image.
    EndLow,
    /// See [`Slot::EndLow`].
    EndHigh,
    /// The events of the calling worker's device.
    Doorbell,
    /// First and last of its interrupts, which lie in a row.
    Interrupt,
    /// See [`Slot::Interrupt`].
    InterruptLast,
    /// The listening socket of the control API.
    ApiListener,
    /// First and last of its connections, which lie in a row.
    ApiFirst,
    /// See [`Slot::ApiFirst`].
    ApiLast,
    /// First and last of the CD-ROM drives' images, and what lies between.
    CdromFirst,
    /// See [`Slot::CdromFirst`].
    CdromLast,
    /// Its log.
    Log,
    /// Its metrics.
    Metrics,
    /// The directory that a snapshot's state is to be in.
    SaveTo,
    /// The one for its memory.
    SaveMemoryTo,
    /// This process's descriptors, to name a snapshot's files by.
    Links,
    /// A snapshot's files.
    SavedState,
    /// See [`Slot::SavedState`].
    SavedMemory,
    /// First and last of the files that a [`Thread::Reader`] reads.
    SourceFirst,
    /// See [`Slot::SourceFirst`].
    SourceLast,
    /// First and last of the directories in which new files get their names at
    /// the start, and of this process's descriptors, to name them by.
    NewFirst,
    /// See [`Slot::NewFirst`].
    NewLast,
    /// Which pages of this process are there.
    PageMap,
    /// Number of this process.
    Process,
    /// Signal that gets a vCPU out of the guest.
    Kick,
}

/// Number of slots.
pub const SLOTS: usize = Slot::Kick as usize + 1;

/// Stands for a slot in a compiled filter; no constant of a rule is that high.
pub const PLACEHOLDER: u32 = 0xf5a7_0000;

/// A condition on an argument.
#[derive(Clone, Copy, Debug)]
pub enum If {
    /// The argument's lower half, which is all that the kernel takes of an
    /// `int`, is this.
    Is(u8, u32),
    /// It is one of these.
    OneOf(u8, &'static [u32]),
    /// All of the argument is this.
    Exactly(u8, u64),
    /// The argument equals this slot's value.
    Slot(u8, Slot),
    /// The argument lies between the values of these two slots.
    Between(u8, Slot, Slot),
    /// All of the argument is less than the number whose lower and upper half
    /// are in these two slots.
    Below(u8, Slot, Slot),
    /// All of the argument is less than 4 GiB.
    Short(u8),
    /// The argument is an ioctl's command of this type, the second byte (ioctl(2)).
    Type(u8, u8),
    /// The call is not made, and fails as if the kernel did not have it.
    Absent,
}

/// A way to make a system call; it may be made in any of the ways listed for a
/// thread.
pub struct Rule {
    /// Its number.
    pub call: libc::c_long,
    /// What all has to be so.
    pub when: &'static [If],
    /// Why it has to be allowed, and why not more narrowly.
    pub why: &'static str,
}

pub(super) const fn rule(call: libc::c_long, when: &'static [If], why: &'static str) -> Rule {
    Rule { call, when, why }
}
