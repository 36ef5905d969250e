//! The daemon from outside, on a live kernel: real compilers, files and sockets in, events and alerts out.
//!
//! Needs root, and the programs `gcc`, `g++`, `setpriv` and `bpftool`. `cargo xtask live` runs it, here and in guests;
//! `EQL_SENSOR_LIVE_TIERS` lists the hook tiers to ask for. Every daemon sees only a cgroup that its test makes. Must never
//! depend on what else the machine is doing, nor sleep in place of waiting for something.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "live/actions.rs"]
mod actions;
#[path = "live/acts.rs"]
mod acts;
#[path = "live/build.rs"]
mod build;
#[path = "live/bulk.rs"]
mod bulk;
#[path = "live/chain.rs"]
mod chain;
#[path = "live/container.rs"]
mod container;
#[path = "live/contents.rs"]
mod contents;
#[path = "live/control.rs"]
mod control;
#[path = "live/credentials.rs"]
mod credentials;
#[path = "live/daemon.rs"]
mod daemon;
#[path = "live/doctor.rs"]
mod doctor;
#[path = "live/fields.rs"]
mod fields;
#[path = "live/file_acts.rs"]
mod file_acts;
#[path = "live/interest.rs"]
mod interest;
#[path = "live/journal.rs"]
mod journal;
#[path = "live/kept.rs"]
mod kept;
#[path = "live/lookups.rs"]
mod lookups;
#[path = "live/loss.rs"]
mod loss;
#[path = "live/network.rs"]
mod network;
#[path = "live/processes.rs"]
mod processes;
#[path = "live/public.rs"]
mod public;
#[path = "live/response.rs"]
mod response;
#[path = "live/restart.rs"]
mod restart;
#[path = "live/runs.rs"]
mod runs;
#[path = "live/scope.rs"]
mod scope;
#[path = "live/self_check.rs"]
mod self_check;
#[path = "live/shipped.rs"]
mod shipped;
#[path = "live/shutdown.rs"]
mod shutdown;
#[path = "live/storm.rs"]
mod storm;
#[path = "live/trial.rs"]
mod trial;
#[path = "live/trouble.rs"]
mod trouble;
#[path = "live/upgrade.rs"]
mod upgrade;

/// Hook tiers to test, as `--tier` names them.
fn tiers() -> Vec<String> {
    let list = std::env::var("EQL_SENSOR_LIVE_TIERS").unwrap_or_else(|_| "auto".to_owned());
    list.split(',').map(str::to_owned).collect()
}

/// Whether this is a guest: an emulated machine, slow and with a kernel that is the tests' own.
fn is_guest() -> bool {
    std::env::var_os("EQL_SENSOR_LIVE_EMULATED").is_some()
}
