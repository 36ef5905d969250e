//! Where a process came into the system: its entry leader.
//!
//! In: a process, its parent as it was at the fork, and what the fork passed on. Out: the [`Entry`] it belongs to. The first
//! process of a container and of a session that a known service opened are entries of that sort; everything below them
//! belongs to them. It decides by control group, terminal and names alone, and never asks anybody.

use std::sync::Arc;

use crate::event::{Entry, EntryKind, Facts, Image, Leader};

/// Major numbers of terminals: virtual terminals, consoles, and the first and last of the pseudo ones.
const VIRTUAL: u32 = 4;
const CONSOLE: u32 = 5;
const PSEUDO: std::ops::RangeInclusive<u32> = 136..=143;

/// Who runs the first process of a container.
const RUNTIMES: &[&str] = &[
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "runc",
    "crun",
    "conmon",
    "lxc-start",
    "systemd-nspawn",
];

/// Services that open sessions, by their names.
const SERVICES: &[(&[&str], EntryKind)] = &[
    (&["sshd", "sshd-session"], EntryKind::Sshd),
    (&["ssm-session-worker"], EntryKind::Ssm),
    (&["cron", "crond", "atd"], EntryKind::Cron),
    (&["kubelet"], EntryKind::Kubelet),
    (&["teleport"], EntryKind::Teleport),
    (RUNTIMES, EntryKind::Container),
];

/// The entry of a process. `passed_on` is its parent's, or its own of before.
pub(super) fn of(
    facts: &Facts,
    leads_session: bool,
    parent: Option<&Facts>,
    passed_on: Option<&Entry>,
) -> Option<Entry> {
    let own = |kind| {
        Some(Entry {
            kind,
            leader: Leader {
                pid: facts.pid,
                entity_id: Some(facts.entity_id.clone()),
                image: Some(facts.image.clone()),
            },
        })
    };
    if let Some(kind) = kind(facts, leads_session, parent) {
        return own(kind);
    }
    let is_own = |entry: &&Entry| entry.leader.entity_id.as_ref() == Some(&facts.entity_id);
    match passed_on {
        // It stays one when it runs another program.
        Some(entry) if is_own(&entry) => own(entry.kind),
        Some(entry) => Some(entry.clone()),
        None if leads_session && facts.pid != 1 => own(EntryKind::Unknown),
        None => None,
    }
}

