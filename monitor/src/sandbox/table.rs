//! The system calls that each thread may make once a VM runs: which, with
//! which arguments, and why. All others end the process.
//!
//! This file is also part of the build script, which turns every thread's list
//! into the instructions that the kernel takes. At start-up only the numbers
//! of descriptors are put into them ([`Slot`]): moving every descriptor to a
//! number that is known at build time would cost two calls for each, and could
//! meet one that the caller passed in.

use libc::{
    CLOCK_MONOTONIC, CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID,
    CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM, MADV_DONTNEED,
    MADV_HUGEPAGE, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE,
    MSG_DONTWAIT, MSG_NOSIGNAL, O_CLOEXEC, O_DIRECTORY, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR,
    O_TMPFILE, PROT_NONE, PROT_READ, PROT_WRITE, SEEK_END, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK,
};

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
    (Thread::Early, 79),
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
    TrayFirst,
    /// See [`Slot::TrayFirst`].
    TrayLast,
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
    /// The argument is what is in this slot.
    Slot(u8, Slot),
    /// The argument lies between what is in these two slots.
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

const fn rule(call: libc::c_long, when: &'static [If], why: &'static str) -> Rule {
    Rule { call, when, why }
}

use If::{Absent, Below, Between, Exactly, Is, OneOf, Short, Slot as In, Type};

const RW: u32 = (PROT_READ | PROT_WRITE) as u32;
const OVER: u32 = (MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE) as u32;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Commands of KVM (`linux/kvm.h`).
mod kvm {
    pub const RUN: u32 = 0xae80;
    pub const GET_REGS: u32 = 0x8090_ae81;
    pub const SET_REGS: u32 = 0x4090_ae82;
    pub const SET_SREGS: u32 = 0x4138_ae84;
    pub const SET_MSRS: u32 = 0x4008_ae89;
    pub const GET_LAPIC: u32 = 0x8400_ae8e;
    pub const SET_LAPIC: u32 = 0x4400_ae8f;
    pub const GET_MP_STATE: u32 = 0x8004_ae98;
    pub const SET_MP_STATE: u32 = 0x4004_ae99;
    pub const SET_VCPU_EVENTS: u32 = 0x4040_aea0;
    pub const SET_DEBUGREGS: u32 = 0x4080_aea2;
    pub const SET_XSAVE: u32 = 0x5000_aea5;
    pub const SET_XCRS: u32 = 0x4188_aea7;
    pub const SIGNAL_MSI: u32 = 0x4020_aea5;
    pub const SET_GSI_ROUTING: u32 = 0x4008_ae6a;
    pub const GET_DIRTY_LOG: u32 = 0x4010_ae42;
    pub const GET_CLOCK: u32 = 0x8030_ae7c;
    pub const GET_SREGS: u32 = 0x8138_ae83;
    pub const GET_MSRS: u32 = 0xc008_ae88;
    pub const GET_CPUID2: u32 = 0xc008_ae91;
    pub const GET_VCPU_EVENTS: u32 = 0x8040_ae9f;
    pub const GET_DEBUGREGS: u32 = 0x8080_aea1;
    pub const GET_TSC_KHZ: u32 = 0xaea3;
    pub const GET_XSAVE: u32 = 0x9000_aea4;
    pub const GET_XCRS: u32 = 0x8188_aea6;
    pub const KVMCLOCK_CTRL: u32 = 0xaead;
    pub const IOEVENTFD: u32 = 0x4040_ae79;
}
/// Commands of terminals: TCGETS, TCSETS, TIOCGPGRP, TCGETS2, TCSETS2.
const TERMINAL: &[u32] = &[0x5401, 0x5402, 0x540f, 0x802c_542a, 0x402c_542b];
const TUNSETOFFLOAD: u32 = 0x4004_54d0;

