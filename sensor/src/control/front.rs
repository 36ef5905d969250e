//! What the daemon answers to each request.
//!
//! In: requests, on the threads of their clients. Out: the lines of the answer. Only the copying of numbers, the passing of events
//! and the swap of rules are left to the pipeline; all else is done here.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::server::{Answer, Say, error, line};
use super::{Ask, Bell, Request, metrics, tail, trials};
use crate::commands;
use crate::reload::Reloader;

/// Between two writes of the metrics file.
const METRICS_EVERY: Duration = Duration::from_secs(15);

/// See the module.
pub struct Front {
    bell: Bell,
    reloader: Arc<Reloader>,
}

impl Front {
    #[must_use]
    pub fn new(bell: Bell, reloader: Arc<Reloader>) -> Front {
        Front { bell, reloader }
    }
}

impl Answer for Front {
    fn answer(&self, request: Request, say: Say<'_>) -> io::Result<()> {
        let ask = match request {
            Request::Reload => return say(&line(&json!(self.reloader.reload()))),
            Request::Top => Ask::Top,
            _ => Ask::State,
        };
        let state = match self.bell.ask(ask) {
            Ok(state) => state,
            Err(none) => return say(&error(&none.to_string())),
        };
        match request {
            Request::Status => say(&line(&state.status())),
            Request::Rules => state.rules().iter().try_for_each(|rule| say(&line(rule))),
            Request::Metrics => say(&line(&json!({ "text": metrics::text(&state) }))),
            Request::Top => say(&line(&state.top())),
            Request::Recent => tail::recent(&self.bell, &state, say),
            Request::Trial { path } => trials::answer(&state, path.as_deref(), say),
            Request::Tail { query } => tail::serve(&self.bell, query.as_deref(), &state, say),
            Request::Reload => Ok(()),
        }
    }
}

/// Writes counters to a file for a collector, until nobody looks at the desk any more; on a thread of its own.
///
/// # Errors
/// No thread can be started.
pub fn write_metrics(path: &Path, bell: Bell) -> io::Result<()> {
    let path = path.to_owned();
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || {
            let mut failing = false;
            while let Ok(state) = bell.ask(Ask::State) {
                let written =
                    commands::replace_file(&path, metrics::text(&state).as_bytes(), 0o644);
                match written {
                    Err(error) if !failing => {
                        tracing::error!("`{}` can not be written: {error}", path.display());
                        failing = true;
                    }
                    Err(_) => {}
                    Ok(()) => failing = false,
                }
                std::thread::sleep(METRICS_EVERY);
            }
        })?;
    Ok(())
}
