//! Settings: read, fill in defaults, refuse unknown keys.
//!
//! In: settings files. Out: a [`Config`], or every problem of the files with its place and what is allowed. The defaults are
//! explained in `eql-sensor.toml`, which a test holds equal to the code. Never applies half of a broken file.

mod control;
mod layers;
mod response;
mod watch;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli::{Format, KernelArgs, Output, OutputArgs, RuleArgs, SeverityMin, Tier, TuningArgs};
use crate::document::{Problem, Source, Table, shown};

pub use control::Control;
pub use layers::{Layers, installed_directories};
pub use response::Response;
pub use watch::{WATCHED_MAX, WatchError, watch_entry};

/// Name of the settings file in each directory of settings, and by which `check` knows one.
pub const FILE_NAME: &str = "eql-sensor.toml";
/// Directory of drop-ins beside it.
pub const DROP_INS: &str = "conf.d";
/// Directory of rules on trial, by whose name `check` knows one.
pub const TRIAL: &str = "trial.d";
/// The default settings with their explanation.
pub const DEFAULT_TEXT: &str = include_str!("../eql-sensor.toml");

/// The tables of a settings file.
const TABLES: [&str; 8] = [
    "rules",
    "kernel",
    "engine",
    "processes",
    "files",
    "output",
    "response",
    "control",
];
/// Smallest and largest ring, in bytes.
pub const RING_BYTES_MIN: u32 = 4096;
pub const RING_BYTES_MAX: u32 = 1 << 30;
/// Most alerts an output's queue may be set to hold.
const QUEUE_ALERTS_LIMIT: i64 = 1 << 20;

/// All settings, defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub rules: Rules,
    pub kernel: Kernel,
    pub engine: Engine,
    pub processes: Processes,
    pub files: Files,
    pub output: Outputs,
    pub response: Response,
    pub control: Control,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Later directories give way to earlier ones, file name by file name.
    pub directories: Vec<PathBuf>,
    /// Drop-in directories of exceptions and of overrides, of the same precedence.
    pub exceptions: Vec<PathBuf>,
    pub overrides: Vec<PathBuf>,
    /// Directories of rules on trial, of the same precedence.
    pub trial: Vec<PathBuf>,
    /// How long rules for new terms that have nothing to compare with only note what they see.
    pub new_terms_learning: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub tier: Tier,
    /// `None` chooses by the number of processors.
    pub ring_bytes: Option<u32>,
    /// Empty is the whole host.
    pub scope: Vec<PathBuf>,
    /// Compare known acts with their records before the start.
    pub self_check: bool,
    /// Have recordings hold modifications and watched opens.
    pub record_bulk: bool,
    /// Of those, how many one process may cause: for long, and at once.
    pub bulk_per_second: usize,
    pub bulk_burst: usize,
    /// Names, paths and directories (with a slash at the end) whose opening is reported.
    pub watch_open: Vec<String>,
}

/// What rules ask of opens: where programs and shells keep secrets, and what is run at every login.
const WATCH_OPEN: [&str; 29] = [
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    ".bashrc",
    ".bash_profile",
    ".bash_logout",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    "key3.db",
    "key4.db",
    "logins.json",
    "Login Data",
    "Local State",
    "signons.sqlite",
    "Cookies",
    "cookies.sqlite",
    "credentials.db",
    "credentials",
    "access_tokens.db",
    "accessTokens.json",
    "azureProfile.json",
    "known_hosts",
    "authorized_keys",
    "id_rsa",
    "id_ecdsa",
    "id_ed25519",
    "KeePass.config.xml",
];

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            tier: Tier::default(),
            ring_bytes: None,
            scope: Vec::new(),
            self_check: true,
            record_bulk: false,
            bulk_per_second: 1000,
            bulk_burst: 5000,
            watch_open: WATCH_OPEN.map(str::to_owned).to_vec(),
        }
    }
}

