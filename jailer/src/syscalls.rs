//! Names of the system calls of x86-64, to say which one ended a program.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::sleep;
use std::time::Duration;

/// Calls 0 to 334, in the order of their numbers.
const FIRST: &str = "\
    read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
    rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select \
    sched_yield mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep \
    getitimer alarm setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg \
    recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt clone \
    fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv \
    msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir rename \
    mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask \
    gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog getgid setuid setgid \
    geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups \
    setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset \
    rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib \
    personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam \
    sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min \
    sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root \
    _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 \
    swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module \
    delete_module get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall \
    tuxcall security gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr \
    listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill time futex \
    sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents \
    io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old \
    remap_file_pages getdents64 set_tid_address restart_syscall semtimedop fadvise64 \
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_settime \
    clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes \
    vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive \
    mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set ioprio_get \
    inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat \
    fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat \
    faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range \
    vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate \
    timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 \
    inotify_init1 preadv pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init \
    fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg \
    setns getcpu process_vm_readv process_vm_writev kcmp finit_module sched_setattr \
    sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf execveat \
    userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc \
    pkey_free statx io_pgetevents rseq";

/// Calls from 424 on, where all architectures count alike.
const SECOND: &str = "\
    pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount \
    fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 \
    process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset \
    landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv \
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait \
    futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal";

/// The name of a system call, or its number if it is newer than this list.
fn name(number: u64) -> String {
    let word = |list: &str, from: u64| {
        let at = usize::try_from(number.checked_sub(from)?).ok()?;
        list.split_ascii_whitespace().nth(at).map(str::to_owned)
    };
    let found = word(SECOND, 424).or_else(|| word(FIRST, 0));
    found.unwrap_or_else(|| format!("number {number}"))
}

/// Which thread made which system call, if the kernel's log may be read. The
/// record comes there a moment after the end.
pub fn refused(pid: i32) -> Option<String> {
    for _ in 0..50 {
        if let Some(found) = kernel_log()?.lines().rev().find_map(|line| refusal(line, pid)) {
            return Some(found);
        }
        sleep(Duration::from_millis(4));
    }
    None
}

fn kernel_log() -> Option<String> {
    let mut options = std::fs::OpenOptions::new();
    let mut log: File = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut text = String::new();
    // Not on the stack, where it would cost every start page faults.
    let mut record = vec![0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(len) => text += &String::from_utf8_lossy(record.get(..len).unwrap_or_default()),
            // Overwritten meanwhile: go on with the next.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    Some(text)
}

/// Reads an audit record of seccomp (type 1326).
fn refusal(line: &str, pid: i32) -> Option<String> {
    if !line.contains("type=1326 ") {
        return None;
    }
    let value = |key: &str| {
        let mut words = line.split([' ', ';']);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    if value("pid")?.parse() != Ok(pid) {
        return None;
    }
    let call = value("syscall")?.parse().ok()?;
    let thread = value("comm")?.trim_matches('"');
    Some(format!("thread {thread}, system call {}", name(call)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_names() {
        for (number, text) in [
            (libc::SYS_read, "read"),
            (libc::SYS_execve, "execve"),
            (libc::SYS_rseq, "rseq"),
            (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_mseal, "mseal"),
        ] {
            assert_eq!(name(number.cast_unsigned()), text);
        }
        assert_eq!(name(400), "number 400");
        assert_eq!(name(u64::MAX), format!("number {}", u64::MAX));
    }

    #[test]
    fn a_refused_call_is_read_from_the_log() {
        let line = "5,12,345,-;audit: type=1326 audit(1.2:3): auid=1 uid=9 gid=9 ses=1 pid=77 \
                    comm=\"vcpu0\" exe=\"/mote\" sig=31 arch=c000003e syscall=41 compat=0 ip=0x1 \
                    code=0x80000000";
        let want = "thread vcpu0, system call socket";
        assert_eq!(refusal(line, 77).as_deref(), Some(want));
        assert_eq!(refusal(line, 7), None);
        assert_eq!(refusal("type=1327 pid=77", 77), None);
    }
}
