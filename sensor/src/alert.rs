//! Match and its rule to alert: who, what, evidence.
//!
//! In: the events and join keys of a match, and the rule. Out: an [`Alert`] with one sentence a person understands, every
//! event in order and the process tree of the last one. It never reads a clock: an alert's time is its last event's.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use crate::engine::{Match, Tally};
use crate::event::{Event, Evidence, FieldId, FieldTable, OwnedValue, Value, Values};
use crate::rule::Rule;

/// Longest piece of a name, path or argument in a message, in characters.
const PIECE_CHARS_MAX: usize = 160;
/// Processes in the tree, the acting one included.
const TREE_MAX: usize = 33;

/// Alerts like one before, told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// How many, the one that tells of them included.
    pub count: u64,
    /// Number of the alert they repeat.
    pub of: u64,
    /// Times of the first and the last, nanoseconds since the Unix epoch.
    pub first_ns: i64,
    pub last_ns: i64,
}

/// A rule's query was satisfied, and by what.
#[derive(Clone)]
pub struct Alert {
    /// Position among the alerts of this run, from 1, without gaps. A daemon goes on from what it was stopped at, until the next
    /// boot.
    pub sequence: u64,
    /// Which of the daemon's rule sets made it, from 1; 0 outside of a daemon.
    pub generation: u64,
    /// Time of the last event, nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    pub rule: Arc<Rule>,
    /// One line without control characters.
    pub message: String,
    pub join: Vec<Join>,
    /// In the order of the query's steps.
    pub events: Vec<Shown>,
    /// The last event's process, then its ancestors, nearest first.
    pub tree: Vec<TreeProcess>,
    /// Records the kernel could not deliver between the first event and the alert: what the alert says may be incomplete.
    pub lost: u64,
    pub subject: Subject,
    /// What a rule that remembers or counts found out.
    pub tally: Option<Tally>,
    /// Since when, nanoseconds since the Unix epoch.
    pub tally_since_wall_ns: Option<i64>,
    /// Set on the last of several alike that were held back.
    pub repeats: Option<Repeats>,
}

/// One event of the match and the clause that describes it.
#[derive(Clone)]
pub struct Shown {
    pub event: Arc<dyn Evidence>,
    /// `ld wrote /tmp/x`; one line without control characters.
    pub clause: String,
    /// What happened, in the event's own words: `process exec`.
    pub act: String,
    /// Further facts by name, one line each and without control characters.
    pub details: Vec<(&'static str, String)>,
    pub wall_ns: i64,
}

/// One join key: the fields that had to agree, step by step, and what they agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub fields: Vec<Box<str>>,
    /// More than one when fields hold arrays with several values in common. `None` when the fields were optional and missing.
    pub values: Vec<Option<OwnedValue>>,
}

/// Matches of one rule by the same events.
#[derive(Debug)]
pub struct Group<T> {
    pub rule: usize,
    /// Each match's keys.
    pub keys: Vec<Vec<Option<OwnedValue>>>,
    pub events: Vec<Arc<T>>,
    /// Of the first match.
    pub tally: Option<Tally>,
}

/// Makes one of matches that differ only in the key: arrays with several values in common match once for each, and people
/// want to hear of it once. The order of first matches is kept.
#[must_use]
pub fn merge<T>(matches: Vec<Match<Arc<T>>>) -> Vec<Group<T>> {
    let mut groups: Vec<Group<T>> = Vec::with_capacity(matches.len());
    for found in matches {
        let last = found.events.last().map(Arc::as_ptr);
        // Matches that one event completes come one after another.
        let same = groups
            .iter_mut()
            .rev()
            .take_while(|group| group.events.last().map(Arc::as_ptr) == last)
            .find(|group| group.rule == found.rule && same_events(&group.events, &found.events));
        match same {
            Some(group) => group.keys.push(found.keys),
            None => groups.push(Group {
                rule: found.rule,
                keys: vec![found.keys],
                events: found.events,
                tally: found.tally,
            }),
        }
    }
    groups
}

fn same_events<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// A process as the tree shows it. What is unknown is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeProcess {
    pub pid: Option<i64>,
    pub entity_id: Option<String>,
    pub name: Option<String>,
    pub executable: Option<String>,
    pub command_line: Option<String>,
}

/// What alerts are searched by: the last event's host and user. The process is the first of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub host_id: Option<String>,
    pub host_name: Option<String>,
    pub agent_id: Option<String>,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
    pub container_id: Option<String>,
}