/// Bounds of what the engine remembers; reaching one evicts the oldest and is counted for the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Partial matches of one rule.
    pub partials_max: usize,
    /// Partial matches of all rules, in bytes.
    pub partial_bytes_max: usize,
    /// Join keys one event offers to one step.
    pub keys_per_event_max: usize,
    /// How long a partial match waits when its rule has no maxspan.
    pub idle: Duration,
    /// Combinations of terms one rule remembers, keys one rule counts by.
    pub terms_max: usize,
    /// Most of a processor that one rule may take, in percent; 0 for no bound.
    pub rule_percent_max: usize,
}

/// Bounds of the process table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processes {
    /// Processes known, ended ones included.
    pub entries_max: usize,
    /// Paths and arguments kept in full, in bytes; beyond it only the start of each is kept.
    pub text_bytes_max: usize,
    /// How long an ended process stays known.
    pub keep_ended: Duration,
    /// Names of environment variables to keep besides those that rules test, with wildcards.
    pub environment: Vec<String>,
}

/// What may be read of files that events are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Longest file read as a whole, in bytes.
    pub read_bytes_max: usize,
    /// How long an event, and those behind it, may wait for that.
    pub wait: Duration,
    /// Have recordings hold it.
    pub record: bool,
}

impl Default for Files {
    fn default() -> Self {
        Files {
            read_bytes_max: 64 << 20,
            wait: Duration::from_secs(1),
            record: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    pub alerts: Vec<Output>,
    pub format: Format,
    pub queue_alerts_max: usize,
    /// Most bytes on disk for what the journal or a syslog daemon does not take, for each; 0 for none.
    pub spool_bytes: usize,
    /// Size at which an alerts file is put aside, in bytes, and age; 0 is never. How many of those are kept, and whether they are
    /// compressed.
    pub rotate_bytes: usize,
    pub rotate_age: Duration,
    pub rotate_keep: usize,
    pub rotate_gzip: bool,
    /// How long repeats of an alert are held back to be told together; zero tells each.
    pub suppress: Duration,
    /// Least severity, by sort of output.
    pub stdout_severity_min: SeverityMin,
    pub journald_severity_min: SeverityMin,
    pub file_severity_min: SeverityMin,
    pub syslog_severity_min: SeverityMin,
}

impl Default for Rules {
    fn default() -> Self {
        let below = |bases: &[&str], name: &str| {
            let places = bases
                .iter()
                .map(|base| Path::new(base).join("eql-sensor").join(name));
            places.collect()
        };
        Rules {
            directories: below(&["/etc", "/run", "/usr/lib"], "rules.d"),
            exceptions: below(&["/etc", "/run"], "exceptions.d"),
            overrides: below(&["/etc", "/run"], "overrides.d"),
            trial: below(&["/etc", "/run"], TRIAL),
            new_terms_learning: Duration::from_secs(3600),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Engine {
            partials_max: 65_536,
            partial_bytes_max: 256 << 20,
            keys_per_event_max: 256,
            idle: Duration::from_secs(3600),
            terms_max: 10_000,
            rule_percent_max: 80,
        }
    }
}

impl Default for Processes {
    fn default() -> Self {
        Processes {
            entries_max: 32_768,
            text_bytes_max: 16 << 20,
            keep_ended: Duration::from_secs(10),
            environment: Vec::new(),
        }
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Outputs {
            alerts: vec![Output::Stdout, Output::Journald],
            format: Format::Auto,
            queue_alerts_max: 4096,
            spool_bytes: 64 << 20,
            rotate_bytes: 256 << 20,
            rotate_age: Duration::ZERO,
            rotate_keep: 8,
            rotate_gzip: true,
            suppress: Duration::ZERO,
            stdout_severity_min: SeverityMin::Low,
            journald_severity_min: SeverityMin::Low,
            file_severity_min: SeverityMin::Low,
            syslog_severity_min: SeverityMin::Low,
        }
    }
}

impl Config {
    /// Reads the named file alone, else what is installed: the settings file and its drop-ins over the defaults.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn load(path: Option<&Path>) -> Result<Config, Vec<Problem>> {
        match path {
            Some(path) => Config::read(path),
            None => Layers::installed(&installed_directories()).config(),
        }
    }

    /// Reads one settings file.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn read(path: &Path) -> Result<Config, Vec<Problem>> {
        let source = Source::read(path, "settings file").map_err(|problem| vec![*problem])?;
        Config::parse(&source)
    }

    /// Reads settings from text.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(source: &Source) -> Result<Config, Vec<Problem>> {
        Config::default().with(source)
    }

