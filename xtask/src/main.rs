//! `cargo xtask`: the project's own commands, one file each.
//!
//! In: a task name and its options. Out: what the task prints, and an exit code that is zero only when all of it worked.
//! Must never touch anything outside the workspace's `target` except system packages it names first.
//!
//! Set-up: [`setup`] (kernel toolchain), [`kernels`] (guest kernels). Work: [`budgets`], [`cost`], [`demo`], [`dist`], [`live`], [`service`], [`test`], [`tidy`],
//! [`units`]. Below
//! them: [`apt`], [`artifacts`], [`guest`], [`mirror`], [`results`], [`scope`], [`shell`].

mod apt;
mod artifacts;
mod budgets;
mod cost;
mod demo;
mod dist;
mod guest;
mod kernels;
mod live;
mod mirror;
mod results;
mod scope;
mod service;
mod setup;
mod shell;
mod test;
mod tidy;
mod units;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's own commands",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what builds the kernel programs; does nothing when it is all there
    Setup(setup::Options),
    /// Show the founding rule: compile a program, have it connect, print the alert
    Demo(demo::Options),
    /// Run all tests: format, lints, unit, live on this kernel and in guests, demo
    #[command(alias = "ci")]
    Test(test::Options),
    /// Run the live tests on this kernel or in guests
    Live(live::Options),
    /// Measure what watching costs: loads with the sensor and without, in turn
    Cost(cost::Options),
    /// Write down what the kernel programs cost the verifier, on this kernel and in guests
    Budgets(budgets::Options),
    /// Boot a guest kernel and run one shell command in it
    Guest(guest::Options),
    /// Build the packages: a .deb and a tarball with an install script
    Dist(dist::Options),
    /// Test the installed service: real systemd and journal, in a container on a fresh Debian 12
    Service(service::Options),
    /// Hold the source to the arrows, headers and file sizes of the style page
    Tidy,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.task, shell::workspace_root()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task, root: &Path) -> Result<ExitCode> {
    match task {
        Task::Setup(options) => setup::run(root, options).map(|()| ExitCode::SUCCESS),
        Task::Demo(options) => demo::command(root, options),
        Task::Test(options) => test::run(root, options),
        Task::Live(options) => live::run(root, options),
        Task::Cost(options) => cost::command(root, options),
        Task::Budgets(options) => budgets::command(root, options),
        Task::Guest(options) => guest::command(root, options),
        Task::Dist(options) => dist::command(root, options),
        Task::Service(options) => service::command(root, options),
        Task::Tidy => tidy::run(root).map(|()| ExitCode::SUCCESS),
    }
}
