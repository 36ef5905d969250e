//! Flags and their help.
//!
//! In: the words of the command line. Out: one typed [`Cli`]. Nothing here reads a file or does anything; `commands` does.
//! Every subcommand shows an example in its help, and every flag says what happens without it.

mod control;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::control::Socket;
use crate::event::{Kind, Kinds};
use crate::pipeline::Fault;

pub use control::{
    ControlArgs, DropArgs, MetricsArgs, PromoteArgs, ReloadArgs, RulesArgs, RulesCommand,
    StatusArgs, SupportArgs, TailArgs, TopArgs, TrialArgs,
};

/// Linux endpoint sensor: watches the kernel, matches EQL rules as events arrive, writes alerts.
#[derive(Debug, Parser)]
#[command(
    name = "eql-sensor",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 problems found, 2 usage, 69 no daemon answers, 71 kernel can not be watched, 77 permission, \
                  78 configuration.\n\n\
                  Start here:\n  \
                  eql-sensor check rules/            are these rules sound?\n  \
                  sudo eql-sensor run --rules rules/ watch this host and print alerts"
)]
pub struct Cli {
    /// What the sensor says about itself, on standard error: error, warn, info, debug, trace, or a tracing filter
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "EQL_SENSOR_LOG",
        default_value = "info"
    )]
    pub log: String,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Status(StatusArgs),
    Reload(ReloadArgs),
    Rules(RulesArgs),
    Metrics(MetricsArgs),
    Tail(TailArgs),
    Top(TopArgs),
    Check(CheckArgs),
    Replay(ReplayArgs),
    Record(RecordArgs),
    Query(QueryArgs),
    Test(TestArgs),
    Explain(ExplainArgs),
    Tune(TuneArgs),
    Doctor(DoctorArgs),
    Support(SupportArgs),
    Fields(FieldsArgs),
    Config(ConfigArgs),
    Catalog(CatalogArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Show the settings in force, and where each comes from
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        eql-sensor config cat\n  \
                        eql-sensor config cat | grep -v 'built in'")]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    Cat(ConfigCatArgs),
}

/// Print every setting with its value and the file and line it comes from
///
/// Settings are read from eql-sensor.toml, then from the *.toml files of conf.d in order of their names; what is read later wins,
/// key by key. Both are looked for in /etc/eql-sensor, /run/eql-sensor and /usr/lib/eql-sensor: a file replaces one of the same
/// name in a later one of these, and an empty file, or a link to /dev/null, hides it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the settings can be used, 78 they can not.\n\nExamples:\n  \
                        eql-sensor config cat\n  \
                        eql-sensor config cat --config ./eql-sensor.toml"
)]
pub struct ConfigCatArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Print the journal's message catalog: what `journalctl -x` says below an alert and below what the sensor says about itself
///
/// Each rule's entry holds its description, its triage guide and its known false alarms. The package installs a catalog of the
/// shipped rules; this makes one that has yours as well.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        eql-sensor catalog > eql-sensor.catalog\n  \
                        sudo sh -c 'eql-sensor catalog > /etc/systemd/catalog/eql-sensor.catalog' && sudo journalctl --update-catalog\n  \
                        eql-sensor catalog --rules rules/")]
pub struct CatalogArgs {
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Print what completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        eql-sensor completions bash > /usr/share/bash-completion/completions/eql-sensor\n  \
                        eql-sensor completions zsh > /usr/share/zsh/vendor-completions/_eql-sensor\n  \
                        eql-sensor completions fish > /usr/share/fish/vendor_completions.d/eql-sensor.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Print the manual page, or write the page of every command into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        eql-sensor man | man -l -\n  \
                        eql-sensor man --directory /usr/share/man/man8")]
pub struct ManArgs {
    /// Write eql-sensor.8 and one page for each command into this directory, which must be there
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// List the fields that events carry: type, events that have them, how they are obtained
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 fields found, 1 none.\n\nExamples:\n  \
                        eql-sensor fields\n  \
                        eql-sensor fields parent\n  \
                        eql-sensor fields 'process.*.name'\n  \
                        eql-sensor fields --format json | jq -r '.[].field'")]
pub struct FieldsArgs {
    /// Only fields whose name contains this; with * or ?, fields whose whole name fits
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,

