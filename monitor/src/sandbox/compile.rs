//! Part of the build script: turns the table into the kernel's instructions
//! (classic BPF over `struct seccomp_data`, seccomp(2)).
//!
//! The numbers of calls are looked up in a binary tree, and an argument is read
//! once for all values that it may have: what the kernel takes to load a filter
//! is its length, and the way through it of every number that it refuses. As a
//! chain of comparisons the main thread's took it 110 µs, like this 45.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::rule::{If, PLACEHOLDER, Rule, SLOTS, Slot, THREADS, Thread};
use super::table::rules;

/// An instruction: code, jumps if so and if not, operand.
pub type Instruction = (u16, u8, u8, u32);

/// The same with jumps of any length, before answers are shared.
type Draft = (u16, usize, usize, u32);

/// What no thread may ever have.
const NEVER: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_prctl,
    libc::SYS_mprotect,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_ptrace,
    libc::SYS_kill,
    libc::SYS_bpf,
];

/// What those have whose threads are still to come, with conditions.
const TO_START: &[libc::c_long] =
    &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_prctl, libc::SYS_mprotect];

/// What a process has whose VM is still to be described.
const EARLY: &[libc::c_long] =
    &[libc::SYS_open, libc::SYS_openat, libc::SYS_socket, libc::SYS_connect];

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;

const KILL: Draft = (RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
const ALLOW: Draft = (RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The text of a Rust file with a constant array for each kind of thread.
///
/// # Errors
/// The table gives a thread what no thread may have, or more than its share.
pub fn all() -> Result<String, String> {
    let mut text = String::new();
    for (thread, most) in THREADS {
        let program = compile(thread, most).map_err(|e| format!("{thread:?}: {e}"))?;
        let name = format!("{thread:?}").to_uppercase();
        let length = program.len();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "pub const {name}: [(u16, u8, u8, u32); {length}] = [");
        for at in &program {
            let _ = writeln!(text, "    {at:?},");
        }
        text += "];\n";
    }
    Ok(text)
}

/// A thread's filter, with placeholders for the slots.
///
/// # Errors
/// See [`all`].
pub fn compile(thread: Thread, most: usize) -> Result<Vec<Instruction>, String> {
    let mut calls: BTreeMap<libc::c_long, Vec<&Rule>> = BTreeMap::new();
    for rule in rules(thread) {
        calls.entry(rule.call).or_default().push(rule);
    }
    let numbers: BTreeSet<_> = calls.keys().copied().collect();
    if numbers.len() > most {
        return Err(format!("{} calls, not {most}", numbers.len()));
    }
    let never = |call: &&libc::c_long| {
        let conditional = |ways: &Vec<&Rule>| ways.iter().all(|rule| !rule.when.is_empty());
        let starts = matches!(
            thread,
            Thread::Early
                | Thread::Start
                | Thread::StartApi
                | Thread::StartOpen
                | Thread::StartSaver
        );
        if thread == Thread::Early && EARLY.contains(call) {
            return false;
        }
        let opens = matches!(thread, Thread::StartOpen | Thread::Opener);
        let may_start = starts && TO_START.contains(call) || opens && **call == libc::SYS_openat;
        calls.get(call).is_some_and(|ways| !(may_start && conditional(ways)))
    };
    if let Some(call) = NEVER.iter().find(never) {
        return Err(format!("system call {call} is allowed for no thread"));
    }
    let mut bodies = Vec::new();
    for (call, ways) in calls {
        let number = u32::try_from(call).map_err(|e| e.to_string())?;
        let body = body(&ways).map_err(|e| format!("system call {call}: {e}"))?;
        bodies.push((number, body));
    }
    let mut program = vec![(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, ARCH), KILL];
    program.push((LOAD, 0, 0, NUMBER));
    program.extend(tree(&bodies)?);
    share_answers(&program)
}

/// Leads all branches that end in the same answer to one instruction if it is near enough for
/// a jump. Otherwise a third of a filter would be answers, and each takes the kernel time.
fn share_answers(program: &[Draft]) -> Result<Vec<Instruction>, String> {
    const REACH: usize = u8::MAX as usize;
    // From the end, where all that an instruction leads to has its place already. Places count
    // from the end as well, so that they do not move.
    let mut shared: Vec<Instruction> = Vec::new();
    let mut places = BTreeMap::new();
    let mut answers: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, &(code, yes, no, operand)) in program.iter().enumerate().rev() {
        if code == RETURN {
            continue;
        }
        let mut place = |over: usize| match program.get(index + 1 + over) {
            Some(&(RETURN, _, _, answer)) => match answers.get(&answer) {
                // One more instruction may come between: the other branch's answer.
                Some(&at) if shared.len() - at < REACH => Some(at),
                _ => {
                    answers.insert(answer, shared.len());
                    shared.push((RETURN, 0, 0, answer));
                    Some(shared.len() - 1)
                }
            },
            _ => places.get(&(index + 1 + over)).copied(),
        };
        let (yes, no) = (place(yes), place(no));
        let over = |at: Option<usize>| {
            let over = shared.len() - 1 - at.ok_or("a jump over the end")?;
            u8::try_from(over).map_err(|_| format!("{over} instructions are too far to jump"))
        };
        let instruction = (code, over(yes)?, over(no)?, operand);
        places.insert(index, shared.len());
        shared.push(instruction);
    }
    shared.reverse();
    Ok(shared)
}

