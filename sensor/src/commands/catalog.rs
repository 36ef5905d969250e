//! `catalog`: the journal's explanations of alerts and lifecycle messages.
//!
//! In: rules, of the flags or installed. Out: a message catalog on standard output. It reads rules alone and touches nothing.

use super::{Exit, Failure, load_config, load_rules, print};
use crate::cli::CatalogArgs;
use crate::output::catalog;

/// Runs `catalog`.
///
/// # Errors
/// Settings or rules can not be used, or standard output can not be written.
pub fn catalog(args: &CatalogArgs) -> Result<Exit, Failure> {
    let mut config = load_config(&args.settings)?;
    config.apply_rules(&args.rules);
    let rules = load_rules(&args.rules, &config, true)?;
    print(catalog::text(rules.iter().map(|rule| &**rule)).as_bytes())?;
    Ok(Exit::Ok)
}
