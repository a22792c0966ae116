//! The kernel's command line. The monitor has this file too.

extern crate alloc;

use alloc::format;
use alloc::string::String;

/// Adds `parameter` where the kernel takes it: before `--`, behind which all is
/// init's, and before `---`, behind which it is for a system that an installer
/// installs (Linux, `parse_args`: quotes hide a space).
#[must_use]
pub fn insert(cmdline: &str, parameter: &str) -> String {
    let (own, rest) = cmdline.split_at(end(cmdline));
    let space = |text: &str| if text.is_empty() { "" } else { " " };
    let own = own.trim_end();
    format!("{own}{}{parameter}{}{rest}", space(own), space(rest))
}

/// Where the first word that ends the kernel's own begins.
fn end(cmdline: &str) -> usize {
    let (mut start, mut quoted) = (0, false);
    for (at, c) in cmdline.char_indices().chain([(cmdline.len(), ' ')]) {
        if c == '"' {
            quoted = !quoted;
        } else if c.is_ascii_whitespace() && !quoted {
            if let Some("--" | "---") = cmdline.get(start..at) {
                return start;
            }
            start = at + 1;
        }
    }
    cmdline.len()
}

#[cfg(test)]
mod tests {
    use super::insert;

    #[test]
    fn a_parameter_comes_before_what_is_not_the_kernels() {
        for (given, wanted) in [
            ("", "p=1"),
            ("a", "a p=1"),
            ("a b ", "a b p=1"),
            ("--", "p=1 --"),
            ("-- quiet", "p=1 -- quiet"),
            ("a -- quiet", "a p=1 -- quiet"),
            ("a  --", "a p=1 --"),
            ("a\t-- b -- c", "a p=1 -- b -- c"),
            ("a --- quiet", "a p=1 --- quiet"),
            ("a --- b -- c", "a p=1 --- b -- c"),
            ("a -- b --- c", "a p=1 -- b --- c"),
            ("--a b-- ----", "--a b-- ---- p=1"),
            ("x=\"a -- b\" c", "x=\"a -- b\" c p=1"),
            ("x=\"a -- b\" -- c", "x=\"a -- b\" p=1 -- c"),
            ("x=\"open -- c", "x=\"open -- c p=1"),
            ("ä -- ö", "ä p=1 -- ö"),
        ] {
            assert_eq!(insert(given, "p=1"), wanted, "{given}");
        }
    }
}
