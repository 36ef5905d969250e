//! What the enricher knows, in a form that outlives the process.
//!
//! In: an enricher in mid-stream. Out: a [`Memory`], and an enricher that goes on as if nothing had been. What a later run can look
//! up again (users, control groups) is no part of it. After a pause `/proc` has the last word on what still runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::credentials::Changes;
use super::pairing::Pairing;
use super::process_table::{Saved, Source};
use super::procfs::Snapshot;
use super::sockets::Socket;
use super::{Enricher, act, capabilities, cgroups, image};
use crate::event::act::TAINTS;
use crate::event::{Event, Gauge, Image};
use crate::keep::{Broken, Keep, Reader, Writer, keep};

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    sequence: u64,
    processes: Vec<Saved>,
    /// By their tokens, the one remembered longest first.
    sockets: Vec<(u64, Socket)>,
    changes: Changes,
    pairing: Pairing,
    /// Events made, and not yet handed on because one of them waits for a file to be read.
    pub waiting: Vec<Event>,
}

keep! {
    Memory { sequence, processes, sockets, changes, pairing, waiting }
    Saved { process, source, ended_ns, seen_ns }
    Socket { direction, owner }
}

impl Memory {
    /// Processes in it.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.processes.len()
    }
}

impl Keep for Source {
    fn write(&self, to: &mut Writer) {
        (*self == Source::Record).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(match bool::read(from)? {
            true => Source::Record,
            false => Source::Scan,
        })
    }
}

/// The words that events hold by reference.
#[must_use]
pub fn word(text: &str) -> Option<&'static str> {
    let words = capabilities::NAMES.iter().chain(&TAINTS);
    let words = words.chain(&act::REQUESTS).copied();
    words.chain(cgroups::runtimes()).find(|word| *word == text)
}

impl Enricher {
    /// Everything that a later run needs to go on. Cheap: what is shared stays shared.
    #[must_use]
    pub fn remember(&self) -> Memory {
        Memory {
            sequence: self.sequence,
            processes: self.table.save(),
            sockets: self.sockets.save(),
            changes: self.changes.clone(),
            pairing: self.pairing.clone(),
            waiting: Vec::new(),
        }
    }

    /// Goes on from what another enricher remembered, whose images are counted in `images`. Meant for one that has seen nothing
    /// yet. What is over the bounds of this one is left behind.
    pub fn recall(&mut self, memory: Memory, images: Gauge) {
        self.images = images;
        self.recalled = true;
        self.sequence = memory.sequence;
        self.table.restore(memory.processes);
        for (token, socket) in memory.sockets {
            self.sockets.insert(token, socket);
        }
        self.changes = memory.changes;
        self.pairing = memory.pairing;
    }

    /// Acts under way when the records stopped: their ends will not come.
    pub fn forget_begun(&mut self) {
        self.changes = Changes::default();
        self.pairing = Pairing::default();
    }

    /// Compares what was recalled with what `/proc` shows: who ended meanwhile, who runs something else now.
    pub(super) fn reconcile(&mut self, found: &HashMap<u32, Snapshot>, now_ns: u64) {
        for process in self.table.living() {
            let facts = &process.facts;
            let ticks = facts.start_ns / super::procfs::TICK_NS;
            let snapshot = found
                .get(&facts.pid)
                .filter(|found| found.stat.start_ticks == ticks);
            let Some(snapshot) = snapshot else {
                self.table.exit(facts.pid, facts.start_ns, now_ns);
                continue;
            };
            let now = image::of_snapshot(snapshot);
            if runs(&facts.image, &now) {
                continue;
            }
            let image = Arc::new(now.charged(&self.images));
            let mut changed = (*process).clone();
            changed.previous_executable = facts.image.executables.first().cloned();
            let mut facts = (*process.facts).clone();
            facts.image = image;
            changed.facts = Arc::new(facts);
            self.table.insert(Arc::new(changed), Source::Record, now_ns);
        }
    }
}

/// Whether a process that ran one image still does, as far as `/proc` tells.
fn runs(before: &Image, now: &Image) -> bool {
    let whole = before.args_count.map(|count| count as usize) == Some(before.args.len());
    before.executables.first() == now.executables.first() && (before.args == now.args || !whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::network::Direction;

    #[test]
    fn every_word_is_found_again() {
        for text in [
            "CAP_BPF",
            "O",
            "PTRACE_SEIZE",
            "cri-o",
            "lxc",
            "systemd-nspawn",
        ] {
            assert_eq!(word(text), Some(text));
        }
        assert_eq!(word("CAP_"), None);
        for direction in [Direction::Egress, Direction::Ingress] {
            let socket = Socket {
                direction,
                owner: (7, 1 << 40),
            };
            let mut to = Writer::default();
            socket.write(&mut to);
            let bytes = to.bytes();
            let mut from = Reader::new(&bytes, Arc::default(), Gauge::default());
            assert_eq!(Socket::read(&mut from), Ok(socket));
            assert_eq!(from.end(), Ok(()));
        }
    }
}
