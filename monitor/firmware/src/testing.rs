//! Media for tests.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use crate::Error;
use crate::disk::{Disk, Extent, File};
use crate::fs::{FileSystem, Kind};
use crate::volume::{Volume, Volumes};

/// A disk in memory.
pub(crate) struct Image(pub(crate) Vec<u8>);

impl Disk for Image {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let from = self.0.get(at as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(Error::Drive(at / 512))?);
        Ok(())
    }
}

/// A file system of a few files.
pub(crate) struct Files {
    names: Vec<&'static str>,
    files: Vec<File>,
    label: String,
}

impl Files {
    pub(crate) fn new(label: &str, files: Contents) -> Self {
        let file = |content: &str| {
            let disk = Rc::new(Image(content.as_bytes().to_vec()));
            let mut file = File::new(disk);
            let len = content.len() as u64;
            file.push(Extent { at: Some(0), len }).unwrap();
            file
        };
        Self {
            names: files.iter().map(|(name, _)| *name).collect(),
            files: files.iter().map(|(_, content)| file(content)).collect(),
            label: label.into(),
        }
    }
}

impl FileSystem for Files {
    fn name(&self) -> &'static str {
        "files"
    }
    fn label(&self) -> &str {
        &self.label
    }
    fn uuid(&self) -> &str {
        &self.label
    }
    fn ignores_case(&self) -> bool {
        false
    }
    /// Numbers: a file is its index and 1000; a directory is the index of a
    /// file in it, times 16, and how many components its path has.
    fn root(&self) -> u64 {
        1 << 20
    }
    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error> {
        let (depth, index) = ((dir - (1 << 20)) as usize % 16, (dir - (1 << 20)) as usize / 16);
        let split = |name: &'static str| name.split('/').skip(1).collect::<Vec<_>>();
        let within = split(self.names.get(index).copied().unwrap_or(""));
        for (number, name) in self.names.iter().enumerate() {
            let path = split(name);
            if path.len() <= depth || path[..depth] != within[..depth] {
                continue;
            }
            let id = if path.len() == depth + 1 {
                number + 1000
            } else {
                (1 << 20) + number * 16 + depth + 1
            };
            if each(path[depth], id as u64) {
                break;
            }
        }
        Ok(())
    }
    fn kind(&self, node: u64) -> Result<Kind, Error> {
        Ok(if node >= 1 << 20 { Kind::Directory } else { Kind::File })
    }
    fn open(&self, node: u64) -> Result<File, Error> {
        self.files.get(node as usize - 1000).cloned().ok_or(Error::Missing)
    }
    fn link(&self, _: u64) -> Result<String, Error> {
        Err(Error::Missing)
    }
}

/// Paths and contents of files.
pub(crate) type Contents = &'static [(&'static str, &'static str)];

/// Volumes of a few files each; the label is the UUID, too.
pub(crate) fn volumes(list: &[(&str, Contents)]) -> Volumes {
    let mut volumes = Volumes::default();
    for (drive, (label, files)) in list.iter().enumerate() {
        let fs = Rc::new(Files::new(label, files));
        let device = alloc::format!("hd{drive}");
        volumes.list.push(Volume { drive, device, fs });
    }
    volumes
}
