//! The findings, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::{exit, printable};

/// Columns of the table.
const WIDTH: usize = 80;
/// Columns before the finding: level and point.
const INDENT: usize = 27;
/// Columns of a point's name.
const POINT: usize = 16;

/// How good or bad it is; the later, the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    #[default]
    Fine,
    /// The host does not tell.
    Unknown,
    /// VMs run, but less safely or more slowly than they could.
    Weak,
    /// VMs with this image run, but not now.
    #[serde(rename = "in use")]
    InUse,
    /// VMs, or VMs with this image, do not run.
    Missing,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How good or bad it is.
    pub level: Level,
    /// The finding.
    pub found: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

impl Verdict {
    fn new(level: Level, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, found: found.into(), advice: advice.into() }
    }

    pub(super) fn fine(found: impl Into<String>) -> Self {
        Self::new(Level::Fine, found, "")
    }

    pub(super) fn unknown(found: impl Into<String>) -> Self {
        Self::new(Level::Unknown, found, "")
    }

    pub(super) fn weak(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Weak, found, advice)
    }

    pub(super) fn in_use(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::InUse, found, advice)
    }

    pub(super) fn missing(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Missing, found, advice)
    }

    /// Fine if `good`, or else weak.
    pub(super) fn fine_if(good: bool, found: impl Into<String>, advice: &str) -> Self {
        match good {
            true => Self::fine(found),
            false => Self::weak(found, advice),
        }
    }
}

/// What a check says, and about what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A part of the host, or an image's path.
    pub about: String,
    /// Which of its properties.
    pub point: String,
    /// How it is.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// All that was found, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
    unusable_image: bool,
    unfit_host: bool,
}

impl Report {
    /// Adds findings about a part of the host.
    pub fn host(&mut self, about: &str, point: &str, verdict: Verdict) {
        self.unfit_host |= verdict.level == Level::Missing;
        self.add(about, point, verdict);
    }

    /// Adds findings about an image.
    pub fn image(&mut self, about: &str, point: &str, verdict: Verdict) {
        self.unusable_image |= verdict.level >= Level::InUse;
        self.add(about, point, verdict);
    }

    fn add(&mut self, about: &str, point: &str, verdict: Verdict) {
        self.findings.push(Finding { about: about.to_owned(), point: point.to_owned(), verdict });
    }

    /// All findings, in order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst of all levels.
    pub fn worst(&self) -> Level {
        let levels = self.findings.iter().map(|finding| finding.verdict.level);
        levels.max().unwrap_or_default()
    }

    /// The exit code. An unknown point counts as weak.
    pub fn exit_code(&self) -> u8 {
        match self.worst() {
            _ if self.unfit_host => exit::HOST,
            _ if self.unusable_image => exit::INPUT,
            Level::Fine => exit::OK,
            _ => exit::WEAK,
        }
    }

    /// The report for programs, in one line.
    pub fn json(&self) -> String {
        let value = serde_json::json!({
            "mote": env!("CARGO_PKG_VERSION"),
            "worst": self.worst(),
            "exit_code": self.exit_code(),
            "findings": self.findings,
        });
        format!("{value}\n")
    }

    /// The report for people, at most 80 columns wide where words allow.
    pub fn table(&self, colors: bool) -> String {
        let mut text = String::new();
        let mut about = "";
        for finding in &self.findings {
            if finding.about != about {
                about = &finding.about;
                let _ = writeln!(text, "{}", printable(about));
            }
            let Verdict { level, found, advice } = &finding.verdict;
            let (name, color) = match level {
                Level::Fine => ("fine", "\x1b[32m"),
                Level::Unknown => ("unknown", "\x1b[36m"),
                Level::Weak => ("weak", "\x1b[33m"),
                Level::InUse => ("in use", "\x1b[33m"),
                Level::Missing => ("missing", "\x1b[31m"),
            };
            let (on, off) = if colors { (color, "\x1b[0m") } else { ("", "") };
            let _ = write!(text, "  {on}{name:7}{off} {:POINT$} ", finding.point);
            // A longer name takes its room from what was found.
            let at = INDENT - POINT + finding.point.len().max(POINT);
            wrap(&mut text, at, found);
            if !advice.is_empty() {
                let _ = write!(text, "{:1$}", "", INDENT);
                wrap(&mut text, INDENT, &format!("-> {advice}"));
            }
        }
        let count = |level| {
            let levels = self.findings.iter().map(|finding| finding.verdict.level);
            levels.filter(|other| *other == level).count()
        };
        let in_use = match count(Level::InUse) {
            0 => String::new(),
            count => format!("{count} in use, "),
        };
        let [fine, weak, missing, unknown] =
            [Level::Fine, Level::Weak, Level::Missing, Level::Unknown].map(count);
        text + &format!("{fine} fine, {weak} weak, {in_use}{missing} missing, {unknown} unknown\n")
    }
}

/// Adds `words`, the first in column `at`, and ends the line.
fn wrap(text: &mut String, at: usize, words: &str) {
    let mut column = at;
    for (n, word) in printable(words).split(' ').enumerate() {
        let length = word.chars().count();
        if n > 0 && column + 1 + length > WIDTH {
            let _ = write!(text, "\n{:1$}", "", INDENT);
            column = INDENT;
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}
