//! Arguments in, exit code out. Prints an error and its causes once, on standard error.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use sensor::cli::Cli;
use sensor::commands::{self, Exit};
use sensor::self_check::act;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(code) = act::if_asked() {
        return code;
    }
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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
    match commands::dispatch(&cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            eprintln!("eql-sensor: {}", commands::chain(&failure.error));
            ExitCode::from(failure.exit as u8)
        }
    }
}
