//! elilo's configuration (elilo, docs/elilo.txt): options, and after each `image=` those
//! of that image.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::entry::{Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, assignment, lost};
use crate::Error;
use crate::volume::{Path, Volumes};

pub(super) fn read(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let text = volumes.text(path, MAX_TEXT)?;
    let mut sections: Vec<BTreeMap<String, &str>> = [BTreeMap::new()].to_vec();
    for line in text.lines().map(str::trim).filter(|line| line.len() <= MAX_LINE) {
        let (key, value) = assignment(line, '=').unwrap_or((line.to_ascii_lowercase(), ""));
        if key == "image" {
            if sections.len() > MAX_ENTRIES {
                break;
            }
            sections.push(BTreeMap::new());
        }
        if let Some(section) = sections.last_mut().filter(|_| !line.starts_with('#')) {
            section.insert(key, value);
        }
    }
    let (usual, images) = sections.split_first().ok_or(Error::Missing)?;
    let file = |name: &str| path.beside(&name.replace('\\', "/"));
    let entries = images.iter().map(|image| {
        let get = |key: &str| image.get(key).or(usual.get(key)).copied().unwrap_or_default();
        let has = |key: &str| image.contains_key(key) || usual.contains_key(key);
        let mut cmdline = match get("root") {
            "" => String::new(),
            root => format!("root={root} "),
        };
        if has("read-only") {
            cmdline.push_str("ro ");
        }
        let cmdline = match get("literal") {
            "" => format!("{cmdline}{}", get("append")),
            literal => literal.to_owned(),
        };
        let kernel = get("image");
        let id = if get("label").is_empty() { kernel } else { get("label") };
        let title = if get("description").is_empty() { id } else { get("description") };
        let initrds = get("initrd").split_whitespace().take(MAX_INITRDS);
        Entry {
            title: title.to_owned(),
            id: id.to_owned(),
            kernel: Some(file(kernel)),
            initrds: initrds.map(file).collect(),
            cmdline: cmdline.trim_end().to_owned(),
            ..Entry::default()
        }
    });
    let entries: Vec<Entry> = entries.collect();
    let default = usual.get("default").copied().unwrap_or_default();
    let index = entries.iter().position(|entry| entry.id == default);
    let lost = lost(index, default);
    Ok(Config { entries, default: index.unwrap_or(0), lost, ..Config::default() })
}
