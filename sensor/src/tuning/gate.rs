//! Which matches become alerts: exceptions and rate limits at work.
//!
//! In: loaded rules and a [`Tuning`], then matches. Out: for each match whether it is hidden, and by what; counts of all that was. Time is
//! the match's own, so a replay hides what the live sensor would have hidden.

use std::sync::Arc;

use super::{Exception, RateLimit, Tuning};
use crate::document::{Problem, Severity};
use crate::engine::Single;
use crate::eql::query::{Form, Query};
use crate::event::{FieldId, FieldTable, Fields, Kinds};
use crate::rule::{self, Rule};

/// What hides a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// An exception, by position.
    Exception(usize),
    Limit,
}

/// Decides over matches.
#[derive(Debug, Default)]
pub struct Gate {
    /// By rule.
    rules: Vec<OfRule>,
    exceptions: Vec<Active>,
    /// Matches hidden by exceptions, and by limits.
    excepted: u64,
    limited: u64,
}

#[derive(Debug, Default)]
struct OfRule {
    id: String,
    exceptions: Vec<usize>,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    is: RateLimit,
    /// The stretch began then, Unix time in nanoseconds; and how many alerts it had, and how many were hidden.
    begun_ns: i64,
    sent: u64,
    hidden: u64,
}

#[derive(Debug)]
struct Active {
    exception: Exception,
    tests: Vec<Single>,
    hits: u64,
}

impl Gate {
    /// The gate for rules in the engine's order. An exception that can never match an alert of any of its rules is left out and
    /// is a problem; one that has expired at `now_ns`, or whose rules are not loaded, is a warning.
    pub fn new(
        tuning: &Tuning,
        rules: &[Arc<Rule>],
        table: &mut FieldTable,
        now_ns: i64,
    ) -> (Gate, Vec<Problem>) {
        let of_rule = |rule: &Arc<Rule>| OfRule {
            id: rule.id.clone(),
            exceptions: Vec::new(),
            limit: tuning.limit_of(rule).map(|is| Limit {
                is,
                begun_ns: i64::MIN,
                sent: 0,
                hidden: 0,
            }),
        };
        let mut gate = Gate {
            rules: rules.iter().map(of_rule).collect(),
            ..Gate::default()
        };
        let mut problems = Vec::new();
        for exception in &tuning.exceptions {
            let selected: Vec<usize> = rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| exception.selector.selects(rule))
                .map(|(at, _)| at)
                .collect();
            let place = &exception.place;
            if selected.is_empty() {
                let message = format!("no loaded rule has {}", exception.selector);
                let help = Some("the exception hides nothing");
                problems.push(place.problem(Severity::Warning, message, help));
                continue;
            }
            if exception.expires_ns.is_some_and(|end| end <= now_ns) {
                let message = format!(
                    "the exception has expired; it was {}'s: {}",
                    exception.owner, exception.reason
                );
                let help = Some("remove it, or give it a later day");
                problems.push(place.problem(Severity::Warning, message, help));
            }
            let mut why = None;
            let fitting: Vec<usize> = selected
                .into_iter()
                .filter(|at| {
                    let cannot = rules
                        .get(*at)
                        .and_then(|rule| cannot_match(exception, rule));
                    let fits = cannot.is_none();
                    why = cannot.or(why.take());
                    fits
                })
                .collect();
            if let (true, Some(why)) = (fitting.is_empty(), why) {
                let help = Some("the exception is left out");
                problems.push(place.problem(Severity::Error, why, help));
                continue;
            }
            match gate.compile(exception, table) {
                Ok(number) => {
                    for at in fitting {
                        if let Some(rule) = gate.rules.get_mut(at) {
                            rule.exceptions.push(number);
                        }
                    }
                }
                Err(message) => problems.push(place.problem(Severity::Error, message, None)),
            }
        }
        (gate, problems)
    }

    fn compile(&mut self, exception: &Exception, table: &mut FieldTable) -> Result<usize, String> {
        let single = |query: &Query| match Single::new(query, table) {
            Ok(Some(single)) => Ok(single),
            Ok(None) => Err("an exception holds for single events".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let tests = exception.conditions.iter().map(single);
        self.exceptions.push(Active {
            tests: tests.collect::<Result<_, _>>()?,
            exception: exception.clone(),
            hits: 0,
        });
        Ok(self.exceptions.len() - 1)
    }

    /// Fields an event must carry for exceptions to be decided.
    pub fn needed_fields(&self) -> impl Iterator<Item = FieldId> + '_ {
        let tests = self.exceptions.iter().flat_map(|e| &e.tests);
        tests.flat_map(Single::needed_fields)
    }

    /// What hides the match of a rule whose last event was at `wall_ns`; `None` lets it pass. Exceptions end by that clock, rate limits
    /// go by the events' own, which nobody sets.
    pub fn hides<E: Fields>(&mut self, rule: usize, events: &[E], wall_ns: i64) -> Option<Hidden> {
        if let Some(number) = self.excepts(rule, events, wall_ns) {
            let id = self.rules.get(rule).map_or("", |rule| &rule.id);
            if let Some(active) = self.exceptions.get_mut(number) {
                active.hits += 1;
                let place = &active.exception.place;
                tracing::debug!(
                    rule = id,
                    "hidden by the exception at {}:{}",
                    place.path.display(),
                    place.line
                );
            }
            self.excepted += 1;
            return Some(Hidden::Exception(number));
        }
        let of_rule = self.rules.get_mut(rule)?;
        let hidden = of_rule
            .limit
            .as_mut()
            .is_some_and(|limit| limit.hides(&of_rule.id, time_of(events)));
        self.limited += u64::from(hidden);
        hidden.then_some(Hidden::Limit)
    }

    /// The same for a rule on trial, which nobody hears of: nothing is counted as hidden, nor told.
    pub fn would_hide<E: Fields>(
        &mut self,
        rule: usize,
        events: &[E],
        wall_ns: i64,
    ) -> Option<Hidden> {
        if let Some(number) = self.excepts(rule, events, wall_ns) {
            return Some(Hidden::Exception(number));
        }
        let limit = self.rules.get_mut(rule)?.limit.as_mut()?;
        let now_ns = time_of(events);
        if limit.is_over(now_ns) {
            limit.begin(now_ns);
        }
        limit.is_one_too_many().then_some(Hidden::Limit)
    }

    /// The exception of a position.
    #[must_use]
    pub fn exception(&self, number: usize) -> Option<&Exception> {
        self.exceptions.get(number).map(|active| &active.exception)
    }

    /// The exception that holds for a rule's match.
    fn excepts<E: Fields>(&self, rule: usize, events: &[E], wall_ns: i64) -> Option<usize> {
        let holds = |number: &&usize| {
            let Some(active) = self.exceptions.get(**number) else {
                return false;
            };
            let mut tests = active.tests.iter();
            active.exception.expires_ns.is_none_or(|end| wall_ns < end)
                && tests.all(|test| events.iter().any(|e| test.holds(e)))
        };
        self.rules.get(rule)?.exceptions.iter().find(holds).copied()
    }

    /// Matches hidden so far, by whatever.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.excepted + self.limited
    }

    /// The whole account, to the log: what each exception hid, which hid nothing, what limits hid.
    pub fn tell(&mut self) {
        for rule in &mut self.rules {
            if let Some(limit) = &mut rule.limit {
                limit.end(&rule.id);
            }
        }
        for active in &self.exceptions {
            let Exception {
                place,
                owner,
                reason,
                ..
            } = &active.exception;
            let place = format!("{}:{}", place.path.display(), place.line);
            if active.hits > 0 {
                let alerts = if active.hits == 1 { "alert" } else { "alerts" };
                tracing::info!(
                    "{place}: the exception hid {} {alerts}: {reason}",
                    active.hits
                );
            } else {
                tracing::warn!("{place}: the exception of {owner} hid nothing: {reason}");
            }
        }
        if self.hidden() > 0 {
            tracing::warn!(
                by_exceptions = self.excepted,
                by_rate_limits = self.limited,
                "alerts were hidden"
            );
        }
    }
}