/// Waiting and waking within this process: the C library's locks wait without a
/// set of bits, the standard library's with one. Nothing joins a thread, which
/// would wait for the kernel's own wake-up, a shared one.
const FUTEX: Rule = rule(
    libc::SYS_futex,
    &[OneOf(
        1,
        &[
            (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u32,
            (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32,
            (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32,
        ],
    )],
    "locks between threads; no requeueing, no priorities, no other process's",
);

/// What every thread needs.
const COMMON: &[Rule] = &[
    FUTEX,
    rule(libc::SYS_ppoll, &[], "waiting; the descriptors are in memory, where no filter sees them"),
    rule(libc::SYS_brk, &[], "the allocator; such memory is never executable (W^X)"),
    rule(
        libc::SYS_clock_gettime,
        &[Is(0, CLOCK_MONOTONIC as u32)],
        "time on hosts whose clock cannot be read without a call",
    ),
];

/// What a thread may say to the user and to the main thread.
const NEWS: &[Rule] = &[
    rule(libc::SYS_write, &[Is(0, STDERR)], "last words, and that a host's disk is full"),
    rule(libc::SYS_write, &[In(0, Slot::Wake)], "there is news for the main thread"),
];

/// Output of the guest's serial port, which its vCPU or the main thread writes.
const OUTPUT: &[Rule] = &[
    rule(libc::SYS_write, &[In(0, Slot::ConsoleOut)], "the guest's serial output"),
    rule(
        libc::SYS_write,
        &[Between(0, Slot::EventFirst, Slot::EventLast)],
        "interrupts and doorbells; a range, as a VM may have 33 of them",
    ),
    rule(
        libc::SYS_sendto,
        &[In(0, Slot::Client), Is(3, SEND), Is(5, 0)],
        "serial output to a socket's client: never waits, never elsewhere",
    ),
    rule(
        libc::SYS_sendto,
        &[In(0, Slot::ConsoleOut), Is(3, SEND), Is(5, 0)],
        "the same where standard output is a socket",
    ),
];
const SEND: u32 = (MSG_DONTWAIT | MSG_NOSIGNAL) as u32;

/// Giving guest memory back, and faulting it in.
const MEMORY: &[Rule] = &[
    rule(
        libc::SYS_madvise,
        &[Is(2, MADV_DONTNEED as u32)],
        "guest memory back to power-on, at a reset and at the end",
    ),
    rule(
        libc::SYS_madvise,
        &[Is(2, MADV_POPULATE_WRITE as u32)],
        "pages for a guest before it writes to them",
    ),
    rule(
        libc::SYS_madvise,
        &[Is(2, MADV_POPULATE_READ as u32)],
        "pages of a snapshot before the guest reads them",
    ),
    rule(
        libc::SYS_madvise,
        &[Is(2, MADV_HUGEPAGE as u32)],
        "huge pages where a restored guest writes much",
    ),
];

/// Reading a kernel and an initrd that were opened before, at a reset again.
const LOAD: &[Rule] = &[
    rule(libc::SYS_pread64, &[In(0, Slot::Kernel)], "the kernel"),
    rule(libc::SYS_pread64, &[In(0, Slot::Initrd)], "the initrd"),
    rule(
        libc::SYS_mmap,
        &[Is(2, RW), Is(3, OVER), In(4, Slot::Kernel)],
        "the kernel over guest memory; private, not executable",
    ),
    rule(
        libc::SYS_mmap,
        &[Is(2, RW), Is(3, OVER), In(4, Slot::Initrd)],
        "the initrd over guest memory; private, not executable",
    ),
];

/// What the signal handlers need.
const SIGNALS: &[Rule] = &[rule(libc::SYS_rt_sigreturn, &[], "back from a signal's handler")];

const VCPU: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        &[In(0, Slot::Vcpu), OneOf(1, &[kvm::RUN, kvm::GET_MP_STATE, kvm::GET_REGS])],
        "to run the guest; whether a vCPU that does not run waits for its start; where a guest \
         was when it could not go on, for the message",
    ),
    rule(
        libc::SYS_ioctl,
        &[In(0, Slot::Vm), OneOf(1, &[kvm::SET_GSI_ROUTING, kvm::IOEVENTFD])],
        "the I/O APIC: a route must be there when the guest's store is done; a device's doorbell: \
         not before its driver starts it, for 13 ms at the end of VMs without",
    ),
];

/// The registers of vCPUs, for a reset.
const RESET: &[u32] = &[
    kvm::SET_REGS,
    kvm::SET_SREGS,
    kvm::SET_MSRS,
    kvm::GET_LAPIC,
    kvm::SET_LAPIC,
    kvm::SET_MP_STATE,
    kvm::SET_VCPU_EVENTS,
    kvm::SET_DEBUGREGS,
    kvm::SET_XSAVE,
    kvm::SET_XCRS,
];

const MAIN: &[Rule] = &[
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        &[Is(1, libc::F_GETFD as u32)],
        "a debug build's standard library looks at what it closes",
    ),
    rule(libc::SYS_read, &[In(0, Slot::Wake)], "empties the event that woke it"),
    rule(libc::SYS_read, &[In(0, Slot::ConsoleIn)], "what is typed"),
    rule(libc::SYS_read, &[In(0, Slot::Client)], "what a socket's client types"),
    rule(
        libc::SYS_accept4,
        &[In(0, Slot::Listener), Is(3, (SOCK_CLOEXEC | SOCK_NONBLOCK) as u32)],
        "the console's next client",
    ),
    rule(
        libc::SYS_close,
        &[],
        "a client that left; at the end the VM, which takes time that is used better so",
    ),
    rule(
        libc::SYS_ioctl,
        &[Between(0, Slot::VcpuFirst, Slot::VcpuLast), OneOf(1, RESET)],
        "vCPUs back to power-on; their numbers lie close, and what else lies between \
         does not know these commands",
    ),
    rule(
        libc::SYS_ioctl,
        &[In(0, Slot::Vm), Is(1, kvm::SET_GSI_ROUTING)],
        "interrupt routes back to power-on",
    ),
    rule(libc::SYS_ioctl, &[In(0, Slot::Vm), Is(1, kvm::SIGNAL_MSI)], "presses the power button"),
    rule(
        libc::SYS_ioctl,
        &[Is(0, 0), OneOf(1, TERMINAL)],
        "the terminal's modes, and whether it is ours: when a shell stops, continues or \
         fetches this job, and at the end",
    ),
    rule(
        libc::SYS_tgkill,
        &[In(0, Slot::Process), Is(2, libc::SIGTTIN as u32)],
        "stops, when that is asked for, after the terminal was given back; nothing else",
    ),
    rule(
        libc::SYS_tgkill,
        &[In(0, Slot::Process), In(2, Slot::Kick)],
        "gets vCPUs out of the guest; no other process, no other signal",
    ),
    rule(
        libc::SYS_restart_syscall,
        &[],
        "goes on waiting for vCPUs after the process was stopped and continued",
    ),
    rule(libc::SYS_munmap, &[], "pages of vCPUs, at the end; makes nothing reachable"),
    rule(
        libc::SYS_getrusage,
        &[Is(0, libc::RUSAGE_SELF as u32)],
        "page faults, for those who ask where time goes",
    ),
    rule(libc::SYS_exit_group, &[], "the end"),
];

