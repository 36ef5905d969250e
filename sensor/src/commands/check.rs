//! `check`: every problem of settings and rules, with its place.
//!
//! In: paths. Out: problems on standard output, a summary, and the exit code. Never stops at the first problem.

use super::{Exit, Failure};
use crate::cli::CheckArgs;
use crate::config::Config;
use crate::document::Problem;

/// Runs `check`.
///
/// # Errors
/// Standard output can not be written.
pub fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let mut problems: Vec<Problem> = Vec::new();
    for path in &args.paths {
        if let Err(found) = Config::read(path) {
            problems.extend(found);
        }
    }
    for problem in &problems {
        print!("{problem}\n{}", problem.excerpt);
    }
    Ok(if problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Problems
    })
}