fn kind(facts: &Facts, leads_session: bool, parent: Option<&Facts>) -> Option<EntryKind> {
    // The first of all processes and the kernel's own are entries of nothing.
    if facts.pid <= 2 || parent.is_some_and(|parent| parent.pid == 2) {
        return None;
    }
    let container = |facts: &Facts| Some(facts.cgroup.as_ref()?.container.as_ref()?.id.clone());
    let inside: Option<Arc<str>> = container(facts);
    if inside.is_some() && parent.and_then(container) != inside {
        return Some(EntryKind::Container);
    }
    if !leads_session {
        return None;
    }
    let major = facts.tty.map_or(0, |tty| tty >> 20);
    let goes_by = |image: &Image, names: &[&str]| {
        let mut own = image.names.iter();
        own.any(|name| names.contains(&&**name))
    };
    if major == VIRTUAL {
        return Some(EntryKind::Terminal);
    }
    if major == CONSOLE {
        return Some(EntryKind::Console);
    }
    let parent = parent?;
    if parent.pid == 1 {
        return Some(EntryKind::Init);
    }
    let service = SERVICES
        .iter()
        .find(|(names, _)| goes_by(&parent.image, names) && !goes_by(&facts.image, names));
    match service {
        // Its workers lead sessions too; only the one on a terminal is somebody's.
        Some((_, EntryKind::Ssm)) if !PSEUDO.contains(&major) => None,
        service => service.map(|(_, kind)| *kind),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use sensor_ebpf::{ExecBody, Header, Kind};

    use super::super::Enricher;
    use super::super::cgroups::Cgroups;
    use super::super::process_table::TableLimits;
    use super::super::testing::{Key, Run, exec_body, header};
    use super::super::tests::{check, enricher};
    use crate::event::Event;

    const SECOND: u64 = 1_000_000_000;
    const PSEUDO: u32 = 136 << 20;

    struct Host {
        enricher: Enricher,
        cgroup_id: u64,
        now_ns: u64,
    }

    impl Host {
        fn new() -> Host {
            let mut host = Host {
                enricher: enricher(TableLimits::default()),
                cgroup_id: 0,
                now_ns: SECOND,
            };
            host.exec((1, SECOND), (0, 0), 1, 0, "/usr/lib/systemd/systemd");
            host
        }

        /// A program that `key` now runs, as a child of `parent`; `sid` is its session and `tty` its terminal.
        fn exec(&mut self, key: Key, parent: Key, sid: u32, tty: u32, path: &str) -> Event {
            self.now_ns += SECOND;
            let header = Header {
                cgroup_id: self.cgroup_id,
                ..header(Kind::Exec, self.now_ns, key)
            };
            let body = ExecBody {
                parent_tgid: parent.0,
                parent_start_ns: parent.1,
                pgid: sid,
                sid,
                tty,
                ..exec_body()
            };
            self.enricher
                .feed_exec_as(&header, &body, &Run::of(path, &["x", "y"]))
        }
    }

    fn entry(event: &Event, pid: u32, kind: &str) {
        let pid = pid.to_string();
        let own = event.process.facts.pid.to_string() == pid;
        check(
            event,
            &[
                ("process.entry_leader.pid", &[pid.as_str()]),
                ("process.entry_leader.entry_meta.type", &[kind]),
                ("process.entry_leader.args", &["x", "y"]),
                (
                    "process.entry_leader.same_as_process",
                    &[if own { "Bool(true)" } else { "Bool(false)" }],
                ),
            ],
        );
        let leader = event.process.entry_leader.as_ref().unwrap();
        assert_eq!(
            own,
            leader.leader.entity_id.as_ref() == Some(&event.process.facts.entity_id)
        );
    }

    #[test]
    fn services_open_sessions() {
        let mut host = Host::new();
        let init = (1, SECOND);
        let check_service = |host: &mut Host, at: u32, path: &str, tty: u32, kind: &str| {
            let [service, shell, below] = [at, at + 1, at + 2].map(|pid| (pid, SECOND));
            let event = host.exec(service, init, service.0, 0, path);
            entry(&event, service.0, "init");
            let event = host.exec(shell, service, shell.0, tty, "/usr/bin/bash");
            let of = if kind == "init" { service.0 } else { shell.0 };
            entry(&event, of, kind);
            let event = host.exec(below, shell, shell.0, tty, "/usr/bin/id");
            entry(&event, of, kind);
        };
        check_service(&mut host, 100, "/usr/sbin/sshd", PSEUDO, "sshd");
        check_service(&mut host, 110, "/usr/sbin/cron", 0, "cron");
        check_service(&mut host, 120, "/usr/bin/ssm-session-worker", PSEUDO, "ssm");
        check_service(&mut host, 130, "/usr/bin/ssm-session-worker", 0, "init");
        check_service(&mut host, 140, "/usr/bin/kubelet", 0, "kubelet");
        check_service(&mut host, 150, "/usr/sbin/getty", 4 << 20 | 1, "terminal");
        check_service(&mut host, 160, "/usr/sbin/getty", 5 << 20 | 1, "console");
        check_service(&mut host, 170, "/usr/bin/runc", 0, "container");
        check_service(&mut host, 180, "/usr/bin/xterm", PSEUDO, "init");
    }

    #[test]
    fn a_session_without_a_known_parent_is_its_own() {
        let mut host = Host::new();
        let event = host.exec((300, SECOND), (0, 0), 300, PSEUDO, "/usr/bin/bash");
        entry(&event, 300, "unknown");
        let event = host.exec((301, SECOND), (300, SECOND), 300, PSEUDO, "/usr/bin/id");
        entry(&event, 300, "unknown");
        // It goes on being one when it runs another program.
        let event = host.exec((300, SECOND), (0, 0), 300, PSEUDO, "/usr/bin/zsh");
        entry(&event, 300, "unknown");
        let event = host.exec((400, SECOND), (0, 0), 7, 0, "/usr/bin/id");
        check(&event, &[("process.entry_leader.pid", &[])]);
    }

    #[test]
    fn the_first_process_in_a_container_is_its_entry() {
        let id = "ab".repeat(32);
        let folder = tempfile::tempdir().unwrap();
        let [outside, inside] =
            ["user.slice", &format!("docker-{id}.scope")].map(|name| folder.path().join(name));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&inside).unwrap();
        let [outside, inside] = [outside, inside].map(|path| fs::metadata(path).unwrap().ino());
        let mut host = Host::new();
        host.enricher.set_cgroups(Cgroups::at(folder.path()));
        host.cgroup_id = outside;
        let event = host.exec((500, SECOND), (1, SECOND), 500, 0, "/usr/bin/runner");
        entry(&event, 500, "init");
        check(
            &event,
            &[
                ("container.id", &[]),
                ("process.Ext.cgroup", &["/user.slice"]),
            ],
        );
        host.cgroup_id = inside;
        let event = host.exec((501, SECOND), (500, SECOND), 500, 0, "/bin/app");
        entry(&event, 501, "container");
        check(
            &event,
            &[
                ("container.id", &[&*id]),
                ("container.runtime", &["docker"]),
            ],
        );
        let event = host.exec((502, SECOND), (501, SECOND), 502, 0, "/bin/worker");
        entry(&event, 501, "container");
        // A process that is moved in brings its own children in.
        let moved = Header {
            cgroup_id: inside,
            ..header(Kind::Exit, host.now_ns, (500, SECOND))
        };
        let body = sensor_ebpf::ExitBody {
            status: 0,
            reserved: 0,
        };
        let event = host.enricher.feed(&moved, crate::decode::Body::Exit(&body));
        entry(&event, 500, "container");
    }
}
