//! What the process as a whole gives up.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
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

/// Paths that a process can still open while its VM runs.
#[derive(Debug, Default)]
pub struct Reach<'a> {
    /// Files may be given a name there.
    places: &'a [BorrowedFd<'a>],
    /// What these rules say instead.
    rules: Option<&'a Rules>,
    /// The process has gone through [`confine_early`] with its capabilities.
    early: bool,
}

impl<'a> Reach<'a> {
    /// That of a process which has given up nothing yet.
    pub fn new(places: &'a [BorrowedFd<'a>], rules: Option<&'a Rules>) -> Self {
        Self { places, rules, early: false }
    }

    /// That of one which has gone through [`confine_early`].
    pub fn later(rules: Option<&'a Rules>) -> Self {
        Self { early: true, rules, ..Self::default() }
    }
}

pub(super) fn enter(policy: &Policy, memory: u64, reach: &Reach<'_>) -> Result<(), Error> {
    if !reach.early {
        gain_nothing(policy)?;
    }
    let failed = |what| move |e| Error::System(what, e);
    control(libc::PR_SET_DUMPABLE, 0).map_err(failed("not dumpable"))?;
    limit(Resource::As, memory).map_err(failed("limit on memory"))?;
    match reach.rules {
        Some(rules) => rules.enter(),
        None => give_up_files(reach.places),
    }
}

/// No privileges that a program could bring, no core file, no memory that is
/// written and then executed, no capability.
fn gain_nothing(policy: &Policy) -> Result<(), Error> {
    let failed = |what| move |e| Error::System(what, e);
    control(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(failed("no-new-privs"))?;
    limit(Resource::Core, 0).map_err(failed("no core file"))?;
    // Kernels before 6.3 do not know it; the filters forbid the same.
    let _ = control(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN);
    drop_capabilities().map_err(failed("drop capabilities"))?;
    require(policy.landlock)
}

/// What a process whose VM is still to be described gives up at once: gaining
/// anything; networks, and abstract sockets and signals outside; and, if `allow`
/// names directories, opening anything that does not lie beneath them but the
/// devices that a VM may need. The returned ruleset omits these devices, for
/// when the VM runs.
///
/// # Errors
/// A directory cannot be opened, or the kernel refuses.
pub fn confine_early(policy: &Policy, allow: &[PathBuf]) -> Result<Option<Rules>, Error> {
    gain_nothing(policy)?;
    if allow.is_empty() {
        let rules = outside().and_then(Ruleset::create).map_err(refused)?;
        return Rules::from(rules).enter().map(|()| None);
    }
    let files = AccessFs::from_all(NEWEST) & !(AccessFs::Execute | AccessFs::Refer);
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let (mut early, mut later) = (everything().map_err(refused)?, everything().map_err(refused)?);
    for path in allow {
        for rules in [&mut early, &mut later] {
            let unusable = |e: landlock::PathFdError| {
                Error::Input("--allow-path", path.clone(), e.to_string())
            };
            let folder = PathFd::new(path).map_err(unusable)?;
            let rule = PathBeneath::new(folder, files);
            rules.add_rule(rule).map_err(refused)?;
        }
    }
    for device in DEVICES {
        // A missing device is reported when it is needed.
        if let Ok(device) = PathFd::new(device) {
            let rule = PathBeneath::new(device, devices);
            (&mut early).add_rule(rule).map_err(refused)?;
        }
    }
    Rules::from(early).enter()?;
    Ok(Some(later.into()))
}

/// What a VM may need besides its files.
const DEVICES: [&str; 5] =
    ["/dev/kvm", "/dev/net/tun", "/dev/ptmx", "/dev/pts", "/dev/userfaultfd"];

fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, value, NONE, NONE, NONE) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lowers a limit; one that is lower already stays. The limit on addresses bounds what
/// no filter can: the heap, and mappings over existing ones.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let now = getrlimit(resource);
    let both = Rlimit { current: lower(now.current), maximum: lower(now.maximum) };
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
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
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
                "--require-landlock {least}: this kernel has Landlock ABI {has} (0: no Landlock)"
            )));
        }
    }
    Ok(())
}

fn refused(error: RulesetError) -> Error {
    Error::System("Landlock", io::Error::other(error))
}

/// Rules of Landlock that threads take on one by one. The set is a descriptor:
/// it is made, and closed, when no number is predicted.
#[derive(Debug)]
pub struct Rules(Option<OwnedFd>);

impl From<RulesetCreated> for Rules {
    fn from(set: RulesetCreated) -> Self {
        Self(set.into())
    }
}

impl Rules {
    /// Every right that the running kernel knows is taken away, with no exception.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn nothing() -> Result<Self, Error> {
        everything().map(Self::from).map_err(refused)
    }

    /// Number of the set's descriptor; a kernel without Landlock has none.
    pub fn number(&self) -> Option<RawFd> {
        self.0.as_ref().map(|set| set.as_raw_fd())
    }

    /// Holds the calling thread to them, and the threads that it makes later.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> Result<(), Error> {
        let Some(set) = &self.0 else { return Ok(()) };
        // SAFETY: the call takes a descriptor, which is live, and flags.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, set.as_raw_fd(), 0) };
        match done {
            0 => Ok(()),
            _ => Err(Error::System("Landlock", io::Error::last_os_error())),
        }
    }
}

/// Takes away every right that Landlock of the running kernel knows, with no
/// exception, or with one: files may be given a name in `places`.
pub(super) fn give_up_files(places: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let rules = places.iter().map(|at| PathBeneath::new(at, AccessFs::MakeReg));
    everything()
        .and_then(|set| set.add_rules(rules.map(Ok::<_, RulesetError>)))
        .map_err(refused)
        .and_then(|set| Rules::from(set).enter())
}

/// Every right that the running kernel knows.
fn everything() -> Result<RulesetCreated, RulesetError> {
    outside()?.handle_access(AccessFs::from_all(NEWEST)).and_then(Ruleset::create)
}

/// Networks, and what belongs to other processes.
fn outside() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::from_all(NEWEST))
        .and_then(|set| set.scope(Scope::from_all(NEWEST)))
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