    /// These settings with those of a text in place of what they were.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn with(self, source: &Source) -> Result<Config, Vec<Problem>> {
        let (document, problems) = source.parse();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut reader = Reader::new(source);
        let config = reader.config(&document, self);
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            reader.problems.sort_by_key(|problem| problem.place);
            Err(reader.problems)
        }
    }

    /// Whether a text is rather settings than a rule.
    #[must_use]
    pub fn is_likely(source: &Source) -> bool {
        let (document, _) = source.parse();
        let tables = document.get_ref();
        !tables.contains_key("rule") && TABLES.iter().any(|name| tables.contains_key(*name))
    }

    /// Lets flags win.
    ///
    /// # Errors
    /// A flag whose value can not be, in one sentence.
    pub fn apply_kernel(&mut self, flags: &KernelArgs) -> Result<(), FlagError> {
        if !flags.scope.is_empty() {
            self.kernel.scope.clone_from(&flags.scope);
        }
        if let Some(tier) = flags.tier {
            self.kernel.tier = tier;
        }
        if flags.no_self_check {
            self.kernel.self_check = false;
        }
        if let Some(bytes) = flags.ring_bytes {
            check_ring_bytes(i64::from(bytes)).map_err(|must| FlagError {
                flag: "--ring-bytes",
                found: bytes.to_string(),
                must,
            })?;
            self.kernel.ring_bytes = Some(bytes);
        }
        Ok(())
    }

    /// Lets flags win.
    pub fn apply_output(&mut self, flags: &OutputArgs) {
        if !flags.outputs.is_empty() {
            self.output.alerts.clone_from(&flags.outputs);
        }
        if let Some(format) = flags.format {
            self.output.format = format;
        }
    }

    /// Lets flags win.
    pub fn apply_tuning(&mut self, flags: &TuningArgs) {
        if !flags.exceptions.is_empty() {
            self.rules.exceptions.clone_from(&flags.exceptions);
        }
        if !flags.overrides.is_empty() {
            self.rules.overrides.clone_from(&flags.overrides);
        }
    }

    /// Lets flags win.
    pub fn apply_rules(&mut self, flags: &RuleArgs) {
        if !flags.paths.is_empty() {
            self.rules.directories.clone_from(&flags.paths);
        }
    }

    /// Lets flags win.
    pub fn apply_trial(&mut self, paths: &[PathBuf]) {
        if !paths.is_empty() {
            self.rules.trial = paths.to_owned();
        }
    }
}

/// A flag with a value that can not be.
#[derive(Debug, thiserror::Error)]
#[error("`{flag}` is {found}, must be {must}")]
pub struct FlagError {
    flag: &'static str,
    found: String,
    must: String,
}

/// What a ring size must be, when `bytes` is none.
fn check_ring_bytes(bytes: i64) -> Result<u32, String> {
    let (min, max) = (i64::from(RING_BYTES_MIN), i64::from(RING_BYTES_MAX));
    match u32::try_from(bytes) {
        Ok(size) if (min..=max).contains(&bytes) => {
            if size.is_power_of_two() {
                return Ok(size);
            }
            let above = size.next_power_of_two();
            Err(format!(
                "a power of two; nearest are {} and {above}",
                above / 2
            ))
        }
        _ => Err(format!("a power of two from {min} to {max}")),
    }
}

/// Reads the tables of one document and collects what is wrong and which keys there are.
struct Reader<'t> {
    source: &'t Source,
    problems: Vec<Problem>,
    known: Vec<String>,
}

