//! `eql-sensor doctor`: can this machine be watched, and what would be missed.
//!
//! In: settings, flags, this machine. Out: one line for each thing on standard output, and the exit code. Loads the kernel
//! programs for a moment where it may; changes nothing.

use super::{Exit, Failure, OrExit as _, load_config, print, run::interest};
use crate::cli::{DoctorArgs, Output};
use crate::doctor::{self, Report, Status, facts};
use crate::enrich::records::events_of;
use crate::kernel::{Bulk, KindSet, Options};
use crate::{pipeline, rule};

/// Runs `doctor`.
///
/// # Errors
/// Settings or flags that can't be, or standard output that can't be written.
pub fn doctor(args: &DoctorArgs) -> Result<Exit, Failure> {
    let mut config = load_config(&args.settings)?;
    config.apply_kernel(&args.kernel).or_exit(Exit::Usage)?;
    config.apply_rules(&args.rules);
    let loaded = if args.rules.paths.is_empty() {
        rule::load_installed(&config.rules.directories)
    } else {
        rule::load(&args.rules.paths)
    };
    let options = everything(pipeline::options(&config.kernel));
    let is_output = config.output.alerts.contains(&Output::Journald);
    let wanted = interest(&loaded.rules);
    let facts = doctor::Facts {
        not_asked_for: sensor_ebpf::Kind::ALL
            .iter()
            .copied()
            .filter(|kind| {
                !loaded.rules.is_empty()
                    && !crate::kernel::is_always_wanted(*kind)
                    && !events_of(*kind).intersects(wanted)
            })
            .collect(),
        directories: facts::directories(&config.rules.directories),
        rules: facts::Rules {
            files: loaded.files,
            loaded: loaded.rules.len(),
            skipped: loaded.skipped.len(),
            failed: loaded.failed,
        },
        ..facts::gather(&options, config.kernel.self_check, is_output)
    };
    let report = Report::of(&facts);
    if args.json {
        print(report.json().as_bytes())?;
    } else {
        print(report.text().as_bytes())?;
    }
    Ok(if report.count(Status::Fail) > 0 {
        Exit::Problems
    } else {
        Exit::Ok
    })
}

/// Asks for every kind the kernel can give, whatever the rules do. Those that come in masses are held back at once: that their
/// hooks are taken is all there is to learn.
fn everything(options: Options) -> Options {
    Options {
        kinds: KindSet::all(),
        bulk: Bulk {
            per_second: 1,
            burst: 1,
            ..options.bulk
        },
        ..options
    }
}
