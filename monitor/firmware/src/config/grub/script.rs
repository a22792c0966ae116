//! GRUB's script language: from text to commands (GRUB manual, "Writing full
//! configuration files directly").

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::Chars;

use crate::Error;

const DAMAGED: Error = Error::Damaged("script");
/// Blocks inside blocks.
const MAX_DEPTH: usize = 16;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it stands.
    Text(String),
    /// A variable's value, which is one word if it was quoted.
    Variable {
        /// Its name.
        name: String,
        /// Whether it stood in quotes.
        quoted: bool,
    },
}

/// A word before its variables are replaced. One without pieces was an empty
/// pair of quotes.
pub(super) type Word = Vec<Piece>;

/// Commands in order.
pub(super) type Block = Rc<Vec<Command>>;

/// A command.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// A command with its arguments, and the block in braces behind them.
    Simple(Vec<Word>, Option<Block>),
    /// Conditions with what follows each, and what follows if none holds.
    If(Vec<(Block, Block)>, Block),
    /// Variable, values, body.
    For(String, Vec<Word>, Block),
    /// Condition and body; the status of the condition that ends the loop.
    While(Block, Block, bool),
    /// Name and body.
    Function(String, Block),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    Open,
    Close,
    /// A semicolon or the end of a line.
    End,
}

/// Parses a script.
///
/// # Errors
/// It is damaged, or has more tokens than there is `room` for.
pub(super) fn parse(text: &str, room: &mut usize) -> Result<Block, Error> {
    let tokens = tokens(text, room)?;
    let mut parser = Parser { tokens: tokens.into_iter().peekable() };
    let block = parser.block(&[], 0)?;
    match parser.tokens.next() {
        None => Ok(block),
        Some(_) => Err(DAMAGED),
    }
}

fn tokens(text: &str, room: &mut usize) -> Result<Vec<Token>, Error> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        let count = tokens.len();
        match c {
            '\n' | ';' => {
                chars.next();
                tokens.push(Token::End);
            }
            '{' | '}' => {
                chars.next();
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            c if c.is_whitespace() => {
                chars.next();
            }
            // The line goes on.
            '\\' if chars.clone().nth(1) == Some('\n') => _ = chars.nth(1),
            _ => {
                tokens.push(Token::Word(word(&mut chars)));
            }
        }
        *room = room.checked_sub(tokens.len() - count).ok_or(Error::TooLarge("script"))?;
    }
    Ok(tokens)
}

/// Reads a word, which a brace ends as well.
fn word(chars: &mut Peekable<Chars>) -> Word {
    let (mut word, mut text) = (Word::new(), String::new());
    let mut inside = false;
    while let Some(&c) = chars.peek() {
        if !inside && (c.is_whitespace() || matches!(c, ';' | '{' | '}')) {
            break;
        }
        chars.next();
        match c {
            '\'' if !inside => {
                text.extend(core::iter::from_fn(|| chars.next_if(|c| *c != '\'')));
                chars.next();
            }
            '"' => inside = !inside,
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => {
                    if inside && !matches!(c, '"' | '\\' | '$') {
                        text.push('\\');
                    }
                    text.push(c);
                }
            },
            '$' => match name(chars) {
                // A text to be translated.
                None if chars.peek() == Some(&'"') => {}
                None => text.push('$'),
                Some(name) => {
                    if !text.is_empty() {
                        word.push(Piece::Text(core::mem::take(&mut text)));
                    }
                    word.push(Piece::Variable { name, quoted: inside });
                }
            },
            c => text.push(c),
        }
    }
    if !text.is_empty() {
        // Most words have this one piece: no room for more.
        word.reserve_exact(1);
        word.push(Piece::Text(text));
    }
    word
}

/// The name of a variable behind its dollar sign.
fn name(chars: &mut Peekable<Chars>) -> Option<String> {
    if chars.next_if_eq(&'{').is_some() {
        let name = core::iter::from_fn(|| chars.next_if(|c| *c != '}' && *c != '\n')).collect();
        chars.next_if_eq(&'}');
        return Some(name);
    }
    if let Some(c) = chars.next_if(|c| matches!(c, '?' | '@' | '#' | '*')) {
        return Some(c.to_string());
    }
    // An argument's number ends with its digits.
    let digits = chars.peek().is_some_and(char::is_ascii_digit);
    let is_name = |c: &char| match digits {
        true => c.is_ascii_digit(),
        false => c.is_ascii_alphanumeric() || *c == '_',
    };
    let name: String = core::iter::from_fn(|| chars.next_if(is_name)).collect();
    Some(name).filter(|name| !name.is_empty())
}

