//! Arguments in, exit code out. Prints an error and its causes once, on standard error.

mod descriptors;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use sensor::cli::Cli;
use sensor::commands::{self, Exit};
use sensor::output::journal_log::JournalLog;
use sensor::self_check::act;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    if let Some(code) = act::if_asked() {
        return code;
    }
    let inherited = descriptors::inherited();
    let cli = Cli::parse();
    let filter = match EnvFilter::try_new(&cli.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!(
                "eql-sensor: `--log {}` is no filter: {error}; try error, warn, info, debug or trace",
                cli.log
            );
            return ExitCode::from(Exit::Usage as u8);
        }
    };
    log_to(filter);
    match commands::dispatch(&cli, inherited) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            eprintln!("eql-sensor: {}", commands::chain(&failure.error));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// As a service to the journal, with priorities and message ids; else to standard error.
fn log_to(filter: EnvFilter) {
    if let Some(journal) = JournalLog::of_this_service() {
        tracing_subscriber::registry()
            .with(filter)
            .with(journal)
            .init();
        return;
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        // It would be told to the very place that failed, by a macro that panics then.
        .log_internal_errors(false)
        .init();
}