impl<'t> Reader<'t> {
    fn new(source: &'t Source) -> Reader<'t> {
        Reader {
            source,
            problems: Vec::new(),
            known: Vec::new(),
        }
    }

    fn config(&mut self, document: &'t Spanned<DeTable<'t>>, mut config: Config) -> Config {
        let mut root = Table::new(self.source, "", document.get_ref(), document.span());
        if let Some(mut table) = root.table("rules", &mut self.problems) {
            self.rules(&mut table, &mut config.rules);
            self.close(&table);
        }
        if let Some(mut table) = root.table("kernel", &mut self.problems) {
            self.kernel(&mut table, &mut config.kernel);
            self.close(&table);
        }
        if let Some(mut table) = root.table("engine", &mut self.problems) {
            self.engine(&mut table, &mut config.engine);
            self.close(&table);
        }
        if let Some(mut table) = root.table("processes", &mut self.problems) {
            self.processes(&mut table, &mut config.processes);
            self.close(&table);
        }
        if let Some(mut table) = root.table("files", &mut self.problems) {
            self.files(&mut table, &mut config.files);
            self.close(&table);
        }
        if let Some(mut table) = root.table("output", &mut self.problems) {
            self.output(&mut table, &mut config.output);
            self.close(&table);
        }
        if let Some(mut table) = root.table("response", &mut self.problems) {
            self.response(&mut table, &mut config.response);
            self.close(&table);
        }
        if let Some(mut table) = root.table("control", &mut self.problems) {
            self.control(&mut table, &mut config.control);
            self.close(&table);
        }
        root.refuse_unknown(&mut self.problems);
        config
    }

    fn close(&mut self, table: &Table<'_>) {
        table.refuse_unknown(&mut self.problems);
        self.known.extend(table.asked());
    }

    fn rules(&mut self, table: &mut Table<'t>, rules: &mut Rules) {
        if let Some(directories) = self.paths(table, "directories") {
            rules.directories = directories;
        }
        if let Some(directories) = self.paths(table, "exceptions") {
            rules.exceptions = directories;
        }
        if let Some(directories) = self.paths(table, "overrides") {
            rules.overrides = directories;
        }
        if let Some(directories) = self.paths(table, "trial") {
            rules.trial = directories;
        }
        let learning = &mut rules.new_terms_learning;
        self.seconds(table, "new_terms_learning_s", 0..=86_400 * 30, learning);
    }

    fn kernel(&mut self, table: &mut Table<'t>, kernel: &mut Kernel) {
        if let Some(tier) = self.word(table, "tier", Tier::value_variants()) {
            kernel.tier = tier;
        }
        if let Some(value) = table.get("ring_bytes") {
            match self.ring_bytes(table, value) {
                Ok(bytes) => kernel.ring_bytes = bytes,
                Err(problem) => self.problems.push(*problem),
            }
        }
        if let Some(scope) = self.paths(table, "scope") {
            kernel.scope = scope;
        }
        if let Some((check, _)) = table.boolean("self_check", &mut self.problems) {
            kernel.self_check = check;
        }
        if let Some((wanted, _)) = table.boolean("record_bulk", &mut self.problems) {
            kernel.record_bulk = wanted;
        }
        let per_second = &mut kernel.bulk_per_second;
        self.count(table, "bulk_per_second", 0..=1_000_000, per_second);
        self.count(table, "bulk_burst", 2..=1_000_000, &mut kernel.bulk_burst);
        if let Some(watched) = self.watched(table) {
            kernel.watch_open = watched;
        }
    }

    fn watched(&mut self, table: &mut Table<'t>) -> Option<Vec<String>> {
        let found = table.strings("watch_open", &mut self.problems)?;
        let mut watched = Vec::with_capacity(found.len());
        for (text, span) in found {
            let wrong = match watch_entry(text) {
                Err(error) => Some(error.to_string()),
                Ok(_) if watched.len() == WATCHED_MAX => {
                    Some(format!("there are more than {WATCHED_MAX} of them"))
                }
                Ok(_) => None,
            };
            if let Some(wrong) = wrong {
                let message = format!("`{}`: `{text}`: {wrong}", table.name("watch_open"));
                self.problems.push(self.source.problem(span, message, None));
            } else {
                watched.push(text.to_owned());
            }
        }
        Some(watched)
    }

    fn ring_bytes(
        &self,
        table: &Table<'t>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Option<u32>, Box<Problem>> {
        let must = match value.get_ref() {
            DeValue::String(word) if word == "auto" => return Ok(None),
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                match check_ring_bytes(number.unwrap_or(-1)) {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(must) => must,
                }
            }
            _ => format!("\"auto\" or a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}"),
        };
        Err(Box::new(table.wrong("ring_bytes", value, &must)))
    }

