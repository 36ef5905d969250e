//! The lines of an input.
//!
//! In: anything that can be read. Out: lines with their numbers, blank ones left out. Never holds more than one line.

use std::io::{self, BufRead};

use super::LINE_BYTES_MAX;

/// The lines of an input. One that the input has in its buffer as a whole is not copied.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    /// A line of which the input had only a part.
    buffer: Vec<u8>,
    /// Bytes of the line handed out last that are still in the input's buffer.
    pending: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            pending: 0,
            number: 0,
        }
    }

    /// The next line that is not blank, with its number from 1 and without its line feed. `None` at the end.
    ///
    /// # Errors
    /// What reading gives, and a line longer than [`LINE_BYTES_MAX`].
    pub fn next_line(&mut self) -> io::Result<Option<(&[u8], u64)>> {
        self.input.consume(std::mem::take(&mut self.pending));
        loop {
            let available = match self.input.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.number += 1;
            let Some(end) = memchr::memchr(b'\n', available) else {
                self.gather()?;
                if self.buffer.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some((&self.buffer, self.number)));
            };
            if end > LINE_BYTES_MAX {
                return Err(self.too_long());
            }
            let line = available.get(..end).unwrap_or_default();
            if line.trim_ascii().is_empty() {
                self.input.consume(end + 1);
                continue;
            }
            self.pending = end + 1;
            // It is there already: nothing is read.
            let line = self.input.fill_buf()?.get(..end).unwrap_or_default();
            return Ok(Some((line, self.number)));
        }
    }

    /// Reads the line at hand to its end into a buffer of its own.
    fn gather(&mut self) -> io::Result<()> {
        self.buffer.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX) + 2;
        io::Read::take(&mut self.input, limit).read_until(b'\n', &mut self.buffer)?;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(self.too_long());
        }
        Ok(())
    }

    fn too_long(&self) -> io::Error {
        let message = format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}
