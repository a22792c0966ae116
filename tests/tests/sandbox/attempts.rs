//! What a thread that its guest has taken over tries.

/// What refuses a call when the filter only logs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layer {
    /// Files and networks: Landlock's rights.
    Landlock,
    /// Processes and sockets outside: Landlock's scopes, and what it forbids.
    Scope,
    /// No capability is left.
    Capabilities,
    /// No memory that is written and then executed (`PR_SET_MDWE`).
    WriteXorExecute,
    /// Nothing else: only the filter.
    Filter,
}
use Layer::{Capabilities, Filter, Landlock, Scope, WriteXorExecute};

/// What is tried: calls with their arguments, the last of which is to be
/// refused. `NEIGHBOUR` is the number of a process, `PARENT` that of the one
/// that waits for this, `FILE` a file, `NAME` an abstract socket.
pub(super) struct Attempt(
    pub(super) &'static str,
    pub(super) &'static [(libc::c_long, &'static str)],
    pub(super) Layer,
);

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt("read a file", &[(libc::SYS_openat, "-100,\"/etc/passwd,0")], Landlock),
    Attempt("the old way", &[(libc::SYS_open, "\"/etc/passwd,0")], Landlock),
    Attempt("make a file", &[(libc::SYS_openat, "-100,\"/tmp/broken-out,65,420")], Landlock),
    Attempt("look into /proc", &[(libc::SYS_openat, "-100,\"/proc/self/maps,0")], Landlock),
    Attempt("list a directory", &[(libc::SYS_openat, "-100,\"/,65536")], Landlock),
    Attempt("remove a file", &[(libc::SYS_unlink, "\"FILE")], Landlock),
    Attempt("execute", &[(libc::SYS_execve, "\"/bin/sh,0,0")], Landlock),
    Attempt(
        "connect by TCP",
        // 127.0.0.1, port 80
        &[
            (libc::SYS_socket, "2,1,0"),
            (libc::SYS_connect, "$,~020000507f0000010000000000000000,16"),
        ],
        Landlock,
    ),
    Attempt(
        "connect to an abstract socket",
        &[(libc::SYS_socket, "1,1,0"), (libc::SYS_connect, "$,~010000NAME,18")],
        Scope,
    ),
    Attempt("kill a neighbour", &[(libc::SYS_kill, "NEIGHBOUR,9")], Scope),
    Attempt("kill its thread", &[(libc::SYS_tgkill, "NEIGHBOUR,NEIGHBOUR,9")], Scope),
    Attempt("signal the parent", &[(libc::SYS_kill, "PARENT,15")], Scope),
    Attempt("trace a neighbour", &[(libc::SYS_ptrace, "16,NEIGHBOUR,0,0")], Scope),
    Attempt(
        "read its memory",
        &[(
            libc::SYS_process_vm_readv,
            "NEIGHBOUR,~00100000000000000800000000000000,1,~00100000000000000800000000000000,1,0",
        )],
        Scope,
    ),
    Attempt("mount", &[(libc::SYS_mount, "\"none,\"/mnt,\"tmpfs,0,0")], Scope),
    Attempt("change the root", &[(libc::SYS_chroot, "\"/tmp")], Capabilities),
    Attempt("a mount namespace", &[(libc::SYS_unshare, "131072")], Capabilities),
    Attempt("a network namespace", &[(libc::SYS_unshare, "1073741824")], Capabilities),
    Attempt("a raw socket", &[(libc::SYS_socket, "2,3,1")], Capabilities),
    Attempt(
        "open by handle",
        &[(libc::SYS_open_by_handle_at, "-100,~08000000010000000000000000000000,0")],
        Capabilities,
    ),
    Attempt("set the clock", &[(libc::SYS_settimeofday, "*,0")], Capabilities),
    Attempt("be somebody else", &[(libc::SYS_setresuid, "12345,12345,12345")], Capabilities),
    Attempt("write and execute", &[(libc::SYS_mmap, "0,4096,7,34,-1,0")], WriteXorExecute),
    Attempt("execute what was written", &[(libc::SYS_mprotect, "*,4096,5")], WriteXorExecute),
    Attempt("map executable memory", &[(libc::SYS_mmap, "0,4096,5,34,-1,0")], Filter),
    Attempt("fork", &[(libc::SYS_clone3, "*,88")], Filter),
    Attempt("fork the old way", &[(libc::SYS_clone, "17,0,0,0,0")], Filter),
    Attempt("a user namespace", &[(libc::SYS_unshare, "268435456")], Filter),
    Attempt("io_uring", &[(libc::SYS_io_uring_setup, "8,*")], Filter),
    Attempt("be dumpable again", &[(libc::SYS_prctl, "4,1,0,0,0")], Filter),
    // KVM_SET_USER_MEMORY_REGION, KVM_CREATE_VCPU, KVM_SET_CPUID2
    Attempt("other memory for the VM", &[(libc::SYS_ioctl, "@Vm,1075883590,*")], Filter),
    Attempt("another vCPU", &[(libc::SYS_ioctl, "@Vm,44609,77")], Filter),
    Attempt("another processor", &[(libc::SYS_ioctl, "@VcpuFirst,1074310800,*")], Filter),
    Attempt("type for the user", &[(libc::SYS_ioctl, "0,21522,*")], Filter), // TIOCSTI
    // Landlock knows neither before Linux 7, and of a file only its content.
    Attempt(
        "connect to a socket with a path",
        &[(libc::SYS_socket, "1,1,0"), (libc::SYS_connect, "$,~01002f746d702f780000,10")],
        Filter,
    ),
    Attempt("send by UDP", &[(libc::SYS_socket, "2,2,0")], Filter),
    Attempt("change a file's mode", &[(libc::SYS_chmod, "\"FILE,511")], Filter),
    Attempt("copy a descriptor", &[(libc::SYS_dup, "@Vm")], Filter),
    // FUTEX_WAKE that is not private, FUTEX_LOCK_PI, FUTEX_CMP_REQUEUE_PI
    Attempt("a shared futex", &[(libc::SYS_futex, "*,1,1")], Filter),
    Attempt("a priority", &[(libc::SYS_futex, "*,134,0,0")], Filter),
    Attempt("requeue waiters", &[(libc::SYS_futex, "*,12,1,1,*,0")], Filter),
];
