//! Names of users and groups, from the password and group files.
//!
//! In: numbers. Out: names, as the host's own files give them; a container's own users are not known here. The files are
//! read again when they changed, looked at once a second at most. It never asks a name service: that could block.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::Account;

/// Longest file read, in bytes.
const FILE_LEN_MAX: u64 = 8 * 1024 * 1024;
/// Most names kept of one file.
const NAMES_MAX: usize = 65_536;
const LOOK_EVERY_NS: u64 = 1_000_000_000;

/// The user and group names of this host.
#[derive(Debug)]
pub struct Users {
    users: Names,
    groups: Names,
    looked_ns: Option<u64>,
}

#[derive(Debug)]
struct Names {
    path: PathBuf,
    seen: Option<Version>,
    by_number: HashMap<u32, Arc<str>>,
}

/// Tells one state of a file from another: device, inode, length, change time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(u64, u64, u64, i64, i64);

impl Users {
    #[must_use]
    pub fn of_host() -> Users {
        Users::from_files("/etc/passwd", "/etc/group")
    }

    #[must_use]
    pub fn from_files(passwd: impl Into<PathBuf>, group: impl Into<PathBuf>) -> Users {
        Users {
            users: Names::of(passwd.into()),
            groups: Names::of(group.into()),
            looked_ns: None,
        }
    }

    /// Looks whether the files changed, if the last look is a second old. `now_ns` is on any steady clock.
    pub fn refresh(&mut self, now_ns: u64) {
        let due = self
            .looked_ns
            .is_none_or(|then| now_ns.saturating_sub(then) >= LOOK_EVERY_NS);
        if due {
            self.looked_ns = Some(now_ns);
            self.users.refresh();
            self.groups.refresh();
        }
    }

    #[must_use]
    pub fn user(&self, number: u32) -> Account {
        Account::new(number, self.users.by_number.get(&number).cloned())
    }

    #[must_use]
    pub fn group(&self, number: u32) -> Account {
        Account::new(number, self.groups.by_number.get(&number).cloned())
    }
}

impl Names {
    fn of(path: PathBuf) -> Names {
        Names {
            path,
            seen: None,
            by_number: HashMap::new(),
        }
    }

    fn refresh(&mut self) {
        let version = fs::metadata(&self.path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|m| Version(m.dev(), m.ino(), m.len(), m.ctime(), m.ctime_nsec()));
        if version == self.seen {
            return;
        }
        self.seen = version;
        let mut bytes = Vec::new();
        let read =
            File::open(&self.path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
        self.by_number = match read {
            Ok(_) => parse(&bytes),
            Err(_) => HashMap::new(),
        };
    }
}

/// Lines `name:x:number:…`; the first line of a number wins, as in the C library.
fn parse(bytes: &[u8]) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in bytes.split(|b| *b == b'\n').take(NAMES_MAX) {
        let mut fields = line.split(|b| *b == b':');
        let name = fields.next().unwrap_or_default();
        let number = fields
            .nth(1)
            .and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
        if let Some(number) = number
            && !name.is_empty()
        {
            names
                .entry(number)
                .or_insert_with(|| String::from_utf8_lossy(name).into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(account: Account) -> Option<String> {
        account.name.map(|name| name.to_string())
    }

    #[test]
    fn names_follow_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        fs::write(
            &passwd,
            "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n:x:5\nbad\nd:x:7:\n",
        )
        .unwrap();
        let mut users = Users::from_files(&passwd, folder.path().join("absent"));
        users.refresh(0);
        assert_eq!(name(users.user(0)).as_deref(), Some("root"));
        assert_eq!(name(users.user(5)), None);
        assert_eq!(name(users.group(0)), None);
        assert_eq!(users.user(1000).id.as_str(), "1000");

        fs::write(&passwd, "alice:x:1000:1000::/home/alice:/bin/sh\n").unwrap();
        users.refresh(LOOK_EVERY_NS - 1);
        assert_eq!(name(users.user(1000)), None, "looked too soon");
        users.refresh(LOOK_EVERY_NS);
        assert_eq!(name(users.user(1000)).as_deref(), Some("alice"));
        assert_eq!(name(users.user(0)), None);
    }
}
