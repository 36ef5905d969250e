//! `man` and `completions`: what the command line says of itself, for man and for shells.
//!
//! In: the command line's own definition. Out: manual pages and completion scripts. It adds no fact that `--help` does not have.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell as Target;
use clap_mangen::Man;

use super::{Exit, Failure, print};
use crate::cli::{Cli, CompletionsArgs, ManArgs, Shell};

const NAME: &str = "eql-sensor";
/// Section of manual pages about the administration of a system.
const SECTION: &str = "8";

/// Runs `completions`.
///
/// # Errors
/// Standard output can not be written.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let target = match args.shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(target, &mut Cli::command(), NAME, &mut script);
    print(&script)?;
    Ok(Exit::Ok)
}

/// Runs `man`.
///
/// # Errors
/// A page can not be written.
pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.directory {
        None => print(&page(&command)?)?,
        Some(directory) => write_all(&command, directory)?,
    }
    Ok(Exit::Ok)
}

/// The page of a command and of all below it.
fn write_all(command: &clap::Command, directory: &Path) -> Result<(), Failure> {
    let path = directory.join(format!("{}.{SECTION}", page_name(command)));
    fs::write(&path, page(command)?)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_all(below, directory))
}

fn page_name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or(NAME).to_owned()
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    Man::new(command.clone())
        .section(SECTION)
        .title(page_name(command))
        .render(&mut text)
        .context("cannot render the manual page")?;
    Ok(text)
}
