//! The root of the jail. Below it, and below the directory it may be, no path
//! is resolved through a symbolic link, and nothing that is there already is
//! written to.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Stat, Uid, accessat, fchown, fstat,
    mkdirat, mknodat, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use crate::args::SharedFile;
use crate::error::{Error, input, jail};
use crate::paths::beneath;
use crate::plan::{Plan, Root};

/// The directory that becomes the root: its device and inode.
pub type Identity = (u64, u64);

/// Makes or finds the directory of the jail.
///
/// # Errors
/// Something else is where a directory has to be, or one could be changed by
/// other users.
pub fn make(plan: &Plan) -> Result<Option<Identity>, Error> {
    let Root::Directory(base, [name, id, root]) = &plan.root else {
        return Ok(None);
    };
    // An ending jail of the same program may remove a directory in between.
    for _ in 0..100 {
        let above = open_base(base)?;
        let Some(above) = own_directory(&above, name, base)? else {
            continue;
        };
        let path = base.join(name);
        let Some(jail_directory) = own_directory(&above, id, &path)? else {
            continue;
        };
        let path = path.join(id).join(root);
        let what = || path.display().to_string();
        make_directory(&jail_directory, root).map_err(jail(what()))?;
        let root = beneath(&jail_directory, Path::new(root), OFlags::DIRECTORY);
        let root = root.map_err(jail(what()))?;
        if plan.privileged {
            fchown(&root, Some(Uid::from_raw(plan.uid)), Some(Gid::from_raw(plan.gid)))
                .map_err(jail(what()))?;
        }
        return identity(&root).map(Some).map_err(jail(what()));
    }
    Err(Error::Jail(format!("{}: keeps vanishing", base.join(name).display())))
}

fn open_base(base: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, base, flags, Mode::empty())
        .map_err(jail(format!("--chroot-base-dir {}", base.display())))
}

/// Makes or opens a directory that only the jailer's user may change; none if
/// it vanished in between.
fn own_directory(above: &OwnedFd, name: &str, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let path = path.join(name);
    let what = || path.display();
    make_directory(above, name).map_err(jail(what()))?;
    let directory = match beneath(above, Path::new(name), OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(jail(what()))?,
    };
    let stat = fstat(&directory).map_err(jail(what()))?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    if !own || stat.st_mode & 0o022 != 0 {
        let why = format!("{}: may be changed by other users", what());
        return Err(Error::Jail(why));
    }
    Ok(Some(directory))
}

