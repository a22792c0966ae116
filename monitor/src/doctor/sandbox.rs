//! What confines a VM, and what lets it reach a network.

use rustix::fs::Access;

use super::reader::{Host, unreadable};
use super::report::Verdict;
use crate::error::os_message;
use crate::sandbox;

const STATUS: &str = "/proc/self/status";
pub(super) const TUN: &str = "/dev/net/tun";
const NETWORK: &str = "/sys/class/net";
const CAP_NET_ADMIN: u32 = 12;
const IFF_TAP: u32 = 2;
/// Controllers that limit a jail.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

pub(super) fn own_landlock(_: &Host) -> Verdict {
    landlock(sandbox::landlock_version(), sandbox::landlock_errata())
}

pub(super) fn namespaces(at: &Host) -> Verdict {
    let is = |path: &str, value: &str| {
        at.read(&format!("/proc/sys/kernel/{path}")).is_ok_and(|text| text == value)
    };
    let closed =
        is("unprivileged_userns_clone", "0") || is("apparmor_restrict_unprivileged_userns", "1");
    let most = "/proc/sys/user/max_user_namespaces";
    at.judge(most, |most| user_namespaces(most, closed, Who::read(at).uid))
}

pub(super) fn tun(at: &Host) -> Verdict {
    let advice = "no network for VMs (--net tap=…): modprobe tun, and let users read and \
                  write it (mode 666)";
    match at.may(TUN, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Verdict::fine("may be used"),
        Err(error) => Verdict::weak(os_message(&error), advice),
    }
}

/// Who this process is.
pub(super) struct Who {
    /// Effective user.
    uid: Option<u32>,
    /// Effective capabilities, a bit each.
    capabilities: Option<u64>,
}

impl Who {
    fn read(at: &Host) -> Self {
        Self::new(&at.read(STATUS).unwrap_or_default())
    }

    /// From the text of `/proc/self/status`.
    pub(super) fn new(status: &str) -> Self {
        let line = |name| status.lines().find_map(|line: &str| line.strip_prefix(name));
        let uid = line("Uid:").and_then(|ids: &str| ids.split_whitespace().nth(1)?.parse().ok());
        let hex = line("CapEff:").map(|text: &str| u64::from_str_radix(text.trim(), 16));
        Self { uid, capabilities: hex.and_then(Result::ok) }
    }
}

/// `errata` has a bit for each that is mended, if the kernel tells.
pub(super) fn landlock(abi: u32, errata: Option<u32>) -> Verdict {
    let mended = match errata {
        None => "the kernel does not tell its errata".to_owned(),
        Some(0) => "no errata mended".to_owned(),
        Some(bits) => {
            let numbers = (0..32).filter(|n| bits >> n & 1 != 0);
            let numbers: Vec<String> = numbers.map(|n| (n + 1).to_string()).collect();
            format!("errata mended: {}", numbers.join(" "))
        }
    };
    let found = format!("ABI {abi}; {mended}");
    let lacking = match abi {
        0 => {
            let advice = "without it the filters of system calls stand alone: build the kernel \
                          with it and have landlock in the boot option lsm=";
            return Verdict::weak("none, or switched off", advice);
        }
        1..4 => "TCP, device ioctls, signals and abstract sockets are",
        4 => "device ioctls, signals and abstract sockets are",
        5 => "signals and abstract sockets are",
        // Whatever is newer is used, too, but nothing Mote has to do without.
        _ => return Verdict::fine(found),
    };
    let advice = format!("{lacking} left to the filters of system calls: Linux 6.12 has ABI 6");
    Verdict::weak(found, advice)
}

pub(super) fn seccomp(actions: &str) -> Verdict {
    let has = |name: &str| actions.split_whitespace().any(|action| action == name);
    if !has("kill_process") {
        let advice = "the kernel has to have seccomp filters; without any sandbox, mote runs with \
                      --no-sandbox";
        return Verdict::missing(actions, advice);
    }
    Verdict::fine_if(has("log"), actions, "--seccomp log does not work")
}

/// `closed` says that only the privileged may make them.
pub(super) fn user_namespaces(most: &str, closed: bool, uid: Option<u32>) -> Verdict {
    let none = "mote-jailer needs one: sysctl user.max_user_namespaces=10000";
    let advice = "run mote-jailer as root (--uid, --gid); without root it makes no jail";
    match most.parse::<u64>() {
        Err(_) => Verdict::unknown(most),
        Ok(0) => Verdict::weak("forbidden", none),
        Ok(_) if !closed => Verdict::fine(format!("{most} at most")),
        Ok(_) => Verdict::fine_if(uid == Some(0), "for root only", advice),
    }
}