/// What the control API adds.
const CONTROL: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        &[Between(0, Slot::VcpuFirst, Slot::VcpuLast), Is(1, kvm::KVMCLOCK_CTRL)],
        "tells a guest that is resumed that it was paused",
    ),
    rule(
        libc::SYS_accept4,
        &[In(0, Slot::ApiListener), Is(3, (SOCK_CLOEXEC | SOCK_NONBLOCK) as u32)],
        "the API's next client",
    ),
    rule(
        libc::SYS_dup3,
        &[Between(1, Slot::ApiFirst, Slot::ApiLast), Is(2, O_CLOEXEC as u32)],
        "moves it into the row; what is no socket is of no use there",
    ),
    rule(
        libc::SYS_recvfrom,
        &[Between(0, Slot::ApiFirst, Slot::ApiLast), Is(3, MSG_DONTWAIT as u32), Exactly(4, 0)],
        "requests; never waits",
    ),
    rule(
        libc::SYS_sendto,
        &[Between(0, Slot::ApiFirst, Slot::ApiLast), Is(3, SEND), Exactly(4, 0)],
        "answers; never waits, never elsewhere",
    ),
    rule(
        libc::SYS_shutdown,
        &[Between(0, Slot::ApiFirst, Slot::ApiLast), Is(1, SHUT_WR as u32)],
        "the last answer to a client that has made a mistake",
    ),
    rule(
        libc::SYS_dup3,
        &[Between(1, Slot::TrayFirst, Slot::TrayLast), Is(2, O_CLOEXEC as u32)],
        "another medium, or none, under the number that the drive's worker reads",
    ),
    rule(libc::SYS_write, &[In(0, Slot::Log)], "the log"),
    rule(libc::SYS_write, &[In(0, Slot::Metrics)], "metrics"),
    rule(
        libc::SYS_lseek,
        &[Exactly(1, 0), Is(2, SEEK_END as u32)],
        "how large an image is now; nothing uses a position",
    ),
];

/// What it takes to open a CD-ROM's image, beneath the directories that
/// Landlock has been told of.
const OPEN: &[Rule] = &[
    rule(
        libc::SYS_openat,
        &[Is(0, libc::AT_FDCWD as u32), Is(2, (O_RDONLY | O_NONBLOCK | O_CLOEXEC) as u32)],
        "an image to insert; to read, and where Landlock permits it",
    ),
    rule(libc::SYS_fstat, &[], "whether it is a file, and how long"),
    rule(libc::SYS_fcntl, &[Is(1, libc::F_OFD_SETLK as u32)], "its lock against writers"),
];