    /// How to print: text for people, json as one document
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// Say which rules can fire here and which can not, and report every problem with file, line and column
///
/// A rule is armed (all it reads is produced), degraded (it fires, but something it reads is never present), blind (it can never
/// fire), skipped (not for this sensor) or failed (it does not parse).
///
/// A directory is read as rules (its *.toml files and those below it). A file named eql-sensor.toml is read as settings, any other
/// file as a rule. Without a path the installed rules and settings are checked.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing wrong, 1 problems found.\n\nExamples:\n  \
                        eql-sensor check rules/\n  \
                        eql-sensor check /etc/eql-sensor/eql-sensor.toml my_rule.toml\n  \
                        eql-sensor check --verbose rules/my_rule.toml\n  \
                        sudo eql-sensor check --kernel rules/\n  \
                        eql-sensor check --format json rules/ | jq '.rules[] | select(.verdict != \"armed\")'"
)]
pub struct CheckArgs {
    /// Rule directories, rule files and settings files
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// How to print: text for people, json as one document
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Every rule with its verdict and what it lacks, every skipped file with the reason, every warning and note
    #[arg(long, short)]
    pub verbose: bool,

    /// A recording by which to count the events a rule has to look at; without it a small one of an ordinary host
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Load the kernel programs for a moment and judge rules by the hooks that could be attached; needs root. Without it rules are
    /// judged by the hooks this kernel says it has
    #[arg(long)]
    pub kernel: bool,
}

/// Watch this host: load the kernel programs, match rules as events arrive, write alerts
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Needs CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (root has them). Ends on SIGTERM or SIGINT; \
                        reads rules and settings again on SIGHUP.\n\n\
                        Examples:\n  \
                        sudo eql-sensor run --rules rules/\n  \
                        sudo eql-sensor run --rules rules/ --output stdout --format json > alerts.jsonl\n  \
                        sudo eql-sensor run --scope /sys/fs/cgroup/user.slice"
)]
pub struct RunArgs {
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub tuning: TuningArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    pub output: OutputArgs,

    /// Directory of rules on trial or one such rule file; may be given several times. Without it: the directories named in the
    /// settings, by default trial.d under /etc/eql-sensor and /run/eql-sensor
    #[arg(long, value_name = "DIR")]
    pub trial: Vec<PathBuf>,

    /// Start even when no rule loads; without this flag that is an error
    #[arg(long)]
    pub allow_no_rules: bool,

    /// Socket to answer `status`, `reload` and the like on; none for no socket. Without it: what the settings say, by default
    /// control in $RUNTIME_DIRECTORY or /run/eql-sensor
    #[arg(long, value_name = "PATH", env = "EQL_SENSOR_CONTROL")]
    pub control: Option<Socket>,
}

/// Write live events as ECS JSON lines; needs no rules
#[derive(Debug, Args)]
#[command(
    after_help = "At the end, what was received, submitted and lost is printed on standard error.\n\n\
                        Examples:\n  \
                        sudo eql-sensor record > events.jsonl\n  \
                        sudo eql-sensor record --scope /sys/fs/cgroup/user.slice | jq .process.command_line\n  \
                        sudo eql-sensor record --only exec,network\n  \
                        eql-sensor replay --rules rules/ events.jsonl"
)]
pub struct RecordArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,

    /// Record only these events, and attach only what they need: names as in event.action, or process, file or network for all of
    /// a sort; several with commas. Without it: all but modification and open, which `kernel.record_bulk` adds
    #[arg(long, value_name = "EVENT", value_delimiter = ',')]
    pub only: Vec<Events>,
}

/// Events named on the command line: one kind, or all of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(pub Kinds);

/// No event has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no event; allowed are {allowed}")]
pub struct UnknownEvent {
    found: String,
    allowed: String,
}

impl FromStr for Events {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Events, UnknownEvent> {
        let mut groups = Kinds::GROUPS.iter();
        if let Some((_, kinds)) = groups.find(|(name, _)| *name == text) {
            return Ok(Events(*kinds));
        }
        if let Some(kind) = Kind::ALL.iter().find(|kind| kind.action() == text) {
            return Ok(Events(Kinds::NONE.with(*kind)));
        }
        let groups = Kinds::GROUPS.iter().map(|(name, _)| *name);
        let allowed: Vec<_> = groups
            .chain(Kind::ALL.iter().map(|kind| kind.action()))
            .collect();
        Err(UnknownEvent {
            found: text.to_owned(),
            allowed: allowed.join(", "),
        })
    }
}

