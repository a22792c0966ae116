//! What the process as a whole gives up.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Policy;
use crate::error::Error;

/// `PR_SET_MDWE` and its flag (Linux 6.3).
const PR_SET_MDWE: libc::c_int = 65;
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
/// `struct __user_cap_header_struct`, version 3.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// The newest interface of Landlock whose rights are known here; of an older
/// kernel all that it has are taken.
const NEWEST: ABI = ABI::V10;

pub(super) fn enter(policy: &Policy, memory: u64, places: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let failed = |what| move |e| Error::System(what, e);
    control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(failed("no-new-privs"))?;
    control(libc::PR_SET_DUMPABLE, 0).map_err(failed("not dumpable"))?;
    limit(Resource::Core, 0).map_err(failed("no core file"))?;
    limit(Resource::As, memory).map_err(failed("limit on memory"))?;
    // Kernels before 6.3 do not know it; the filters forbid the same.
    let _ = control(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN);
    drop_capabilities().map_err(failed("drop capabilities"))?;
    require(policy.landlock)?;
    if policy.opens {
        return Ok(());
    }
    give_up_files(places)
}

/// What a process whose VM is still to be described gives up at once: gaining
/// anything, a core file, memory that is written and then executed; and, if
/// `allow` names directories, opening anything that does not lie beneath them
/// but the devices that a VM may need.
///
/// # Errors
/// A directory cannot be opened, or the kernel refuses.
pub fn confine_early(allow: &[PathBuf]) -> Result<(), Error> {
    let failed = |what| move |e| Error::System(what, e);
    control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(failed("no-new-privs"))?;
    limit(Resource::Core, 0).map_err(failed("no core file"))?;
    let _ = control(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN);
    if allow.is_empty() {
        return Ok(());
    }
    let failed = |e: landlock::RulesetError| Error::System("Landlock", io::Error::other(e));
    let mut ruleset = everything().map_err(failed)?;
    let files = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::Refer);
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    for path in allow {
        let unusable =
            |e: landlock::PathFdError| Error::Input("--allow-path", path.clone(), e.to_string());
        let folder = PathFd::new(path).map_err(unusable)?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(folder, files))
            .map_err(failed)?;
    }
    for device in ["/dev/kvm", "/dev/net/tun", "/dev/ptmx", "/dev/pts"] {
        // Whoever needs one that is missing is told so.
        if let Ok(device) = PathFd::new(device) {
            ruleset = ruleset
                .add_rule(PathBeneath::new(device, devices))
                .map_err(failed)?;
        }
    }
    ruleset.restrict_self().map(|_| ()).map_err(failed)
}

fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, value, NONE, NONE, NONE) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lowers a limit; one that is lower already stays. That on addresses bounds what
/// no filter can: the heap, and mappings over what is there.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let now = getrlimit(resource);
    let both = Rlimit {
        current: lower(now.current),
        maximum: lower(now.maximum),
    };
    Ok(setrlimit(resource, both)?)
}

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// Effective, permitted and inheritable, of the lower and the upper 32.
type Sets = [[u32; 3]; 2];

/// Empties all sets but the bounding one, which counts only for programs that
/// are executed, and of those none gains anything any more (no new privileges):
/// to empty it takes 41 calls. The ambient ones go with the others.
fn drop_capabilities() -> io::Result<()> {
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let none = Sets::default();
    // SAFETY: the call takes a header and, of this version, two structures of
    // three words.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn require(least: Option<u32>) -> Result<(), Error> {
    if let Some(least) = least {
        let has = version();
        if has < least {
            return Err(Error::Host(format!(
                "--require-landlock {least}: this kernel has Landlock {has} (0 is none)"
            )));
        }
    }
    Ok(())
}

/// Takes away every right that Landlock of the running kernel knows, with no
/// exception, or with one: files may be given a name in `places`.
pub(super) fn give_up_files(places: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let failed = |e: landlock::RulesetError| Error::System("Landlock", io::Error::other(e));
    // That it can gain nothing has been said before, and cannot be any more.
    let ruleset = everything().map(|set| set.no_new_privs(false));
    let rules = places
        .iter()
        .map(|at| PathBeneath::new(at, AccessFs::MakeReg));
    ruleset
        .and_then(|set| set.add_rules(rules.map(Ok::<_, landlock::RulesetError>)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map(|_| ())
        .map_err(failed)
}

/// Every right that the running kernel knows.
fn everything() -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|set| set.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|set| set.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
}

/// The version of Landlock's interface; 0 if the kernel has none, or has it
/// switched off.
pub fn version() -> u32 {
    const VERSION: libc::c_ulong = 1;
    ask(VERSION).unwrap_or(0)
}

/// A bit for each erratum of Landlock that the kernel has mended; it tells from
/// Linux 6.15 on.
pub fn errata() -> Option<u32> {
    const ERRATA: libc::c_ulong = 2;
    ask(ERRATA)
}

/// A question about Landlock; it makes no ruleset.
fn ask(what: libc::c_ulong) -> Option<u32> {
    let none = std::ptr::null::<u8>();
    // SAFETY: with these flags the call takes no structure.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, what) };
    u32::try_from(answer).ok()
}
