//! `config cat`: the settings in force.
//!
//! In: the installed settings files, or a named one. Out: every key with its value and origin. It changes nothing.

use super::{Exit, Failure, print, refuse_settings};
use crate::cli::{ConfigArgs, ConfigCommand};
use crate::config::{Layers, installed_directories};

/// Runs `config`.
///
/// # Errors
/// The settings can not be used: every problem has been logged; exit code 78.
pub fn config(args: &ConfigArgs) -> Result<Exit, Failure> {
    let ConfigCommand::Cat(args) = &args.command;
    let layers = match &args.settings.path {
        Some(path) => Layers::named(path).map_err(|problems| refuse_settings(&problems))?,
        None => Layers::installed(&installed_directories()),
    };
    layers
        .config()
        .map_err(|problems| refuse_settings(&problems))?;
    print(layers.cat().as_bytes())?;
    Ok(Exit::Ok)
}
