//! Numbers and lists as bytes. One description of a structure's fields serves
//! for both writing and reading, so that the two cannot differ.

use crate::Error;

/// Where fields are written to or read from. Little-endian, without padding.
#[derive(Debug)]
pub enum Io<'a> {
    /// Bytes written so far.
    Write(Vec<u8>),
    /// Bytes left to read.
    Read(&'a [u8]),
}

impl<'a> Io<'a> {
    /// An empty writer.
    #[must_use]
    pub fn write() -> Self {
        Self::Write(Vec::new())
    }

    /// A reader of `bytes`.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Self {
        Self::Read(bytes)
    }

    /// The bytes written.
    #[must_use]
    pub fn written(self) -> Vec<u8> {
        match self {
            Self::Write(bytes) => bytes,
            Self::Read(_) => Vec::new(),
        }
    }

    /// Checks that all was read.
    ///
    /// # Errors
    /// There is more.
    pub fn end(&self) -> Result<(), Error> {
        match self {
            Self::Read([_, ..]) => Err(Error::Field("length")),
            _ => Ok(()),
        }
    }

    /// `value.len()` raw bytes.
    ///
    /// # Errors
    /// There are fewer left to read.
    pub fn bytes(&mut self, value: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Write(to) => to.extend_from_slice(value),
            Self::Read(from) => {
                let (head, rest) =
                    from.split_at_checked(value.len()).ok_or(Error::Field("length"))?;
                value.copy_from_slice(head);
                *from = rest;
            }
        }
        Ok(())
    }

    /// A byte.
    ///
    /// # Errors
    /// None is left to read.
    pub fn u8(&mut self, value: &mut u8) -> Result<(), Error> {
        self.bytes(std::slice::from_mut(value))
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// None is left to read, or it is something else.
    pub fn bool(&mut self, value: &mut bool) -> Result<(), Error> {
        let mut byte = u8::from(*value);
        self.u8(&mut byte)?;
        *value = byte == 1;
        (byte <= 1).then_some(()).ok_or(Error::Field("yes or no"))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// Too few are left to read.
    pub fn u16(&mut self, value: &mut u16) -> Result<(), Error> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u16::from_le_bytes(bytes);
        Ok(())
    }

    /// Four bytes.
    ///
    /// # Errors
    /// Too few are left to read.
    pub fn u32(&mut self, value: &mut u32) -> Result<(), Error> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u32::from_le_bytes(bytes);
        Ok(())
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// Too few are left to read.
    pub fn u64(&mut self, value: &mut u64) -> Result<(), Error> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u64::from_le_bytes(bytes);
        Ok(())
    }

    /// A count of four bytes, `most` at most, and so many elements. Memory is
    /// taken element by element, as the bytes for each have been there.
    ///
    /// # Errors
    /// There are more, or one of them is not right.
    pub fn list<T: Default>(
        &mut self,
        values: &mut Vec<T>,
        most: usize,
        each: impl Fn(&mut T, &mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.u32(&mut count)?;
        if usize::try_from(count).is_ok_and(|count| count > most) {
            return Err(Error::Field("length of a list"));
        }
        if let Self::Read(_) = self {
            values.clear();
            for _ in 0..count {
                let mut value = T::default();
                each(&mut value, self)?;
                values.push(value);
            }
            return Ok(());
        }
        values.iter_mut().try_for_each(|value| each(value, self))
    }

    /// A *yes* or *no*, and the value if there is one.
    ///
    /// # Errors
    /// There are too few bytes left to read, or the value is not right.
    pub fn option<T: Default>(
        &mut self,
        value: &mut Option<T>,
        each: impl Fn(&mut T, &mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut present = value.is_some();
        self.bool(&mut present)?;
        if present { each(value.get_or_insert_default(), self) } else { Ok(()) }
    }

    /// A count and so many bytes.
    ///
    /// # Errors
    /// There are more than `most`, or too few left to read.
    pub fn blob(&mut self, value: &mut Vec<u8>, most: usize) -> Result<(), Error> {
        self.list(value, most, |byte, io| io.u8(byte))
    }

    /// A count and so many bytes of printable text.
    ///
    /// # Errors
    /// There are more than `most`, too few left to read, or it is not text.
    pub fn text(&mut self, value: &mut String, most: usize) -> Result<(), Error> {
        let mut bytes = std::mem::take(value).into_bytes();
        self.blob(&mut bytes, most)?;
        *value = String::from_utf8(bytes).map_err(|_| Error::Field("text"))?;
        if value.chars().any(char::is_control) {
            return Err(Error::Field("text"));
        }
        Ok(())
    }
}
