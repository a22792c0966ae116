//! GRUB's commands, as far as stock configurations use them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::options::Options;
use super::script::{self, Block, Word};
use super::shell::{MAX_CALLS, Shell, Stop};
use crate::config::entry::{Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE};
use crate::config::{bls, regexp};
use crate::environment::Saved;
use crate::volume::{Path, Search};

/// Bytes of arguments that count as a command more.
const WORDS_OF_A_STEP: usize = 256;
/// Bytes of GRUB's environment block.
const MAX_ENVIRONMENT: usize = 64 << 10;
/// Variables that an entry saves.
const MAX_SAVES: usize = 16;
/// Bytes of what one is known by, and of its values.
const MAX_SAVED: usize = 256;
/// See [`Shell::environment`].
type EnvironmentBlock = (Vec<String>, String, Vec<(String, String)>);

/// Options of commands (see [`Options::parse`]).
const SEARCH: &str = "file/f label/l fs-label fs-uuid/u set/s= no-floppy/n efidisk-only \
    cryptodisk-only root-dev-only/r hint/h= hint-ieee1275= hint-bios= hint-baremetal= \
    hint-efi= hint-arc=";
const PROBE: &str = "set/s= driver/d partmap/p fs/f fs-uuid/u label/l part-uuid part-label";
const ENVIRONMENT: &str = "file/f= skip-sig/s";

