//! Settings of how a running daemon is talked to.
//!
//! In: the table `control` of a settings file. Out: [`Control`]. It opens nothing.

use std::path::PathBuf;

use super::Reader;
use crate::control::Socket;
use crate::document::Table;

/// How a running daemon is talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub socket: Socket,
    /// Where counters are written for a collector, if anywhere.
    pub metrics_file: Option<PathBuf>,
    /// How much of the last events is kept for those who ask, in bytes.
    pub recent_bytes: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: Socket::Auto,
            metrics_file: None,
            recent_bytes: 8 << 20,
        }
    }
}

impl<'t> Reader<'t> {
    pub(super) fn control(&mut self, table: &mut Table<'t>, control: &mut Control) {
        if let Some(socket) = self.parsed(table, "socket") {
            control.socket = socket;
        }
        self.count(
            table,
            "recent_bytes",
            0..=1 << 30,
            &mut control.recent_bytes,
        );
        // The same words: a path, or none.
        match self.parsed(table, "metrics_file") {
            Some(Socket::At(path)) => control.metrics_file = Some(path),
            Some(Socket::Auto) => {
                if let Some(value) = table.get("metrics_file") {
                    let problem =
                        table.wrong("metrics_file", value, "an absolute path or \"none\"");
                    self.problems.push(problem);
                }
            }
            Some(Socket::None) => control.metrics_file = None,
            None => {}
        }
    }

    /// A string that says what else it must be when it can not be understood.
    fn parsed<T: std::str::FromStr<Err = &'static str>>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
    ) -> Option<T> {
        let (text, _) = table.string(key, &mut self.problems)?;
        match text.parse() {
            Ok(found) => Some(found),
            Err(must) => {
                let must = must.trim_start_matches("must be ");
                if let Some(value) = table.get(key) {
                    self.problems.push(table.wrong(key, value, must));
                }
                None
            }
        }
    }
}