/// Match rules against recorded events: ECS JSON lines in, alerts as JSON lines out
#[derive(Debug, Args)]
#[command(
    after_help = "Needs no privilege and no kernel support. Time is the events' own, so the answer is always the same.\n\n\
                        Examples:\n  \
                        eql-sensor replay --rules rules/ events.jsonl\n  \
                        zcat events.jsonl.gz | eql-sensor replay --rules rules/ -\n  \
                        eql-sensor replay --rules rules/ --output file:alerts.jsonl --output journald events.jsonl"
)]
pub struct ReplayArgs {
    /// Recorded events, one JSON document per line; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,

    #[command(flatten)]
    pub tuning: TuningArgs,

    /// Where alerts go instead of standard output, as for `run`; may be given several times. No alert is dropped: replay waits
    /// for the slowest output
    #[arg(long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<Output>,

    /// How to print alerts; auto is a readable tree on a terminal and JSON lines elsewhere
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,

    /// Go on even when no rule loads; without this flag that is an error
    #[arg(long)]
    pub allow_no_rules: bool,
}

/// Run one EQL or KQL query over recorded events and print what matches
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        eql-sensor query 'process where process.name == \"curl\"' events.jsonl\n  \
                        eql-sensor query --count 'sequence by process.entity_id [process where true] [network where true]' events.jsonl\n  \
                        eql-sensor query --kql 'process.name : (curl or wget) and process.args : *://*' events.jsonl\n  \
                        eql-sensor query --schema none --field-timestamp ts --field-category kind 'any where true' other.jsonl")]
pub struct QueryArgs {
    /// The query
    #[arg(value_name = "EQL")]
    pub query: String,

    /// Events, one JSON document per line; - (the default) is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub files: Vec<PathBuf>,

    /// Field that holds the time of an event
    #[arg(long, value_name = "FIELD", default_value = "@timestamp")]
    pub field_timestamp: String,

    /// Field that orders events of the same time; without it they keep the order of the input
    #[arg(long, value_name = "FIELD")]
    pub field_tiebreaker: Option<String>,

    /// Field that holds the category a query names before `where`
    #[arg(long, value_name = "FIELD", default_value = "event.category")]
    pub field_category: String,

    /// Fields the query may name: none accepts any, sensor accepts only what this sensor produces
    #[arg(long, value_enum, default_value_t = SchemaName::None)]
    pub schema: SchemaName,

    /// Print the number of matches instead of the matches
    #[arg(long)]
    pub count: bool,

    /// The query is KQL, as rules of the types query, threshold and new_terms are; the category is then a field like any other
    #[arg(long, conflicts_with = "field_category")]
    pub kql: bool,
}

/// Run the tests that rules carry
///
/// A `[[test]]` in a rule file gives events that must or must not make the rule fire; rules/README.md says how one is written. A
/// failure comes with its reason: the clause that was false for the event that came nearest, and the value it has there.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all pass, 1 something fails or does not load.\n\nExamples:\n  \
                        eql-sensor test rules/\n  \
                        eql-sensor test --filter compiled --verbose rules/\n  \
                        eql-sensor test --require 2,3 --baseline package_build.jsonl rules/"
)]
pub struct TestArgs {
    /// Rule directories and rule files. Without any, the installed rules
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Recording in which no rule may fire; may be given several times. Without it only the rules' own tests run
    #[arg(long = "baseline", value_name = "FILE")]
    pub baselines: Vec<PathBuf>,

    /// Only tests whose name, rule name or rule id contains this, whatever the case of letters
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Fail rules with fewer tests: how many must fire, and how many must not. Without it a rule without tests is only a warning
    #[arg(long, value_name = "FIRING,SILENT")]
    pub require: Option<TestCount>,

    /// How to print: text for people, json as one document
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Also list what passes
    #[arg(long, short)]
    pub verbose: bool,

    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Say what a rule needs, or why it matches recorded events or does not
///
/// Without events: the rule in words, the fields and events it reads, how the sensor gets them, and what it leaves to the kernel.
/// With events: the truth of every clause on the event that comes nearest, how far a sequence got and why it stopped. With
/// alerts of the rule: what made each of their events match. With --running: the same of the last events of the running daemon, of
/// which it keeps as many as the setting control.recent_bytes has room for.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 explained, 1 the rule or the events can not be used, 69 no daemon answers, 77 not permitted, \
                        78 settings.\n\nExamples:\n  \
                        eql-sensor explain rules/my_rule.toml\n  \
                        eql-sensor explain rules/my_rule.toml events.jsonl\n  \
                        eql-sensor explain rules/my_rule.toml events.jsonl --event 3\n  \
                        eql-sensor explain 64cfca9e-0f6c-4048-8251-9ec56a055e9e --running\n  \
                        eql-sensor explain 'Network Connection via Recently Compiled Executable' /var/log/eql-sensor/alerts.jsonl"
)]
pub struct ExplainArgs {
    /// A rule file, or the id or name of a rule that is loaded
    #[arg(value_name = "RULE")]
    pub rule: PathBuf,