// Commands are functions of their own: a script calls itself, and what they keep on the
// stack must not lie in the frames of that.
impl Shell<'_> {
    pub(super) fn simple(&mut self, words: &[Word], block: Option<&Block>) -> Result<bool, Stop> {
        let mut words = self.expand(words);
        self.steps += words.iter().map(String::len).sum::<usize>() / WORDS_OF_A_STEP;
        let mut negated = false;
        while words.first().is_some_and(|word| word == "!") {
            words.remove(0);
            negated = !negated;
        }
        let Some((name, arguments)) = words.split_first() else {
            return match block {
                Some(block) => self.block(block),
                None => Ok(true),
            };
        };
        let status = match block {
            Some(block) => {
                if matches!(name.as_str(), "menuentry" | "submenu") {
                    self.menu_entry(arguments, block, name == "submenu")?;
                }
                true
            }
            None => self.run(name, arguments)?,
        };
        self.set("?", if status { "0" } else { "1" });
        Ok(status != negated)
    }

    fn run(&mut self, name: &str, arguments: &[String]) -> Result<bool, Stop> {
        if let Some(body) = self.functions.get(name).cloned() {
            return self.function(&body, arguments);
        }
        let first = arguments.first().map_or("", String::as_str);
        if let Some((variable, value)) = name.split_once('=') {
            self.set(variable, value);
            return Ok(true);
        }
        Ok(match name {
            "set" => {
                let (name, value) = first.split_once('=').unwrap_or((first, ""));
                let name = name.to_string();
                self.set(&name, value);
                true
            }
            "unset" => {
                self.variables.remove(first);
                true
            }
            "[" => self.test(arguments.strip_suffix(&["]".to_string()]).unwrap_or(arguments)),
            "test" => self.test(arguments),
            "true" | "insmod" | "export" | "echo" => true,
            "terminal_input" | "terminal_output" | "terminal" | "serial" | "clear" | "sleep" => {
                true
            }
            "return" | "break" | "halt" | "reboot" | "exit" => return Err(Stop::Leave),
            "linux" | "linuxefi" | "linux16" | "kernel" => self.linux(arguments),
            "initrd" | "initrdefi" | "initrd16" => self.initrd(arguments),
            "search" => self.search(arguments),
            "search.fs_uuid" | "search.fs_label" | "search.file" => {
                let kind = name.replace("search.", "--").replace('_', "-");
                let variable = arguments.get(1).map_or("root", String::as_str);
                self.search(&[kind, format!("--set={variable}"), first.to_string()])
            }
            "eval" => self.evaluate(arguments)?,
            "configfile" | "source" | "." | "normal" => self.include(first)?,
            "probe" => self.probe(arguments),
            "regexp" => self.regexp(arguments),
            "loopback" => self.loopback(arguments),
            "file_env" => self.file_variables(arguments),
            "load_env" => self.load_environment(arguments),
            "save_env" => self.save_environment(arguments),
            "increment" | "decrement" => {
                let number = self.get(first).parse().unwrap_or(0i64);
                let by = if name == "increment" { 1 } else { -1 };
                self.set(first, &number.saturating_add(by).to_string());
                true
            }
            "blscfg" => self.loader_entries(first)?,
            "chainloader" | "multiboot" | "multiboot2" | "xen_hypervisor" | "kfreebsd"
            | "knetbsd" | "kopenbsd" | "ntldr" | "wimboot" => {
                self.loading.flaw.get_or_insert(format!("{name}: not supported"));
                false
            }
            // Others are not there, as a missing module of GRUB's.
            _ => false,
        })
    }

    /// Runs words as a script; what is none is a failed command, as a syntax error is
    /// to GRUB.
    #[inline(never)]
    fn evaluate(&mut self, words: &[String]) -> Result<bool, Stop> {
        match script::parse(&words.join(" "), &mut self.tokens) {
            Ok(block) => self.call(&block),
            Err(_) => Ok(false),
        }
    }

    fn function(&mut self, body: &Block, arguments: &[String]) -> Result<bool, Stop> {
        // Its arguments are its own, all other variables are everyone's.
        let own = (1..10).map(|number: u8| number.to_string());
        let own: Vec<String> = own.chain(["#".into(), "@".into()]).collect();
        let outer: Vec<_> = own.iter().map(|name| self.variables.remove(name)).collect();
        for (name, value) in own.iter().take(9).zip(arguments) {
            self.set(name, value);
        }
        self.set("#", &arguments.len().to_string());
        self.set("@", &arguments.join(" "));
        let status = self.call(body);
        for (name, value) in own.iter().zip(outer) {
            match value {
                Some(value) => self.set(name, &value),
                None => _ = self.variables.remove(name),
            }
        }
        match status {
            Err(Stop::Leave) => Ok(true),
            other => other,
        }
    }

    /// A kernel and its command line, quoted as GRUB does.
    #[inline(never)]
    fn linux(&mut self, arguments: &[String]) -> bool {
        let Some((kernel, words)) = arguments.split_first() else {
            return false;
        };
        let quoted = |word: &String| match word.contains(' ') {
            true => format!("\"{word}\""),
            false => word.clone(),
        };
        let words: Vec<String> = words.iter().map(quoted).collect();
        self.loading.cmdline = words.join(" ");
        self.loading.kernel = self.path(kernel);
        self.or_flaw("kernel", kernel, self.loading.kernel.is_some())
    }

    #[inline(never)]
    fn initrd(&mut self, arguments: &[String]) -> bool {
        let names = arguments.iter().filter(|name| !name.starts_with("--"));
        for name in names.take(MAX_INITRDS) {
            let path = self.path(name);
            if !self.or_flaw("initrd", name, path.is_some()) {
                return false;
            }
            self.loading.initrds.extend(path);
        }
        true
    }

    /// Notes that an entry cannot start for want of a device.
    fn or_flaw(&mut self, what: &str, name: &str, found: bool) -> bool {
        if !found && self.loading.flaw.is_none() {
            let device = match name.starts_with('(') {
                true => String::new(),
                false => format!("({})", self.get("root")),
            };
            let flaw = format!("{what} {device}{name}: no such device or file system");
            self.loading.flaw = Some(flaw);
        }
        found
    }

    /// `search [--file|--label|--fs-uuid] [--set[=VARIABLE]] NAME`.
    #[inline(never)]
    fn search(&mut self, arguments: &[String]) -> bool {
        const KINDS: [&str; 4] = ["label", "fs-label", "fs-uuid", "file"];
        let mut options = Options::parse(arguments, SEARCH);
        let kind = match options.last(&KINDS) {
            Some("label" | "fs-label") => Search::Label,
            Some("fs-uuid") => Search::Uuid,
            _ => Search::File,
        };
        let mut variable = options.value("set").unwrap_or("root").to_string();
        // `--set NAME` without anything else can only mean `--set=root NAME`.
        if options.words.is_empty() {
            options.words.push(core::mem::replace(&mut variable, "root".into()));
        }
        let found = |name: &String| self.find(kind, name, &variable);
        options.words.iter().any(found)
    }

    fn find(&mut self, kind: Search, value: &str, variable: &str) -> bool {
        let found = self.volumes.search(kind, value, Some(self.drive));
        let device = found.and_then(|index| self.volumes.list.get(index));
        let Some(device) = device.map(|volume| volume.device.clone()) else {
            return false;
        };
        self.set(variable, &device);
        true
    }

    /// Runs another file; one that is not there is only a failed command.
    fn include(&mut self, name: &str) -> Result<bool, Stop> {
        let path = self.path(name).filter(|path| self.volumes.kind(path).is_some());
        match path {
            Some(path) if self.calls < MAX_CALLS => Ok(self.source(&path)?),
            _ => Ok(false),
        }
    }

    /// `probe --set=VARIABLE --fs-uuid|--label|--fs DEVICE`.
    #[inline(never)]
    fn probe(&mut self, arguments: &[String]) -> bool {
        let options = Options::parse(arguments, PROBE);
        let device = options.words.first().map_or("", String::as_str);
        let volume = self.volumes.device(device.trim_matches(['(', ')']));
        let Some(volume) = volume.and_then(|index| self.volumes.list.get(index)) else {
            return false;
        };
        let value = match options.last(&["fs-uuid", "label", "fs"]) {
            Some("fs-uuid") => volume.fs.uuid(),
            Some("label") => volume.fs.label(),
            Some("fs") => match volume.fs.name() {
                "ext4" => "ext2",
                "FAT" => "fat",
                _ => "iso9660",
            },
            // What is not known here is not known to be anything.
            _ => return false,
        };
        let value = value.to_string();
        if let Some(variable) = options.value("set") {
            self.set(variable, &value);
        }
        true
    }

    /// `regexp [--set [NUMBER:]VARIABLE] EXPRESSION TEXT`.
    #[inline(never)]
    fn regexp(&mut self, arguments: &[String]) -> bool {
        let options = Options::parse(arguments, "set/s=");
        let [pattern, text] = options.words.as_slice() else {
            return false;
        };
        self.steps += regexp::STEPS;
        let Some(groups) = regexp::find(pattern, text) else {
            return false;
        };
        for wanted in options.values("set") {
            let (number, variable) = wanted.split_once(':').unwrap_or(("1", wanted));
            let group = number.parse().ok().and_then(|n: usize| groups.get(n));
            self.set(variable, group.map_or("", String::as_str));
        }
        true
    }

    /// `loopback [--delete] DEVICE FILE`: the file's volumes become that device's.
    #[inline(never)]
    fn loopback(&mut self, arguments: &[String]) -> bool {
        let options = Options::parse(arguments, "delete/d");
        let (device, file) = match options.words.as_slice() {
            [device] if options.last(&["delete"]).is_some() => {
                return self.volumes.forget(device);
            }
            [device, file] => (device, file),
            _ => return false,
        };
        let path = self.path(file);
        let added = path.and_then(|path| self.volumes.add_file(self.drive, &path, device).ok());
        self.or_flaw("loopback", file, added.is_some())
    }

    /// `file_env --file FILE VARIABLE`, of Home Assistant's GRUB: the file's text.
    #[inline(never)]
    fn file_variables(&mut self, arguments: &[String]) -> bool {
        let options = Options::parse(arguments, ENVIRONMENT);
        let path = options.value("file").and_then(|file| self.path(file));
        let text = path.and_then(|path| self.volumes.text(&path, MAX_LINE).ok());
        let Some(text) = text else {
            return false;
        };
        for variable in &options.words {
            self.set(variable, text.trim());
        }
        true
    }

    /// `load_env [--file FILE] [NAME...]`.
    #[inline(never)]
    fn load_environment(&mut self, arguments: &[String]) -> bool {
        let Some((wanted, file, variables)) = self.environment(arguments) else {
            return false;
        };
        let saved = &self.volumes.environment;
        let own = variables.iter().map(|(name, value)| {
            (name.clone(), saved.value(&format!("{file}{name}"), value).to_string())
        });
        let new = saved.added(&file).filter(|new| variables.iter().all(|own| own.0 != new.0));
        let new = new.map(|(name, value)| (name.to_string(), value.to_string()));
        let all: Vec<(String, String)> = own.chain(new).collect();
        for (name, value) in all {
            if wanted.is_empty() || wanted.contains(&name) {
                self.set(&name, &value);
            }
        }
        true
    }

    /// `save_env [--file FILE] NAME...`.
    #[inline(never)]
    fn save_environment(&mut self, arguments: &[String]) -> bool {
        let Some((names, file, variables)) = self.environment(arguments) else {
            return false;
        };
        for name in names.into_iter().filter(|name| name.len() + file.len() < MAX_SAVED) {
            let medium = variables.iter().find(|variable| variable.0 == name);
            let saved = Saved {
                key: format!("{file}{name}"),
                medium: medium.map(|variable| variable.1.clone()).unwrap_or_default(),
                value: self.get(&name).to_string(),
            };
            if saved.medium.len() + saved.value.len() > MAX_SAVED {
                return false;
            }
            match self.menu.0.is_empty() {
                true if self.saves.len() < MAX_SAVES => self.saves.push(saved),
                false if self.loading.saves.len() < MAX_SAVES => self.loading.saves.push(saved),
                _ => return false,
            }
        }
        true
    }

    /// Names that a command is about, what its environment block is known by, and the
    /// variables in that: lines `NAME=VALUE`.
    fn environment(&self, arguments: &[String]) -> Option<EnvironmentBlock> {
        let options = Options::parse(arguments, ENVIRONMENT);
        let usual = || format!("{}/grubenv", self.get("prefix"));
        let path = self.path(&options.value("file").map_or_else(usual, ToString::to_string))?;
        let text = self.volumes.text(&path, MAX_ENVIRONMENT).ok()?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once('='));
        let variables = pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let uuid = self.volumes.list.get(path.volume)?.fs.uuid();
        Some((options.words, format!("{uuid} {} ", path.path), variables))
    }

    /// Fedora's `blscfg`: entries of the Boot Loader Specification.
    #[inline(never)]
    fn loader_entries(&mut self, dir: &str) -> Result<bool, Stop> {
        let places = ["/loader/entries", "/boot/loader/entries"];
        let places = places.iter().copied().filter(|_| dir.is_empty()).chain([dir]);
        let places: Vec<Path> = places.filter_map(|place| self.path(place)).collect();
        for place in places.iter().filter(|place| !place.path.is_empty()) {
            if self.volumes.kind(place).is_none() {
                continue;
            }
            let entries = bls::entries(self.volumes, place, &self.variables)?;
            let room = MAX_ENTRIES.saturating_sub(self.entries.len());
            for entry in entries.into_iter().take(room) {
                let mut place = self.menu.0.clone();
                place.push([self.menu.1.to_string(), entry.title.clone(), entry.id.clone()]);
                self.menu.1 += 1;
                self.entries.push(Entry { place, ..entry });
            }
            return Ok(true);
        }
        Ok(false)
    }
}
