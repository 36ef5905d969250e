//! The last events, kept for whoever asks why a rule said nothing of them.
//!
//! In: every event, shared with whoever else holds it. Out: those there is room for, oldest first. Room is counted in bytes; an
//! event takes what it would alone, though events of one process share most of that.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{Event, Fields as _};

/// See the module.
#[derive(Debug)]
pub struct Recent {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    bytes_max: usize,
    /// Some had to go.
    full: bool,
}

/// A copy of what is kept.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub events: Vec<Arc<Event>>,
    /// There were events before the first.
    pub full: bool,
}

impl Recent {
    /// With room for so many bytes; none keeps nothing.
    #[must_use]
    pub fn new(bytes_max: usize) -> Recent {
        Recent {
            events: VecDeque::new(),
            bytes: 0,
            bytes_max,
            full: false,
        }
    }

    /// Keeps an event, at the cost of older ones.
    pub fn push(&mut self, event: &Arc<Event>) {
        if self.bytes_max == 0 {
            return;
        }
        let bytes = event.bytes();
        self.events.push_back((Arc::clone(event), bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        while self.bytes > self.bytes_max
            && let Some((_, bytes)) = self.events.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.full = true;
        }
    }

    /// What is kept, oldest first.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let events = self.events.iter();
        Kept {
            events: events.map(|(event, _)| Arc::clone(event)).collect(),
            full: self.full,
        }
    }
}