/// What it takes to open the files of a snapshot on request.
const SAVE_ON_REQUEST: &[Rule] = &[
    rule(
        libc::SYS_openat,
        &[
            Is(0, libc::AT_FDCWD as u32),
            OneOf(2, &[LARGE | O_NONBLOCK as u32, LARGE | O_DIRECTORY as u32]),
        ],
        "whether a file is there already, and its directory; where Landlock permits it",
    ),
    rule(
        libc::SYS_openat,
        &[Is(0, libc::AT_FDCWD as u32), Is(2, LARGE | (O_PATH | O_DIRECTORY) as u32)],
        "/proc/self/fd, for older kernels; nothing can be read from such",
    ),
    rule(
        libc::SYS_openat,
        &[Between(0, Slot::SaveTo, Slot::SaveMemoryTo), Is(2, LARGE | (O_TMPFILE | O_RDWR) as u32)],
        "a new file without a name in a directory",
    ),
    rule(libc::SYS_getrandom, &[Is(1, 16)], "its identity"),
];
/// Where they have to be.
const RENUMBER: &[Rule] = &[rule(
    libc::SYS_dup3,
    &[Between(1, Slot::SaveTo, Slot::Links), Is(2, O_CLOEXEC as u32)],
    "gives them the numbers that may be written to",
)];
/// To read, closed for programs, and with the kernel's own flag for large files,
/// which it does not need here.
const LARGE: u32 = (O_RDONLY | O_CLOEXEC) as u32 | 0x8000;
const EMPTY: u32 = libc::AT_EMPTY_PATH as u32;
const SEEK_DATA: u32 = libc::SEEK_DATA as u32;
const SEEK_HOLE: u32 = libc::SEEK_HOLE as u32;

/// Reading a VM's state.
const SAVE: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        &[Between(0, Slot::VcpuFirst, Slot::VcpuLast), OneOf(1, SAVED)],
        "the registers of vCPUs; see a reset's",
    ),
    rule(libc::SYS_ioctl, &[In(0, Slot::Vm), Is(1, kvm::GET_CLOCK)], "the guest's clock"),
];

/// Writing a snapshot's files, and giving them their names.
const SAVE_FILES: &[Rule] = &[
    rule(libc::SYS_pwrite64, &[In(0, Slot::SavedState)], "the state"),
    rule(libc::SYS_pwrite64, &[In(0, Slot::SavedMemory)], "the memory"),
    rule(libc::SYS_fsync, &[In(0, Slot::SavedState)], "the state"),
    rule(libc::SYS_fsync, &[In(0, Slot::SavedMemory)], "the memory"),
    rule(libc::SYS_fsync, &[In(0, Slot::SaveTo)], "the state's name"),
    rule(libc::SYS_fsync, &[In(0, Slot::SaveMemoryTo)], "the memory's name"),
    rule(
        libc::SYS_linkat,
        &[In(0, Slot::SavedState), In(2, Slot::SaveTo), Is(4, EMPTY)],
        "gives the state its name",
    ),
    rule(
        libc::SYS_linkat,
        &[In(0, Slot::SavedMemory), In(2, Slot::SaveMemoryTo), Is(4, EMPTY)],
        "gives the memory its name",
    ),
    rule(
        libc::SYS_linkat,
        &[In(0, Slot::Links), In(2, Slot::SaveTo)],
        "the state's where a file may not be linked by itself; Landlock keeps it there",
    ),
    rule(libc::SYS_linkat, &[In(0, Slot::Links), In(2, Slot::SaveMemoryTo)], "the memory's"),
];

/// Where a snapshot's files are in a directory of its own.
const MARK: &[Rule] = &[rule(
    libc::SYS_fchmod,
    &[In(0, Slot::SavedMemory), Is(1, 0o600)],
    "says that the memory has its state",
)];

/// What comes before the state is saved; making the VM has it for its disks.
const FLUSH: &[Rule] = &[rule(
    libc::SYS_fdatasync,
    &[],
    "the guest's disks; of any other descriptor it changes nothing either",
)];

/// Passing over the holes of a file.
const HOLES: &[Rule] = &[
    rule(
        libc::SYS_lseek,
        &[In(0, Slot::Kernel), OneOf(2, &[SEEK_DATA, SEEK_HOLE])],
        "what a file has that lies in guest memory; nothing uses the position",
    ),
    rule(
        libc::SYS_lseek,
        &[In(0, Slot::Initrd), OneOf(2, &[SEEK_DATA, SEEK_HOLE])],
        "the same of the initrd, or of the snapshot that the VM comes from",
    ),
];

/// What memory there is to be saved, and what of it a working set has.
const SAVE_PAGES: &[Rule] = &[
    rule(
        libc::SYS_ioctl,
        &[In(0, Slot::Vm), Is(1, kvm::GET_DIRTY_LOG)],
        "which pages have changed since the last snapshot",
    ),
    rule(
        libc::SYS_pread64,
        &[In(0, Slot::PageMap)],
        "which pages of guest memory have been touched",
    ),
];