    /// Recorded events, or alerts, one JSON document per line; - is standard input. Without it the rule itself is explained
    #[arg(value_name = "EVENTS|ALERT", group = "source")]
    pub events: Option<PathBuf>,

    /// Explain with the last events of the running daemon
    #[arg(long, group = "source")]
    pub running: bool,

    /// Socket of the running daemon, for --running. Without it: what the settings say
    #[arg(long, value_name = "PATH", env = "EQL_SENSOR_CONTROL")]
    pub control: Option<Socket>,

    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,

    /// Hold the event of this line against every step, whatever the rest
    #[arg(long, value_name = "LINE", requires = "source")]
    pub event: Option<u64>,

    /// How to print: text for people, json as one document
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
}

/// Propose the narrowest exception that hides given alerts
///
/// For each event of the alerts, what all of them have in common: the executables, users, directories, addresses. It is printed as a
/// file for exceptions.d, to be read first; what else it would hide, and whether it would hide the rule's own tests, is said on
/// standard error.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 proposed, 1 none found or a test of the rule would be hidden.\n\nExamples:\n  \
                        eql-sensor tune alert.jsonl --rules rules/ --owner infra --reason 'the nightly build' --expires 2030-12-31\n  \
                        eql-sensor tune alerts.jsonl --number 12 --number 15 --alerts alerts.jsonl > exceptions.d/build.toml"
)]
pub struct TuneArgs {
    /// Files of alerts, one JSON document per line; all have to be of one rule. - is standard input
    #[arg(value_name = "ALERT", required = true)]
    pub alerts: Vec<PathBuf>,

    /// Only the alerts of these numbers (`event.sequence`); may be given several times. Without it all that the files hold
    #[arg(long = "number", value_name = "N")]
    pub numbers: Vec<u64>,

    /// Alerts in which to look for what else would be hidden. Without it nothing is looked at
    #[arg(long = "alerts", value_name = "FILE")]
    pub others: Option<PathBuf>,

    /// Why the alerts need not be seen
    #[arg(long, value_name = "TEXT", default_value = "say why")]
    pub reason: String,

    /// Who answers for the exception
    #[arg(long, value_name = "NAME", default_value = "say who")]
    pub owner: String,

    /// The last day it holds, such as 2030-12-31, or never
    #[arg(long, value_name = "DAY", default_value = "never")]
    pub expires: String,

    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Say whether this machine can be watched, by which hooks, and what would be missed
///
/// Looks at the kernel, its type information, lockdown, capabilities, clocks, memory, journal and rules, loads the kernel programs
/// for a moment and has them report known acts. Each line is ok, warn (the sensor runs with less) or fail (`run` would refuse), and
/// says what to do. Without root it says what it could not look at.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing fails, 1 something does.\n\nExamples:\n  \
                        sudo eql-sensor doctor\n  \
                        sudo eql-sensor doctor --tier tracepoints --rules rules/\n  \
                        sudo eql-sensor doctor --json | jq '.kinds[] | select(.attached | not)'"
)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// How many tests there have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestCount {
    pub firing: usize,
    pub silent: usize,
}

/// `found` is no pair of counts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not two whole numbers with a comma between, such as 2,3")]
pub struct NoCounts {
    pub found: String,
}

impl FromStr for TestCount {
    type Err = NoCounts;

    fn from_str(text: &str) -> Result<Self, NoCounts> {
        let counts = text.split_once(',').and_then(|(firing, silent)| {
            Some(TestCount {
                firing: firing.trim().parse().ok()?,
                silent: silent.trim().parse().ok()?,
            })
        });
        counts.ok_or_else(|| NoCounts {
            found: text.to_owned(),
        })
    }
}

/// Where rules come from.
#[derive(Clone, Debug, Default, Args)]
pub struct RuleArgs {
    /// Directory of rules (its *.toml files) or one rule file; may be given several times. Without it: the directories named in the
    /// settings, by default rules.d under /etc/eql-sensor, /run/eql-sensor and /usr/lib/eql-sensor
    #[arg(long = "rules", value_name = "DIR")]
    pub paths: Vec<PathBuf>,
}