    fn engine(&mut self, table: &mut Table<'t>, engine: &mut Engine) {
        self.count(table, "partials_max", 1..=1 << 24, &mut engine.partials_max);
        let bytes = &mut engine.partial_bytes_max;
        self.count(table, "partial_bytes_max", 1 << 20..=1 << 36, bytes);
        let keys = &mut engine.keys_per_event_max;
        self.count(table, "keys_per_event_max", 1..=65_536, keys);
        self.seconds(table, "idle_s", 1..=86_400 * 30, &mut engine.idle);
        self.count(table, "terms_max", 1..=1 << 24, &mut engine.terms_max);
        let percent = &mut engine.rule_percent_max;
        self.count(table, "rule_percent_max", 0..=100, percent);
    }

    fn processes(&mut self, table: &mut Table<'t>, processes: &mut Processes) {
        self.count(
            table,
            "entries_max",
            1024..=1 << 22,
            &mut processes.entries_max,
        );
        self.count(
            table,
            "text_bytes_max",
            1 << 20..=1 << 36,
            &mut processes.text_bytes_max,
        );
        self.seconds(table, "keep_ended_s", 1..=3600, &mut processes.keep_ended);
        if let Some(names) = table.strings("environment", &mut self.problems) {
            processes.environment = names.into_iter().map(|(name, _)| name.to_owned()).collect();
        }
    }

    fn files(&mut self, table: &mut Table<'t>, files: &mut Files) {
        let bytes_max = &mut files.read_bytes_max;
        self.count(table, "read_bytes_max", 0..=1 << 32, bytes_max);
        self.seconds(table, "wait_s", 1..=60, &mut files.wait);
        if let Some((wanted, _)) = table.boolean("record", &mut self.problems) {
            files.record = wanted;
        }
    }

    fn count(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        allowed: RangeInclusive<i64>,
        into: &mut usize,
    ) {
        let found = table.integer(key, allowed, &mut self.problems);
        if let Some(number) = found.and_then(|(number, _)| usize::try_from(number).ok()) {
            *into = number;
        }
    }

    fn seconds(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        allowed: RangeInclusive<i64>,
        into: &mut Duration,
    ) {
        let found = table.integer(key, allowed, &mut self.problems);
        if let Some(number) = found.and_then(|(number, _)| u64::try_from(number).ok()) {
            *into = Duration::from_secs(number);
        }
    }

    fn output(&mut self, table: &mut Table<'t>, output: &mut Outputs) {
        if let Some(names) = table.strings("alerts", &mut self.problems) {
            let mut alerts = Vec::new();
            if names.is_empty()
                && let Some(value) = table.get("alerts")
            {
                let problem = table.wrong(
                    "alerts",
                    value,
                    "an array of at least one output; \"none\" is one",
                );
                self.problems.push(problem);
            }
            for (name, span) in names {
                match name.parse::<Output>() {
                    Ok(kind) => alerts.push(kind),
                    Err(error) => {
                        let name = table.name("alerts");
                        self.problems.push(self.source.problem(
                            span,
                            format!("`{name}`: {error}"),
                            None,
                        ));
                    }
                }
            }
            output.alerts = alerts;
        }
        if let Some(format) = self.word(table, "format", Format::value_variants()) {
            output.format = format;
        }
        let queue = &mut output.queue_alerts_max;
        self.count(table, "queue_alerts_max", 1..=QUEUE_ALERTS_LIMIT, queue);
        self.count(table, "spool_bytes", 0..=1 << 40, &mut output.spool_bytes);
        let rotate_bytes = &mut output.rotate_bytes;
        self.count(table, "rotate_bytes", 0..=1 << 40, rotate_bytes);
        let rotate_age = &mut output.rotate_age;
        self.seconds(table, "rotate_age_s", 0..=10 * 366 * 86_400, rotate_age);
        self.count(table, "rotate_keep", 0..=1000, &mut output.rotate_keep);
        if let Some((wanted, _)) = table.boolean("rotate_gzip", &mut self.problems) {
            output.rotate_gzip = wanted;
        }
        self.seconds(table, "suppress_s", 0..=86_400, &mut output.suppress);
        for (key, into) in [
            ("stdout_severity_min", &mut output.stdout_severity_min),
            ("journald_severity_min", &mut output.journald_severity_min),
            ("file_severity_min", &mut output.file_severity_min),
            ("syslog_severity_min", &mut output.syslog_severity_min),
        ] {
            if let Some(severity) = self.word(table, key, SeverityMin::value_variants()) {
                *into = severity;
            }
        }
    }