/// Everything that a vCPU's state is read by.
const SAVED: &[u32] = &[
    kvm::GET_REGS,
    kvm::GET_SREGS,
    kvm::GET_MSRS,
    kvm::GET_LAPIC,
    kvm::GET_MP_STATE,
    kvm::GET_CPUID2,
    kvm::GET_VCPU_EVENTS,
    kvm::GET_DEBUGREGS,
    kvm::GET_TSC_KHZ,
    kvm::GET_XSAVE,
    kvm::GET_XCRS,
    kvm::KVMCLOCK_CTRL,
];

/// A block or network worker's waiting and answering.
const WORKER: &[Rule] = &[
    rule(libc::SYS_read, &[In(0, Slot::Doorbell)], "empties the doorbell"),
    rule(
        libc::SYS_write,
        &[Between(0, Slot::Interrupt, Slot::InterruptLast)],
        "the device's interrupts",
    ),
];

const READ_ONLY: &[Rule] = &[
    rule(
        libc::SYS_write,
        &[In(0, Slot::Doorbell)],
        "a disk's worker wakes another one for what it leaves",
    ),
    rule(libc::SYS_preadv, &[In(0, Slot::Own)], "reads of its own image"),
    rule(
        libc::SYS_lseek,
        &[In(0, Slot::Own), Exactly(1, 0), Is(2, SEEK_END as u32)],
        "whether its image has shrunk; nothing uses the position",
    ),
];

const DISK: &[Rule] = &[
    rule(
        libc::SYS_pwritev,
        &[In(0, Slot::Own), Below(3, Slot::EndLow, Slot::EndHigh)],
        "writes to its own image; one makes it 2 GiB longer at most",
    ),
    rule(libc::SYS_fdatasync, &[In(0, Slot::Own)], "flushes of its own image"),
    rule(
        libc::SYS_fallocate,
        &[
            In(0, Slot::Own),
            OneOf(1, &[0x03, 0x11]),
            Below(2, Slot::EndLow, Slot::EndHigh),
            Short(3),
        ],
        "discard (punch a hole) and zeroes, both without a change of size; nearly 4 GiB of blocks \
         behind the end at most",
    ),
];

const NET: &[Rule] = &[
    rule(libc::SYS_readv, &[In(0, Slot::Own)], "frames of its own tap"),
    rule(libc::SYS_writev, &[In(0, Slot::Own)], "frames to its own tap"),
    rule(libc::SYS_write, &[In(0, Slot::Own)], "the same where a frame is one piece"),
    rule(
        libc::SYS_ioctl,
        &[In(0, Slot::Own), Is(1, TUNSETOFFLOAD)],
        "what the guest's driver can take, when it starts its device",
    ),
];

/// Reading strangers' files without a VM; what a merge writes is its own.
const READER: &[Rule] = &[
    #[cfg(debug_assertions)]
    rule(
        libc::SYS_fcntl,
        &[Is(1, libc::F_GETFD as u32)],
        "a debug build's standard library looks at what it closes",
    ),
    rule(
        libc::SYS_pread64,
        &[Between(0, Slot::SourceFirst, Slot::SourceLast)],
        "the files, all of them open already",
    ),
    rule(
        libc::SYS_lseek,
        &[Between(0, Slot::SourceFirst, Slot::SourceLast), OneOf(2, &[SEEK_DATA, SEEK_HOLE])],
        "passes over a file's holes; nothing uses the position",
    ),
    rule(libc::SYS_pread64, &[In(0, Slot::SavedMemory)], "the checksum of what has been merged"),
    rule(
        libc::SYS_lseek,
        &[In(0, Slot::SavedMemory), OneOf(2, &[SEEK_DATA, SEEK_HOLE])],
        "the same without its holes",
    ),
    rule(
        libc::SYS_fallocate,
        &[In(0, Slot::SavedMemory), Is(1, 0x03)],
        "a page that is zero again becomes a hole",
    ),
    rule(libc::SYS_ftruncate, &[In(0, Slot::SavedMemory)], "its length, where it ends in a hole"),
    rule(libc::SYS_write, &[OneOf(0, &[STDOUT, STDERR])], "the report, and errors"),
    rule(libc::SYS_close, &[], "files that have been read"),
    rule(libc::SYS_exit_group, &[], "the end"),
];

#[allow(dead_code, reason = "the build script does not look for it")]
/// Begins the reason of a call that is for a thread to come.
pub const LATER: &str = "later: ";

const fn later(call: libc::c_long) -> Rule {
    rule(call, &[], "later: the thread's own filter says how")
}

/// What a thread is made with.
const THREAD: u32 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID) as u32;
const PR_SET_NAME: u32 = 15;

