//! Events as they come, for one client, and those that came last.
//!
//! In: a query, events from the pipeline. Out: a line that says what can not be seen, then a line for each event that matches, and a
//! word when some were dropped because the client is slow. It never makes the pipeline wait: what does not fit is counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::json;

use super::server::{Say, error, line};
use super::state::State;
use super::{Ask, Bell, Tail};
use crate::engine::{self, Engine};
use crate::eql::{self, diagnostic::Origin};
use crate::event::{Event, FieldTable, Kinds};
use crate::kernel::HookState;
use crate::output::json::write_event;
use crate::pipeline;
use crate::rule::interest;
use crate::rule::schema::SensorSchema;

/// Events on their way to the client.
const EVENTS_MAX: usize = 4096;
/// Without an event for so long, the client is asked whether it is there, by an empty line.
const QUIET: Duration = Duration::from_secs(1);
/// Partial matches of a client's sequence.
const PARTIALS_MAX: usize = 4096;

/// Until the client or the daemon goes away.
pub(super) fn serve(
    bell: &Bell,
    query: Option<&str>,
    state: &State,
    say: Say<'_>,
) -> io::Result<()> {
    let (engine, kinds) = match query.map(compile).transpose() {
        Ok(compiled) => compiled.map_or((None, Kinds::ALL), |(e, kinds)| (Some(e), kinds)),
        Err(wrong) => return say(&error(&wrong)),
    };
    let (to, events) = sync_channel(EVENTS_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let tail = Tail {
        engine,
        to,
        dropped: Arc::clone(&dropped),
    };
    if let Err(none) = bell.leave(Ask::Tail(Box::new(tail))) {
        return say(&error(&none.to_string()));
    }
    say(&line(
        &json!({ "not_reported": not_reported(state, kinds) }),
    ))?;
    let mut text = Vec::new();
    let mut told = 0;
    loop {
        match events.recv_timeout(QUIET) {
            Ok(event) => {
                text.clear();
                write_event(&event, &mut text);
                say(&text)?;
            }
            Err(RecvTimeoutError::Timeout) => say(b"")?,
            Err(RecvTimeoutError::Disconnected) => {
                return say(&error("the daemon ends, or serves too many already"));
            }
        }
        let now = dropped.load(Ordering::Relaxed);
        if now > told {
            told = now;
            say(&line(&json!({ "dropped": now })))?;
        }
    }
}

/// A line that says what can not be seen and whether there was more, then the last events.
pub(super) fn recent(bell: &Bell, state: &State, say: Say<'_>) -> io::Result<()> {
    let kept = match bell.ask(Ask::Recent) {
        Ok(kept) => kept,
        Err(none) => return say(&error(&none.to_string())),
    };
    say(&line(&json!({
        "events": kept.events.len(),
        "full": kept.full,
        "not_reported": not_reported(state, Kinds::ALL),
    })))?;
    let mut text = Vec::new();
    for event in kept.events {
        text.clear();
        write_event(&event, &mut text);
        say(&text)?;
    }
    Ok(())
}

/// The query in an engine of its own, and the kinds of events it reads; or what is wrong with it.
fn compile(text: &str) -> Result<(Engine<Arc<Event>>, Kinds), String> {
    let origin = Origin::whole("query");
    let checked = eql::compile(text, &SensorSchema, eql::Mode::Live).map_err(|diagnostics| {
        let rendered = diagnostics.iter().map(|one| one.render(text, &origin));
        rendered.collect::<String>()
    })?;
    let mut builder = engine::Builder::new(engine::Limits {
        partials: PARTIALS_MAX,
        ..engine::Limits::default()
    });
    let refused = |error: engine::CompileError| format!("query: {error}");
    builder.add(0, &checked.query).map_err(refused)?;
    let engine = builder.build(&mut FieldTable::sensor()).map_err(refused)?;
    Ok((engine, interest(&checked.query)))
}

/// Record kinds that the events asked for are made from, and that no hook reports.
fn not_reported(state: &State, kinds: Kinds) -> Vec<&'static str> {
    let wanted = pipeline::records_for(kinds);
    let mut names: Vec<&str> = Vec::new();
    for hook in state.hooks.iter().filter(|hook| wanted.contains(hook.kind)) {
        let of_kind = |other: &&crate::kernel::HookReport| other.kind == hook.kind;
        let is_there = state
            .hooks
            .iter()
            .filter(of_kind)
            .any(|hook| hook.state == HookState::Attached);
        if !is_there && !names.contains(&hook.kind.name()) {
            names.push(hook.kind.name());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_query_is_told_with_its_place() {
        let wrong = compile("process where process.nmae == \"x\"")
            .map(drop)
            .unwrap_err();
        assert!(wrong.contains("query:1:15"), "{wrong}");
        assert!(wrong.contains("process.name"), "{wrong}");
        assert!(compile("process where process.name == \"x\"").is_ok());
    }
}
