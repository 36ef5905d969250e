//! What is done about alerts whose rules ask for it: processes are killed.
//!
//! In: [`Order`]s, of alerts that were told. Out: a [`Deed`] for each, to whoever tells of it, whatever came of it. Off until settings
//! turn it on, and then without effect until they say that it is no dry run. Has a thread of its own: an order never waits.

mod kill;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::alert::{Alert, plain};
use crate::config;
use crate::event::{Event, Facts, Host};
use crate::rule::{Action, Rule, Whose};

pub use kill::{Guard, Refusal};

/// Orders that wait at most; each may take as long as a process takes to end.
const ORDERS_MAX: usize = 256;
/// Most descendants that go with one process.
const TREE_MAX: usize = 1024;
/// What [`config::Response::per_minute_max`] is about.
const MINUTE: Duration = Duration::from_secs(60);

/// A process that is to be killed, as the event told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub pid: u32,
    pub entity_id: Arc<str>,
    pub name: Option<Arc<str>>,
    pub executable: Option<Arc<str>>,
    pub command_line: Option<String>,
}

impl Target {
    fn of(facts: &Facts) -> Target {
        let image = &facts.image;
        Target {
            pid: facts.pid,
            entity_id: Arc::clone(&facts.entity_id),
            name: image.names.first().cloned(),
            executable: image.executables.first().cloned(),
            command_line: image.command_line().map(str::to_owned),
        }
    }
}

/// What the actions of a rule come to for some events, whether anything is done about it or not.
#[must_use]
pub fn wanted(rule: &Rule, events: &[Arc<Event>]) -> Vec<(Action, Option<Target>)> {
    let target = |action: &Action| {
        let process = &action.event(events)?.process;
        let facts = match action.whose {
            Whose::Process => &process.facts,
            Whose::Parent => process.lineage.parent()?,
        };
        Some(Target::of(facts))
    };
    let actions = rule.actions.iter();
    actions.map(|action| (*action, target(action))).collect()
}

/// What one action of a rule asks for, about one alert.
#[derive(Clone, Debug)]
pub struct Order {
    pub rule: Arc<Rule>,
    pub action: Action,
    /// Number of the alert, and of the rule set that made it.
    pub alert: u64,
    pub generation: u64,
    /// `None` when the event does not tell.
    pub target: Option<Target>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process was killed and has ended.
    Killed,
    /// It would have been killed.
    DryRun,
    /// It had ended before.
    Ended,
    Refused(Refusal),
    Failed(String),
    /// So many were killed within a minute already.
    Limited(usize),
}

impl Outcome {
    /// Their words, in the order they are counted.
    pub const WORDS: [&'static str; 6] =
        ["killed", "dry_run", "ended", "refused", "failed", "limited"];

    fn index(&self) -> usize {
        match self {
            Outcome::Killed => 0,
            Outcome::DryRun => 1,
            Outcome::Ended => 2,
            Outcome::Refused(_) => 3,
            Outcome::Failed(_) => 4,
            Outcome::Limited(_) => 5,
        }
    }

    #[must_use]
    pub fn word(&self) -> &'static str {
        Outcome::WORDS
            .get(self.index())
            .copied()
            .unwrap_or_default()
    }

    /// Why the process was not killed.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Outcome::Killed => None,
            Outcome::DryRun => Some("dry run".to_owned()),
            Outcome::Ended => Some("it had ended before".to_owned()),
            Outcome::Refused(refusal) => Some(refusal.to_string()),
            Outcome::Failed(why) => Some(why.clone()),
            Outcome::Limited(max) => Some(format!(
                "{max} within a minute are as many as response.per_minute_max allows"
            )),
        }
    }
}

/// What the sensor did, or why it did not.
#[derive(Clone, Debug)]
pub struct Deed {
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    pub order: Order,
    pub outcome: Outcome,
    pub host: Arc<Host>,
    /// One line without control characters.
    pub message: String,
}

impl Deed {
    fn new(order: Order, outcome: Outcome, host: Arc<Host>) -> Deed {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ns = since.map_or(0, |since| since.as_nanos());
        Deed {
            wall_ns: i64::try_from(ns).unwrap_or(i64::MAX),
            message: message(&order, &outcome),
            order,
            outcome,
            host,
        }
    }
}