fn make_directory(above: &OwnedFd, name: &str) -> Result<(), Errno> {
    match mkdirat(above, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn identity(file: impl AsFd) -> Result<Identity, Errno> {
    let Stat { st_dev, st_ino, .. } = fstat(file)?;
    Ok((st_dev, st_ino))
}

/// Removes the directories of the jail where they are empty.
pub fn remove(plan: &Plan) {
    let Root::Directory(base, [name, id, root]) = &plan.root else {
        return;
    };
    let below = |directory: &OwnedFd, name: &str| {
        beneath(directory, Path::new(name), OFlags::DIRECTORY).ok()
    };
    let empty = |directory: &OwnedFd, name: &str| {
        // A directory that is not empty holds other files, and stays.
        let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
    };
    let Ok(base) = open_base(base) else { return };
    let Some(program) = below(&base, name) else { return };
    let Some(jail) = below(&program, id) else { return };
    if let Some(root) = below(&jail, root) {
        empty(&root, "dev");
    }
    empty(&jail, root);
    empty(&program, id);
    empty(&base, name);
}

/// Makes the root and goes there. The caller is in a separate mount namespace.
///
/// # Errors
/// A file cannot be shown, or the system refuses a step.
pub fn enter(plan: &Plan, made: Option<Identity>) -> Result<(), Error> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(jail("root: make mounts private"))?;
    let (root, files) = match &plan.root {
        Root::Memory(files) => (memory("root")?, files.as_slice()),
        Root::Directory(base, below) => (directory(base, below, made)?, &[][..]),
    };
    // Files are found on the host before its root is covered.
    let host = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(jail("root"))?;
    let trees = files.iter().map(|file| Ok((file, tree("--file", &file.path)?)));
    let trees = trees.collect::<Result<Vec<_>, Error>>()?;
    let mut nodes = Vec::new();
    for node in &plan.nodes {
        let path = PathBuf::from(format!("/dev/{node}"));
        let hosts = (!plan.privileged).then(|| tree("device", &path));
        nodes.push((*node, hosts.transpose()?));
    }
    attach(&root, CWD, "/").map_err(jail("root: attach"))?;
    for (file, tree) in &trees {
        show(plan, &root, file, tree)?;
    }
    if !nodes.is_empty() {
        devices(plan, &root, &nodes)?;
    }
    if matches!(plan.root, Root::Memory(_)) {
        restrict(&root, libc::MOUNT_ATTR_RDONLY | NOTHING).map_err(jail("root: read-only"))?;
    } else {
        restrict(&root, NOTHING).map_err(jail("root: nodev"))?;
    }
    drop(host);
    go(&root).map_err(jail("root: pivot"))
}

/// No set-user-id, no devices, no programs.
const NOTHING: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// A file system in memory, large enough for names.
fn memory(what: &str) -> Result<OwnedFd, Error> {
    let make = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("size", "64k"), ("nr_inodes", "128"), ("mode", "0755")] {
            fsconfig_set_string(&context, key, value)?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(jail::<Errno>(format!("{what}: tmpfs")))
}

/// The directory that was made or found, as a mount.
fn directory(base: &Path, below: &[String; 3], made: Option<Identity>) -> Result<OwnedFd, Error> {
    let path: PathBuf = below.iter().collect();
    let what = || base.join(&path).display().to_string();
    let found = beneath(open_base(base)?, &path, OFlags::DIRECTORY).map_err(jail(what()))?;
    let same = identity(&found).map_err(jail(what()))?;
    if made != Some(same) {
        return Err(Error::Jail(format!("{}: was replaced", what())));
    }
    clone_tree(&found).map_err(jail(what()))
}

/// One file of the host, as a mount.
fn tree(what: &str, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let what = || format!("{what} {}", path.display());
    let file = openat(CWD, path, flags, Mode::empty()).map_err(input(what()))?;
    let stat = fstat(&file).map_err(input(what()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice | FileType::CharacterDevice) {
        let why = format!("{}: neither a regular file nor a device", what());
        return Err(Error::Input(why));
    }
    clone_tree(&file).map_err(input(what()))
}

fn clone_tree(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(file, "", flags)
}

fn attach(mount: &OwnedFd, directory: impl AsFd, name: &str) -> Result<(), Errno> {
    move_mount(mount, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Puts an empty file where none was, and a mount over it.
fn cover(directory: &OwnedFd, name: &str, tree: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o444))?;
    attach(tree, directory, name)
}

fn show(plan: &Plan, root: &OwnedFd, file: &SharedFile, tree: &OwnedFd) -> Result<(), Error> {
    let failed = || input::<Errno>(file.path.display());
    let stat = fstat(tree).map_err(failed())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let readonly = if file.writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let fixed = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    if kind == FileType::RegularFile {
        cover(root, &file.name, tree).map_err(failed())?;
        let attributes = readonly | fixed | libc::MOUNT_ATTR_NODEV;
        return restrict(tree, attributes).map_err(failed());
    }
    if plan.privileged {
        // The host's node is for the host's users, and no mount makes a device
        // read-only: a node of its own, which the root's mount then hides.
        let mode = if file.writable { 0o600 } else { 0o400 };
        node(plan, root, &file.name, (kind, stat.st_rdev, mode)).map_err(failed())?;
        let node = beneath(root, Path::new(&file.name), OFlags::PATH).map_err(failed())?;
        let tree = clone_tree(&node).map_err(failed())?;
        attach(&tree, root, &file.name).map_err(failed())?;
        return restrict(&tree, libc::MOUNT_ATTR_RDONLY | fixed).map_err(failed());
    }
    cover(root, &file.name, tree).map_err(failed())?;
    let may_write = accessat(root, &file.name, Access::WRITE_OK, AtFlags::empty()).is_ok();
    if may_write && !file.writable {
        let why = "a device that you may write to cannot be made read-only without root: \
                   add ,rw, or take your right away";
        return Err(Error::Input(format!("{}: {why}", file.path.display())));
    }
    restrict(tree, readonly | fixed).map_err(failed())
}

/// /dev with the nodes and nothing else.
fn devices(plan: &Plan, root: &OwnedFd, nodes: &[(&str, Option<OwnedFd>)]) -> Result<(), Error> {
    make_directory(root, "dev").map_err(jail("/dev in the jail's root"))?;
    // In a directory that was there before, it may be anything.
    let place = beneath(root, Path::new("dev"), OFlags::DIRECTORY | OFlags::PATH);
    let place = place.map_err(jail("/dev in the jail's root"))?;
    let dev = memory("dev")?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&dev, "", &place, "", onto).map_err(jail("dev: attach"))?;
    for (name, tree) in nodes {
        let what = format!("dev/{name}");
        if let Some((folder, _)) = name.split_once('/') {
            make_directory(&dev, folder).map_err(jail(&what))?;
        }
        match tree {
            Some(tree) => cover(&dev, name, tree),
            None => {
                let minor = if *name == "kvm" { 232 } else { 200 };
                let number = rustix::fs::makedev(10, minor);
                node(plan, &dev, name, (FileType::CharacterDevice, number, 0o600))
            }
        }
        .map_err(jail(&what))?;
    }
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    restrict(&dev, attributes).map_err(jail("dev: read-only"))
}

/// A device node for the program's user alone: its kind, number and mode.
fn node(
    plan: &Plan,
    directory: &OwnedFd,
    name: &str,
    (kind, number, mode): (FileType, Dev, u32),
) -> Result<(), Errno> {
    mknodat(directory, name, kind, Mode::from_raw_mode(mode), number)?;
    let ids = (Some(Uid::from_raw(plan.uid)), Some(Gid::from_raw(plan.gid)));
    rustix::fs::chownat(directory, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
}

/// Adds attributes to a mount that is in its place.
fn restrict(mount: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: an open descriptor, a C string, and a structure with its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    match std::io::Error::last_os_error().raw_os_error() {
        _ if done == 0 => Ok(()),
        // Before Linux 5.12; there the other attributes have to be given anew.
        Some(libc::ENOSYS) => {
            let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NOEXEC;
            flags.set(MountFlags::RDONLY, attributes & libc::MOUNT_ATTR_RDONLY != 0);
            flags.set(MountFlags::NODEV, attributes & libc::MOUNT_ATTR_NODEV != 0);
            mount_remount(format!("/proc/self/fd/{}", mount.as_raw_fd()), flags, "")
        }
        Some(error) => Err(Errno::from_raw_os_error(error)),
        None => Err(Errno::IO),
    }
}

/// Makes the mount that covers "/" the root of this process.
fn go(root: &OwnedFd) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // An initial RAM disk cannot be moved away. It lies below the new root,
        // where no unprivileged process can reach it.
        Err(Errno::INVAL) => rustix::process::chroot(".")?,
        Err(error) => return Err(error),
    }
    rustix::process::chdir("/")
}
