//! The part of enrichment that asks `/proc` for processes: the start-up scan, and those the table lacks.
//!
//! In: pids and start times. Out: table entries and [`Event`]s of kind `already_running`. Nothing read here is believed
//! unless the start time agrees, and a record's word is never overwritten.

use std::collections::HashMap;
use std::sync::Arc;

use sensor_ebpf::Header;

use super::process_table::Source;
use super::procfs::{Snapshot, Status, TICK_NS};
use super::{Enricher, entry, image};
use crate::event::{Credentials, Event, Facts, Kind, Lineage, Process, Target};

impl Enricher {
    /// Fills the table from `/proc`; call it after the programs are attached, so that no process falls between. When asked to
    /// announce, returns an event for each process found, parents before children.
    pub fn seed(&mut self, now_ns: u64, announce: bool) -> Vec<Event> {
        let Some(procfs) = self.procfs.clone() else {
            return Vec::new();
        };
        self.users.refresh(now_ns);
        self.cgroups.walk(now_ns);
        let pids = procfs.pids(self.table.limits().processes_max);
        let mut found: HashMap<u32, Snapshot> = HashMap::with_capacity(pids.len());
        found.extend(
            pids.iter()
                .filter_map(|pid| Some((*pid, procfs.snapshot(*pid)?))),
        );
        if self.recalled {
            self.reconcile(&found, now_ns);
        }
        let mut order: Vec<u32> = found.keys().copied().collect();
        order.sort_unstable_by_key(|pid| (depth(*pid, &found), *pid));
        let mut events = Vec::new();
        for pid in order {
            if let Some(snapshot) = found.get(&pid).filter(|s| !ended(s)) {
                let start_ns = snapshot.stat.start_ticks.saturating_mul(TICK_NS);
                let process = self.insert_snapshot(snapshot, start_ns, Source::Scan, now_ns);
                if announce {
                    events.push(self.already_running(snapshot, process, now_ns));
                }
            }
        }
        events
    }

    fn already_running(
        &mut self,
        snapshot: &Snapshot,
        process: Arc<Process>,
        now_ns: u64,
    ) -> Event {
        let start_ns = process.facts.start_ns;
        let id = |ids: Option<[u32; 4]>| ids.map_or(0, |[_, effective, ..]| effective);
        let header = Header {
            abi: sensor_ebpf::ABI,
            kind: 0,
            len: 0,
            boot_ns: now_ns,
            start_ns,
            tgid: snapshot.stat.pid,
            tid: snapshot.stat.pid,
            cgroup_id: 0,
            mntns: 0,
            flags: 0,
            uid: id(snapshot.status.uids),
            cpu: 0,
            parts: 0,
            gid: id(snapshot.status.gids),
            reserved: 0,
        };
        self.stamp(Kind::AlreadyRunning, &header, process, Target::Process)
    }

    /// A process the table lacks, while it lives and is the one meant.
    pub(super) fn find_in_proc(
        &mut self,
        tgid: u32,
        start_ns: u64,
        now_ns: u64,
    ) -> Option<Arc<Process>> {
        let snapshot = self.procfs.as_ref()?.snapshot(tgid)?;
        let found_ns = snapshot.stat.start_ticks.saturating_mul(TICK_NS);
        let (start_ns, source) = match start_ns {
            0 => (found_ns, Source::Scan),
            start_ns if start_ns / TICK_NS == snapshot.stat.start_ticks => {
                (start_ns, Source::Record)
            }
            _ => return None,
        };
        self.counters.found_in_proc += 1;
        Some(self.insert_snapshot(&snapshot, start_ns, source, now_ns))
    }

    /// The process of a header that came alone, as `/proc` shows it now.
    pub(super) fn found_now(&mut self, header: &Header) -> Arc<Process> {
        let now_ns = header.boot_ns;
        let known = self.table.find(header.tgid, header.start_ns, now_ns);
        if let Some(found) = self.find_in_proc(header.tgid, header.start_ns, now_ns) {
            let mut process = (*found).clone();
            if let Some(known) = known {
                process.previous_executable = known.facts.image.executables.first().cloned();
                if known.lineage.parent().is_some() {
                    process.lineage = known.lineage.clone();
                }
            }
            let process = Arc::new(process);
            self.table.insert(process.clone(), Source::Record, now_ns);
            return process;
        }
        // Gone already. What it ran before would be a false statement about what it runs now.
        self.counters.unknown_process += 1;
        let process = Arc::new(Process {
            facts: Arc::new(self.unknown(header.tgid, header.start_ns)),
            lineage: known
                .as_ref()
                .map(|k| k.lineage.clone())
                .unwrap_or_default(),
            group_leader: known.as_ref().and_then(|k| k.group_leader.clone()),
            session_leader: known.as_ref().and_then(|k| k.session_leader.clone()),
            entry_leader: known.as_ref().and_then(|k| k.entry_leader.clone()),
            previous_executable: known.and_then(|k| k.facts.image.executables.first().cloned()),
        });
        self.table.insert(process.clone(), Source::Record, now_ns);
        process
    }