/// Names the fields an alert reads, and their numbers in one table.
macro_rules! alert_fields {
    ($($name:ident = $path:literal,)*) => {
        #[derive(Clone, Copy)]
        struct Ids {
            $($name: FieldId,)*
        }

        impl Ids {
            fn new(table: &mut FieldTable) -> Ids {
                Ids { $($name: table.intern($path),)* }
            }

            fn all(&self) -> Vec<FieldId> {
                vec![$(self.$name,)*]
            }
        }
    };
}

alert_fields! {
    timestamp = "@timestamp",
    agent_id = "agent.id",
    host_id = "host.id",
    host_name = "host.name",
    user_id = "user.id",
    user_name = "user.name",
    container_id = "container.id",
    category = "event.category",
    action = "event.action",
    pid = "process.pid",
    entity_id = "process.entity_id",
    name = "process.name",
    executable = "process.executable",
    args = "process.args",
    command_line = "process.command_line",
    working_directory = "process.working_directory",
    exit_code = "process.exit_code",
    ancestry = "process.Ext.ancestry",
    parent_pid = "process.parent.pid",
    parent_entity_id = "process.parent.entity_id",
    parent_name = "process.parent.name",
    parent_executable = "process.parent.executable",
    parent_command_line = "process.parent.command_line",
    file_path = "file.path",
    file_old_path = "file.Ext.original.path",
    destination_ip = "destination.ip",
    destination_port = "destination.port",
    direction = "network.direction",
    source_ip = "source.ip",
    source_port = "source.port",
    question = "dns.question.name",
}

/// Makes alerts and numbers them.
pub struct Builder {
    ids: Ids,
    sequence: u64,
    /// Of the next one alone.
    again: Option<u64>,
    generation: u64,
}

impl Builder {
    /// The table is the one events are read by; fields it does not have yet are added.
    pub fn new(table: &mut FieldTable) -> Builder {
        Builder {
            ids: Ids::new(table),
            sequence: 0,
            again: None,
            generation: 0,
        }
    }

    /// Goes on with the next rule set, whose events are read by another table. Numbers of alerts go on, too.
    pub fn next_generation(&mut self, table: &mut FieldTable) {
        self.ids = Ids::new(table);
        self.generation += 1;
    }

    /// Number of the rule set; 0 before the first [`Builder::next_generation`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Gives the next alert this number, which it had before; the one after it goes on from the highest there was.
    pub fn again_as(&mut self, sequence: u64) {
        self.again = Some(sequence);
    }

    /// Goes on with numbers behind this one.
    pub fn go_on_from(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Fields an event should carry for its alert to be complete: what a reader of recorded events has to keep.
    #[must_use]
    pub fn wanted(&self) -> Vec<FieldId> {
        self.ids.all()
    }

    /// Alerts made so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sequence
    }

    /// The alert for one group of matches, whose keys are given match by match. `lost` counts records lost since the first
    /// event.
    pub fn build(
        &mut self,
        rule: &Arc<Rule>,
        keys: &[Vec<Option<OwnedValue>>],
        events: Vec<Arc<dyn Evidence>>,
        tally: Option<Tally>,
        lost: u64,
    ) -> Alert {
        let sequence = self.again.take().unwrap_or(self.sequence + 1);
        self.sequence = self.sequence.max(sequence);
        let views: Vec<View<'_>> = events.iter().map(|e| self.view(e.as_ref())).collect();
        let known = known(&views);
        let clauses: Vec<String> = views
            .iter()
            .zip(&known)
            .map(|(v, k)| clause(v, *k))
            .collect();
        let mut message = plain(&rule.name);
        message.push_str(": ");
        message.push_str(&sentence(&clauses));
        let last = views.last();
        let join = joins(rule, keys);
        let tally_since_wall_ns = tally.as_ref().zip(last).map(|(tally, last)| {
            let (Tally::New { since_ns } | Tally::Count { since_ns, .. }) = tally;
            let before = last.event.time_ns().saturating_sub(*since_ns);
            last.wall_ns().saturating_sub(before)
        });
        if let (Some(tally), Some(since), Some(last)) = (&tally, tally_since_wall_ns, last) {
            tally::say(tally, rule, &join, since, last.wall_ns(), &mut message);
        }
        let tree = last.map_or_else(Vec::new, |last| tree(last, &views));
        let subject = last.map_or_else(Subject::default, View::subject);
        let wall_ns = last.map_or(0, View::wall_ns);
        let shown = views.iter().zip(&events).zip(clauses).zip(known);
        let events = shown
            .map(|(((view, event), clause), known)| Shown {
                event: Arc::clone(event),
                clause,
                act: view.act(),
                details: view.details(known),
                wall_ns: view.wall_ns(),
            })
            .collect();
        Alert {
            sequence,
            generation: self.generation,
            wall_ns,
            rule: Arc::clone(rule),
            message,
            join,
            events,
            tree,
            lost,
            subject,
            tally,
            tally_since_wall_ns,
            repeats: None,
        }
    }

