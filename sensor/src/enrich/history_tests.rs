//! The process table against a plain model, over random histories.
//!
//! In: forks, execs (by leaders and by other threads), ends that come once, twice or never, pids used again at once or after the
//! grace period, and long waits. Out: who each event says its process, parent, ancestors and session leader are, compared with
//! a model that keeps everything. It never makes a history that no kernel could: a session's number is not given away.

use std::collections::HashMap;

use proptest::prelude::*;
use sensor_ebpf::{ExecBody, ForkBody, Header, Kind as RecordKind};

use super::process_table::TableLimits;
use super::testing::{Key, Run, exec_body, header};
use super::tests::{check, enricher};
use super::*;
use crate::decode::Body;
use crate::event::Event;

const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Act {
    /// `sibling`: under the parent's own parent, as `CLONE_PARENT` has it.
    Fork {
        child: usize,
        parent: usize,
        sibling: bool,
    },
    Exec {
        who: usize,
        program: u8,
        thread: bool,
        session: bool,
    },
    Exit {
        who: usize,
        again: bool,
    },
    /// Its end is lost.
    Vanish {
        who: usize,
    },
    Create {
        who: usize,
    },
    Wait,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = || 0..7_usize;
    let act = prop_oneof![
        4 => (who(), who(), any::<bool>())
            .prop_map(|(child, parent, sibling)| Act::Fork { child, parent, sibling }),
        4 => (who(), any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(who, program, thread, session)| Act::Exec { who, program, thread, session }),
        2 => (who(), any::<bool>()).prop_map(|(who, again)| Act::Exit { who, again }),
        1 => who().prop_map(|who| Act::Vanish { who }),
        2 => who().prop_map(|who| Act::Create { who }),
        1 => Just(Act::Wait),
    ];
    proptest::collection::vec(act, 1..150)
}

/// All there is to know of a process.
#[derive(Clone, Debug)]
struct Known {
    key: Key,
    program: String,
    previous: Option<String>,
    sid: u32,
    /// Nearest first: key, and program at the time of the fork.
    ancestors: Vec<(Key, String)>,
}

struct Model {
    enricher: Enricher,
    now: u64,
    live: HashMap<u32, Known>,
}

impl Model {
    fn new() -> Model {
        Model {
            enricher: enricher(TableLimits::default()),
            now: SECOND,
            live: HashMap::new(),
        }
    }

    fn id(&self, (pid, start): Key) -> String {
        self.enricher.ids.entity_id(pid, start).to_string()
    }