/// A mounted hierarchy of control groups.
pub(super) struct GroupMount<'a> {
    root: &'a str,
    path: &'a str,
    unified: bool,
    options: &'a str,
}

impl GroupMount<'_> {
    pub(super) fn option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }
}

/// A line of `/proc/self/mountinfo`, if it is of control groups.
pub(super) fn group_mount(line: &str) -> Option<GroupMount<'_>> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let mut kind = kind.split(' ');
    let unified = match kind.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    Some(GroupMount { root: mount.next()?, path: mount.next()?, unified, options: kind.nth(1)? })
}

/// Where this process would make a group: for root below the mount, for others
/// below their own group, which has to be theirs.
pub(super) fn own_group(mount: &GroupMount<'_>, cgroup: &str, uid: Option<u32>) -> String {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.unwrap_or("/");
    let own = own.strip_prefix(mount.root.trim_end_matches('/'));
    match (uid, own.unwrap_or("").trim_start_matches('/')) {
        (Some(0), _) | (_, "") => mount.path.to_owned(),
        (_, below) => format!("{}/{below}", mount.path),
    }
}

pub(super) fn control_groups(at: &Host) -> Verdict {
    at.judge("/proc/self/mountinfo", |text| {
        let mounts: Vec<_> = text.lines().filter_map(group_mount).collect();
        let only = mounts.iter().all(|mount| mount.unified);
        let Some(mount) = mounts.iter().find(|mount| mount.unified) else {
            return delegation(None, only);
        };
        let cgroup = at.read("/proc/self/cgroup").unwrap_or_default();
        let group = own_group(mount, &cgroup, Who::read(at).uid);
        let controllers = at.read(&format!("{group}/cgroup.controllers")).unwrap_or_default();
        let may = |file| at.may(&format!("{group}{file}"), Access::WRITE_OK).is_ok();
        let writable = ["", "/cgroup.procs", "/cgroup.subtree_control"].into_iter().all(may);
        delegation(Some((&group, &controllers, writable)), only)
    })
}

/// `group` is this process's one of version 2: its path, its controllers and
/// whether groups may be made in it; `only` says that there is no version 1.
pub(super) fn delegation(group: Option<(&str, &str, bool)>, only: bool) -> Verdict {
    let boot = "boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all; with version 1 \
                a jail is limited only after it was made";
    let Some((path, controllers, writable)) = group else {
        return match only {
            true => Verdict::weak("none mounted", "mount cgroup2: jails have no limits"),
            false => Verdict::weak("version 1", boot),
        };
    };
    let has = |name: &str| controllers.split_whitespace().any(|word| word == name);
    let lacking: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    let found = format!("version 2, {path}");
    if !writable {
        let advice = "run in a delegated control group, for a jail's limits: systemd-run --user --scope \
                      -p Delegate=yes";
        return Verdict::weak(format!("{found}: not yours"), advice);
    }
    if lacking.is_empty() {
        return Verdict::fine(format!("{found}: {}", CONTROLLERS.join(" ")));
    }
    let down = "have them handed down (cgroup.subtree_control above)";
    Verdict::weak(format!("{found}: no {}", lacking.join(", ")), if only { down } else { boot })
}

pub(super) fn own_taps(at: &Host) -> Verdict {
    let who = match at.read(STATUS) {
        Ok(status) => Who::new(&status),
        Err(error) => return unreadable(STATUS, &error),
    };
    let mut names = at.list(NETWORK).unwrap_or_default();
    names.retain(|name| {
        let text = |file: &str| at.read(&format!("{NETWORK}/{name}/{file}")).unwrap_or_default();
        let flags = u32::from_str_radix(text("tun_flags").trim_start_matches("0x"), 16);
        let owned = who.uid.is_some() && text("owner").parse().ok() == who.uid;
        flags.is_ok_and(|flags| flags & IFF_TAP != 0) && owned
    });
    taps(&who, &names)
}

pub(super) fn taps(who: &Who, own: &[String]) -> Verdict {
    let own = own.join(", ");
    match who.capabilities {
        Some(bits) if bits & 1 << CAP_NET_ADMIN != 0 => {
            Verdict::fine("may be made (CAP_NET_ADMIN)")
        }
        _ if !own.is_empty() => Verdict::fine(format!("yours: {own}")),
        None => Verdict::unknown("no capabilities in /proc/self/status"),
        Some(_) => {
            let uid = who.uid.unwrap_or_default();
            let advice =
                format!("as root: ip tuntap add dev vm0 mode tap user {uid}; ip link set vm0 up");
            Verdict::weak("none is yours, and you may not make one", advice)
        }
    }
}
