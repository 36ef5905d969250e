//! What programs of two builds and their daemons must agree on, for one to go on where the other stopped.
//!
//! In: what the build found in the sources of records and maps, and the table of programs. Out: one hash. Of two builds that tell a
//! record, a value in a map or a hook differently it must never be the same; that it differs for less does no harm but a gap.

#[cfg(test)]
#[path = "plain.rs"]
mod plain;

use sha2::{Digest as _, Sha256};

use super::Entry;
use super::{later::LATER, programs::PROGRAMS};

/// What the build says of records and maps: these words, then a hash.
static SAID: &[u8; 82] = include_bytes!(concat!(env!("OUT_DIR"), "/layout"));

/// Of the form of what is kept beside them. Raised with every change of a type in `about.rs`, or of the records' log: a test holds a
/// sample against it.
pub(super) const FORM: u32 = 1;

/// See the module.
pub(super) fn of_this_build() -> [u8; 32] {
    // Read when it is asked for, so that it is one place in the daemon's file.
    let mut hash = Sha256::new_with_prefix(std::hint::black_box(SAID));
    hash.update(FORM.to_le_bytes());
    for entry in PROGRAMS {
        hash.update(told(entry));
    }
    for later in LATER {
        let (of, entry) = (later.of as u32, told(&later.entry));
        hash.update(format!("{of} of {}: {entry}", later.first));
    }
    hash.finalize().into()
}

fn told(entry: &Entry) -> String {
    let (kind, hook) = (entry.kind as u16, entry.hook.name());
    format!("{} {kind} {hook}\n", entry.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plain::plain;

    #[test]
    fn the_build_says_a_hash() {
        let said = str::from_utf8(SAID).unwrap();
        let hash = said.strip_prefix("eql-sensor layout ").unwrap();
        assert!(
            hash.chars().all(|digit| digit.is_ascii_hexdigit()),
            "{hash}"
        );
    }

    #[test]
    fn only_comments_and_spaces_make_no_difference() {
        let source = "//! A file.\npub struct A {\n    /// A field.\n    pub a: u64, // of it\n}\n";
        let same = "pub struct A { pub a:  u64, // of it\n}";
        assert_eq!(plain(source), plain(same));
        for other in [
            source.replace("u64", "u32"),
            source.replace("pub a", "pub b"),
            source.replace("struct", "union"),
            source.replace("}", "pub b: u64 }"),
        ] {
            assert_ne!(plain(source), plain(&other));
        }
    }
}