/// What an administrator changes about rules.
#[derive(Clone, Debug, Default, Args)]
pub struct TuningArgs {
    /// Directory or file of exceptions; may be given several times. Without it: the directories named in the settings, by default
    /// exceptions.d under /etc/eql-sensor and /run/eql-sensor
    #[arg(long, value_name = "DIR")]
    pub exceptions: Vec<PathBuf>,

    /// Directory or file of overrides; may be given several times. Without it: the directories named in the settings, by default
    /// overrides.d under /etc/eql-sensor and /run/eql-sensor
    #[arg(long, value_name = "DIR")]
    pub overrides: Vec<PathBuf>,
}

/// Where settings come from.
#[derive(Clone, Debug, Default, Args)]
pub struct SettingsArgs {
    /// Settings file, read alone. Without it: eql-sensor.toml and conf.d/*.toml of /etc/eql-sensor, /run/eql-sensor and
    /// /usr/lib/eql-sensor over the built-in defaults
    #[arg(long = "config", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

/// What the kernel programs observe and how. A flag wins over the settings file.
#[derive(Clone, Debug, Default, Args)]
pub struct KernelArgs {
    /// Observe only processes in this cgroup (version 2) directory and below; may be given several times
    #[arg(long, value_name = "DIR")]
    pub scope: Vec<PathBuf>,

    /// Which hooks to use: trampolines see most, tracepoints work where the kernel refuses trampolines, auto tries in that order
    #[arg(long, value_enum)]
    pub tier: Option<Tier>,

    /// Size of the ring buffer shared with the kernel: a power of two, 4096 to 1073741824
    #[arg(long, value_name = "BYTES")]
    pub ring_bytes: Option<u32>,

    /// Do not compare known acts with their records before the start
    #[arg(long)]
    pub no_self_check: bool,

    /// Misbehaves as told, for tests: stop-consumer=SECONDS, or stall
    #[arg(long, hide = true, value_name = "FAULT")]
    pub fault: Option<Fault>,
}

/// Where alerts go. A flag wins over the settings file.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Where alerts go: stdout, journald, file:PATH (JSON lines, appended), syslog, syslog:PATH (RFC 5424, a unix datagram
    /// socket; /dev/log without PATH) or none; may be given several times
    #[arg(long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<Output>,

    /// How alerts look on stdout; auto is a readable tree on a terminal and JSON lines elsewhere
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

/// Which sort of kernel hook to use where there is a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    #[default]
    Auto,
    Trampolines,
    Tracepoints,
}

/// How alerts look on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Auto,
    Json,
    Tree,
}

/// Which shell completions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// How `check` prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    #[default]
    Text,
    Json,
}

/// Which fields a query may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaName {
    #[default]
    None,
    Sensor,
}

/// One place alerts go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Journald,
    File(PathBuf),
    /// The socket of a syslog daemon.
    Syslog(PathBuf),
    None,
}

/// Where syslog daemons listen unless told otherwise.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Least severity of alerts that go somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SeverityMin {
    #[default]
    Low,
    Medium,
    High,
    Critical,
}

/// `found` is no output.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no output; allowed are stdout, journald, file:PATH, syslog, syslog:PATH and none"
)]
pub struct UnknownOutput {
    pub found: String,
}

impl FromStr for Output {
    type Err = UnknownOutput;

    fn from_str(text: &str) -> Result<Self, UnknownOutput> {
        match text {
            "stdout" => Ok(Output::Stdout),
            "journald" => Ok(Output::Journald),
            "none" => Ok(Output::None),
            "syslog" => Ok(Output::Syslog(PathBuf::from(SYSLOG_SOCKET))),
            _ => match text.split_once(':') {
                Some(("file", path)) if !path.is_empty() => Ok(Output::File(PathBuf::from(path))),
                Some(("syslog", path)) if !path.is_empty() => {
                    Ok(Output::Syslog(PathBuf::from(path)))
                }
                _ => Err(UnknownOutput {
                    found: text.to_owned(),
                }),
            },
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Stdout => f.write_str("stdout"),
            Output::Journald => f.write_str("journald"),
            Output::File(path) => write!(f, "file:{}", path.display()),
            Output::Syslog(path) => write!(f, "syslog:{}", path.display()),
            Output::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn outputs_read_back_as_written() {
        for text in [
            "stdout",
            "journald",
            "file:/var/log/a.jsonl",
            "syslog:/dev/log",
            "none",
        ] {
            assert_eq!(text.parse::<Output>().unwrap().to_string(), text);
        }
        let error = "file:".parse::<Output>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`file:` is no output; allowed are stdout, journald, file:PATH, syslog, syslog:PATH and none"
        );
    }
}