/// Making the VM, its vCPUs and all threads. The thread that reads somebody
/// else's bytes shares memory with one that is still at it, so this holds for
/// both from before on.
const START: &[Rule] = &[
    rule(
        libc::SYS_clone3,
        &[Absent],
        "its flags are in memory; without it the C library uses clone",
    ),
    rule(libc::SYS_clone, &[Is(0, THREAD)], "threads; no process, no namespace"),
    rule(libc::SYS_mmap, &[OneOf(2, &[PROT_NONE as u32, RW])], STACKS),
    rule(libc::SYS_mprotect, &[Is(2, RW)], STACKS),
    rule(libc::SYS_rseq, &[], STACKS),
    rule(libc::SYS_set_robust_list, &[], STACKS),
    rule(libc::SYS_rt_sigprocmask, &[], STACKS),
    rule(libc::SYS_prctl, &[Is(0, PR_SET_NAME)], "a thread's name"),
    rule(libc::SYS_getpid, &[], "the numbers to kick a vCPU by"),
    rule(libc::SYS_gettid, &[], "the numbers to kick a vCPU by"),
    rule(libc::SYS_seccomp, &[], "the threads' own filters"),
    rule(libc::SYS_ioctl, &[In(0, Slot::Host)], "to make the VM"),
    rule(libc::SYS_ioctl, &[In(0, Slot::Vm)], "its parts"),
    rule(
        libc::SYS_ioctl,
        &[Between(0, Slot::VcpuFirst, Slot::VcpuLast)],
        "vCPUs at power-on, and running",
    ),
    rule(libc::SYS_ioctl, &[Is(1, TUNSETOFFLOAD)], "later: taps"),
    rule(libc::SYS_ioctl, &[Is(0, 0), OneOf(1, TERMINAL)], "later: the terminal"),
    rule(libc::SYS_tgkill, &[In(0, Slot::Process), Is(2, libc::SIGTTIN as u32)], "later: to stop"),
    rule(libc::SYS_tgkill, &[In(0, Slot::Process), In(2, Slot::Kick)], "later: to kick vCPUs"),
    #[cfg(debug_assertions)]
    rule(libc::SYS_fcntl, &[Is(1, libc::F_GETFD as u32)], "later: what is closed"),
    rule(
        libc::SYS_linkat,
        &[
            Between(0, Slot::NewFirst, Slot::NewLast),
            Between(2, Slot::NewFirst, Slot::NewLast),
            Is(4, libc::AT_SYMLINK_FOLLOW as u32),
        ],
        "names of new disks and of the console's file, when nothing can be refused any more; \
         Landlock keeps them in their directories",
    ),
    rule(
        libc::SYS_ftruncate,
        &[In(0, Slot::ConsoleOut), Exactly(1, 0)],
        "empties the file that the console's output replaces",
    ),
    FUTEX,
    later(libc::SYS_ppoll),
    later(libc::SYS_brk),
    later(libc::SYS_clock_gettime),
    later(libc::SYS_read),
    later(libc::SYS_write),
    later(libc::SYS_sendto),
    later(libc::SYS_accept4),
    later(libc::SYS_close),
    later(libc::SYS_restart_syscall),
    later(libc::SYS_madvise),
    later(libc::SYS_munmap),
    later(libc::SYS_exit_group),
    later(libc::SYS_exit),
    later(libc::SYS_rt_sigreturn),
    later(libc::SYS_pread64),
    later(libc::SYS_preadv),
    later(libc::SYS_lseek),
    later(libc::SYS_pwritev),
    later(libc::SYS_fdatasync),
    later(libc::SYS_fallocate),
    later(libc::SYS_readv),
    later(libc::SYS_writev),
    later(libc::SYS_getrusage),
];

/// What the control API's thread has beyond that.
const START_API: &[Rule] =
    &[later(libc::SYS_dup3), later(libc::SYS_recvfrom), later(libc::SYS_shutdown)];

/// What a thread that gives up opening does, while another one keeps it.
const START_OPEN: &[Rule] =
    &[later(libc::SYS_landlock_create_ruleset), later(libc::SYS_landlock_restrict_self)];

/// The end of a first thread whose kernel was refused.
const NO_VCPU: &[Rule] = &[
    rule(libc::SYS_rt_sigprocmask, &[], "the C library, at a thread's end"),
    rule(libc::SYS_exit, &[], "the thread's, and nothing else's"),
];

