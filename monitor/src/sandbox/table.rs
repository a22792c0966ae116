//! The system calls that each thread may make once a VM runs: which, with
//! which arguments, and why. All others end the process.
//!
//! This file is also part of the build script, which turns every thread's list
//! into the instructions that the kernel takes. At start-up only the numbers
//! of descriptors are put into them ([`Slot`]): moving every descriptor to a
//! number that is known at build time would cost two calls for each, and could
//! meet one that the caller passed in.

use libc::*;

use super::rule::{If, Rule, Slot::*, Thread, rule};

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
const PRIVATE: u32 = FUTEX_PRIVATE_FLAG as u32;
#[rustfmt::skip]
const FUTEX: Rule = rule(
    SYS_futex,
    &[OneOf(1, &[FUTEX_WAIT as u32 | PRIVATE, FUTEX_WAKE as u32 | PRIVATE, FUTEX_WAIT_BITSET as u32 | PRIVATE])],
    "locks between threads; no requeueing, no priorities, no other process's",
);

/// What every thread needs.
#[rustfmt::skip]
const COMMON: &[Rule] = &[
    FUTEX,
    rule(SYS_ppoll, &[], "waiting; the descriptors are in memory, where no filter sees them"),
    rule(SYS_brk, &[], "the allocator; such memory is never executable (W^X)"),
    rule(SYS_clock_gettime, &[Is(0, CLOCK_MONOTONIC as u32)], "time on hosts whose clock cannot be read without a call"),
];

/// Reports to the user and to the main thread.
const REPORTS: &[Rule] = &[
    rule(SYS_write, &[Is(0, STDERR)], "error messages, and that a host's disk is full"),
    rule(SYS_write, &[In(0, Wake)], "wakes the main thread for an event"),
];

/// Output of the guest's serial port, which its vCPU or the main thread writes.
#[rustfmt::skip]
const OUTPUT: &[Rule] = &[
    rule(SYS_write, &[In(0, ConsoleOut)], "the guest's serial output"),
    rule(SYS_write, &[Between(0, EventFirst, EventLast)], "interrupts and doorbells: a range, as a VM may have 50 of them"),
    rule(SYS_sendto, &[In(0, Client), Is(3, SEND), Is(5, 0)], "serial output to a socket's client: never waits, never elsewhere"),
    rule(SYS_sendto, &[In(0, ConsoleOut), Is(3, SEND), Is(5, 0)], "the same where standard output is a socket"),
];
const SEND: u32 = (MSG_DONTWAIT | MSG_NOSIGNAL) as u32;

/// Giving guest memory back, and faulting it in.
#[rustfmt::skip]
const MEMORY: &[Rule] = &[
    rule(SYS_madvise, &[Is(2, MADV_DONTNEED as u32)], "guest memory back to power-on, at a reset and at the end"),
    rule(SYS_madvise, &[Is(2, MADV_POPULATE_WRITE as u32)], "pages for a guest before it writes to them"),
    rule(SYS_madvise, &[Is(2, MADV_POPULATE_READ as u32)], "pages of a snapshot before the guest reads them"),
    rule(SYS_madvise, &[Is(2, MADV_HUGEPAGE as u32)], "huge pages where a restored guest writes much"),
];

/// Reading a kernel and an initrd that were opened before, at a reset again.
#[rustfmt::skip]
const LOAD: &[Rule] = &[
    rule(SYS_pread64, &[In(0, Kernel)], "the kernel"),
    rule(SYS_pread64, &[In(0, Initrd)], "the initrd"),
    rule(SYS_mmap, &[Is(2, RW), Is(3, OVER), In(4, Kernel)], "the kernel over guest memory; private, not executable"),
    rule(SYS_mmap, &[Is(2, RW), Is(3, OVER), In(4, Initrd)], "the initrd over guest memory; private, not executable"),
];

/// What the signal handlers need.
const SIGNALS: &[Rule] = &[rule(SYS_rt_sigreturn, &[], "back from a signal's handler")];

