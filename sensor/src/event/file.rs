//! The file of a file event.
//!
//! In: a path and what the inode says. Out: name, directory and extension as slices of that path. It never touches the
//! file system: the file may be gone by now.

use super::{Account, Contents, Digits};

/// A file an event is about.
#[derive(Clone, Debug)]
pub struct File {
    path: PathText,
    /// What a rename took it from.
    pub original: Option<PathText>,
    /// The text of a symbolic link, or the path that a link shares its file with.
    pub target: Option<Box<str>>,
    pub inode: Option<Inode>,
    /// `st_mode` bits, type included; the type bits alone, or 0, where there is no inode.
    pub mode: u32,
    /// The path is as the caller wrote it, read from its memory.
    pub path_from_user: bool,
    /// The act came about; false where nobody can know, because the record that says so was lost.
    pub confirmed: bool,
    /// What was done to it, for a modification.
    pub change: Option<Change>,
    /// What it held a little later, where somebody asked and it could be read.
    pub contents: Option<Box<Contents>>,
}

/// How a file was modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write,
    Truncate,
    Mode,
    Owner,
}

impl Change {
    /// `file.Ext.modification`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Change::Write => "write",
            Change::Truncate => "truncate",
            Change::Mode => "chmod",
            Change::Owner => "chown",
        }
    }
}

/// What the inode of a file says.
#[derive(Clone, Debug)]
pub struct Inode {
    pub number: Digits,
    /// Permission bits in octal.
    pub mode: Digits,
    pub owner: Account,
    pub group: Account,
}

/// A path and its parts.
#[derive(Clone, Debug)]
pub struct PathText {
    path: Box<str>,
    /// Where the last component starts.
    name_at: usize,
}

impl PathText {
    #[must_use]
    pub fn new(path: Box<str>) -> PathText {
        let name_at = path.rfind('/').map_or(0, |slash| slash + 1);
        PathText { path, name_at }
    }

    /// `None` when it could not be read.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        Some(&*self.path).filter(|path| !path.is_empty())
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.path
            .get(self.name_at..)
            .filter(|name| !name.is_empty())
    }

    /// The path without its last component.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        match self.name_at {
            0 => None,
            1 => Some("/"),
            at => self.path.get(..at - 1),
        }
    }

    /// What follows the last dot of the name.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        let (_, extension) = self.name()?.rsplit_once('.')?;
        Some(extension).filter(|extension| !extension.is_empty())
    }
}

impl File {
    /// A file whose inode is known.
    #[must_use]
    pub fn new(path: Box<str>, inode: u64, mode: u32, owner: Account, group: Account) -> File {
        File {
            inode: Some(Inode {
                number: Digits::decimal(inode),
                mode: Digits::mode(mode),
                owner,
                group,
            }),
            ..File::without_inode(path, mode)
        }
    }

    /// A file of which only the path is known, and the type bits of its mode if any.
    #[must_use]
    pub fn without_inode(path: Box<str>, mode: u32) -> File {
        File {
            path: PathText::new(path),
            original: None,
            target: None,
            inode: None,
            mode,
            path_from_user: false,
            confirmed: true,
            change: None,
            contents: None,
        }
    }

    /// `file.path`; `None` when it could not be read.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.path()
    }

    /// `file.name`: the last component.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.path.name()
    }

    /// `file.directory`: the path without its last component.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        self.path.directory()
    }

    /// `file.extension`: what follows the last dot of the name.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        self.path.extension()
    }

    /// `file.type`, from the mode.
    #[must_use]
    pub fn file_type(&self) -> Option<&'static str> {
        match self.mode & 0o170_000 {
            0o100_000 => Some("file"),
            0o040_000 => Some("dir"),
            0o120_000 => Some("symlink"),
            0o010_000 => Some("fifo"),
            0o140_000 => Some("socket"),
            0o060_000 | 0o020_000 => Some("device"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, name: Option<&str>, directory: Option<&str>, extension: Option<&str>) {
        let root = Account::new(0, None);
        let file = File::new(path.into(), 7, 0o100_644, root.clone(), root);
        assert_eq!(file.name(), name, "{path}");
        assert_eq!(file.directory(), directory, "{path}");
        assert_eq!(file.extension(), extension, "{path}");
        assert_eq!(file.path(), Some(path).filter(|p| !p.is_empty()));
        assert_eq!(file.file_type(), Some("file"));
    }

    #[test]
    fn parts_of_a_path() {
        check("/tmp/w/rev", Some("rev"), Some("/tmp/w"), None);
        check("/a.tar.gz", Some("a.tar.gz"), Some("/"), Some("gz"));
        check("/d.d/x", Some("x"), Some("/d.d"), None);
        check("/x/.bashrc", Some(".bashrc"), Some("/x"), Some("bashrc"));
        check("/x/dot.", Some("dot."), Some("/x"), None);
        check("memfd:a b", Some("memfd:a b"), None, None);
        check("/tmp/é.ü", Some("é.ü"), Some("/tmp"), Some("ü"));
        check("", None, None, None);
    }
}
