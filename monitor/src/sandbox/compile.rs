//! Part of the build script: turns the table into the kernel's instructions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::table::{If, PLACEHOLDER, Rule, SLOTS, Slot, THREADS, Thread, rules};

/// What no thread may ever have.
const NEVER: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
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
];

/// The text of a Rust file with a constant array for each kind of thread.
pub fn all() -> Result<String, String> {
    let mut text = String::new();
    for (thread, most) in THREADS {
        let calls: BTreeSet<_> = rules(thread).map(|rule| rule.call).collect();
        if calls.len() > most {
            return Err(format!("{thread:?}: {} calls, not {most}", calls.len()));
        }
        if let Some(call) = NEVER.iter().find(|call| calls.contains(call)) {
            return Err(format!("{thread:?}: system call {call} is for nobody"));
        }
        let program = compile(thread).map_err(|e| format!("{thread:?}: {e}"))?;
        let name = format!("{thread:?}").to_uppercase();
        let length = program.len();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "pub const {name}: [(u16, u8, u8, u32); {length}] = [");
        for at in &program {
            let _ = writeln!(text, "    ({}, {}, {}, {}),", at.code, at.jt, at.jf, at.k);
        }
        text += "];\n";
    }
    Ok(text)
}

fn compile(thread: Thread) -> Result<BpfProgram, String> {
    let mut all: BTreeMap<libc::c_long, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules(thread) {
        if rule.why.is_empty() {
            return Err(format!("no reason for system call {}", rule.call));
        }
        let ways = all.entry(rule.call).or_default();
        // No condition means any argument, which the compiler writes as none.
        if rule.when.is_empty() {
            continue;
        }
        for conditions in ways_of(rule)? {
            let way = SeccompRule::new(conditions).map_err(|e| e.to_string());
            ways.push(way?);
        }
    }
    for free in rules(thread).filter(|rule| rule.when.is_empty()) {
        let count = rules(thread).filter(|rule| rule.call == free.call).count();
        if count > 1 {
            return Err(format!(
                "system call {}: free, and with conditions",
                free.call
            ));
        }
    }
    let filter = SeccompFilter::new(
        all,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    let program = BpfProgram::try_from(filter.map_err(|e| e.to_string())?);
    program.map_err(|e| e.to_string())
}

/// The conditions of a rule: one list, or more if one argument may be one of
/// several.
fn ways_of(rule: &Rule) -> Result<Vec<Vec<SeccompCondition>>, String> {
    let mut ways = vec![Vec::new()];
    let condition = |argument: u8, length: Len, op: Op, value: u64| {
        SeccompCondition::new(argument, length, op, value).map_err(|e| e.to_string())
    };
    let slot = |slot: Slot| u64::from(PLACEHOLDER + slot as u32);
    for check in rule.when {
        let either = match *check {
            If::Is(at, value) => vec![vec![condition(at, Len::Dword, Op::Eq, value.into())?]],
            If::OneOf(at, values) => {
                let one = |value: &u32| {
                    condition(at, Len::Dword, Op::Eq, u64::from(*value)).map(|one| vec![one])
                };
                values.iter().map(one).collect::<Result<_, _>>()?
            }
            If::Exactly(at, value) => vec![vec![condition(at, Len::Qword, Op::Eq, value)?]],
            If::Slot(at, name) => vec![vec![condition(at, Len::Dword, Op::Eq, slot(name))?]],
            If::Between(at, first, last) => vec![vec![
                condition(at, Len::Dword, Op::Ge, slot(first))?,
                condition(at, Len::Dword, Op::Le, slot(last))?,
            ]],
        };
        if let If::Is(_, value) = *check
            && (PLACEHOLDER..PLACEHOLDER + SLOTS as u32).contains(&value)
        {
            return Err("a constant that means a slot".to_owned());
        }
        ways = ways
            .iter()
            .flat_map(|way| {
                either.iter().map(move |more| {
                    let mut way: Vec<SeccompCondition> = way.clone();
                    way.extend(more.iter().cloned());
                    way
                })
            })
            .collect();
    }
    Ok(ways)
}
