//! What processes do to themselves and to others: sessions and groups, files in memory, tracing, kernel modules.
//!
//! In: the records of these kinds. Out: their events, and sessions and groups in the process table. A process that goes to
//! another group is no event.

use std::sync::Arc;

use sensor_ebpf::{Header, PtraceBody, SessionBody};

use super::Enricher;
use crate::decode;
use crate::event::{Event, Facts, Kind, Memfd, Module, Target, Traced};

/// What a tracer may have asked for, as the system calls it.
pub(super) const REQUESTS: [&str; 2] = ["PTRACE_SEIZE", "PTRACE_ATTACH"];

impl Enricher {
    /// A process leads a session of its own, or is in another process group.
    pub(super) fn session(
        &mut self,
        header: &Header,
        body: &SessionBody,
        made: &mut impl FnMut(Event),
    ) {
        let actor = self.actor(header);
        let is_actor = body.tgid == header.tgid;
        let target = if is_actor {
            Some(actor)
        } else {
            self.table.find(body.tgid, body.start_ns, header.boot_ns)
        };
        let Some(target) = target else {
            return;
        };
        let mut changed = (*target).clone();
        changed.group_leader = self.leader(body.pgid, &changed.facts);
        if body.sid != 0 {
            // A new session has no terminal.
            changed.facts = Arc::new(Facts {
                tty: Some(0),
                ..(*changed.facts).clone()
            });
            changed.session_leader = self.leader(body.sid, &changed.facts);
        }
        let changed = Arc::new(changed);
        self.table.update(changed.clone());
        if body.sid != 0 && is_actor {
            made(self.stamp(Kind::SessionIdChange, header, changed, Target::Process));
        }
    }

    pub(super) fn memfd(&mut self, header: &Header, memfd: Option<&decode::Memfd<'_>>) -> Event {
        let process = self.actor(header);
        let target = memfd.map_or(Target::Process, |memfd| {
            Target::Memfd(Memfd::new(&String::from_utf8_lossy(memfd.name)))
        });
        self.stamp(Kind::MemfdCreate, header, process, target)
    }

    pub(super) fn ptrace(&mut self, header: &Header, body: Option<&PtraceBody>) -> Event {
        const PTRACE_SEIZE: u32 = 0x4206;
        let [seize, attach] = REQUESTS;
        let process = self.actor(header);
        let target = body.map_or(Target::Process, |body| {
            Target::Traced(Traced {
                pid: body.child_tgid,
                request: match body.request {
                    PTRACE_SEIZE => seize,
                    _ => attach,
                },
            })
        });
        self.stamp(Kind::Ptrace, header, process, target)
    }

    pub(super) fn module(&mut self, header: &Header, module: Option<&decode::Module<'_>>) -> Event {
        let process = self.actor(header);
        let target = module.map_or(Target::Process, |module| {
            let name = module.name.split(|byte| *byte == 0).next();
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            Target::Module(Module::new(name.into(), module.body.taints))
        });
        self.stamp(Kind::LoadModule, header, process, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Body;
    use crate::enrich::process_table::TableLimits;
    use crate::enrich::testing::{Key, Run, exec_body, header};
    use crate::enrich::tests::enricher;

    const SHELL: Key = (30, 1_000_000_000);
    const CHILD: Key = (31, 2_000_000_000);

    #[test]
    fn leaders_follow_setsid_and_setpgid() {
        let mut enricher = enricher(TableLimits::default());
        enricher.feed_exec(3_000_000_000, SHELL, &exec_body(), &Run::of("/bin/sh", &[]));
        enricher.feed_fork(4_000_000_000, CHILD, SHELL);
        let mut session = |actor: Key, start_ns, pgid, sid| {
            let body = SessionBody {
                start_ns,
                tgid: CHILD.0,
                pgid,
                sid,
                reserved: 0,
            };
            let header = header(sensor_ebpf::Kind::Session, 5_000_000_000, actor);
            let events = enricher.feed_all(&header, Body::Session(&body));
            let event = enricher.feed_creation(6_000_000_000, CHILD, b"/x");
            let leaders = [&event.process.group_leader, &event.process.session_leader];
            let pids = leaders.map(|leader| leader.as_ref().map(|leader| leader.pid));
            (events.len(), pids)
        };
        // The shell puts its child into a group: when that started is not told.
        assert_eq!(session(SHELL, 0, 31, 0), (0, [Some(31), Some(30)]));
        assert_eq!(session(CHILD, CHILD.1, 30, 0), (0, [Some(30), Some(30)]));
        assert_eq!(session(CHILD, CHILD.1, 0, 0), (0, [None, Some(30)]));
        assert_eq!(session(CHILD, CHILD.1, 31, 31), (1, [Some(31), Some(31)]));
        // Another process of the same number: nothing is said of this one.
        assert_eq!(session(SHELL, 7, 30, 0), (0, [Some(31), Some(31)]));
    }
}
