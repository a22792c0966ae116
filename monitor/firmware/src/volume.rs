//! The file systems of all drives, and files in them by GRUB's names.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Error;
use crate::disk::{Disk, File, Window};
use crate::eltorito::efi_image;
use crate::environment::Environment;
use crate::fs::{self, FileSystem, Kind};
use crate::partition::{self, Table};
use crate::raid;

/// Files whose volumes are added.
const MAX_FILES: usize = 64;
/// Files inside each other: reading one takes a part of the stack for each.
const MAX_NESTED: usize = 4;

/// A drive as the monitor describes it.
pub struct Drive {
    /// Its identity.
    pub id: String,
    /// Whether it is a CD-ROM.
    pub cdrom: bool,
    /// The medium, or why it cannot be read.
    pub disk: Result<Rc<dyn Disk>, Error>,
}

/// A file system on a drive.
pub struct Volume {
    /// Index of the drive.
    pub drive: usize,
    /// Name as GRUB writes it, without parentheses: `cd0`, `hd0,gpt2`.
    pub device: String,
    /// What is there.
    pub fs: Rc<dyn FileSystem>,
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Index of the volume.
    pub volume: usize,
    /// Path from its root.
    pub path: String,
}

/// All volumes of the machine.
#[derive(Default)]
pub struct Volumes {
    /// Those of one drive follow each other; behind them those in files.
    pub list: Vec<Volume>,
    /// What was saved of environment blocks.
    pub environment: Environment,
    /// First volume of each file that has been added, and how many files it is in.
    files: Vec<(usize, usize)>,
}

/// What GRUB's `search` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// A file with this path.
    File,
    /// A file system with this label.
    Label,
    /// A file system with this UUID.
    Uuid,
}

/// The file system on a partition, or on a disk without any: that in a mirror's member, or
/// else its own, which may be newer than a superblock.
fn probe(disk: &Rc<dyn Disk>) -> Result<Rc<dyn FileSystem>, Error> {
    let mirrored =
        raid::mirror(disk).and_then(|data| data.map(|data| fs::probe(&data)).transpose());
    match mirrored {
        Ok(Some(fs)) => Ok(fs),
        Ok(None) | Err(Error::NoFileSystem) => fs::probe(disk),
        // What is wrong with the RAID says more than that there is no file system.
        Err(why) => fs::probe(disk).map_err(|_| why),
    }
}

impl Volumes {
    /// Adds the volumes of a drive; says of every place without one why.
    pub fn add(&mut self, index: usize, drive: &Drive, device: &str, note: &mut dyn FnMut(String)) {
        let disk = match &drive.disk {
            Ok(disk) => disk,
            Err(why) => return note(why.to_string()),
        };
        let count = self.list.len();
        let partitions = partition::partitions(&**disk);
        let none = partitions.as_ref().is_ok_and(Vec::is_empty);
        // A superblock of a RAID outlives the partitions that are made later.
        let whole = if none { probe(disk) } else { fs::probe(disk) };
        match whole {
            Ok(fs) => self.list.push(Volume { drive: index, device: device.to_string(), fs }),
            Err(why) if none => return note(format!("no partitions, and {why}")),
            Err(_) => {}
        }
        for partition in partitions.as_deref().unwrap_or_default() {
            let window = Window::new(Rc::clone(disk), partition.start, partition.len);
            let window: Rc<dyn Disk> = Rc::new(window);
            let table = match partition.table {
                Table::Mbr => "msdos",
                Table::Gpt => "gpt",
            };
            let number = partition.number;
            match probe(&window) {
                Ok(fs) => {
                    let device = format!("{device},{table}{number}");
                    self.list.push(Volume { drive: index, device, fs });
                }
                // A CD's partitions are hints for other machines' firmware.
                Err(_) if self.list.len() > count && drive.cdrom => {}
                Err(why) => note(format!("partition {number}: {why}")),
            }
        }
        // What UEFI boots from a CD, if no partition is the same.
        let named = |start| partitions.iter().flatten().any(|p| p.start == start);
        let image = drive.cdrom.then(|| efi_image(&**disk)).flatten();
        if let Some(start) = image.filter(|start| !named(*start)) {
            let window: Rc<dyn Disk> = Rc::new(Window::new(Rc::clone(disk), start, disk.len()));
            if let Ok(fs) = fs::probe(&window) {
                self.list.push(Volume { drive: index, device: format!("{device},efi"), fs });
            }
        }
        if let Err(why) = partitions {
            note(why.to_string());
        }
    }