struct Parser {
    tokens: Peekable<alloc::vec::IntoIter<Token>>,
}

impl Parser {
    /// The next token, if it is a word of its own that means something here.
    fn reserved(&mut self) -> Option<String> {
        match self.tokens.peek() {
            Some(Token::Word(word)) => match word.as_slice() {
                [Piece::Text(text)] => Some(text.clone()),
                _ => None,
            },
            Some(Token::Close) => Some("}".into()),
            _ => None,
        }
    }

    /// Commands up to one of the words in `ends`, or to the end.
    fn block(&mut self, ends: &[&str], depth: usize) -> Result<Block, Error> {
        if depth > MAX_DEPTH {
            return Err(DAMAGED);
        }
        let mut commands = Vec::new();
        loop {
            while self.tokens.next_if_eq(&Token::End).is_some() {}
            if self.tokens.peek().is_none() {
                break;
            }
            let reserved = self.reserved();
            if reserved.as_deref().is_some_and(|word| ends.contains(&word)) {
                break;
            }
            commands.push(self.command(reserved.as_deref(), depth + 1)?);
        }
        Ok(Rc::new(commands))
    }

    /// Takes a word that has to be there.
    fn expect(&mut self, wanted: &str) -> Result<(), Error> {
        if self.reserved().as_deref() != Some(wanted) {
            return Err(DAMAGED);
        }
        self.tokens.next();
        Ok(())
    }

    fn command(&mut self, reserved: Option<&str>, depth: usize) -> Result<Command, Error> {
        match reserved {
            Some("if") => self.conditions(depth),
            Some(word @ ("while" | "until")) => {
                let ends = word == "until";
                self.tokens.next();
                let condition = self.block(&["do"], depth)?;
                Ok(Command::While(condition, self.body(depth)?, ends))
            }
            Some("for") => {
                self.tokens.next();
                let name = self.reserved().ok_or(DAMAGED)?;
                self.tokens.next();
                self.expect("in")?;
                let values = self.words();
                while self.tokens.next_if_eq(&Token::End).is_some() {}
                Ok(Command::For(name, values, self.body(depth)?))
            }
            Some("function") => {
                self.tokens.next();
                let name = self.reserved().ok_or(DAMAGED)?;
                self.tokens.next();
                while self.tokens.next_if_eq(&Token::End).is_some() {}
                let body = self.braces(depth)?.ok_or(DAMAGED)?;
                Ok(Command::Function(name, body))
            }
            _ => {
                let words = self.words();
                let block = self.braces(depth)?;
                if words.is_empty() && block.is_none() {
                    return Err(DAMAGED);
                }
                Ok(Command::Simple(words, block))
            }
        }
    }

    fn words(&mut self) -> Vec<Word> {
        let next = || {
            let next = self.tokens.next_if(|token| matches!(token, Token::Word(_)));
            match next {
                Some(Token::Word(word)) => Some(word),
                _ => None,
            }
        };
        core::iter::from_fn(next).collect()
    }

    fn braces(&mut self, depth: usize) -> Result<Option<Block>, Error> {
        if self.tokens.next_if_eq(&Token::Open).is_none() {
            return Ok(None);
        }
        let block = self.block(&["}"], depth)?;
        self.expect("}")?;
        Ok(Some(block))
    }

    fn body(&mut self, depth: usize) -> Result<Block, Error> {
        self.expect("do")?;
        let body = self.block(&["done"], depth)?;
        self.expect("done")?;
        Ok(body)
    }

    fn conditions(&mut self, depth: usize) -> Result<Command, Error> {
        let (mut branches, mut otherwise) = (Vec::new(), Block::default());
        loop {
            // `if` or `elif`.
            self.tokens.next();
            let condition = self.block(&["then"], depth)?;
            self.expect("then")?;
            let body = self.block(&["elif", "else", "fi"], depth)?;
            branches.push((condition, body));
            match self.reserved().as_deref() {
                Some("elif") => {}
                Some("else") => {
                    self.tokens.next();
                    otherwise = self.block(&["fi"], depth)?;
                    break;
                }
                _ => break,
            }
        }
        self.expect("fi")?;
        Ok(Command::If(branches, otherwise))
    }
}