/// `Killed rev (pid 267) after alert 3, as rule Name asks`.
fn message(order: &Order, outcome: &Outcome) -> String {
    let whom = match (&order.target, order.action.whose) {
        (Some(target), _) => {
            let name = target.name.as_deref().unwrap_or("a process");
            format!("{} (pid {})", shortened(name), target.pid)
        }
        (None, Whose::Process) => "a process".to_owned(),
        (None, Whose::Parent) => "a parent".to_owned(),
    };
    let did = match outcome {
        Outcome::Killed => "Killed",
        Outcome::DryRun => "Would have killed",
        Outcome::Ended | Outcome::Failed(_) => "Could not kill",
        Outcome::Refused(_) | Outcome::Limited(_) => "Did not kill",
    };
    let rule = shortened(&order.rule.name);
    let mut text = format!("{did} {whom} after alert {}, as {rule} asks", order.alert);
    if let Some(reason) = outcome.reason() {
        text.push_str(": ");
        text.push_str(&reason);
    }
    text
}

/// Other people's words in a message: bounded, and without characters that act on a terminal.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    plain(&text.chars().take(CHARS_MAX).collect::<String>())
}

/// What is done about alerts at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Off,
    DryRun,
    On,
}

impl Mode {
    fn of(settings: &config::Response) -> Mode {
        match (settings.enabled, settings.dry_run) {
            (false, _) => Mode::Off,
            (true, true) => Mode::DryRun,
            (true, false) => Mode::On,
        }
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::DryRun => "dry_run",
            Mode::On => "on",
        }
    }
}

/// The mode, and orders so far by what came of them, as [`Outcome::WORDS`] has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub mode: Mode,
    pub counts: [u64; Outcome::WORDS.len()],
}

impl Report {
    /// Counts with their words.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Outcome::WORDS.iter().copied().zip(self.counts)
    }
}

/// Takes a deed to be told of. Must not block.
pub type Tell = Box<dyn Fn(&Arc<Deed>) + Send + Sync>;

/// Has orders carried out.
pub struct Responder {
    settings: config::Response,
    shared: Arc<Shared>,
    /// There once it was turned on.
    worker: Option<Worker>,
}

/// The thread, and the way to it. Orders come with the settings of their time.
struct Worker {
    orders: SyncSender<(Order, config::Response)>,
    thread: JoinHandle<()>,
}

/// What the thread needs, too.
struct Shared {
    guard: Guard,
    host: Arc<Host>,
    tell: Tell,
    counts: [AtomicU64; Outcome::WORDS.len()],
    is_ending: AtomicBool,
}