/// Finds the number of the call among those of `bodies`, which are sorted.
fn tree(bodies: &[(u32, Vec<Draft>)]) -> Result<Vec<Draft>, String> {
    if let [(number, body)] = bodies {
        // A body ends in KILL, which is for other numbers, too.
        let mut all = vec![(EQUAL, 0, body.len() - 1, *number)];
        all.extend(body);
        return Ok(all);
    }
    let (lower, upper) = bodies.split_at(bodies.len() / 2);
    let (middle, _) = upper.first().ok_or("no system call at all")?;
    let lower = tree(lower)?;
    let mut all = vec![(AT_LEAST, lower.len(), 0, *middle)];
    all.extend(lower);
    all.extend(tree(upper)?);
    Ok(all)
}

/// Allows a call made in one of these ways.
fn body(ways: &[&Rule]) -> Result<Vec<Draft>, String> {
    let mut all = Vec::new();
    for rule in ways {
        if rule.why.is_empty() {
            return Err("no reason".to_owned());
        }
        if rule.when.is_empty() && ways.len() > 1 {
            return Err("free, and with conditions".to_owned());
        }
        all.extend(way(rule.when)?);
    }
    all.push(KILL);
    Ok(all)
}

/// Where a comparison branches: to the next one, or out of this rule.
#[derive(Clone, Copy)]
enum Then {
    Next,
    Holds(usize),
    Fails,
}

/// Allows a call whose arguments match, or falls through.
fn way(when: &[If]) -> Result<Vec<Draft>, String> {
    // Jumps are known when the length is.
    let mut draft: Vec<(u16, Then, Then, u32)> = Vec::new();
    let mut loaded = None;
    let mut answer = ALLOW;
    let slot = |slot: Slot| PLACEHOLDER + slot as u32;
    for check in when {
        let mut word = |at: u8, half: u32, tests: &[(u16, Then, Then, u32)]| {
            let offset = ARGUMENTS + 8 * u32::from(at) + 4 * half;
            if loaded != Some(offset) {
                draft.push((LOAD, Then::Next, Then::Next, offset));
                loaded = Some(offset);
            }
            draft.extend(tests);
        };
        let is = |value| (EQUAL, Then::Next, Then::Fails, value);
        match *check {
            If::Is(at, value) => word(at, 0, &[is(constant(value)?)]),
            If::Slot(at, name) => word(at, 0, &[is(slot(name))]),
            If::Exactly(at, value) => {
                word(at, 0, &[is(constant(value as u32)?)]);
                word(at, 1, &[is((value >> 32) as u32)]);
            }
            If::OneOf(at, values) => {
                let (last, others) = values.split_last().ok_or("one of none")?;
                let mut tests = Vec::new();
                for (index, value) in others.iter().enumerate() {
                    let holds = Then::Holds(others.len() - index);
                    tests.push((EQUAL, holds, Then::Next, constant(*value)?));
                }
                tests.push(is(constant(*last)?));
                word(at, 0, &tests);
            }
            If::Between(at, first, last) => {
                let (first, last) = (slot(first), slot(last));
                let tests = [
                    (AT_LEAST, Then::Next, Then::Fails, first),
                    (ABOVE, Then::Fails, Then::Next, last),
                ];
                word(at, 0, &tests);
            }
            If::Below(at, low, high) => {
                let tests = [
                    (ABOVE, Then::Fails, Then::Next, slot(high)),
                    // Less: over the lower half, which are two instructions.
                    (EQUAL, Then::Next, Then::Holds(2), slot(high)),
                ];
                word(at, 1, &tests);
                word(at, 0, &[(AT_LEAST, Then::Fails, Then::Next, slot(low))]);
                loaded = None;
            }
            If::Short(at) => word(at, 1, &[is(0)]),
            If::Type(at, kind) => {
                let second = (AND, Then::Next, Then::Next, 0xff00);
                word(at, 0, &[second, is(u32::from(kind) << 8)]);
                loaded = None;
            }
            If::Absent => answer = (RETURN, 0, 0, ABSENT),
        }
    }
    let length = draft.len();
    let lay = |(index, (code, yes, no, k)): (usize, (u16, Then, Then, u32))| {
        // Behind the rest of the draft, and the answer.
        let to = |then| match then {
            Then::Next => 0,
            Then::Holds(over) => over,
            Then::Fails => length - index,
        };
        (code, to(yes), to(no), k)
    };
    let mut all: Vec<Draft> = draft.into_iter().enumerate().map(lay).collect();
    all.push(answer);
    Ok(all)
}

fn constant(value: u32) -> Result<u32, String> {
    if (PLACEHOLDER..PLACEHOLDER + SLOTS as u32).contains(&value) {
        return Err("a constant that means a slot".to_owned());
    }
    Ok(value)
}
