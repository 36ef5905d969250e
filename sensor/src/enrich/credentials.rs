//! Changes of user and group ids.
//!
//! In: credential records, whole or as what was before and after a system call, and execs. Out: `uid_change` and `gid_change`
//! events with the new ids, and the process table brought up to date. A call that changed nothing never becomes an event.

use std::sync::Arc;

use hashbrown::HashMap;
use sensor_ebpf::{CredentialsBody, ExecBody, Header, Ids, moment};

use super::Enricher;
use super::process_table::Source;
use crate::event::{Account, Credentials, Event, Facts, Kind, Process, Target};
use crate::keep::{Broken, Keep, Reader, Writer, keep, keep_bytes};

/// Calls begun and not yet returned; each takes microseconds, so more than these were never finished.
const BEGUN_MAX: usize = 4096;

/// What is remembered between records.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// By thread: the ids before the call it is in.
    begun: HashMap<u32, (u64, Ids)>,
    last: Option<Change>,
}

/// One thread's change.
#[derive(Clone, Copy, Debug)]
struct Change {
    tgid: u32,
    start_ns: u64,
    tid: u32,
    new: Ids,
}

keep! { Change { tgid, start_ns, tid, new } }
keep_bytes! { Ids }

impl Keep for Changes {
    fn write(&self, to: &mut Writer) {
        let begun = self.begun.iter();
        let begun = begun.map(|(tid, (start_ns, ids))| (*tid, *start_ns, *ids));
        begun.collect::<Vec<_>>().write(to);
        self.last.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let begun: Vec<(u32, u64, Ids)> = Keep::read(from)?;
        let begun = begun.into_iter();
        Ok(Changes {
            begun: begun
                .map(|(tid, start_ns, ids)| (tid, (start_ns, ids)))
                .collect(),
            last: Keep::read(from)?,
        })
    }
}

impl Changes {
    /// True when another thread of the same process has just made the same change: libraries have every thread of a process
    /// follow the one that was told to change its ids, and the kernel knows of threads only.
    fn is_followed(&mut self, change: Change) -> bool {
        let follows = self.last.is_some_and(|last| {
            (last.tgid, last.start_ns, last.new) == (change.tgid, change.start_ns, change.new)
                && last.tid != change.tid
        });
        self.last = Some(change);
        follows
    }
}

impl Enricher {
    /// The events of a credential record.
    pub(super) fn credentials(
        &mut self,
        header: &Header,
        body: &CredentialsBody,
        made: &mut impl FnMut(Event),
    ) {
        let old = match body.moment {
            moment::BEFORE => {
                if self.changes.begun.len() >= BEGUN_MAX {
                    self.changes.begun.clear();
                }
                let begun = (header.start_ns, body.old);
                self.changes.begun.insert(header.tid, begun);
                return;
            }
            moment::AFTER => {
                let begun = self.changes.begun.remove(&header.tid);
                begun
                    .filter(|(start_ns, _)| *start_ns == header.start_ns)
                    .map(|(_, old)| old)
            }
            _ => Some(body.old),
        };
        let process = self.process_of_header(header);
        // Without the beginning of a call the table says what was before.
        let Some(old) = old.or_else(|| ids_of(&process.facts.credentials)) else {
            return;
        };
        let new = body.new;
        let change = Change {
            tgid: header.tgid,
            start_ns: header.start_ns,
            tid: header.tid,
            new,
        };
        if old == new || self.changes.is_followed(change) {
            return;
        }
        let masks = (body.cap_effective, body.cap_permitted);
        self.change(header, &process, &old, &new, masks, made);
    }

    /// The events of the ids that an exec gave a process and of which no record came before it: there is none where system
    /// calls are watched instead of the kernel's function.
    pub(super) fn credentials_of_exec(
        &mut self,
        header: &Header,
        body: &ExecBody,
        made: &mut impl FnMut(Event),
    ) {
        let now_ns = header.boot_ns;
        let Some(process) = self.table.find(header.tgid, header.start_ns, now_ns) else {
            return;
        };
        let Some(old) = ids_of(&process.facts.credentials) else {
            return;
        };
        let new = of_exec(body);
        if old != new {
            let masks = (body.cap_effective, body.cap_permitted);
            self.change(header, &process, &old, &new, masks, made);
        }
    }