    fn insert_snapshot(
        &mut self,
        snapshot: &Snapshot,
        start_ns: u64,
        source: Source,
        now_ns: u64,
    ) -> Arc<Process> {
        let stat = &snapshot.stat;
        let lineage = match self.table.latest(stat.parent) {
            Some(parent) => Arc::new(parent.lineage.below(&parent.facts)),
            None => self.lineage_of_stranger(stat.parent),
        };
        let mut facts = self.facts_of(snapshot, start_ns);
        facts.cgroup = self
            .procfs
            .as_ref()
            .and_then(|procfs| self.cgroups.of_process(stat.pid, procfs));
        let parent = self.table.latest(stat.parent);
        let entry_leader = entry::of(
            &facts,
            stat.sid == stat.pid,
            lineage.parent().map(|parent| &**parent),
            parent.and_then(|parent| parent.entry_leader.as_ref()),
        );
        let process = Process {
            group_leader: self.leader(stat.pgid, &facts),
            session_leader: self.leader(stat.sid, &facts),
            entry_leader,
            facts: Arc::new(facts),
            lineage,
            previous_executable: None,
        };
        self.keep(process, source, now_ns)
    }

    /// A parent the table does not know, by what one look at `/proc` gives.
    fn lineage_of_stranger(&self, parent: u32) -> Arc<Lineage> {
        let snapshot = self
            .procfs
            .as_ref()
            .filter(|_| parent != 0)
            .and_then(|p| p.snapshot(parent));
        let Some(snapshot) = snapshot else {
            return Arc::default();
        };
        let start_ns = snapshot.stat.start_ticks.saturating_mul(TICK_NS);
        // It may have started after the child's real parent ended; the kernel would then name it rightly all the same.
        let facts = self.facts_without_capabilities(&snapshot, start_ns);
        Arc::new(Lineage::new(vec![Arc::new(facts)]))
    }

    fn facts_of(&mut self, snapshot: &Snapshot, start_ns: u64) -> Facts {
        let mut names = |mask: Option<u64>| mask.map(|mask| self.capabilities.of(mask));
        let effective = names(snapshot.status.capabilities_effective);
        let permitted = names(snapshot.status.capabilities_permitted);
        Facts {
            capabilities_effective: effective,
            capabilities_permitted: permitted,
            ..self.facts_without_capabilities(snapshot, start_ns)
        }
    }

    fn facts_without_capabilities(&self, snapshot: &Snapshot, start_ns: u64) -> Facts {
        let stat = &snapshot.stat;
        let user = |at: usize| Some(self.users.user(*snapshot.status.uids?.get(at)?));
        let group = |at: usize| Some(self.users.group(*snapshot.status.gids?.get(at)?));
        Facts {
            image: Arc::new(image::of_snapshot(snapshot).charged(&self.images)),
            namespace_pid: snapshot.status.namespace_pid,
            credentials: Credentials {
                real_user: user(0),
                user: user(1),
                saved_user: user(2),
                real_group: group(0),
                group: group(1),
                saved_group: group(2),
                filesystem: file_system_ids(&snapshot.status),
            },
            tty: Some(stat.tty),
            mount_namespace: snapshot.mount_namespace,
            ..self.unknown(stat.pid, start_ns)
        }
    }
}

fn file_system_ids(status: &Status) -> Option<[u32; 2]> {
    let ([.., user], [.., group]) = (status.uids?, status.gids?);
    Some([user, group])
}

fn ended(snapshot: &Snapshot) -> bool {
    matches!(snapshot.stat.state, b'Z' | b'X' | b'x')
}

/// Steps up to a process without a known parent, so that sorting by it puts parents first.
fn depth(pid: u32, found: &HashMap<u32, Snapshot>) -> usize {
    // Far beyond any real tree, and an end to the walk should pids have changed hands into a circle.
    const DEPTH_MAX: usize = 4096;
    let mut at = pid;
    let mut steps = 0;
    while let Some(snapshot) = found.get(&at) {
        if snapshot.stat.parent == 0 || steps == DEPTH_MAX {
            break;
        }
        at = snapshot.stat.parent;
        steps += 1;
    }
    steps
}