    /// Adds the volumes in a file as a device of a drive, in place of those that had
    /// its name.
    ///
    /// # Errors
    /// There is no file, or no file system in it; or there are too many.
    pub fn add_file(&mut self, drive: usize, path: &Path, device: &str) -> Result<(), Error> {
        let mut outer = self.files.iter().rev();
        let outer = outer.find(|(first, _)| *first <= path.volume);
        let depth = outer.map_or(1, |(_, depth)| depth + 1);
        if self.files.len() == MAX_FILES || depth > MAX_NESTED {
            return Err(Error::TooLarge("number of loopback devices"));
        }
        self.files.push((self.list.len(), depth));
        let file = Drive { id: String::new(), cdrom: false, disk: Ok(Rc::new(self.open(path)?)) };
        self.forget(device);
        let count = self.list.len();
        self.add(drive, &file, device, &mut |_| {});
        match self.list.len() > count {
            true => Ok(()),
            false => Err(Error::NoFileSystem),
        }
    }

    /// Takes a device's name away; entries that use it keep its volumes.
    pub fn forget(&mut self, device: &str) -> bool {
        let partitions = format!("{device},");
        let is_it = |name: &str| name == device || name.starts_with(&partitions);
        let mut found = false;
        for volume in self.list.iter_mut().filter(|volume| is_it(&volume.device)) {
            volume.device.clear();
            found = true;
        }
        found
    }

    /// The volume with one of GRUB's names for it: `hd0,gpt2`, `hd0,2`.
    pub fn device(&self, name: &str) -> Option<usize> {
        let plain = |name: &str| name.replace(",gpt", ",").replace(",msdos", ",");
        let name = plain(name);
        self.list.iter().position(|volume| plain(&volume.device) == name)
    }

    /// The first volume that has what is looked for; those of `drive` first.
    pub fn search(&self, kind: Search, value: &str, drive: Option<usize>) -> Option<usize> {
        let fits = |volume: &Volume| match kind {
            Search::File => fs::kind(&*volume.fs, value).is_ok(),
            Search::Label => volume.fs.label() == value,
            Search::Uuid => volume.fs.uuid().eq_ignore_ascii_case(value),
        };
        let all = || self.list.iter().enumerate();
        let own = all().filter(|(_, volume)| Some(volume.drive) == drive);
        let others = all().filter(|(_, volume)| Some(volume.drive) != drive);
        own.chain(others).find(|(_, volume)| fits(volume)).map(|(index, _)| index)
    }

    fn fs(&self, volume: usize) -> Result<&dyn FileSystem, Error> {
        self.list.get(volume).map(|volume| &*volume.fs).ok_or(Error::Missing)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// There is none, or its file system is damaged.
    pub fn open(&self, path: &Path) -> Result<File, Error> {
        fs::open(self.fs(path.volume)?, &path.path)
    }

    /// What is at a path; `None` if there is nothing.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        fs::kind(self.fs(path.volume).ok()?, &path.path).ok()
    }

    /// The names in a directory, in order.
    ///
    /// # Errors
    /// There is none, or its file system is damaged.
    pub fn names(&self, path: &Path) -> Result<Vec<String>, Error> {
        fs::list(self.fs(path.volume)?, &path.path)
    }

    /// The text of a file, wrong letters replaced.
    ///
    /// # Errors
    /// There is none, it has more than `most` bytes, or its file system is
    /// damaged.
    pub fn text(&self, path: &Path, most: usize) -> Result<String, Error> {
        let bytes = self.open(path)?.whole(most)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Path {
    /// A file beside this one, or anywhere if `name` starts with a slash.
    pub fn beside(&self, name: &str) -> Self {
        let path = if name.starts_with('/') {
            name.to_string()
        } else {
            let dir = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{dir}/{name}")
        };
        Self { volume: self.volume, path }
    }
}
