//! The self-check is right, unseen and leaves nothing behind.
//!
//! In: daemons scoped to a cgroup in which nothing happens. Out: what they say of the check, their recording and account, which
//! must be empty. Must never take a check that was not made for one that was passed.

use std::fs;
use std::process::Command;

use crate::daemon::{BINARY, Daemon};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

#[test]
fn its_acts_are_right_and_in_no_recording() {
    for tier in tiers() {
        let scope = Scope::new("check");
        let made = tempfile::tempdir().unwrap();
        let mut command = Command::new(BINARY);
        command.arg("record").env("RUNTIME_DIRECTORY", made.path());
        let ended = Daemon::launch(&scope, &tier, command).stop();
        let said = ended
            .log
            .lines()
            .find(|line| line.contains("self-check:"))
            .unwrap_or_else(|| panic!("{tier}: no self-check:\n{}", ended.log));
        println!("{tier}: {said}");
        let kinds = [
            "fork",
            "exec",
            "end",
            "creation",
            "connection_attempted",
            "rename",
            "deletion",
            "link",
            "symlink",
            "mkdir",
            "mknod",
            "uid_change",
            "session_id_change",
            "memfd_create",
        ];
        for kind in kinds {
            assert!(
                said.contains(kind) && said.contains("right"),
                "{tier}: {said}"
            );
        }
        assert_eq!(ended.lines.len(), 0, "{tier}: {:?}", ended.lines);
        let counts = Counts::of(&ended.log);
        assert_eq!((counts.seen, counts.submitted, counts.received), (0, 0, 0));
        assert_eq!(fs::read_dir(made.path()).unwrap().count(), 0, "{tier}");
    }
}

#[test]
fn it_can_be_turned_off() {
    let tier = tiers().remove(0);
    let scope = Scope::new("unchecked");
    let ended = Daemon::record(&scope, &tier, &["--no-self-check"]).stop();
    assert!(!ended.log.contains("self-check"), "{}", ended.log);
}
