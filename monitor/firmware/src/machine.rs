//! The machine that the firmware runs on, its console, and what the monitor orders.

use alloc::string::String;
use alloc::vec::Vec;

/// Letters of a title that a line has room for.
pub(crate) const TITLE: usize = 70;

/// The machine that the firmware runs on.
pub trait Machine {
    /// Prints on the console.
    fn print(&mut self, text: &str);
    /// Memory at a physical address in which something is to be loaded; `None`
    /// where the machine has none to give.
    fn memory(&mut self, at: u64, len: u64) -> Option<&mut [u8]>;
    /// The page that outlives a reset of the machine.
    fn kept(&mut self) -> &mut [u8];
    /// A key from the console, if one was pressed.
    fn key(&mut self) -> Option<u8>;
    /// Milliseconds since some moment.
    fn milliseconds(&mut self) -> u64;
}

/// What the monitor says about how to boot.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The entry to boot: its number from 1, title or identity.
    pub entry: Option<String>,
    /// Whether somebody sits at the console, who may choose.
    pub terminal: bool,
    /// First address behind the memory that can be loaded into.
    pub ram_end: u64,
    /// The serial numbers of the CD-ROM drives that a CD's system is told of.
    pub cdroms: Vec<String>,
}

/// Prints without what a console would take for a command: names on a medium
/// may hold anything.
pub(crate) fn say(machine: &mut dyn Machine, text: &str) {
    let visible = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    machine.print(&text.chars().map(visible).collect::<String>());
}

/// At most so many letters of a title: of a longer one both ends, as titles of one
/// menu differ at theirs.
pub(crate) fn short(title: &str, most: usize) -> String {
    let visible: Vec<char> = title.chars().filter(|c| !c.is_control()).collect();
    if visible.len() <= most {
        return visible.into_iter().collect();
    }
    let end = visible.len() - (most - 3) * 2 / 3;
    let (begin, rest) = ((most - 3) / 3, visible.get(end..).unwrap_or_default());
    let begin = visible.iter().take(begin);
    begin.chain(&['.'; 3]).chain(rest).collect()
}