    /// One of the words of an enumeration.
    fn word<T: clap::ValueEnum>(
        &mut self,
        table: &mut Table<'t>,
        key: &'static str,
        allowed: &[T],
    ) -> Option<T> {
        let value = table.get(key)?;
        if let DeValue::String(word) = value.get_ref()
            && let Ok(found) = T::from_str(word, false)
        {
            return Some(found);
        }
        let words: Vec<String> = allowed
            .iter()
            .filter_map(|word| word.to_possible_value())
            .map(|word| format!("\"{}\"", word.get_name()))
            .collect();
        self.problems.push(table.wrong(key, value, &one_of(&words)));
        None
    }

    /// Absolute paths.
    fn paths(&mut self, table: &mut Table<'t>, key: &'static str) -> Option<Vec<PathBuf>> {
        let found = table.strings(key, &mut self.problems)?;
        let mut paths = Vec::with_capacity(found.len());
        for (text, span) in found {
            if Path::new(text).is_absolute() {
                paths.push(PathBuf::from(text));
            } else {
                let shown = shown(&DeValue::String(text.into()));
                self.problems.push(
                    self.source.problem(
                        span,
                        format!(
                            "`{}` holds {shown}, must hold absolute paths only",
                            table.name(key)
                        ),
                        Some(
                            "a service has no useful working directory; start the path with /"
                                .to_owned(),
                        ),
                    ),
                );
            }
        }
        Some(paths)
    }
}

