//! The subcommands, and what they share: exit codes and the printing of one error.
//!
//! In: parsed arguments. Out: an [`Exit`]. A command never calls `std::process::exit`, so everything it holds is dropped.

pub mod check;

use std::fmt::Write as _;

use crate::cli::{Cli, Command};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Something was looked at and problems were found, or the work failed.
    Problems = 1,
    Usage = 2,
    /// The kernel or the file system refused; more privilege is needed.
    Permission = 77,
    /// Settings or rules can not be used.
    Configuration = 78,
}

/// An error together with the exit code it ends the process with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure {
            exit: Exit::Problems,
            error,
        }
    }
}

/// Chooses the exit code of an error: `load(..).or_exit(Exit::Permission)?`.
pub trait OrExit<T> {
    /// # Errors
    /// The same error, carrying `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}

/// Runs the chosen subcommand.
///
/// # Errors
/// Whatever ended it early; [`Failure::exit`] says with which code.
pub fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Check(args) => check::check(args),
    }
}

/// One line for an error and its causes, leaving out a cause the line already ends with.
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            // A String takes any write.
            let _ = write!(line, ": {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_printed_once() {
        let error = anyhow::anyhow!("permission denied")
            .context("cannot open x")
            .context("cannot start");
        assert_eq!(
            chain(&error),
            "cannot start: cannot open x: permission denied"
        );
        let error =
            anyhow::anyhow!("permission denied").context("cannot open x: permission denied");
        assert_eq!(chain(&error), "cannot open x: permission denied");
    }
}