/// What clients of a control API have opened and made for a VM. It comes on top
/// of what the VM's threads do later, of which no number is known yet: here it is
/// free of them, and the threads' own filters are not.
const EARLY: &[Rule] = &[
    rule(libc::SYS_clone3, &[Absent], "as for the start of other VMs"),
    rule(libc::SYS_clone, &[Is(0, THREAD)], "threads; no process, no namespace"),
    rule(
        libc::SYS_mmap,
        &[OneOf(2, &[PROT_NONE as u32, PROT_READ as u32, RW])],
        "guest memory, stacks; never to be executed",
    ),
    rule(libc::SYS_mprotect, &[OneOf(2, &[PROT_READ as u32, RW])], STACKS),
    rule(libc::SYS_rseq, &[], STACKS),
    rule(libc::SYS_set_robust_list, &[], STACKS),
    rule(libc::SYS_rt_sigprocmask, &[], STACKS),
    rule(libc::SYS_rt_sigaction, &[], "signals that ask for the end"),
    rule(libc::SYS_prctl, &[Is(0, PR_SET_NAME)], "a thread's name"),
    rule(
        libc::SYS_prctl,
        &[Is(0, PR_SET_DUMPABLE), Exactly(1, 0)],
        "not dumpable, from the start on",
    ),
    rule(libc::SYS_prlimit64, &[Is(0, 0)], "its own limits; raising one takes a capability"),
    rule(libc::SYS_seccomp, &[], "the threads' own filters"),
    rule(libc::SYS_landlock_create_ruleset, &[], "less of files, at the start"),
    rule(libc::SYS_landlock_add_rule, &[], "less of files, at the start"),
    rule(libc::SYS_landlock_restrict_self, &[], "less of files, at the start"),
    rule(
        libc::SYS_openat,
        &[],
        "what clients name; where Landlock permits it, if directories were given",
    ),
    rule(libc::SYS_open, &[], "the same, as some libraries say it"),
    rule(libc::SYS_newfstatat, &[], "what a file is"),
    rule(libc::SYS_fstat, &[], "what a file is"),
    rule(libc::SYS_statx, &[], "what a file is"),
    rule(libc::SYS_ftruncate, &[Exactly(1, 0)], "a console's file, to be replaced"),
    rule(libc::SYS_unlink, &[], "a dead socket, to be replaced"),
    rule(
        libc::SYS_socket,
        &[Is(0, libc::AF_UNIX as u32)],
        "the console's; a tap's name is looked up by one; a pager's",
    ),
    rule(
        libc::SYS_connect,
        &[],
        "a pager's; a probe of the console's old socket; no abstract one (Landlock)",
    ),
    rule(
        libc::SYS_getsockopt,
        &[Is(1, libc::SOL_SOCKET as u32), Is(2, libc::SO_PEERCRED as u32)],
        "the pager's user",
    ),
    rule(libc::SYS_geteuid, &[], "the pager's user, compared with Mote's"),
    rule(libc::SYS_uname, &[], "an interface's own address"),
    rule(libc::SYS_sysinfo, &[], "how much memory the host has"),
    rule(libc::SYS_bind, &[], "the console's socket"),
    rule(libc::SYS_listen, &[], "the console's socket"),
    rule(libc::SYS_sendmsg, &[Is(2, MSG_NOSIGNAL as u32)], "the guest's memory to its pager"),
    rule(libc::SYS_userfaultfd, &[], "the guest's memory to its pager"),
    rule(libc::SYS_memfd_create, &[], "the firmware, in the shape of a file"),
    rule(libc::SYS_getrandom, &[], "the VM's identity"),
    rule(libc::SYS_eventfd2, &[], "interrupts and doorbells"),
    rule(
        libc::SYS_fcntl,
        &[OneOf(
            1,
            &[
                libc::F_GETFD as u32,
                libc::F_GETFL as u32,
                libc::F_SETFL as u32,
                libc::F_DUPFD_CLOEXEC as u32,
                libc::F_OFD_SETLK as u32,
            ],
        )],
        "numbers of descriptors, locks of images; no owner, no signal",
    ),
    rule(libc::SYS_dup3, &[Is(2, O_CLOEXEC as u32)], "numbers of descriptors"),
    rule(libc::SYS_ioctl, &[Type(1, 0xae)], "KVM's, to make the VM"),
    rule(libc::SYS_ioctl, &[Type(1, 0xaa)], "userfaultfd's"),
    rule(libc::SYS_ioctl, &[Type(1, 0x12)], "a block device's size and sectors"),
    rule(libc::SYS_ioctl, &[OneOf(1, EARLY_IOCTLS)], "taps and their names; a new pseudo-terminal"),
    rule(libc::SYS_ioctl, &[OneOf(1, TERMINAL)], "a terminal's modes, and whose it is"),
    rule(libc::SYS_getpgrp, &[], "whether the terminal is ours"),
    rule(libc::SYS_getpid, &[], "the numbers to kick a vCPU by"),
    rule(libc::SYS_gettid, &[], "the numbers to kick a vCPU by"),
    rule(
        libc::SYS_tgkill,
        &[In(0, Slot::Process), In(2, Slot::Kick)],
        "kicks vCPUs; no other process, no other signal",
    ),
    rule(
        libc::SYS_tgkill,
        &[In(0, Slot::Process), Is(2, libc::SIGTTIN as u32)],
        "stops, when the terminal asks for that",
    ),
    rule(libc::SYS_sendto, &[Is(3, SEND), Exactly(4, 0)], "answers; never elsewhere"),
    rule(libc::SYS_sendto, &[Is(3, SEND), Is(5, 0)], "output of a console; never elsewhere"),
    later(libc::SYS_linkat),
    later(libc::SYS_pwrite64),
    later(libc::SYS_fsync),
    FUTEX,
    rule(
        libc::SYS_futex,
        &[Is(1, (libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME) as u32)],
        "the end of a first thread whose kernel was refused",
    ),
    later(libc::SYS_ppoll),
    later(libc::SYS_brk),
    later(libc::SYS_clock_gettime),
    later(libc::SYS_read),
    later(libc::SYS_write),
    later(libc::SYS_recvfrom),
    later(libc::SYS_shutdown),
    later(libc::SYS_accept4),
    later(libc::SYS_close),
    later(libc::SYS_restart_syscall),
    later(libc::SYS_madvise),
    later(libc::SYS_munmap),
    later(libc::SYS_exit_group),
    later(libc::SYS_exit),
    later(libc::SYS_rt_sigreturn),
    later(libc::SYS_pread64),
    later(libc::SYS_preadv),
    later(libc::SYS_lseek),
    later(libc::SYS_pwritev),
    later(libc::SYS_fdatasync),
    later(libc::SYS_fallocate),
    later(libc::SYS_readv),
    later(libc::SYS_writev),
    later(libc::SYS_getrusage),
];
const PR_SET_DUMPABLE: u32 = 4;
/// TUNSETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD, SIOCGIFINDEX; TIOCSPTLCK, TIOCGPTN;
/// FIONBIO.
const EARLY_IOCTLS: &[u32] =
    &[0x4004_54ca, 0x4004_54d8, TUNSETOFFLOAD, 0x8933, 0x4004_5431, 0x8004_5430, 0x5421];