    /// Everything an event has to say of who acted.
    fn expect(&self, event: &Event, known: &Known) {
        let pid = known.key.0.to_string();
        let id = self.id(known.key);
        let ancestry: Vec<String> = known
            .ancestors
            .iter()
            .map(|(key, _)| self.id(*key))
            .collect();
        let parent = known.ancestors.first();
        let shown = [
            vec![pid],
            vec![id],
            vec![known.program.clone()],
            parent
                .map(|((pid, _), _)| pid.to_string())
                .into_iter()
                .collect(),
            parent
                .map(|(_, program)| program.clone())
                .into_iter()
                .collect(),
            ancestry.first().cloned().into_iter().collect(),
        ];
        let paths = [
            "process.pid",
            "process.entity_id",
            "process.name",
            "process.parent.pid",
            "process.parent.name",
            "process.parent.entity_id",
        ];
        for (path, values) in paths.iter().zip(&shown) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            check(event, &[(path, &values)]);
        }
        if event.kind == Kind::Creation {
            return;
        }
        let ancestry: Vec<&str> = ancestry.iter().map(String::as_str).collect();
        let previous: Vec<String> = known.previous.iter().map(|p| format!("/bin/{p}")).collect();
        let previous: Vec<&str> = previous.iter().map(String::as_str).collect();
        check(
            event,
            &[
                ("process.Ext.ancestry", &ancestry),
                ("process.previous.executable", &previous),
                ("process.args", &[&known.program, "x"]),
            ],
        );
        if let Some(leader) = self
            .live
            .get(&known.sid)
            .filter(|leader| leader.sid == known.sid)
        {
            check(
                event,
                &[
                    ("process.session_leader.pid", &[&known.sid.to_string()]),
                    ("process.session_leader.entity_id", &[&self.id(leader.key)]),
                ],
            );
        }
    }

    fn fork(&mut self, child: u32, parent: u32, sibling: bool) {
        let Some(maker) = self.live.get(&parent).cloned() else {
            return;
        };
        // Neither itself nor a number that still stands for a session.
        if child == parent || self.live.values().any(|known| known.sid == child) {
            return;
        }
        let key = (child, self.now);
        let real = maker.ancestors.first().map(|(key, _)| *key);
        let real = real
            .filter(|_| sibling)
            .and_then(|key| self.live.get(&key.0).filter(|l| l.key == key));
        let parent = real.unwrap_or(&maker).clone();
        let mut ancestors = vec![(parent.key, parent.program.clone())];
        ancestors.extend(parent.ancestors.iter().take(31).cloned());
        let body = ForkBody {
            parent_start_ns: parent.key.1,
            parent_tgid: parent.key.0,
            ns_tgid: child,
            pgid: parent.sid,
            sid: parent.sid,
        };
        let event = self
            .enricher
            .feed(&header(RecordKind::Fork, self.now, key), Body::Fork(&body));
        let known = Known {
            key,
            program: parent.program,
            previous: None,
            sid: parent.sid,
            ancestors,
        };
        self.live.insert(child, known.clone());
        self.expect(&event, &known);
    }

    fn exec(&mut self, who: u32, program: u8, thread: bool, session: bool) {
        if !self.live.contains_key(&who) && self.live.values().any(|known| known.sid == who) {
            return;
        }
        let start = self.now;
        let known = self.live.entry(who).or_insert_with(|| Known {
            key: (who, start),
            program: String::new(),
            previous: None,
            sid: who,
            ancestors: Vec::new(),
        });
        let program = format!("p{program}");
        let before = std::mem::replace(&mut known.program, program.clone());
        known.previous = Some(before).filter(|before| !before.is_empty());
        if session {
            known.sid = who;
        }
        let known = known.clone();
        let body = ExecBody {
            old_tid: if thread { who + 1000 } else { who },
            pgid: known.sid,
            sid: known.sid,
            // By now the process may have been handed to another; what the fork said holds.
            parent_tgid: if known.ancestors.is_empty() { 0 } else { 1 },
            parent_start_ns: 1,
            ..exec_body()
        };
        let path = format!("/bin/{program}");
        let args = [program.as_str(), "x"];
        let run = Run::of(&path, &args);
        let event = self.enricher.feed_exec(self.now, known.key, &body, &run);
        self.expect(&event, &known);
    }

    fn exit(&mut self, who: u32, again: bool) {
        let Some(known) = self.live.get(&who).cloned() else {
            return;
        };
        for _ in 0..=usize::from(again) {
            let event = self.enricher.feed_exit(self.now, known.key, 0);
            self.expect(&event, &known);
        }
        // What it still does on its way out.
        let event = self
            .enricher
            .feed_creation(self.now + 1, known.key, b"/last");
        self.expect(&event, &known);
        self.live.remove(&who);
    }

    fn act(&mut self, act: &Act) {
        self.now += 1_500_000;
        let pid = |index: usize| u32::try_from(index).unwrap() + 10;
        match *act {
            Act::Fork {
                child,
                parent,
                sibling,
            } => self.fork(pid(child), pid(parent), sibling),
            Act::Exec {
                who,
                program,
                thread,
                session,
            } => {
                self.exec(pid(who), program, thread, session);
            }
            Act::Exit { who, again } => self.exit(pid(who), again),
            Act::Vanish { who } => _ = self.live.remove(&pid(who)),
            Act::Create { who } => {
                if let Some(known) = self.live.get(&pid(who)).cloned() {
                    let at = Header {
                        tid: 77,
                        ..header(RecordKind::FileCreate, self.now, known.key)
                    };
                    let event = self.enricher.feed_creation(at.boot_ns, known.key, b"/x");
                    self.expect(&event, &known);
                }
            }
            Act::Wait => self.now += 11 * SECOND,
        }
    }
}

proptest! {
    #[test]
    fn events_name_who_acted_and_from_whom_it_came(acts in acts()) {
        let mut model = Model::new();
        for act in &acts {
            model.act(act);
        }
        let counters = model.enricher.counters();
        prop_assert_eq!(counters.unknown_process, 0);
        prop_assert_eq!(counters.evicted, 0);
    }

    /// With a table far too small nothing is false: what it no longer knows it does not say, and it counts what it gave up.
    #[test]
    fn a_small_table_forgets_but_never_lies(acts in acts()) {
        let mut model = Model::new();
        model.enricher = enricher(TableLimits { processes_max: 3, ..TableLimits::default() });
        let mut made = 0;
        for act in &acts {
            model.now += 1_500_000;
            let (now, pid) = (model.now, |index: usize| u32::try_from(index).unwrap() + 10);
            let event = match *act {
                Act::Fork { child, parent, .. } if child != parent => {
                    let Some(parent) = model.live.get(&pid(parent)).cloned() else { continue };
                    let known = Known { key: (pid(child), now), previous: None, ..parent.clone() };
                    model.live.insert(pid(child), known);
                    model.enricher.feed_fork(now, (pid(child), now), parent.key)
                }
                Act::Exec { who, program, .. } => {
                    let known = model.live.entry(pid(who)).or_insert_with(|| Known {
                        key: (pid(who), now), program: String::new(), previous: None, sid: 0, ancestors: Vec::new(),
                    });
                    known.program = format!("p{program}");
                    let (key, path) = (known.key, format!("/bin/{}", known.program));
                    model.enricher.feed_exec(now, key, &exec_body(), &Run::of(&path, &["x"]))
                }
                Act::Create { who } => {
                    let Some(known) = model.live.get(&pid(who)).cloned() else { continue };
                    model.enricher.feed_creation(now, known.key, b"/x")
                }
                _ => continue,
            };
            made += 1;
            let known = &model.live[&event.process.facts.pid];
            prop_assert_eq!(&*event.process.facts.entity_id, model.id(known.key));
            let names = &event.process.facts.image.names;
            prop_assert!(names.is_empty() || *names[0] == *known.program, "{:?} {}", names, known.program);
            let counters = model.enricher.counters();
            prop_assert!(counters.processes <= 3);
            prop_assert_eq!(counters.events, made);
        }
    }
}