/// Of the last event.
fn time_of<E: Fields>(events: &[E]) -> i64 {
    events.last().map_or(0, Fields::time_ns)
}

impl Limit {
    fn hides(&mut self, rule: &str, now_ns: i64) -> bool {
        if self.is_over(now_ns) {
            self.end(rule);
            self.begin(now_ns);
        }
        let hides = self.is_one_too_many();
        if hides {
            if self.hidden == 0 {
                tracing::warn!(
                    rule,
                    "more than {} alerts within {} s: further ones are only counted",
                    self.is.alerts,
                    self.is.per.as_secs()
                );
            }
            self.hidden += 1;
        }
        hides
    }

    /// Whether another stretch begins.
    fn is_over(&self, now_ns: i64) -> bool {
        let per_ns = i64::try_from(self.is.per.as_nanos()).unwrap_or(i64::MAX);
        self.sent == 0 || now_ns.saturating_sub(self.begun_ns) >= per_ns
    }

    fn begin(&mut self, now_ns: i64) {
        self.begun_ns = now_ns;
        self.sent = 0;
    }

    /// Counts one more alert of the stretch; true when it is to be hidden.
    fn is_one_too_many(&mut self) -> bool {
        let is_full = self.sent >= self.is.alerts;
        self.sent += u64::from(!is_full);
        is_full
    }

    /// Says how many the stretch that ends hid.
    fn end(&mut self, rule: &str) {
        if self.hidden > 0 {
            tracing::warn!(rule, "its rate limit hid {} alerts", self.hidden);
        }
        self.hidden = 0;
    }
}

/// Why an exception can never hold for an alert of a rule, in words; `None` when it may.
#[must_use]
pub fn cannot_match(exception: &Exception, rule: &Rule) -> Option<String> {
    let of_alert = alert_kinds(&rule.query);
    for (query, text) in exception.conditions.iter().zip(&exception.texts) {
        let wanted = rule::interest(query);
        if !wanted.intersects(of_alert) {
            let actions = |kinds: Kinds| {
                let actions: Vec<&str> = kinds.iter().map(|kind| kind.action()).collect();
                actions.join(", ")
            };
            let wanted = match actions(wanted).as_str() {
                "" => "no event of this sensor".to_owned(),
                some => some.to_owned(),
            };
            return Some(format!(
                "`{}` can never hold for an alert of {}: it fits {wanted}, and its events are {}",
                text.trim(),
                rule.id,
                actions(of_alert)
            ));
        }
    }
    None
}

/// Kinds of the events that an alert of a query consists of.
fn alert_kinds(query: &Query) -> Kinds {
    let alone = |filter: &crate::eql::query::Filter| {
        rule::interest(&Query {
            form: Form::Event(filter.clone()),
            pipes: Vec::new(),
        })
    };
    let filters: Vec<&crate::eql::query::Filter> = match &query.form {
        Form::Event(filter) => vec![filter],
        Form::Sample(sample) => sample.steps.iter().map(|step| &step.filter).collect(),
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter().filter(|step| !step.missing);
            steps.map(|step| &step.filter).collect()
        }
    };
    filters
        .into_iter()
        .fold(Kinds::NONE, |kinds, filter| kinds.and(alone(filter)))
}