const STACKS: &str = "what the C library makes a thread with";

/// Everything that a kind of thread may do.
pub fn rules(thread: Thread) -> impl Iterator<Item = &'static Rule> {
    let own: &[&'static [Rule]] = match thread {
        Thread::Early => &[EARLY],
        Thread::Start => &[START],
        Thread::StartApi => &[START, START_API],
        Thread::StartOpen => {
            &[START, START_API, START_OPEN, OPEN, SAVE, SAVE_FILES, SAVE_ON_REQUEST]
        }
        Thread::StartSaver => &[START, SAVE, SAVE_FILES, MARK],
        Thread::Saver => &[
            NEWS, MAIN, OUTPUT, MEMORY, LOAD, SIGNALS, FLUSH, SAVE, SAVE_FILES, MARK, SAVE_PAGES,
            HOLES,
        ],
        Thread::Main => &[NEWS, MAIN, OUTPUT, MEMORY, LOAD, SIGNALS],
        Thread::Control => &[NEWS, MAIN, CONTROL, OUTPUT, MEMORY, LOAD, SIGNALS],
        Thread::Opener => &[
            NEWS,
            MAIN,
            CONTROL,
            OPEN,
            OUTPUT,
            MEMORY,
            LOAD,
            SIGNALS,
            FLUSH,
            SAVE,
            SAVE_FILES,
            SAVE_PAGES,
            HOLES,
            SAVE_ON_REQUEST,
            RENUMBER,
        ],
        Thread::Vcpu => &[NEWS, VCPU, OUTPUT, SIGNALS],
        Thread::FirstVcpu => &[NEWS, VCPU, OUTPUT, MEMORY, LOAD, HOLES, SIGNALS, NO_VCPU],
        Thread::Disk => &[NEWS, WORKER, READ_ONLY, DISK],
        Thread::ReadOnly => &[NEWS, WORKER, READ_ONLY],
        Thread::Net => &[NEWS, WORKER, NET],
        Thread::Reader => &[READER, SAVE_FILES, MARK],
    };
    let common: &[&'static [Rule]] = match thread {
        Thread::Early
        | Thread::Start
        | Thread::StartApi
        | Thread::StartOpen
        | Thread::StartSaver => &[],
        _ => &[COMMON],
    };
    let lists: Vec<&'static [Rule]> = common.iter().chain(own).copied().collect();
    lists.into_iter().flatten()
}
