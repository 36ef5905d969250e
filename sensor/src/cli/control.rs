//! Flags of the subcommands that talk to a running daemon, and their help.
//!
//! In and out: as the module above. They all take the same two flags, which say where the daemon listens.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::control::Socket;

/// Where the daemon answers.
#[derive(Clone, Debug, Default, Args)]
pub struct ControlArgs {
    /// Socket of the daemon. Without it: what the settings say, by default control in $RUNTIME_DIRECTORY or /run/eql-sensor
    #[arg(long, value_name = "PATH", env = "EQL_SENSOR_CONTROL")]
    pub control: Option<Socket>,

    /// Settings file to find the socket in. Without it: /etc/eql-sensor/eql-sensor.toml if there is one
    #[arg(long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Say how the running daemon does: rules, events, losses, alerts, outputs, hooks
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        eql-sensor status\n  \
                        eql-sensor status --json | jq .lost.total"
)]
pub struct StatusArgs {
    #[command(flatten)]
    pub control: ControlArgs,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Have the running daemon read its rules and settings again, and wait for what comes of it
///
/// The new rules are compiled beside those that run and take their place between two events. Sequences that are under way in
/// unchanged rules go on. A broken rule keeps its last good version; broken settings change nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything is as the files say, 1 something is not (the problems are printed), 69 no daemon answers, \
                        77 not permitted.\n\nExamples:\n  \
                        eql-sensor reload\n  \
                        eql-sensor check && eql-sensor reload\n  \
                        eql-sensor reload --json | jq .added"
)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub control: ControlArgs,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// List the rules of the running daemon with what each has done and cost; try rules before they count
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 1 no such rule, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        eql-sensor rules list\n  \
                        eql-sensor rules list --json | jq -r 'select(.verdict != \"armed\") | .name'\n  \
                        eql-sensor rules show 64cfca9e\n  \
                        eql-sensor rules trial"
)]
pub struct RulesArgs {
    #[command(subcommand)]
    pub command: RulesCommand,
}

#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// One line for each rule: id, verdict, alerts, evictions, cost, name
    List {
        #[command(flatten)]
        control: ControlArgs,

        /// Print one JSON document for each rule, one a line
        #[arg(long)]
        json: bool,
    },
    /// Everything about one rule
    Show {
        /// The rule's id or how it begins, or its name
        #[arg(value_name = "RULE")]
        rule: String,

        #[command(flatten)]
        control: ControlArgs,

        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    Trial(TrialArgs),
    Promote(PromoteArgs),
    Drop(DropArgs),
}

/// Say what rules on trial would have alerted, and what that cost
///
/// A rule file in the trial directory (the setting rules.trial, by default /etc/eql-sensor/trial.d) is matched beside the live rules
/// and raises no alert, also when a live rule has its id. Without RULE all of them are listed: since when, how many alerts, how many
/// of these exceptions and rate limits would have hidden, what it cost, and which alerts only one of the two versions raised. With
/// RULE its last alerts are told. A file that has changed begins anew.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 1 no such rule, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        sudo cp my_rule.toml /etc/eql-sensor/trial.d/ && sudo eql-sensor reload\n  \
                        eql-sensor rules trial\n  \
                        eql-sensor rules trial my_rule\n  \
                        eql-sensor rules trial my_rule --json | jq -c '.would[].alert' > would.jsonl"
)]
pub struct TrialArgs {
    /// The rule's id or how it begins, its name, or its file
    #[arg(value_name = "RULE")]
    pub rule: Option<String>,

    #[command(flatten)]
    pub control: ControlArgs,

    /// Print one JSON document for each rule, one a line
    #[arg(long)]
    pub json: bool,
}

/// End the trial of a rule by making it live: its file moves to the live rules, and the daemon reloads
///
/// A live rule of the same id gives its place, under its file's name. That, and any other file that would not count any more, takes
/// --replace; a file that is overwritten is kept beside as NAME.toml.replaced. When the daemon does not take the rule everything is
/// put back as it was. Sequences that are under way go on.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it is live, 1 it is not (nothing has changed), 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        sudo eql-sensor rules promote my_rule\n  \
                        sudo eql-sensor rules promote 64cfca9e --replace"
)]
pub struct PromoteArgs {
    /// The rule's id or how it begins, its name, or its file
    #[arg(value_name = "RULE")]
    pub rule: String,

    /// Take the place of what is there
    #[arg(long)]
    pub replace: bool,

    #[command(flatten)]
    pub control: ControlArgs,
}

/// End the trial of a rule by removing its file; the daemon reloads
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it is gone, 1 it is not (nothing has changed), 2 not confirmed, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        sudo eql-sensor rules drop my_rule\n  \
                        sudo eql-sensor rules drop my_rule --yes"
)]
pub struct DropArgs {
    /// The rule's id or how it begins, its name, or its file
    #[arg(value_name = "RULE")]
    pub rule: String,

    /// Do not ask. Without it: asks on a terminal, and refuses elsewhere
    #[arg(long)]
    pub yes: bool,

    #[command(flatten)]
    pub control: ControlArgs,
}

/// Print the running daemon's counters as Prometheus text
#[derive(Debug, Args)]
#[command(
    after_help = "The setting control.metrics_file has the daemon write the same to a file every 15 seconds, for node_exporter's \
                        textfile collector.\n\nExamples:\n  \
                        eql-sensor metrics\n  \
                        eql-sensor metrics | grep lost"
)]
pub struct MetricsArgs {
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Print the running daemon's events as they come, all or those that a query matches
///
/// In a pipe they are JSON lines, on a terminal one readable line each, until q is pressed. Only what the daemon observes is there:
/// kinds of events that no rule asks for are named on standard error.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 1 the query is wrong, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        eql-sensor tail\n  \
                        eql-sensor tail 'process where event.action == \"exec\" and user.id == \"0\"'\n  \
                        eql-sensor tail 'network where true' | jq .destination.ip"
)]
pub struct TailArgs {
    /// Which events: an EQL query; a sequence gives all events of each match
    #[arg(value_name = "EQL")]
    pub query: Option<String>,

    #[command(flatten)]
    pub control: ControlArgs,

    /// Print JSON lines on a terminal, too
    #[arg(long)]
    pub json: bool,
}

/// Show which rules and which programs the running daemon is busy with
///
/// On a terminal it is drawn anew until q is pressed; in a pipe it is printed once. Programs are counted from the first look on.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok, 69 no daemon answers, 77 not permitted.\n\nExamples:\n  \
                        eql-sensor top\n  \
                        eql-sensor top --interval 10 | head -30"
)]
pub struct TopArgs {
    #[command(flatten)]
    pub control: ControlArgs,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub interval: u16,

    /// How many times to show it. Without it: until q on a terminal, once elsewhere
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// Put together what somebody needs who helps with this sensor: settings, health, rules, counters, its part of the journal
///
/// One archive (tar, gzip) that only you can read. Command lines, arguments and environments are not in it, and of alerts only rule and
/// time; it does name this host, its rules, programs and paths. What can not be had is listed with its reason.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 written, 1 the file can not be written or is there already.\n\nExamples:\n  \
                        sudo eql-sensor support\n  \
                        sudo eql-sensor support --events --output /tmp/bundle.tar.gz\n  \
                        sudo eql-sensor support --output - | tar tzv"
)]
pub struct SupportArgs {
    #[command(flatten)]
    pub control: ControlArgs,

    /// File to write; - is standard output. Without it: eql-sensor-support-TIME.tar.gz here
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Add the last events of the running daemon, without command lines
    #[arg(long)]
    pub events: bool,
}
