//! What the processes of each program make the daemon do, counted while somebody looks.
//!
//! In: events, and how long the engine took for each. Out: a list by program. Nothing is counted, and no time is taken, while nobody
//! has asked for half a minute; programs beyond a bound are counted together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::state::Program;
use crate::event::{Event, FieldId, FieldTable, Fields as _, Value};

/// Programs counted one by one.
const PROGRAMS_MAX: usize = 2048;
/// What the others are counted under, and those without a path.
const OTHERS: &str = "(others)";
const UNKNOWN: &str = "(unknown)";
/// Counting goes on for so long after it was asked for.
const WATCH: Duration = Duration::from_secs(30);

pub(super) struct Programs {
    executable: Option<FieldId>,
    name: Option<FieldId>,
    watched: Option<Instant>,
    counted: HashMap<Arc<str>, Program>,
}

impl Programs {
    pub(super) fn new(table: &FieldTable) -> Programs {
        Programs {
            executable: table.resolve("process.executable"),
            name: table.resolve("process.name"),
            watched: None,
            counted: HashMap::new(),
        }
    }

    /// Counts for a while from now on.
    pub(super) fn watch(&mut self) {
        self.watched = Some(Instant::now());
    }

    pub(super) fn list(&self) -> Vec<Program> {
        self.counted.values().cloned().collect()
    }

    /// Before the engine takes an event.
    pub(super) fn begin(&mut self) -> Option<Instant> {
        let watched = self.watched?;
        let now = Instant::now();
        if now.duration_since(watched) > WATCH {
            self.watched = None;
            self.counted = HashMap::new();
            return None;
        }
        Some(now)
    }

    /// After it.
    pub(super) fn end(&mut self, event: &Event, begun: Option<Instant>) {
        let Some(begun) = begun else {
            return;
        };
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let program = self.of(event);
        program.events += 1;
        program.nanoseconds = program.nanoseconds.saturating_add(took);
    }

    pub(super) fn alert(&mut self, event: &Event) {
        if self.watched.is_some() {
            self.of(event).alerts += 1;
        }
    }

    fn of(&mut self, event: &Event) -> &mut Program {
        let text = |field: Option<FieldId>| match event.values(field?).get(0)? {
            Value::Str(text) if !text.is_empty() => Some(text),
            _ => None,
        };
        let name = text(self.executable)
            .or_else(|| text(self.name))
            .unwrap_or(UNKNOWN);
        let is_full = self.counted.len() >= PROGRAMS_MAX;
        let name: Arc<str> = match self.counted.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None if is_full => OTHERS.into(),
            None => name.into(),
        };
        let program = self.counted.entry(Arc::clone(&name)).or_default();
        program.name = name;
        program
    }
}