impl Shared {
    fn done(&self, order: Order, outcome: Outcome) {
        if let Some(count) = self.counts.get(outcome.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let deed = Deed::new(order, outcome, Arc::clone(&self.host));
        (self.tell)(&Arc::new(deed));
    }

    fn serve(&self, orders: &Receiver<(Order, config::Response)>) {
        let mut limit = Limit::default();
        while let Ok((order, settings)) = orders.recv() {
            self.carry_out(order, &settings, &mut limit);
        }
    }

    /// The process and, where the action asks for them, its descendants, each a deed of its own.
    fn carry_out(&self, order: Order, settings: &config::Response, limit: &mut Limit) {
        let mut waiting = VecDeque::from([order]);
        let mut left = TREE_MAX;
        while let Some(order) = waiting.pop_front() {
            let (outcome, children) = match &order.target {
                Some(target) => self.one(target, order.action.tree, settings, limit),
                None => {
                    let why = "the event does not tell which process it is";
                    (Outcome::Failed(why.to_owned()), Vec::new())
                }
            };
            if children.len() > left {
                tracing::error!(
                    "a process has more than {TREE_MAX} descendants: the rest is left alone"
                );
            }
            for child in children.into_iter().take(left) {
                left -= 1;
                waiting.push_back(Order {
                    target: Some(child),
                    ..order.clone()
                });
            }
            self.done(order, outcome);
        }
    }

    /// What came of one process, and its children where they are asked for.
    fn one(
        &self,
        target: &Target,
        tree: bool,
        settings: &config::Response,
        limit: &mut Limit,
    ) -> (Outcome, Vec<Target>) {
        let found = match self.guard.find(target) {
            Ok(found) => found,
            Err(outcome) => return (outcome, Vec::new()),
        };
        if !limit.allows(Instant::now(), settings.per_minute_max) {
            return (Outcome::Limited(settings.per_minute_max), Vec::new());
        }
        if tree && !settings.dry_run {
            self.guard.hold(&found);
        }
        let children = if tree {
            self.guard.children(&found)
        } else {
            Vec::new()
        };
        let outcome = if settings.dry_run {
            found.would_end()
        } else {
            found.end(&self.is_ending)
        };
        (outcome, children)
    }
}

/// Counts what was done within the last minute.
#[derive(Default)]
struct Limit(VecDeque<Instant>);

impl Limit {
    /// Whether one more is allowed now, which then counts.
    fn allows(&mut self, now: Instant, max: usize) -> bool {
        while self
            .0
            .front()
            .is_some_and(|then| now.duration_since(*then) >= MINUTE)
        {
            self.0.pop_front();
        }
        let allows = self.0.len() < max;
        if allows {
            self.0.push_back(now);
        }
        allows
    }
}

impl Responder {
    /// Turned off.
    #[must_use]
    pub fn new(guard: Guard, host: Arc<Host>, tell: Tell) -> Responder {
        Responder {
            settings: config::Response::default(),
            shared: Arc::new(Shared {
                guard,
                host,
                tell,
                counts: Default::default(),
                is_ending: AtomicBool::new(false),
            }),
            worker: None,
        }
    }

    /// From now on as the settings have it.
    pub fn set(&mut self, settings: config::Response) {
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        let max = settings.per_minute_max;
        match Mode::of(&settings) {
            Mode::Off => tracing::info!("response is off: nothing is done about alerts"),
            Mode::DryRun => tracing::info!(
                "response is a dry run: what rules ask for is told and not done, {max} times a minute at most"
            ),
            Mode::On => {
                tracing::warn!(
                    "response is on: processes are killed as rules ask, {max} in a minute at most"
                );
                if !kill::is_permitted() {
                    tracing::error!(
                        "response is on, but the sensor may not signal processes of others: it needs CAP_KILL; see {}",
                        kill::DROP_IN
                    );
                }
            }
        }
        if settings.enabled && self.worker.is_none() {
            let (orders, received) = sync_channel(ORDERS_MAX);
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name("response".to_owned())
                .spawn(move || shared.serve(&received));
            match thread {
                Ok(thread) => self.worker = Some(Worker { orders, thread }),
                Err(error) => tracing::error!("there is no thread for the response: {error}"),
            }
        }
    }

    /// What the actions of a rule come to for some events; none while it is off.
    #[must_use]
    pub fn wanted(&self, rule: &Rule, events: &[Arc<Event>]) -> Vec<(Action, Option<Target>)> {
        if !self.settings.enabled {
            return Vec::new();
        }
        wanted(rule, events)
    }

    /// Has it done about an alert that was told.
    pub fn order(&self, alert: &Alert, wanted: Vec<(Action, Option<Target>)>) {
        for (action, target) in wanted {
            let order = Order {
                rule: Arc::clone(&alert.rule),
                action,
                alert: alert.sequence,
                generation: alert.generation,
                target,
            };
            let Some(worker) = &self.worker else {
                let why = "there is no thread for it".to_owned();
                self.shared.done(order, Outcome::Failed(why));
                continue;
            };
            if let Err(TrySendError::Full(left) | TrySendError::Disconnected(left)) =
                worker.orders.try_send((order, self.settings))
            {
                let why = format!("{ORDERS_MAX} orders are waiting already");
                self.shared.done(left.0, Outcome::Failed(why));
            }
        }
    }

    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            mode: Mode::of(&self.settings),
            counts: std::array::from_fn(|index| {
                let count = self.shared.counts.get(index);
                count.map_or(0, |count| count.load(Ordering::Relaxed))
            }),
        }
    }

    /// Carries out what was ordered, without waiting for processes to end.
    pub fn end(self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(Worker { orders, thread }) = self.worker {
            drop(orders);
            // Its panic, if any, has been printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
