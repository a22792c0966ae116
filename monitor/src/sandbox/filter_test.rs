//! The compiled filters, run by an interpreter of what the kernel runs, against
//! what the table says.

use super::*;
use crate::sandbox::compile::{self, Instruction};
use crate::sandbox::rule::{If, Rule, SLOTS, Slot, THREADS, Thread};
use crate::sandbox::table::rules;

const ARCH: u32 = 0xc000_003e;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What a filter says of a call.
fn verdict(program: &[sock_filter], arch: u32, number: u32, arguments: &[u64; 6]) -> u32 {
    let mut data = vec![number, arch, 0, 0];
    for argument in arguments {
        data.extend([*argument as u32, (argument >> 32) as u32]);
    }
    let (mut at, mut word) = (0, 0);
    loop {
        let now = program[at];
        at += 1;
        let jump = |so: bool| usize::from(if so { now.jt } else { now.jf });
        match u32::from(now.code) {
            code if code == libc::BPF_RET | libc::BPF_K => return now.k,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += now.k as usize,
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                assert_eq!(now.k % 4, 0);
                word = data[now.k as usize / 4];
            }
            code if code == libc::BPF_JMP | libc::BPF_JEQ => at += jump(word == now.k),
            code if code == libc::BPF_JMP | libc::BPF_JGE => at += jump(word >= now.k),
            code if code == libc::BPF_JMP | libc::BPF_JGT => at += jump(word > now.k),
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => word &= now.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// Slots with numbers far apart, rows with some in between.
fn slots() -> [u32; SLOTS] {
    std::array::from_fn(|index| 1000 + 10 * index as u32)
}

fn holds(check: &If, arguments: &[u64; 6], slots: &[u32; SLOTS]) -> bool {
    let low = |at: u8| arguments[usize::from(at)] as u32;
    let slot = |slot: Slot| slots[slot as usize];
    match *check {
        If::Is(at, value) => low(at) == value,
        If::OneOf(at, values) => values.contains(&low(at)),
        If::Exactly(at, value) => arguments[usize::from(at)] == value,
        If::Slot(at, name) => low(at) == slot(name),
        If::Between(at, first, last) => (slot(first)..=slot(last)).contains(&low(at)),
        If::Below(at, low, high) => {
            arguments[usize::from(at)] < u64::from(slot(high)) << 32 | u64::from(slot(low))
        }
        If::Short(at) => arguments[usize::from(at)] >> 32 == 0,
        If::Type(at, kind) => low(at) >> 8 & 0xff == u32::from(kind),
        If::Absent => false,
    }
}

/// What the table says.
fn may(thread: Thread, number: u32, arguments: &[u64; 6], slots: &[u32; SLOTS]) -> bool {
    rules(thread).any(|rule| {
        rule.call == libc::c_long::from(number)
            && rule.when.iter().all(|check| holds(check, arguments, slots))
    })
}

/// Arguments as a rule wants them; garbage where it does not care, also in the
/// halves that it does not look at.
fn arguments(when: &[If], slots: &[u32; SLOTS], variant: usize) -> [u64; 6] {
    let mut all = [0xdead_beef_0bad_cafe; 6];
    for check in when {
        let (at, value) = match *check {
            If::Is(at, value) => (at, u64::from(value) | 7 << 32),
            If::OneOf(at, values) => (at, u64::from(values[variant % values.len()]) | 1 << 40),
            If::Exactly(at, value) => (at, value),
            If::Slot(at, name) => (at, u64::from(slots[name as usize]) | 1 << 33),
            If::Between(at, first, last) => {
                let (first, last) = (slots[first as usize], slots[last as usize]);
                (at, u64::from([first, last, first + 1][variant % 3]))
            }
            If::Below(at, low, high) => {
                let (low, high) = (slots[low as usize], slots[high as usize]);
                let end = u64::from(high) << 32 | u64::from(low);
                let below = [end - 1, 0, u64::from(high - 1) << 32 | 0xffff_ffff, 4096];
                (at, below[variant % 4])
            }
            If::Short(at) => (at, [0, 1, 0xffff_ffff, 0x8000_0000][variant % 4]),
            If::Type(at, kind) => (at, u64::from(kind) << 8 | 0x00_4010_0001 | 1 << 45),
            If::Absent => continue,
        };
        all[usize::from(at)] = value;
    }
    all
}

fn place(check: &If) -> usize {
    match *check {
        If::Is(at, _) | If::OneOf(at, _) | If::Exactly(at, _) => at.into(),
        If::Slot(at, _) | If::Between(at, _, _) | If::Below(at, _, _) => at.into(),
        If::Short(at) | If::Type(at, _) => at.into(),
        If::Absent => 0,
    }
}

/// A filter of a whole process, not of a thread.
fn starts(thread: Thread) -> bool {
    matches!(thread, Thread::StartApi | Thread::StartOpen)
}

fn is_absent(rule: &Rule) -> bool {
    matches!(rule.when, [If::Absent])
}

/// Each rule lets its call through, and each of its conditions counts: with
/// another argument the call is refused, unless another rule is about that.
#[test]
fn each_condition_counts() {
    let slots = slots();
    for (thread, _) in THREADS {
        let program = fill_in(thread, &slots, false);
        for rule in rules(thread).filter(|rule| !is_absent(rule)) {
            let number = rule.call as u32;
            for variant in 0..16 {
                let good = arguments(rule.when, &slots, variant);
                let said = verdict(&program, ARCH, number, &good);
                assert_eq!(said, ALLOW, "{thread:?} {number} {good:x?}");
            }
            let good = arguments(rule.when, &slots, 0);
            for check in rule.when {
                if let If::Below(at, low, high) = *check {
                    let (low, high) = (slots[low as usize], slots[high as usize]);
                    let end = u64::from(high) << 32 | u64::from(low);
                    for bad in [end, end + 1, u64::from(high + 1) << 32, u64::MAX] {
                        let mut all = good;
                        all[usize::from(at)] = bad;
                        assert_eq!(verdict(&program, ARCH, number, &all), KILL);
                    }
                    continue;
                }
                if let If::Short(at) = *check {
                    let mut bad = good;
                    for upper in [1, 0x8000_0000, 0xffff_ffff] {
                        bad[usize::from(at)] = good[usize::from(at)] | upper << 32;
                        assert_eq!(verdict(&program, ARCH, number, &bad), KILL);
                    }
                    continue;
                }
                let mut refused = 0;
                for change in [1, 2, 4, 0x80, 0x8000, 0x4000_0000, 0xffff_ffff, 0xffff_fff0] {
                    let mut bad = good;
                    bad[place(check)] ^= change;
                    let said = verdict(&program, ARCH, number, &bad);
                    let allowed = may(thread, number, &bad, &slots);
                    assert_eq!(said == ALLOW, allowed, "{thread:?} {number} {bad:x?}");
                    assert!(said == ALLOW || said == KILL);
                    refused += usize::from(said == KILL);
                }
                // Other rules of a start may allow more.
                let freer =
                    matches!(thread, Thread::Early | Thread::StartSaver | Thread::StartOpen);
                assert!(freer || refused >= 4, "{thread:?} {number} {check:?}");
            }
        }
    }
}

/// Filter and table agree about calls at random.
#[test]
fn filters_say_what_the_table_says() {
    let slots = slots();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for (thread, _) in THREADS {
        let program = fill_in(thread, &slots, false);
        let all: Vec<_> = rules(thread).collect();
        for _ in 0..20_000 {
            // The call of one rule with the arguments of another, or nearly.
            let pick = |n: u64| all[n as usize % all.len()];
            let number = pick(random()).call as u32;
            let mut args = arguments(pick(random()).when, &slots, random() as usize % 16);
            if random() % 4 == 0 {
                args[random() as usize % 6] ^= 1 << (random() % 64);
            }
            let said = verdict(&program, ARCH, number, &args) == ALLOW;
            let allowed = may(thread, number, &args, &slots);
            assert_eq!(said, allowed, "{thread:?} {number} {args:x?}");
        }
    }
}

/// The process may do until then what its threads will: all inherit its filter.
/// No process can be made.
#[test]
fn the_start_allows_what_threads_need() {
    let mut slots = slots();
    // Of all vCPUs one is a thread's own.
    slots[Slot::Vcpu as usize] = slots[Slot::VcpuFirst as usize] + 1;
    let program = fill_in(Thread::Start, &slots, false);
    let with_api = fill_in(Thread::StartApi, &slots, false);
    let opens = fill_in(Thread::StartOpen, &slots, false);
    let early = fill_in(Thread::Early, &slots, false);
    let saves = fill_in(Thread::StartSaver, &slots, false);
    for (thread, _) in THREADS {
        let is_of_api =
            !matches!(thread, Thread::Start | Thread::StartSaver | Thread::Main | Thread::Saver);
        let program = match thread {
            Thread::Early => &early,
            Thread::StartApi | Thread::Control => &with_api,
            Thread::StartOpen | Thread::Opener => &opens,
            Thread::StartSaver | Thread::Saver => &saves,
            // A process of its own, which starts no VM.
            Thread::Reader => continue,
            _ => &program,
        };
        for rule in rules(thread).filter(|rule| !is_absent(rule)) {
            for variant in 0..16 {
                let good = arguments(rule.when, &slots, variant);
                let said = verdict(program, ARCH, rule.call as u32, &good);
                assert_eq!(said, ALLOW, "{thread:?} {} {good:x?}", rule.call);
                let said = verdict(&early, ARCH, rule.call as u32, &good);
                let well = said == ALLOW || !is_of_api || starts(thread);
                assert!(well, "early: {thread:?} {} {good:x?}", rule.call);
            }
        }
    }
    let clone3 = verdict(&program, ARCH, libc::SYS_clone3 as u32, &[0; 6]);
    assert_eq!(clone3, ABSENT);
    let fork = [libc::SIGCHLD as u64, 0, 0, 0, 0, 0];
    assert_eq!(verdict(&program, ARCH, libc::SYS_clone as u32, &fork), KILL);
}

/// Of all that a futex can do, threads only wait and wake, and within the process.
#[test]
fn a_futex_is_a_lock_and_no_more() {
    let slots = slots();
    // Operations 0 to 15, each also private and by the time of day.
    let all = (0..0x10).flat_map(|op| [op, op | 0x80, op | 0x100, op | 0x180]);
    let used = [0x80, 0x81, 0x89];
    for (thread, _) in THREADS {
        let program = fill_in(thread, &slots, false);
        for op in all.clone() {
            let said = verdict(&program, ARCH, libc::SYS_futex as u32, &[0, op, 0, 0, 0, 0]);
            // A thread's end is told by the kernel, which knows no process.
            let may = used.contains(&op) || thread == Thread::Early && op == 0x109;
            assert_eq!(said == ALLOW, may, "{thread:?} {op:#x}");
        }
    }
}

/// Calls that no rule is about, 32-bit ones, and those of the x32 interface.
#[test]
fn all_else_is_refused() {
    const I386: u32 = 0x4000_0003;
    const X32: u32 = 0x4000_0000;
    let slots = slots();
    for (thread, _) in THREADS {
        let program = fill_in(thread, &slots, false);
        let good = |number| {
            let rule = rules(thread).find(|rule| rule.call == libc::c_long::from(number));
            rule.map(|rule| arguments(rule.when, &slots, 0))
        };
        for number in 0..1024 {
            let args = good(number).unwrap_or_default();
            for number in [number | X32, number | 1 << 31] {
                assert_eq!(verdict(&program, ARCH, number, &args), KILL);
            }
            assert_eq!(verdict(&program, I386, number, &args), KILL);
            let said = verdict(&program, ARCH, number, &args);
            assert_eq!(said != KILL, good(number).is_some(), "{thread:?} {number}");
        }
    }
}

/// What a VM does not have has no number that a descriptor can have.
#[test]
fn absent_descriptors_cannot_be_used() {
    let none = [u32::MAX; SLOTS];
    let program = fill_in(Thread::Disk, &none, false);
    let write = |fd| verdict(&program, ARCH, libc::SYS_pwritev as u32, &[fd, 0, 0, 0, 0, 0]);
    let highest = i32::MAX as u64;
    for fd in (0..=4096).chain(highest - 4096..=highest) {
        assert_eq!(write(fd), KILL);
    }
}

/// For diagnosis calls are logged instead of refused, and nothing else differs.
#[test]
fn logging_refuses_nothing() {
    for (thread, _) in THREADS {
        let (kill, log) = (fill_in(thread, &slots(), false), fill_in(thread, &slots(), true));
        for (kill, log) in kill.iter().zip(&log) {
            assert_eq!((kill.code, kill.jt, kill.jf), (log.code, log.jt, log.jf));
            match kill.k {
                KILL if u32::from(kill.code) == libc::BPF_RET => {
                    assert_eq!(log.k, libc::SECCOMP_RET_LOG);
                }
                k => assert_eq!(log.k, k),
            }
        }
    }
}

/// What runs is what the table compiles to now.
#[test]
fn the_build_script_compiled_this_table() {
    for (thread, most) in THREADS {
        let compiled: Vec<Instruction> = compile::compile(thread, most).unwrap();
        assert_eq!(program(thread), compiled, "{thread:?}");
        let error = compile::compile(thread, 3).unwrap_err();
        assert!(error.contains("calls, not 3"), "{error}");
    }
}