#[rustfmt::skip]
const VCPU: &[Rule] = &[
    rule(SYS_ioctl, &[In(0, Vcpu), OneOf(1, &[kvm::RUN, kvm::GET_MP_STATE, kvm::GET_REGS])], "runs the guest; for a message, where it is and whether it waits for its start"),
    rule(SYS_ioctl, &[In(0, Vm), OneOf(1, &[kvm::SET_GSI_ROUTING, kvm::IOEVENTFD])], "interrupt routes, when the guest has changed them; doorbells, when a device starts"),
    rule(SYS_clock_gettime, &[Is(0, CLOCK_REALTIME as u32)], "the clock chip's time on hosts whose clock cannot be read without a call"),
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

#[rustfmt::skip]
const MAIN: &[Rule] = &[
    #[cfg(debug_assertions)]
    rule(SYS_fcntl, &[Is(1, F_GETFD as u32)], "a debug build's standard library looks at what it closes"),
    rule(SYS_read, &[In(0, Wake)], "empties the event that woke it"),
    rule(SYS_read, &[In(0, ConsoleIn)], "console input"),
    rule(SYS_read, &[In(0, Client)], "what a socket's client types"),
    rule(SYS_accept4, &[In(0, Listener), Is(3, (SOCK_CLOEXEC | SOCK_NONBLOCK) as u32)], "the console's next client"),
    rule(SYS_close, &[], "a client that disconnected; at the end the VM, in parallel with other work"),
    rule(SYS_ioctl, &[Between(0, VcpuFirst, VcpuLast), OneOf(1, RESET)], "vCPUs to power-on; nothing else between them knows these commands"),
    rule(SYS_ioctl, &[In(0, Vm), Is(1, kvm::SET_GSI_ROUTING)], "interrupt routes back to power-on"),
    rule(SYS_ioctl, &[In(0, Vm), Is(1, kvm::SIGNAL_MSI)], "presses the power button"),
    rule(SYS_ioctl, &[Is(0, 0), OneOf(1, TERMINAL)], "the terminal's modes, when a shell stops or continues this job, and at the end"),
    rule(SYS_tgkill, &[In(0, Process), Is(2, SIGTTIN as u32)], "stops this process, with the terminal's modes restored"),
    rule(SYS_tgkill, &[In(0, Process), In(2, Kick)], "gets vCPUs out of the guest; no other process, no other signal"),
    rule(SYS_restart_syscall, &[], "resumes waiting for vCPUs after SIGSTOP and SIGCONT"),
    rule(SYS_munmap, &[], "pages of vCPUs, at the end; makes nothing reachable"),
    rule(SYS_getrusage, &[Is(0, RUSAGE_SELF as u32)], "page faults, for those who ask where time goes"),
    rule(SYS_exit_group, &[], "the end"),
];

/// What the control API adds.
#[rustfmt::skip]
const CONTROL: &[Rule] = &[
    rule(SYS_ioctl, &[Between(0, VcpuFirst, VcpuLast), Is(1, kvm::KVMCLOCK_CTRL)], "notifies a resumed guest that it was paused"),
    rule(SYS_accept4, &[In(0, ApiListener), Is(3, (SOCK_CLOEXEC | SOCK_NONBLOCK) as u32)], "the API's next client"),
    rule(SYS_dup3, &[Between(1, ApiFirst, ApiLast), Is(2, O_CLOEXEC as u32)], "moves it into the row of sockets"),
    rule(SYS_recvfrom, &[Between(0, ApiFirst, ApiLast), Is(3, MSG_DONTWAIT as u32), Exactly(4, 0)], "requests; never waits"),
    rule(SYS_sendto, &[Between(0, ApiFirst, ApiLast), Is(3, SEND), Exactly(4, 0)], "answers; never waits, never elsewhere"),
    rule(SYS_shutdown, &[Between(0, ApiFirst, ApiLast), Is(1, SHUT_WR as u32)], "the last response to a faulty client"),
    rule(SYS_dup3, &[Between(1, CdromFirst, CdromLast), Is(2, O_CLOEXEC as u32)], "another medium, or none, at the worker's descriptor"),
    rule(SYS_write, &[In(0, Log)], "the log"),
    rule(SYS_write, &[In(0, Metrics)], "metrics"),
];

/// What it takes to open a CD-ROM's image, beneath the directories that
/// Landlock has been told of.
#[rustfmt::skip]
const OPEN: &[Rule] = &[
    rule(SYS_openat, &[Is(0, AT_FDCWD as u32), Is(2, (O_RDONLY | O_NONBLOCK | O_CLOEXEC) as u32)], "an image to insert; to read, and where Landlock permits it"),
    rule(SYS_fstat, &[], "whether it is a file, and how long"),
    rule(SYS_fcntl, &[Is(1, F_OFD_SETLK as u32)], "its lock against writers"),
];

/// What the start has for all files.
#[rustfmt::skip]
const INSERT: &[Rule] = &[
    rule(SYS_lseek, &[Exactly(1, 0), Is(2, SEEK_END as u32)], "how large an inserted image is; nothing uses a position"),
];

/// What it takes to open the files of a snapshot on request.
#[rustfmt::skip]
const SAVE_ON_REQUEST: &[Rule] = &[
    rule(SYS_openat, &[Is(0, AT_FDCWD as u32), OneOf(2, &[LARGE | O_NONBLOCK as u32, LARGE | O_DIRECTORY as u32])], "whether a file exists, and its directory, where Landlock permits it"),
    rule(SYS_openat, &[Is(0, AT_FDCWD as u32), Is(2, LARGE | (O_PATH | O_DIRECTORY) as u32)], "/proc/self/fd, for older kernels; nothing can be read from such"),
    rule(SYS_openat, &[Between(0, SaveTo, SaveMemoryTo), Is(2, LARGE | (O_TMPFILE | O_RDWR) as u32)], "a new file without a name in a directory"),
    rule(SYS_getrandom, &[Is(1, 16)], "its identity"),
];
/// Where they have to be.
#[rustfmt::skip]
const RENUMBER: &[Rule] = &[
    rule(SYS_dup3, &[Between(1, SaveTo, Links), Is(2, O_CLOEXEC as u32)], "gives them the numbers that may be written to"),
];
/// To read, closed for programs, and with the kernel's own flag for large files,
/// which it does not need here.
const LARGE: u32 = (O_RDONLY | O_CLOEXEC) as u32 | 0x8000;
const EMPTY: u32 = AT_EMPTY_PATH as u32;
const DATA: u32 = SEEK_DATA as u32;
const HOLE: u32 = SEEK_HOLE as u32;

/// Reading a VM's state.
#[rustfmt::skip]
const SAVE: &[Rule] = &[
    rule(SYS_ioctl, &[Between(0, VcpuFirst, VcpuLast), OneOf(1, SAVED)], "the registers of vCPUs; see a reset's"),
    rule(SYS_ioctl, &[In(0, Vm), Is(1, kvm::GET_CLOCK)], "the guest's clock"),
];

/// Writing a snapshot's files, and giving them their names.
#[rustfmt::skip]
const SAVE_FILES: &[Rule] = &[
    rule(SYS_pwrite64, &[In(0, SavedState)], "the state"),
    rule(SYS_pwrite64, &[In(0, SavedMemory)], "the memory"),
    rule(SYS_fsync, &[In(0, SavedState)], "the state"),
    rule(SYS_fsync, &[In(0, SavedMemory)], "the memory"),
    rule(SYS_fsync, &[In(0, SaveTo)], "the state's name"),
    rule(SYS_fsync, &[In(0, SaveMemoryTo)], "the memory's name"),
    rule(SYS_linkat, &[In(0, SavedState), In(2, SaveTo), Is(4, EMPTY)], "gives the state its name"),
    rule(SYS_linkat, &[In(0, SavedMemory), In(2, SaveMemoryTo), Is(4, EMPTY)], "gives the memory its name"),
    rule(SYS_linkat, &[In(0, Links), In(2, SaveTo)], "the state's where a file may not be linked by itself; Landlock keeps it there"),
    rule(SYS_linkat, &[In(0, Links), In(2, SaveMemoryTo)], "the memory's"),
];

/// If a snapshot has a separate directory for its files.
#[rustfmt::skip]
const MARK: &[Rule] = &[
    rule(SYS_fchmod, &[In(0, SavedMemory), Is(1, 0o600)], "says that the memory has its state"),
];

/// Passing over the holes of a file.
#[rustfmt::skip]
const HOLES: &[Rule] = &[
    rule(SYS_lseek, &[In(0, Kernel), OneOf(2, &[DATA, HOLE])], "what a file has that lies in guest memory; nothing uses the position"),
    rule(SYS_lseek, &[In(0, Initrd), OneOf(2, &[DATA, HOLE])], "the same of the initrd, or of the snapshot that the VM comes from"),
];

/// What memory there is to be saved, and what of it a working set has.
#[rustfmt::skip]
const SAVE_PAGES: &[Rule] = &[
    rule(SYS_ioctl, &[In(0, Vm), Is(1, kvm::GET_DIRTY_LOG)], "which pages have changed since the last snapshot"),
    rule(SYS_pread64, &[In(0, PageMap)], "which pages of guest memory have been touched"),
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
#[rustfmt::skip]
const WORKER: &[Rule] = &[
    rule(SYS_read, &[In(0, Doorbell)], "empties the doorbell"),
    rule(SYS_write, &[Between(0, Interrupt, InterruptLast)], "the device's interrupts"),
];

#[rustfmt::skip]
const READ_ONLY: &[Rule] = &[
    rule(SYS_write, &[In(0, Doorbell)], "a disk's worker wakes another one for what it leaves"),
    rule(SYS_preadv, &[In(0, Own)], "reads of its own image"),
    rule(SYS_lseek, &[In(0, Own), Exactly(1, 0), Is(2, SEEK_END as u32)], "how large its image is now; nothing uses the position"),
];

#[rustfmt::skip]
const DISK: &[Rule] = &[
    rule(SYS_pwritev, &[In(0, Own), Below(3, EndLow, EndHigh)], "writes to its own image; one makes it 2 GiB longer at most"),
    rule(SYS_fdatasync, &[In(0, Own)], "flushes of its own image"),
    rule(SYS_fallocate, &[In(0, Own), OneOf(1, &[0x03, 0x11]), Below(2, EndLow, EndHigh), Short(3)], "discards and zeroes, which keep the size; less than 4 GiB behind the end"),
];

#[rustfmt::skip]
const NET: &[Rule] = &[
    rule(SYS_readv, &[In(0, Own)], "frames of its own tap"),
    rule(SYS_writev, &[In(0, Own)], "frames to its own tap"),
    rule(SYS_write, &[In(0, Own)], "the same where a frame is one piece"),
    rule(SYS_ioctl, &[In(0, Own), Is(1, TUNSETOFFLOAD)], "what the guest's driver can take, when it starts its device"),
];

/// Reading strangers' files without a VM; what a merge writes is its own.
#[rustfmt::skip]
const READER: &[Rule] = &[
    #[cfg(debug_assertions)]
    rule(SYS_fcntl, &[Is(1, F_GETFD as u32)], "a debug build's standard library looks at what it closes"),
    rule(SYS_pread64, &[Between(0, SourceFirst, SourceLast)], "the files, all of them open already"),
    rule(SYS_lseek, &[Between(0, SourceFirst, SourceLast), OneOf(2, &[DATA, HOLE])], "passes over a file's holes; nothing uses the position"),
    rule(SYS_pread64, &[In(0, SavedMemory)], "the checksum of what has been merged"),
    rule(SYS_lseek, &[In(0, SavedMemory), OneOf(2, &[DATA, HOLE])], "the same without its holes"),
    rule(SYS_fallocate, &[In(0, SavedMemory), Is(1, 0x03)], "a page that became zero becomes a hole"),
    rule(SYS_ftruncate, &[In(0, SavedMemory)], "its length, where it ends in a hole"),
    rule(SYS_write, &[OneOf(0, &[STDOUT, STDERR])], "the report, and errors"),
    rule(SYS_close, &[], "files that have been read"),
    rule(SYS_exit_group, &[], "the end"),
];

#[allow(dead_code, reason = "the build script does not look for it")]
/// Begins the reason of a call that is for a thread to come.
pub const LATER: &str = "later: ";

const fn later(call: c_long) -> Rule {
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

/// Creating the VM, its vCPUs and all threads. The thread that reads untrusted
/// bytes shares memory with the thread that does this, so the filter holds for both
/// before the first byte is read.
#[rustfmt::skip]
const START: &[Rule] = &[
    rule(SYS_clone3, &[Absent], "its flags are in memory; without it the C library uses clone"),
    rule(SYS_clone, &[Is(0, THREAD)], "threads; no process, no namespace"),
    rule(SYS_mmap, &[OneOf(2, &[PROT_NONE as u32, RW])], STACKS),
    rule(SYS_mprotect, &[Is(2, RW)], STACKS),
    rule(SYS_rseq, &[], STACKS),
    rule(SYS_set_robust_list, &[], STACKS),
    rule(SYS_rt_sigprocmask, &[], STACKS),
    rule(SYS_prctl, &[Is(0, PR_SET_NAME)], "a thread's name"),
    rule(SYS_getpid, &[], "the numbers to kick a vCPU by"),
    rule(SYS_gettid, &[], "the numbers to kick a vCPU by"),
    rule(SYS_seccomp, &[], "the threads' own filters"),
    rule(SYS_ioctl, &[In(0, Host)], "to make the VM"),
    rule(SYS_ioctl, &[In(0, Vm)], "its parts"),
    rule(SYS_ioctl, &[Between(0, VcpuFirst, VcpuLast)], "vCPUs at power-on, and running"),
    rule(SYS_ioctl, &[Is(1, TUNSETOFFLOAD)], "later: taps"),
    rule(SYS_ioctl, &[Is(0, 0), OneOf(1, TERMINAL)], "later: the terminal"),
    rule(SYS_tgkill, &[In(0, Process), Is(2, SIGTTIN as u32)], "later: to stop"),
    rule(SYS_tgkill, &[In(0, Process), In(2, Kick)], "later: to kick vCPUs"),
    #[cfg(debug_assertions)]
    rule(SYS_fcntl, &[Is(1, F_GETFD as u32)], "later: which are closed"),
    rule(SYS_linkat, &[Between(0, NewFirst, NewLast), Between(2, NewFirst, NewLast), Is(4, AT_SYMLINK_FOLLOW as u32)], "names of new disks and the console's file; Landlock keeps them in their directories"),
    rule(SYS_ftruncate, &[In(0, ConsoleOut), Exactly(1, 0)], "empties the file that the console's output replaces"),
    FUTEX,
    later(SYS_ppoll), later(SYS_brk), later(SYS_clock_gettime), later(SYS_read), later(SYS_write),
    later(SYS_sendto), later(SYS_accept4), later(SYS_close), later(SYS_restart_syscall),
    later(SYS_madvise), later(SYS_munmap), later(SYS_exit_group), later(SYS_exit),
    later(SYS_rt_sigreturn), later(SYS_pread64), later(SYS_preadv), later(SYS_lseek),
    later(SYS_pwritev), later(SYS_fdatasync), later(SYS_fallocate), later(SYS_readv),
    later(SYS_writev), later(SYS_getrusage),
];

/// What the control API's thread has beyond that.
const START_API: &[Rule] = &[later(SYS_dup3), later(SYS_recvfrom), later(SYS_shutdown)];

/// What a thread that gives up opening does, while another one keeps it.
const START_OPEN: &[Rule] =
    &[later(SYS_landlock_create_ruleset), later(SYS_landlock_restrict_self)];

/// The end of a first thread whose kernel was refused.
const NO_VCPU: &[Rule] = &[
    rule(SYS_rt_sigprocmask, &[], "the C library, at a thread's end"),
    rule(SYS_exit, &[], "the thread's, and nothing else's"),
];

/// What clients of a control API have opened and made for a VM. It comes on top
/// of what the VM's threads do later, of which no number is known yet: here it is
/// free of them, and the threads' own filters are not.
#[rustfmt::skip]
const EARLY: &[Rule] = &[
    rule(SYS_clone3, &[Absent], "as for the start of other VMs"),
    rule(SYS_clone, &[Is(0, THREAD)], "threads; no process, no namespace"),
    rule(SYS_mmap, &[OneOf(2, &[PROT_NONE as u32, PROT_READ as u32, RW])], "guest memory, stacks; never to be executed"),
    rule(SYS_mprotect, &[OneOf(2, &[PROT_READ as u32, RW])], STACKS),
    rule(SYS_rseq, &[], STACKS),
    rule(SYS_set_robust_list, &[], STACKS),
    rule(SYS_rt_sigprocmask, &[], STACKS),
    rule(SYS_rt_sigaction, &[], "signals that ask for the end"),
    rule(SYS_prctl, &[Is(0, PR_SET_NAME)], "a thread's name"),
    rule(SYS_prctl, &[Is(0, PR_SET_DUMPABLE), Exactly(1, 0)], "not dumpable, from the start on"),
    rule(SYS_prlimit64, &[Is(0, 0)], "its own limits; raising one takes a capability"),
    rule(SYS_seccomp, &[], "the threads' own filters"),
    rule(SYS_landlock_create_ruleset, &[], "less of files, at the start"),
    rule(SYS_landlock_restrict_self, &[], "less of files, at the start"),
    rule(SYS_openat, &[], "what clients name; where Landlock permits it, if directories were given"),
    rule(SYS_open, &[], "the same, as some libraries say it"),
    rule(SYS_fstat, &[], "what a file is"),
    rule(SYS_statx, &[], "what a file is"),
    rule(SYS_ftruncate, &[Exactly(1, 0)], "a console's file, to be replaced"),
    rule(SYS_unlink, &[], "a dead socket, to be replaced"),
    rule(SYS_socket, &[Is(0, AF_UNIX as u32)], "the console's; a tap's name is looked up by one; a pager's"),
    rule(SYS_connect, &[], "a pager's; a probe of the console's old socket; no abstract one (Landlock)"),
    rule(SYS_getsockopt, &[Is(1, SOL_SOCKET as u32), Is(2, SO_PEERCRED as u32)], "the pager's user"),
    rule(SYS_capget, &[], "that no capability is left to name a new file with"),
    rule(SYS_geteuid, &[], "the pager's user, compared with Mote's"),
    rule(SYS_uname, &[], "an interface's own address"),
    rule(SYS_sysinfo, &[], "how much memory the host has"),
    rule(SYS_bind, &[], "the console's socket"),
    rule(SYS_listen, &[], "the console's socket"),
    rule(SYS_sendmsg, &[Is(2, MSG_NOSIGNAL as u32)], "the guest's memory to its pager"),
    rule(SYS_userfaultfd, &[], "the guest's memory to its pager"),
    rule(SYS_memfd_create, &[], "the firmware, in the shape of a file"),
    rule(SYS_getrandom, &[], "the VM's identity"),
    rule(SYS_eventfd2, &[], "interrupts and doorbells"),
    rule(SYS_fcntl, &[OneOf(1, &[F_GETFD as u32, F_GETFL as u32, F_SETFL as u32, F_DUPFD_CLOEXEC as u32, F_OFD_SETLK as u32])], "numbers of descriptors, locks of images; no owner, no signal"),
    rule(SYS_dup3, &[Is(2, O_CLOEXEC as u32)], "numbers of descriptors"),
    rule(SYS_ioctl, &[Type(1, 0xae)], "KVM's, to make the VM"),
    rule(SYS_ioctl, &[Type(1, 0xaa)], "userfaultfd's"),
    rule(SYS_ioctl, &[Type(1, 0x12)], "a block device's size and sectors"),
    rule(SYS_ioctl, &[OneOf(1, EARLY_IOCTLS)], "taps and their names; a new pseudo-terminal"),
    rule(SYS_ioctl, &[OneOf(1, TERMINAL)], "a terminal's modes, and whose it is"),
    rule(SYS_getpgrp, &[], "whether the terminal is ours"),
    rule(SYS_getpid, &[], "the numbers to kick a vCPU by"),
    rule(SYS_gettid, &[], "the numbers to kick a vCPU by"),
    rule(SYS_tgkill, &[In(0, Process), In(2, Kick)], "kicks vCPUs; no other process, no other signal"),
    rule(SYS_tgkill, &[In(0, Process), Is(2, SIGTTIN as u32)], "stops, when the terminal asks for that"),
    rule(SYS_sendto, &[Is(3, SEND), Exactly(4, 0)], "answers; never elsewhere"),
    rule(SYS_sendto, &[Is(3, SEND), Is(5, 0)], "output of a console; never elsewhere"),
    later(SYS_linkat), later(SYS_pwrite64), later(SYS_fsync),
    FUTEX,
    rule(SYS_futex, &[Is(1, (FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME) as u32)], "the end of a first thread whose kernel was refused"),
    later(SYS_ppoll), later(SYS_brk), later(SYS_clock_gettime), later(SYS_read), later(SYS_write),
    later(SYS_recvfrom), later(SYS_shutdown), later(SYS_accept4), later(SYS_close),
    later(SYS_restart_syscall), later(SYS_madvise), later(SYS_munmap), later(SYS_exit_group),
    later(SYS_exit), later(SYS_rt_sigreturn), later(SYS_pread64), later(SYS_preadv),
    later(SYS_lseek), later(SYS_pwritev), later(SYS_fdatasync), later(SYS_fallocate),
    later(SYS_readv), later(SYS_writev), later(SYS_getrusage),
];
const PR_SET_DUMPABLE: u32 = 4;
/// TUNSETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD, SIOCGIFINDEX; TIOCSPTLCK, TIOCGPTN;
/// FIONBIO.
const EARLY_IOCTLS: &[u32] =
    &[0x4004_54ca, 0x4004_54d8, TUNSETOFFLOAD, 0x8933, 0x4004_5431, 0x8004_5430, 0x5421];
const STACKS: &str = "thread creation by the C library";

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
            REPORTS, MAIN, OUTPUT, MEMORY, LOAD, SIGNALS, SAVE, SAVE_FILES, MARK, SAVE_PAGES, HOLES,
        ],
        Thread::Main => &[REPORTS, MAIN, OUTPUT, MEMORY, LOAD, SIGNALS],
        Thread::Control => &[REPORTS, MAIN, CONTROL, OUTPUT, MEMORY, LOAD, SIGNALS],
        Thread::Opener => &[
            REPORTS,
            MAIN,
            CONTROL,
            OPEN,
            INSERT,
            OUTPUT,
            MEMORY,
            LOAD,
            SIGNALS,
            SAVE,
            SAVE_FILES,
            SAVE_PAGES,
            HOLES,
            SAVE_ON_REQUEST,
            RENUMBER,
        ],
        Thread::Vcpu => &[REPORTS, VCPU, OUTPUT, SIGNALS],
        Thread::FirstVcpu => &[REPORTS, VCPU, OUTPUT, MEMORY, LOAD, HOLES, SIGNALS, NO_VCPU],
        Thread::Disk => &[REPORTS, WORKER, READ_ONLY, DISK],
        Thread::ReadOnly => &[REPORTS, WORKER, READ_ONLY],
        Thread::Net => &[REPORTS, WORKER, NET],
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