    fn change(
        &mut self,
        header: &Header,
        process: &Process,
        old: &Ids,
        new: &Ids,
        (effective, permitted): (u64, u64),
        made: &mut impl FnMut(Event),
    ) {
        let mut process = process.clone();
        process.facts = Arc::new(Facts {
            credentials: self.accounts(new),
            capabilities_effective: Some(self.capabilities.of(effective)),
            capabilities_permitted: Some(self.capabilities.of(permitted)),
            ..(*process.facts).clone()
        });
        let process = Arc::new(process);
        self.table
            .insert(process.clone(), Source::Record, header.boot_ns);
        let after = Header {
            uid: new.euid,
            gid: new.egid,
            ..*header
        };
        if old.users() != new.users() {
            made(self.stamp(Kind::UidChange, &after, process.clone(), Target::Process));
        }
        if old.groups() != new.groups() {
            made(self.stamp(Kind::GidChange, &after, process, Target::Process));
        }
    }

    /// Ids with the names the host has for them.
    pub(super) fn accounts(&self, ids: &Ids) -> Credentials {
        Credentials {
            user: Some(self.users.user(ids.euid)),
            group: Some(self.users.group(ids.egid)),
            real_user: Some(self.users.user(ids.uid)),
            real_group: Some(self.users.group(ids.gid)),
            saved_user: Some(self.users.user(ids.suid)),
            saved_group: Some(self.users.group(ids.sgid)),
            filesystem: Some([ids.fsuid, ids.fsgid]),
        }
    }
}

/// What an exec left a process with.
pub(super) fn of_exec(body: &ExecBody) -> Ids {
    Ids {
        uid: body.uid,
        gid: body.gid,
        suid: body.suid,
        sgid: body.sgid,
        euid: body.euid,
        egid: body.egid,
        fsuid: body.fsuid,
        fsgid: body.fsgid,
    }
}