    fn view<'a>(&self, event: &'a dyn Evidence) -> View<'a> {
        View {
            event,
            ids: self.ids,
        }
    }
}

/// One event read by the alert's fields.
#[derive(Clone, Copy)]
struct View<'a> {
    event: &'a dyn Evidence,
    ids: Ids,
}

impl<'a> View<'a> {
    fn first(&self, field: FieldId) -> Option<Value<'a>> {
        self.event.values(field).get(0)
    }

    fn text(&self, field: FieldId) -> Option<&'a str> {
        match self.first(field)? {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    fn owned(&self, field: FieldId) -> Option<String> {
        match self.first(field)? {
            Value::Str(text) => Some(text.to_owned()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A number, also when the document held it as text.
    fn number(&self, field: FieldId) -> Option<i64> {
        match self.first(field)? {
            Value::Int(number) => Some(number),
            Value::Str(text) => text.parse().ok(),
            _ => None,
        }
    }

    fn is(&self, field: FieldId, word: &str) -> bool {
        self.event
            .values(field)
            .iter()
            .any(|value| value == Value::Str(word))
    }

    fn wall_ns(&self) -> i64 {
        match self.first(self.ids.timestamp) {
            Some(Value::Date(ns)) => ns,
            _ => self.event.time_ns(),
        }
    }

    fn act(&self) -> String {
        let category = self.text(self.ids.category).unwrap_or("event");
        let action = self.text(self.ids.action).unwrap_or_default();
        format!("{} {}", piece(category), piece(action))
            .trim_end()
            .to_owned()
    }

    /// What the clause leaves out. An event of a process that was just shown adds nothing, other acts of a process only who
    /// it is.
    fn details(&self, known: bool) -> Vec<(&'static str, String)> {
        let ids = &self.ids;
        let details = [
            ("executable", ids.executable),
            ("command", ids.command_line),
            ("directory", ids.working_directory),
            ("parent", ids.parent_executable),
        ];
        let shown = if self.is(ids.category, "process") {
            details.len()
        } else {
            usize::from(!known)
        };
        details
            .into_iter()
            .take(shown)
            .filter_map(|(name, field)| self.text(field).map(|text| (name, piece(text))))
            .collect()
    }

    fn subject(&self) -> Subject {
        let ids = &self.ids;
        Subject {
            host_id: self.owned(ids.host_id),
            host_name: self.owned(ids.host_name),
            agent_id: self.owned(ids.agent_id),
            user_id: self.owned(ids.user_id),
            user_name: self.owned(ids.user_name),
            container_id: self.owned(ids.container_id),
        }
    }

    fn process(&self) -> TreeProcess {
        let ids = &self.ids;
        TreeProcess {
            pid: self.number(ids.pid),
            entity_id: self.owned(ids.entity_id),
            name: self.owned(ids.name),
            executable: self.owned(ids.executable),
            command_line: self.owned(ids.command_line),
        }
    }

    fn parent(&self) -> TreeProcess {
        let ids = &self.ids;
        TreeProcess {
            pid: self.number(ids.parent_pid),
            entity_id: self.owned(ids.parent_entity_id),
            name: self.owned(ids.parent_name),
            executable: self.owned(ids.parent_executable),
            command_line: self.owned(ids.parent_command_line),
        }
    }

    /// Whether both are acts of the same process, as far as the events tell.
    fn same_process(&self, other: &View<'_>) -> bool {
        match (
            self.text(self.ids.entity_id),
            other.text(self.ids.entity_id),
        ) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => match (self.number(self.ids.pid), other.number(self.ids.pid)) {
                (Some(mine), Some(theirs)) => mine == theirs,
                _ => false,
            },
        }
    }
}

/// The clauses joined; the middle of a long sequence is only counted.
fn sentence(clauses: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    const SHOWN_EACH_END: usize = 3;
    const ARROW: &str = " → ";
    if clauses.len() <= SHOWN_MAX {
        return clauses.join(ARROW);
    }
    let (first, rest) = clauses.split_at(SHOWN_EACH_END);
    let (between, last) = rest.split_at(rest.len().saturating_sub(SHOWN_EACH_END));
    format!(
        "{}{ARROW}… {} more …{ARROW}{}",
        first.join(ARROW),
        between.len(),
        last.join(ARROW)
    )
}

/// For each event, whether it is an act of the process of the one before, which has been introduced with its pid.
fn known(views: &[View<'_>]) -> Vec<bool> {
    let before = std::iter::once(None).chain(views.iter().map(Some));
    views
        .iter()
        .zip(before)
        .map(|(view, before)| before.is_some_and(|before| before.same_process(view)))
        .collect()
}

fn clause(view: &View<'_>, known: bool) -> String {
    let ids = &view.ids;
    if view.is(ids.category, "network") || view.first(ids.destination_ip).is_some() {
        return network_clause(view, known);
    }
    if let Some(path) = view.text(ids.file_path) {
        return file_clause(view, path);
    }
    let mut text = invoked_as(view);
    let action = view.text(ids.action).unwrap_or("event");
    match action {
        "exec" | "start" => {}
        "fork" => text.push_str(" forked"),
        "end" => text.push_str(" ended"),
        "already_running" => text.push_str(" was running"),
        other => {
            let _ = write!(text, " {}", plain(&other.replace('_', " ")));
        }
    }
    if let Some(code) = view.number(ids.exit_code).filter(|_| action == "end") {
        let _ = write!(text, " with {code}");
    }
    push_pid(&mut text, view);
    text
}

fn file_clause(view: &View<'_>, path: &str) -> String {
    let mut text = name_of(view);
    let verb = match view.text(view.ids.action) {
        Some("creation") => "wrote",
        Some("deletion") => "deleted",
        Some("modification") => "changed",
        Some("open") => "opened",
        Some("rename") => "renamed",
        _ => "touched",
    };
    let _ = write!(text, " {verb} ");
    if let Some(old) = view.text(view.ids.file_old_path) {
        let _ = write!(text, "{} to ", piece(old));
    }
    text.push_str(&piece(path));
    text
}

fn network_clause(view: &View<'_>, known: bool) -> String {
    let ids = &view.ids;
    let accepted = view.is(ids.action, "connection_accepted");
    // The source is the side that asked for the connection.
    let (ip, port) = if accepted || view.is(ids.direction, "ingress") {
        (ids.source_ip, ids.source_port)
    } else {
        (ids.destination_ip, ids.destination_port)
    };
    let peer = match (view.text(ids.question), view.first(ip)) {
        (Some(name), _) => piece(name),
        (None, Some(address)) => endpoint(address, view.number(port)),
        (None, None) => "an unknown address".to_owned(),
    };
    if known {
        return peer;
    }
    let mut text = name_of(view);
    push_pid(&mut text, view);
    let verb = if view.text(ids.question).is_some() {
        "looked up"
    } else if accepted {
        "accepted"
    } else if view.is(ids.action, "disconnect_received") {
        "was disconnected from"
    } else {
        "connected to"
    };
    let _ = write!(text, " {verb} {peer}");
    text
}

/// `203.0.113.5:4444`, `[2001:db8::1]:443`, or the address alone.
fn endpoint(address: Value<'_>, port: Option<i64>) -> String {
    let address = match address {
        Value::Ip(ip) => Some(ip),
        Value::Str(text) => text.parse::<IpAddr>().ok(),
        _ => None,
    };
    match (address, port) {
        (Some(IpAddr::V6(ip)), Some(port)) => format!("[{ip}]:{port}"),
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        (Some(ip), None) => ip.to_string(),
        (None, _) => "an unknown address".to_owned(),
    }
}

/// The way the process was called, when that is one of its names (`./x` of `./x`); else its name: argument zero is
/// anybody's to choose.
fn invoked_as(view: &View<'_>) -> String {
    let called = view.text(view.ids.args);
    let base = called.and_then(|called| called.rsplit('/').next());
    match (called, base) {
        (Some(called), Some(base)) if view.is(view.ids.name, base) => piece(called),
        _ => name_of(view),
    }
}

fn name_of(view: &View<'_>) -> String {
    let name = view.text(view.ids.name);
    name.or_else(|| view.text(view.ids.executable))
        .map_or_else(|| "a process".to_owned(), piece)
}

fn push_pid(text: &mut String, view: &View<'_>) {
    if let Some(pid) = view.number(view.ids.pid) {
        let _ = write!(text, " (pid {pid})");
    }
}

/// The last event's process and its ancestors: from the sensor's own table when the event is live, else as far as the
/// events of the match tell.
fn tree(last: &View<'_>, views: &[View<'_>]) -> Vec<TreeProcess> {
    let mut tree = vec![last.process()];
    if let Some(event) = last.event.typed() {
        tree.extend(ancestors(event));
        tree.truncate(TREE_MAX);
        return tree;
    }
    let mut at = *last;
    while tree.len() < TREE_MAX {
        let parent = at.parent();
        if parent == TreeProcess::default() {
            break;
        }
        let entity_id = parent.entity_id.clone();
        let repeats = entity_id.is_some() && tree.iter().any(|known| known.entity_id == entity_id);
        if repeats {
            break;
        }
        tree.push(parent);
        // An earlier event of the parent itself names the grandparent.
        let next = views
            .iter()
            .find(|view| entity_id.is_some() && view.owned(view.ids.entity_id) == entity_id);
        match next {
            Some(view) => at = *view,
            None => break,
        }
    }
    let known = tree.len() - 1;
    for entity_id in ancestry_beyond(last, known) {
        if tree.len() < TREE_MAX {
            tree.push(TreeProcess {
                entity_id: Some(entity_id),
                ..TreeProcess::default()
            });
        }
    }
    tree
}

/// Ancestors known by identity only: those of `process.Ext.ancestry` behind the first `known`.
fn ancestry_beyond(view: &View<'_>, known: usize) -> Vec<String> {
    let values: Values<'_> = view.event.values(view.ids.ancestry);
    values
        .iter()
        .skip(known)
        .filter_map(|value| match value {
            Value::Str(text) => Some(text.to_owned()),
            _ => None,
        })
        .collect()
}

fn ancestors(event: &Event) -> impl Iterator<Item = TreeProcess> + '_ {
    event
        .process
        .lineage
        .ancestors()
        .iter()
        .map(|facts| TreeProcess {
            pid: Some(i64::from(facts.pid)),
            entity_id: Some(facts.entity_id.to_string()),
            name: facts.image.names.first().map(ToString::to_string),
            executable: facts.image.executables.first().map(ToString::to_string),
            command_line: facts.image.command_line().map(str::to_owned),
        })
}

/// Pairs the values of the matches with the fields the rule joins by.
fn joins(rule: &Rule, keys: &[Vec<Option<OwnedValue>>]) -> Vec<Join> {
    let fields = rule.join_fields().into_iter().enumerate();
    fields
        .map(|(index, fields)| {
            let mut values: Vec<Option<OwnedValue>> = Vec::new();
            for value in keys.iter().filter_map(|keys| keys.get(index)) {
                if !values.contains(value) {
                    values.push(value.clone());
                }
            }
            Join { fields, values }
        })
        .collect()
}

/// A name or path inside a message: bounded, and without characters that act on a terminal.
fn piece(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(PIECE_CHARS_MAX).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    plain(&shown)
}

/// Replaces control characters, line separators and characters that reorder text by their escapes.
#[must_use]
pub fn plain(text: &str) -> String {
    if !text.chars().any(acts) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !acts(c) {
            shown.push(c);
        } else if u32::from(c) < 0x80 {
            let _ = match c {
                '\n' => write!(shown, "\\n"),
                '\t' => write!(shown, "\\t"),
                '\r' => write!(shown, "\\r"),
                c => write!(shown, "\\x{:02x}", u32::from(c)),
            };
        } else {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        }
    }
    shown
}

