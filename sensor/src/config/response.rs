//! Settings of what is done about alerts.
//!
//! In: the table `response` of a settings file. Out: [`Response`]. It does nothing.

use super::Reader;
use crate::document::Table;

/// What is done about alerts whose rules ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub enabled: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Processes killed within a minute, or in a dry run told of.
    pub per_minute_max: usize,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            enabled: false,
            dry_run: true,
            per_minute_max: 10,
        }
    }
}

impl<'t> Reader<'t> {
    pub(super) fn response(&mut self, table: &mut Table<'t>, response: &mut Response) {
        for (key, into) in [
            ("enabled", &mut response.enabled),
            ("dry_run", &mut response.dry_run),
        ] {
            if let Some((flag, _)) = table.boolean(key, &mut self.problems) {
                *into = flag;
            }
        }
        let max = &mut response.per_minute_max;
        self.count(table, "per_minute_max", 1..=10_000, max);
    }
}
