//! What was read of a file after the fact: size, first bytes, entropy, hash.
//!
//! In: what `enrich` read. Out: texts and numbers as the fields show them. A part nobody asked for, or that could not be read,
//! is `None`. It never touches the file system.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// First bytes of a file that are kept.
pub const HEADER_LEN: usize = 16;

/// What a regular file held when it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Bytes.
    pub size: u64,
    /// Its first [`HEADER_LEN`] bytes in lower-case hex; empty for an empty file.
    pub header: Box<str>,
    /// What takes reading all of it.
    pub whole: Option<Whole>,
}

/// What only the whole of a file tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Lower-case hex.
    pub sha256: Box<str>,
    /// Shannon entropy of its bytes, 0 to 8 bits each.
    pub entropy: f64,
}

/// Bytes as lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> Box<str> {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let text: String = digits
        .filter_map(|digit| DIGITS.get(usize::from(digit)))
        .collect();
    text.into()
}

/// The file that a process runs. Shared by all copies of an image, so that it is read once.
#[derive(Debug, Default)]
pub struct Program {
    /// 0 when unknown.
    pub inode: u64,
    sha256: OnceLock<Box<str>>,
    asked: AtomicBool,
}

impl Program {
    #[must_use]
    pub fn new(inode: u64) -> Program {
        Program {
            inode,
            ..Program::default()
        }
    }

    /// `process.hash.sha256`, once somebody asked for it and it was read.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.get().map(|text| &**text)
    }

    /// True for the first who asks: who is to read it then.
    pub fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::Relaxed)
    }

    pub fn set_sha256(&self, text: Box<str>) {
        // A second answer would be about the same file.
        let _ = self.sha256.set(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_hex() {
        assert_eq!(&*hex(b"\x7fELF\x00\xa9"), "7f454c4600a9");
        assert_eq!(&*hex(b""), "");
    }

    #[test]
    fn a_program_is_asked_for_once() {
        let program = Program::new(7);
        assert!(program.ask() && !program.ask());
        assert_eq!(program.sha256(), None);
        program.set_sha256("ab".into());
        program.set_sha256("cd".into());
        assert_eq!(program.sha256(), Some("ab"));
    }
}