/// Whether a terminal or a reader would obey the character instead of showing it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

mod tally;

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use super::sample::{CHAIN, alert, rule};
    use super::*;

    #[test]
    fn matches_by_the_same_events_are_one_alert() {
        let [a, b, c] = ["a", "b", "c"].map(Arc::new);
        let found = |rule, key: &str, events: &[&Arc<&'static str>]| Match {
            rule,
            keys: vec![Some(OwnedValue::Str(key.into()))],
            events: events.iter().map(|event| Arc::clone(event)).collect(),
            tally: None,
        };
        let groups = merge(vec![
            found(0, "x", &[&a, &b]),
            found(1, "x", &[&a, &b]),
            found(0, "y", &[&a, &b]),
            found(0, "z", &[&c, &b]),
            found(0, "x", &[&a, &c]),
        ]);
        let shown: Vec<(usize, usize)> = groups.iter().map(|g| (g.rule, g.keys.len())).collect();
        assert_eq!(shown, [(0, 2), (1, 1), (0, 1), (0, 1)]);
    }

    fn check(events: &[&[(&str, &str)]], expected: &str) {
        let alert = alert(&rule("R", "r-1", "low"), events, 0);
        assert_eq!(alert.message, format!("R: {expected}"));
    }

    #[test]
    fn a_chain_reads_as_one_sentence() {
        check(
            CHAIN,
            "gcc (pid 262) → ld wrote /tmp/w/rev → ./rev (pid 267) → 203.0.113.5:4444",
        );
    }

    #[test]
    fn single_events_name_who_did_what() {
        let curl = ("process.name", "curl");
        check(
            &[&[
                curl,
                ("process.pid", "9"),
                ("destination.ip", "2001:db8::1"),
                ("destination.port", "443"),
            ]],
            "curl (pid 9) connected to [2001:db8::1]:443",
        );
        check(
            &[&[
                curl,
                ("event.action", "connection_accepted"),
                ("source.ip", "10.0.0.1"),
                ("destination.ip", "10.0.0.2"),
            ]],
            "curl accepted 10.0.0.1",
        );
        let closed = |direction| {
            [
                curl,
                ("event.action", "disconnect_received"),
                ("network.direction", direction),
                ("source.ip", "10.0.0.1"),
                ("destination.ip", "10.0.0.2"),
            ]
        };
        let of = |peer: &str| format!("curl was disconnected from {peer}");
        check(&[&closed("ingress")], &of("10.0.0.1"));
        check(&[&closed("egress")], &of("10.0.0.2"));
        check(
            &[&[
                curl,
                ("event.action", "rename"),
                ("file.path", "/b"),
                ("file.Ext.original.path", "/a"),
            ]],
            "curl renamed /a to /b",
        );
        check(
            &[&[curl, ("event.action", "end"), ("process.pid", "9")]],
            "curl ended (pid 9)",
        );
        check(
            &[&[curl, ("event.action", "uid_change")]],
            "curl uid change",
        );
        check(&[&[]], "a process event");
        check(&[], "");
    }

    #[test]
    fn argument_zero_is_shown_only_when_it_is_a_name_of_the_process() {
        let exec = ("event.action", "exec");
        check(
            &[&[
                exec,
                ("process.name", "nc"),
                ("process.args", "[kworker/0:1]|-e"),
            ]],
            "nc",
        );
        check(
            &[&[exec, ("process.name", "nc"), ("process.args", "/bin/nc|-e")]],
            "/bin/nc",
        );
    }

    #[test]
    fn nothing_in_a_message_acts_on_a_terminal() {
        check(
            &[&[
                ("process.name", "e\u{1b}[2Jv\nil\u{202e}"),
                ("event.action", "creation"),
                ("file.path", "/a\tb\u{9b}c"),
            ]],
            "e\\x1b[2Jv\\nil\\u{202e} wrote /a\\tb\\u{9b}c",
        );
        let long = "x".repeat(5000);
        let events: &[&[(&str, &str)]] = &[&[("process.name", &long)]];
        let alert = alert(&rule("R", "r-1", "low"), events, 0);
        assert!(alert.message.starts_with("R: xxx"));
        assert!(alert.message.chars().count() < 200);
    }

    #[test]
    fn a_long_sequence_is_counted_in_the_middle() {
        let event: &[(&str, &str)] = &[("process.name", "a"), ("event.action", "exec")];
        check(&[event; 60], "a → a → a → … 54 more … → a → a → a");
    }

    #[test]
    fn the_tree_and_the_join_come_from_the_events() {
        let alert = alert(&rule("R", "r-1", "low"), CHAIN, 0);
        let names: Vec<_> = alert.tree.iter().map(|p| p.name.as_deref()).collect();
        assert_eq!(names, [Some("rev"), Some("bash")]);
        assert_eq!(alert.join.len(), 1);
        let fields: Vec<&str> = alert.join[0].fields.iter().map(AsRef::as_ref).collect();
        assert_eq!(fields, ["process.name", "file.name"]);
        assert_eq!(alert.join[0].values, [Some(OwnedValue::Str("rev".into()))]);
        assert_eq!(alert.wall_ns, 1_767_225_606_000_000_000);
        assert_eq!(alert.subject.host_id.as_deref(), Some("h1"));
        assert_eq!(alert.sequence, 1);
    }
}
