//! The escape key of a console on a terminal.

/// What the escape keys do, for a person who asks.
pub const HELP: &str = "\r\n\
    Ctrl-A x       leave: end the VM at once\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n\
    Ctrl-A h       this help\r\n";

const CTRL_A: u8 = 1;

/// What a typed key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A byte for the guest.
    Byte(u8),
    /// Nothing yet, or nothing at all.
    Nothing,
    /// Show the help.
    Help,
    /// End the VM.
    Leave,
}

/// Watches typed bytes for Ctrl-A.
#[derive(Clone, Copy, Debug, Default)]
pub struct Escape {
    armed: bool,
}

impl Escape {
    /// Takes one typed byte.
    pub fn feed(&mut self, byte: u8) -> Typed {
        if !std::mem::take(&mut self.armed) {
            self.armed = byte == CTRL_A;
            return if self.armed { Typed::Nothing } else { Typed::Byte(byte) };
        }
        match byte {
            b'x' | b'X' => Typed::Leave,
            b'h' | b'H' | b'?' => Typed::Help,
            CTRL_A => Typed::Byte(CTRL_A),
            _ => Typed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Vec<Typed> {
        let mut escape = Escape::default();
        keys.iter().map(|key| escape.feed(*key)).collect()
    }

    #[test]
    fn only_ctrl_a_is_special() {
        use Typed::{Byte, Help, Leave, Nothing};
        assert_eq!(typed(b"x\x03h"), [Byte(b'x'), Byte(3), Byte(b'h')]);
        assert_eq!(typed(b"\x01x"), [Nothing, Leave]);
        assert_eq!(typed(b"\x01hx"), [Nothing, Help, Byte(b'x')]);
        assert_eq!(typed(b"\x01\x01x"), [Nothing, Byte(1), Byte(b'x')]);
        assert_eq!(typed(b"\x01qx"), [Nothing, Nothing, Byte(b'x')]);
    }
}
