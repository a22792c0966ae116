//! Which entry of a configuration is booted: what the monitor orders, what the person at
//! the console chooses, or the default.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

use crate::config::Config;
use crate::machine::{Machine, Options, TITLE, say, short};
use crate::volume::Drive;

/// Milliseconds that the menu waits for a key.
const WAIT_MS: u64 = 5000;
/// Milliseconds in which the rest of an arrow key's bytes arrives.
const KEY_MS: u64 = 50;
/// Letters of a title in the line that asks.
const ASKED: usize = 36;

/// What is chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The entry with this index.
    Entry(usize),
    /// An entry that the configuration does not have.
    Missing,
    /// To boot nothing.
    End,
}

enum Key {
    Up,
    Down,
    Escape,
    Byte(u8),
}

/// Which entry to boot; shows the menu if there is somebody and a choice.
pub(crate) fn choose(
    config: &Config,
    drive: &Drive,
    options: &Options,
    machine: &mut dyn Machine,
) -> Choice {
    let source = format!("{}: {}", drive.id, config.source);
    if let Some(wanted) = &options.entry {
        return match config.find(wanted) {
            Ok(found) => Choice::Entry(found),
            Err(why) => {
                let wanted = short(wanted, TITLE);
                say(machine, &format!("mote: {source}: {why} '{wanted}'; there are\n"));
                list(config, machine);
                Choice::Missing
            }
        };
    }
    if let Some(lost) = &config.lost {
        say(machine, &format!("mote: {source}: its default: {}\n", short(lost, 2 * TITLE)));
    }
    let able = config.entries.iter().filter(|entry| entry.flaw.is_none()).count();
    if !options.terminal || able < 2 {
        return Choice::Entry(config.default);
    }
    say(machine, &format!("{source}\n"));
    list(config, machine);
    let chosen = ask(config, machine);
    say(machine, "\n");
    chosen
}

fn list(config: &Config, machine: &mut dyn Machine) {
    let mut text = String::new();
    for (number, entry) in (1..).zip(&config.entries) {
        let _ = write!(text, "{number:4}  {}", short(&entry.title, TITLE));
        if let Some(flaw) = &entry.flaw {
            let _ = write!(text, " ({})", short(flaw, TITLE));
        }
        text.push('\n');
    }
    say(machine, &text);
}

/// Lets the person at the console choose; a key stops the clock.
fn ask(config: &Config, machine: &mut dyn Machine) -> Choice {
    let end = machine.milliseconds() + WAIT_MS;
    let (mut index, mut typed, mut seconds) = (config.default, String::new(), Some(u64::MAX));
    let last = config.entries.len().saturating_sub(1);
    loop {
        let rest = end.saturating_sub(machine.milliseconds()).div_ceil(1000);
        let key = match (read_key(machine), seconds) {
            (None, Some(0)) => return Choice::Entry(index),
            (None, Some(shown)) if shown != rest => {
                seconds = Some(rest);
                prompt(config, index, seconds, &typed, machine);
                continue;
            }
            (None, _) => {
                core::hint::spin_loop();
                continue;
            }
            (Some(key), _) => key,
        };
        seconds = None;
        match key {
            Key::Up => index = index.saturating_sub(1),
            Key::Down => index = last.min(index + 1),
            Key::Escape => typed.clear(),
            Key::Byte(3) => return Choice::End,
            Key::Byte(8 | 0x7f) => _ = typed.pop(),
            Key::Byte(digit @ b'0'..=b'9') if typed.len() < 4 => typed.push(digit.into()),
            Key::Byte(b'\r' | b'\n') => {
                let number = typed.parse().map_or(index.wrapping_add(1), |number: usize| number);
                typed.clear();
                let chosen = number.wrapping_sub(1);
                match config.entries.get(chosen).map(|entry| &entry.flaw) {
                    Some(None) => return Choice::Entry(chosen),
                    Some(Some(flaw)) => {
                        let flaw = short(flaw, TITLE);
                        say(machine, &format!("\n{number} cannot be started: {flaw}\n"));
                    }
                    None => say(machine, &format!("\nThere are entries 1 to {}\n", last + 1)),
                }
            }
            Key::Byte(_) => {}
        }
        prompt(config, index, seconds, &typed, machine);
    }
}

/// Draws the line that asks in place of itself.
fn prompt(
    config: &Config,
    index: usize,
    seconds: Option<u64>,
    typed: &str,
    machine: &mut dyn Machine,
) {
    let title = config.entries.get(index).map_or("", |entry| &entry.title);
    let wait = seconds.map_or(String::new(), |seconds| format!(", in {seconds} s"));
    let title = short(title, ASKED);
    machine.print("\r");
    say(machine, &format!("Number, or Enter for {} ({title}){wait}: {typed}", index + 1));
    machine.print("\x1b[K");
}

/// A key, if one was pressed. Arrows are three bytes that begin with the one of Esc.
fn read_key(machine: &mut dyn Machine) -> Option<Key> {
    let first = machine.key()?;
    if first != 0x1b {
        return Some(Key::Byte(first));
    }
    let end = machine.milliseconds() + KEY_MS;
    let mut next = || {
        loop {
            match machine.key() {
                None if machine.milliseconds() < end => core::hint::spin_loop(),
                key => return key,
            }
        }
    };
    Some(match next() {
        None => Key::Escape,
        Some(b'[' | b'O') => match next() {
            Some(b'A') => Key::Up,
            Some(b'B') => Key::Down,
            _ => Key::Byte(0),
        },
        Some(_) => Key::Byte(0),
    })
}

#[cfg(test)]
#[path = "menu_test.rs"]
mod menu_test;