/// All eight, when all are known.
fn ids_of(credentials: &Credentials) -> Option<Ids> {
    let number = |account: &Option<Account>| account.as_ref().map(|account| account.number);
    let [fsuid, fsgid] = credentials.filesystem?;
    Some(Ids {
        uid: number(&credentials.real_user)?,
        gid: number(&credentials.real_group)?,
        suid: number(&credentials.saved_user)?,
        sgid: number(&credentials.saved_group)?,
        euid: number(&credentials.user)?,
        egid: number(&credentials.group)?,
        fsuid,
        fsgid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Body;
    use crate::enrich::process_table::TableLimits;
    use crate::enrich::testing::{Key, Run, exec_body, header};
    use crate::enrich::tests::enricher;

    const KEY: Key = (40, 5_000_000_000);

    fn ids(user: u32, group: u32) -> Ids {
        Ids {
            uid: user,
            gid: group,
            suid: user,
            sgid: group,
            euid: user,
            egid: group,
            fsuid: user,
            fsgid: group,
        }
    }

    /// A program that runs as user and group 1000.
    fn running() -> Enricher {
        let mut enricher = enricher(TableLimits::default());
        enricher.feed_exec(6_000_000_000, KEY, &exec_body(), &Run::of("/bin/a", &["a"]));
        enricher
    }

    fn feed(enricher: &mut Enricher, tid: u32, moment: u32, old: Ids, new: Ids) -> Vec<String> {
        let body = CredentialsBody {
            old,
            new,
            cap_effective: 1,
            cap_permitted: 0,
            moment,
            reserved: 0,
        };
        let mut header = header(sensor_ebpf::Kind::Credentials, 7_000_000_000, KEY);
        header.tid = tid;
        let events = enricher.feed_all(&header, Body::Credentials(&body));
        events.iter().map(shown).collect()
    }

    fn shown(event: &Event) -> String {
        format!(
            "{} {} {}",
            event.kind.action(),
            event.user.id.as_str(),
            event.group.id.as_str()
        )
    }

    const NONE: Ids = Ids {
        uid: 0,
        gid: 0,
        suid: 0,
        sgid: 0,
        euid: 0,
        egid: 0,
        fsuid: 0,
        fsgid: 0,
    };

    #[test]
    fn one_record_tells_of_users_groups_or_both() {
        let mut enricher = running();
        let mut change = |old, new| feed(&mut enricher, KEY.0, moment::CHANGE, old, new);
        assert_eq!(change(ids(1000, 1000), ids(0, 1000)), ["uid_change 0 1000"]);
        assert_eq!(change(ids(0, 1000), ids(0, 5)), ["gid_change 0 5"]);
        assert_eq!(
            change(ids(0, 5), ids(7, 8)),
            ["uid_change 7 8", "gid_change 7 8"]
        );
        let saved = Ids {
            suid: 9,
            ..ids(7, 8)
        };
        assert_eq!(change(ids(7, 8), saved), ["uid_change 7 8"]);
        let event = enricher.feed_creation(8_000_000_000, KEY, b"/x");
        let credentials = &event.process.facts.credentials;
        assert_eq!(credentials.saved_user.as_ref().map(|u| u.number), Some(9));
        assert_eq!(
            event.process.facts.capabilities_effective.as_deref(),
            Some(&["CAP_CHOWN"][..])
        );
    }

    #[test]
    fn a_call_is_judged_by_what_it_left() {
        let mut enricher = running();
        let (before, after) = (ids(1000, 1000), ids(0, 1000));
        let mut feed = |tid, moment, old, new| feed(&mut enricher, tid, moment, old, new);
        // Nothing changed.
        assert!(feed(40, moment::BEFORE, before, NONE).is_empty());
        assert!(feed(40, moment::AFTER, NONE, before).is_empty());
        // Two threads at once.
        assert!(feed(40, moment::BEFORE, before, NONE).is_empty());
        assert!(feed(41, moment::BEFORE, before, NONE).is_empty());
        assert!(feed(41, moment::AFTER, NONE, before).is_empty());
        assert_eq!(feed(40, moment::AFTER, NONE, after), ["uid_change 0 1000"]);
        // Its beginning was lost: the table knows what was before.
        assert!(feed(40, moment::AFTER, NONE, after).is_empty());
        assert_eq!(
            feed(40, moment::AFTER, NONE, before),
            ["uid_change 1000 1000"]
        );
    }

    #[test]
    fn threads_that_follow_make_no_event() {
        let mut enricher = running();
        let (before, after) = (ids(1000, 1000), ids(0, 1000));
        let mut change = |tid, old, new| feed(&mut enricher, tid, moment::CHANGE, old, new);
        assert_eq!(change(41, before, after), ["uid_change 0 1000"]);
        assert!(change(42, before, after).is_empty());
        assert!(change(40, before, after).is_empty());
        assert_eq!(change(40, after, before), ["uid_change 1000 1000"]);
        assert_eq!(change(40, before, after), ["uid_change 0 1000"]);
    }

    #[test]
    fn an_exec_tells_what_no_record_told() {
        let mut enricher = running();
        let mut body = exec_body();
        (body.euid, body.suid, body.fsuid) = (0, 0, 0);
        let mut run = |at, body| {
            let exec = crate::decode::Exec {
                body,
                filename: b"/bin/su",
                executable: b"/bin/su",
                interpreter: b"",
                working_directory: b"/",
                comm: b"su",
                arguments: b"",
                environment: b"",
            };
            let header = header(sensor_ebpf::Kind::Exec, at, KEY);
            let events = enricher.feed_all(&header, Body::Exec(exec));
            let names = events
                .iter()
                .map(|e| e.process.facts.image.names[0].clone());
            names.zip(events.iter().map(shown)).collect::<Vec<_>>()
        };
        let mut shown = run(7_000_000_000, &body);
        assert_eq!(shown.remove(0), ("a".into(), "uid_change 0 1000".into()));
        assert_eq!(shown.len(), 1);
        assert_eq!(run(8_000_000_000, &body).len(), 1);
    }
}