/// `a, b or c`.
fn one_of(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            path: Path::new("eql-sensor.toml").into(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_settings_file_holds_the_defaults() {
        assert_eq!(
            Config::parse(&source(DEFAULT_TEXT)).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn the_settings_file_explains_every_key() {
        let source = source(DEFAULT_TEXT);
        let (document, _) = source.parse();
        let mut reader = Reader::new(&source);
        reader.config(&document, Config::default());
        for key in &reader.known {
            let (table, key) = key.split_once('.').unwrap();
            let value = document
                .get_ref()
                .get(table)
                .and_then(|v| v.get_ref().get(key));
            let at = value
                .unwrap_or_else(|| panic!("{table}.{key} is not in eql-sensor.toml"))
                .span()
                .start;
            let mut lines = DEFAULT_TEXT[..at].lines().rev().skip(1);
            assert!(
                lines.next().unwrap().starts_with("# "),
                "{table}.{key} has no explanation above it"
            );
        }
        assert!(reader.known.len() >= 14);
        let mut tables: Vec<&str> = document
            .get_ref()
            .keys()
            .map(|k| k.get_ref().as_ref())
            .collect();
        tables.sort_unstable();
        let mut known = TABLES;
        known.sort_unstable();
        assert_eq!(tables, known);
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "[kernel]\ntier = \"tracepoints\"\nring_bytes = 8192\nscope = [\"/a\"]\n\
                    [output]\nalerts = [\"none\"]\nformat = \"tree\"\n[rules]\ndirectories = [\"/r\"]";
        let from_file = Config::parse(&source(text)).unwrap();
        let mut config = from_file.clone();
        config.apply_kernel(&KernelArgs::default()).unwrap();
        config.apply_output(&OutputArgs::default());
        config.apply_rules(&RuleArgs::default());
        assert_eq!(config, from_file);

        let kernel = KernelArgs {
            no_self_check: true,
            fault: None,
            scope: vec!["/b".into()],
            tier: Some(Tier::Trampolines),
            ring_bytes: Some(4096),
        };
        config.apply_kernel(&kernel).unwrap();
        config.apply_output(&OutputArgs {
            outputs: vec![Output::Stdout],
            format: Some(Format::Json),
        });
        config.apply_rules(&RuleArgs {
            paths: vec!["rules".into()],
        });
        assert_eq!(config.kernel.scope, [PathBuf::from("/b")]);
        assert_eq!(config.kernel.tier, Tier::Trampolines);
        assert_eq!(config.kernel.ring_bytes, Some(4096));
        assert!(!config.kernel.self_check);
        assert_eq!(config.output.alerts, [Output::Stdout]);
        assert_eq!(config.output.format, Format::Json);
        assert_eq!(config.rules.directories, [PathBuf::from("rules")]);

        let bad = KernelArgs {
            ring_bytes: Some(5000),
            ..KernelArgs::default()
        };
        assert_eq!(
            config.apply_kernel(&bad).unwrap_err().to_string(),
            "`--ring-bytes` is 5000, must be a power of two; nearest are 4096 and 8192"
        );
    }

    fn check(text: &str, expected: &str) {
        let problems = Config::parse(&source(text)).unwrap_err();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn problems_name_place_found_and_allowed() {
        check(
            "[kernel]\nring_bytes = 3000000",
            "eql-sensor.toml:2:14: error: `kernel.ring_bytes` is 3000000, must be a power of two; nearest are 2097152 and 4194304",
        );
        check(
            "[kernel]\nring_bytes = 16",
            "eql-sensor.toml:2:14: error: `kernel.ring_bytes` is 16, must be a power of two from 4096 to 1073741824",
        );
        check(
            "[kernel]\nteir = \"auto\"\n[ouput]",
            "eql-sensor.toml:2:1: error: unknown key `kernel.teir`; did you mean `kernel.tier`?\n\
             eql-sensor.toml:3:2: error: unknown key `ouput`; did you mean `output`?",
        );
        check(
            "[kernel]\ntier = \"fast\"\nscope = \"/a\"\ncolour = 1",
            "eql-sensor.toml:2:8: error: `kernel.tier` is \"fast\", must be \"auto\", \"trampolines\" or \"tracepoints\"\n\
             eql-sensor.toml:3:9: error: `kernel.scope` is \"/a\", must be an array of strings\n\
             eql-sensor.toml:4:1: error: unknown key `kernel.colour`; allowed are kernel.bulk_burst, \
             kernel.bulk_per_second, kernel.record_bulk, kernel.ring_bytes, kernel.scope, kernel.self_check, kernel.tier, \
             kernel.watch_open",
        );
        check(
            "[kernel]\nwatch_open = [\"/etc/shadow\", \"etc/x\", \"/\"]\nbulk_burst = 1",
            "eql-sensor.toml:2:30: error: `kernel.watch_open`: `etc/x`: must be a name, an absolute path, or a directory with a slash at its end\n\
             eql-sensor.toml:2:39: error: `kernel.watch_open`: `/`: the root directory can not be watched\n\
             eql-sensor.toml:3:14: error: `kernel.bulk_burst` is 1, must be a whole number from 2 to 1000000",
        );
        check(
            "[output]\nalerts = [\"kafka\", 3]\nqueue_alerts_max = 0\n[rules]\ndirectories = [\"rules\"]",
            "eql-sensor.toml:2:11: error: `output.alerts`: `kafka` is no output; allowed are stdout, journald, file:PATH, syslog, syslog:PATH and none\n\
             eql-sensor.toml:2:20: error: `output.alerts` holds 3, must hold strings only\n\
             eql-sensor.toml:3:20: error: `output.queue_alerts_max` is 0, must be a whole number from 1 to 1048576\n\
             eql-sensor.toml:5:16: error: `rules.directories` holds \"rules\", must hold absolute paths only; \
             a service has no useful working directory; start the path with /",
        );
        check(
            "[output]\nalerts = []",
            "eql-sensor.toml:2:10: error: `output.alerts` is an empty array, must be an array of at least one output; \"none\" is one",
        );
        check(
            "kernel = 3",
            "eql-sensor.toml:1:10: error: `kernel` is 3, must be a table, [kernel]",
        );
    }
}
