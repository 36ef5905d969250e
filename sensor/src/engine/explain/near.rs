//! What comes nearest to a match: how far sequences got, and which event would have had to be a little different.
//!
//! In: an explainer with its events, and the trace of its partial matches. Out: one [`Stop`]: the step that did not come, and the
//! event that a person would look at first, with everything that is wrong about it. Work is linear in the number of events.

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::event::{Fields, OwnedValue};

use super::clause::Distance;
use super::trace::{End, KeyId, Partial, Trace};
use super::{Explainer, Shape};

/// Partial matches that are looked at, of those that got furthest: the newest.
const PARTIALS_MAX: usize = 64;
/// Events with other keys that are looked at, of those that lack least.
const STRANGERS_MAX: usize = 64;
/// Events whose keys are worked out to tell near ones apart when nothing has begun.
const BEGINNERS_MAX: usize = 10_000;

/// Where it stops.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// The partial match that got furthest, by position in the trace; `None` when nothing has begun.
    pub partial: Option<usize>,
    /// The step that did not come.
    pub step: usize,
    /// The event that comes nearest to it; `None` when there is no event of the sort it asks for.
    pub near: Option<Near>,
    /// Further events that lack as much as the nearest.
    pub as_near: usize,
}

/// An event that almost did.
#[derive(Clone, Debug, PartialEq)]
pub struct Near {
    pub at: usize,
    /// Everything but false clauses that keeps it out.
    pub wrong: Vec<Wrong>,
    /// Clauses that are false.
    pub clauses: u32,
}

/// What is wrong with an event besides its clauses.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrong {
    /// Positions of the join key at which it differs.
    Key(SmallVec<[usize; 4]>),
    /// It came this long after `maxspan` was over, nanoseconds.
    Late(i64),
    /// It came before the step it should follow.
    Before,
    /// The partial match had ended before it.
    Ended(End),
}

/// How an event compares with others: less is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    wrongs: u32,
    other_key: bool,
    unlike: u8,
    /// Later steps that have no event with its key.
    leads_nowhere: u32,
    less_said: u32,
    /// Nothing is almost right about its false clauses.
    unhinted: bool,
    before: bool,
    away_ns: i64,
}

pub(super) fn stop<E: Fields + Clone>(explainer: &Explainer<E>, trace: &mut Trace) -> Option<Stop> {
    match explainer.shape {
        Shape::Sequence => after(explainer, trace).or_else(|| beginning(explainer, trace)),
        Shape::Event => beginning(explainer, trace),
        Shape::Sample => of_sample(explainer, trace),
    }
}

/// The furthest of the partial matches that are none, and its next step.
fn after<E: Fields + Clone>(explainer: &Explainer<E>, trace: &mut Trace) -> Option<Stop> {
    let undone = |partial: &&Partial| partial.end != End::Completed;
    let most = trace.partials.iter().filter(undone);
    let most = most.map(|partial| partial.events.len()).max()?;
    let all = trace.partials.iter().enumerate();
    let furthest: Vec<usize> = all
        .filter(|(_, partial)| partial.end != End::Completed && partial.events.len() == most)
        .map(|(number, _)| number)
        .collect();
    let newest = furthest.get(furthest.len().saturating_sub(PARTIALS_MAX)..)?;
    // All steps came, and one that had to be missing, too.
    for number in newest.iter().rev() {
        if let Some(End::Missing(at, step)) = trace.partials.get(*number).map(|p| p.end) {
            let ended = vec![Wrong::Ended(End::Missing(at, step))];
            return Some(Stop {
                partial: Some(*number),
                step,
                near: Some(Near {
                    at,
                    wrong: ended,
                    clauses: 0,
                }),
                as_near: 0,
            });
        }
    }
    let step = next_step(explainer, trace.partials.get(*newest.last()?)?)?;
    let mut by_key: HashMap<KeyId, Vec<usize>> = HashMap::new();
    for number in newest {
        if let Some(partial) = trace.partials.get(*number) {
            by_key.entry(partial.key).or_default().push(*number);
        }
    }
    let plan = explainer.steps.get(step)?;
    let shared = shared_keys(explainer, trace, step);
    let later = explainer.steps.len().saturating_sub(step + 1);
    let later_steps = u64::MAX
        .checked_shl(u32::try_from(step + 1).unwrap_or(64))
        .unwrap_or(0);
    let leads_nowhere = |keys: &[KeyId]| {
        let on = keys.iter().filter_map(|key| shared.get(key));
        let on = on
            .map(|steps| (steps & later_steps).count_ones())
            .max()
            .unwrap_or(0);
        u32::try_from(later).unwrap_or(u32::MAX).saturating_sub(on)
    };
    let mut best: Option<(Rank, usize, Near)> = None;
    let mut strangers: Vec<(Distance, usize)> = Vec::new();
    for at in explainer.of_kind(step) {
        let Some(event) = explainer.events().get(at) else {
            continue;
        };
        let keys = trace.keys.of(explainer, &plan.keys, event);
        let mut met = false;
        for number in keys.iter().filter_map(|key| by_key.get(key)).flatten() {
            met = true;
            let leads = leads_nowhere(&keys);
            consider(explainer, trace, step, *number, at, (&[], leads), &mut best);
        }
        if !met {
            strangers.push((explainer.distance(step, at), at));
        }
    }
    strangers.sort_by_key(|(distance, _)| (distance.clauses, std::cmp::Reverse(distance.weight)));
    strangers.truncate(STRANGERS_MAX);
    for (_, at) in strangers {
        let Some(event) = explainer.events().get(at) else {
            continue;
        };
        let keys = trace.keys.of(explainer, &plan.keys, event);
        for number in newest {
            let leads = leads_nowhere(&keys);
            consider(
                explainer,
                trace,
                step,
                *number,
                at,
                (&keys, leads),
                &mut best,
            );
        }
    }
    let (partial, near) = match best {
        Some((_, partial, near)) => (partial, Some(near)),
        None => (*newest.last()?, None),
    };
    Some(Stop {
        partial: Some(partial),
        step,
        near,
        as_near: 0,
    })
}

/// The step of the stage that a partial match waits for.
fn next_step<E>(explainer: &Explainer<E>, partial: &Partial) -> Option<usize> {
    let positive = explainer
        .steps
        .iter()
        .enumerate()
        .filter(|(_, s)| !s.missing);
    let mut stages = positive.flat_map(|(at, s)| std::iter::repeat_n(at, s.runs.max(1) as usize));
    stages.nth(partial.events.len())
}

/// Keeps the pair of partial match and event if it is nearer than the best so far. `keys` are the event's, empty when it has
/// the partial's; with them goes how many later steps have no event with one of them.
fn consider<E: Fields + Clone>(
    explainer: &Explainer<E>,
    trace: &Trace,
    step: usize,
    number: usize,
    at: usize,
    (keys, leads_nowhere): (&[KeyId], u32),
    best: &mut Option<(Rank, usize, Near)>,
) {
    let Some(partial) = trace.partials.get(number) else {
        return;
    };
    let Some((first, last)) = partial.ends() else {
        return;
    };
    if partial.events.iter().any(|(used, _)| *used == at) {
        return;
    }
    let distance = explainer.distance_for(step, at, partial);
    let mut wrong = Vec::new();
    let mut unlike = 0;
    let nearest = keys
        .iter()
        .map(|key| (trace.keys.differing(partial.key, *key), *key))
        .map(|(differing, key)| {
            let values = (trace.key(partial), trace.keys.values(key));
            (differing.len(), unlikeness(&differing, values), differing)
        })
        .min();
    if let Some((_, how_unlike, differing)) = nearest {
        unlike = how_unlike;
        wrong.push(Wrong::Key(differing));
    } else if explainer.steps.get(step).is_some_and(|s| {
        let values = explainer.key_values(s, at);
        !values.is_empty() && keys.is_empty() && values.iter().any(Vec::is_empty)
    }) {
        let lacking = explainer
            .steps
            .get(step)
            .map(|s| explainer.key_values(s, at));
        let lacking = lacking.into_iter().flatten().enumerate();
        let lacking = lacking.filter(|(_, values)| values.is_empty());
        let optional = |at: &usize| {
            let key = explainer.steps.get(step).and_then(|s| s.keys.get(*at));
            key.is_some_and(|key| key.optional)
        };
        let lacking: SmallVec<[usize; 4]> = lacking
            .map(|(at, _)| at)
            .filter(|at| !optional(at))
            .collect();
        if !lacking.is_empty() {
            wrong.push(Wrong::Key(lacking));
            unlike = u8::MAX;
        }
    }
    let before = at < last;
    if before {
        wrong.push(Wrong::Before);
    } else if let Some(span) = explainer.span_ns {
        let open_ns = explainer
            .time_ns(at)
            .saturating_sub(explainer.time_ns(first));
        if open_ns > span {
            wrong.push(Wrong::Late(open_ns - span));
        }
    }
    let over = match partial.end {
        End::Until(by) | End::Replaced(by) => by <= at && !before,
        End::Idle => !before,
        End::Missing(..) | End::Open | End::Completed | End::Late(_) => false,
    };
    if over {
        wrong.push(Wrong::Ended(partial.end));
    }
    let differing = wrong.iter().map(|wrong| match wrong {
        Wrong::Key(differing) => u32::try_from(differing.len()).unwrap_or(u32::MAX),
        _ => 1,
    });
    let rank = Rank {
        wrongs: differing.sum::<u32>().saturating_add(distance.clauses),
        other_key: wrong.iter().any(|w| matches!(w, Wrong::Key(_))),
        unlike,
        leads_nowhere,
        less_said: u32::MAX - distance.weight,
        unhinted: distance.clauses > 0 && !hinted(explainer, step, at),
        before,
        away_ns: explainer
            .time_ns(at)
            .saturating_sub(explainer.time_ns(last))
            .saturating_abs(),
    };
    if best.as_ref().is_none_or(|(known, ..)| rank < *known) {
        let near = Near {
            at,
            wrong,
            clauses: distance.clauses,
        };
        *best = Some((rank, number, near));
    }
}

/// Whether some false clause is almost right.
fn hinted<E: Fields + Clone>(explainer: &Explainer<E>, step: usize, at: usize) -> bool {
    let Some(plan) = explainer.steps.get(step) else {
        return false;
    };
    let truths = explainer.truths(plan, at, None);
    let blamed = plan.condition.blame(&truths).into_iter();
    let mut clauses = blamed.filter_map(|clause| plan.condition.clauses.get(clause));
    clauses.any(|clause| explainer.hint(clause, at).is_some())
}

/// How little two differing keys look alike: 0 by case alone, 1 when one text holds the other, else 2.
fn unlikeness(differing: &[usize], (a, b): (&[Option<OwnedValue>], &[Option<OwnedValue>])) -> u8 {
    let text = |values: &[Option<OwnedValue>], at: usize| match values.get(at) {
        Some(Some(OwnedValue::Str(text))) => Some(text.to_ascii_lowercase()),
        _ => None,
    };
    let each = differing
        .iter()
        .map(|at| match (text(a, *at), text(b, *at)) {
            (Some(a), Some(b)) if a == b => 0,
            (Some(a), Some(b))
                if a.len().min(b.len()) > 2 && (a.contains(&b) || b.contains(&a)) =>
            {
                1
            }
            _ => 2,
        });
    each.max().unwrap_or(0)
}

/// Nothing has begun: the event that comes nearest to the first step.
fn beginning<E: Fields + Clone>(explainer: &Explainer<E>, trace: &mut Trace) -> Option<Stop> {
    let step = explainer.steps.iter().position(|step| !step.missing)?;
    let least = |at: &usize| explainer.distance(step, *at).clauses;
    let clauses = explainer.of_kind(step).map(|at| least(&at)).min();
    let Some(clauses) = clauses.filter(|clauses| *clauses > 0) else {
        // No event of that sort, or only such as match.
        return clauses.is_none().then_some(Stop {
            partial: None,
            step,
            near: None,
            as_near: 0,
        });
    };
    let nearest: Vec<usize> = explainer
        .of_kind(step)
        .filter(|at| least(at) == clauses)
        .collect();
    let shared = shared_keys(explainer, trace, step);
    let mut best = None;
    let mut as_near = 0;
    for at in nearest.iter().copied().take(BEGINNERS_MAX) {
        let said = explainer.distance(step, at).weight;
        let in_common = steps_in_common(explainer, trace, step, at, &shared);
        let rank = (
            std::cmp::Reverse(in_common),
            std::cmp::Reverse(said),
            !hinted(explainer, step, at),
        );
        match &best {
            Some((known, _)) if rank > *known => {}
            Some((known, _)) if rank == *known => as_near += 1,
            _ => {
                as_near = 0;
                best = Some((rank, at));
            }
        }
    }
    let (_, at) = best?;
    Some(Stop {
        partial: None,
        step,
        near: Some(Near {
            at,
            wrong: Vec::new(),
            clauses,
        }),
        as_near,
    })
}

/// For every key which other steps have an event with it that satisfies them.
fn shared_keys<E: Fields + Clone>(
    explainer: &Explainer<E>,
    trace: &mut Trace,
    step: usize,
) -> HashMap<KeyId, u64> {
    let mut shared: HashMap<KeyId, u64> = HashMap::new();
    for (other, plan) in explainer.steps.iter().enumerate() {
        if other == step || plan.missing || plan.keys.is_empty() {
            continue;
        }
        for at in explainer.satisfying(other).take(BEGINNERS_MAX) {
            if let Some(event) = explainer.events().get(at) {
                for key in trace.keys.of(explainer, &plan.keys, event) {
                    *shared.entry(key).or_default() |= 1 << (other % 64);
                }
            }
        }
    }
    shared
}

/// Most steps that have an event with one of this event's keys.
fn steps_in_common<E: Fields + Clone>(
    explainer: &Explainer<E>,
    trace: &mut Trace,
    step: usize,
    at: usize,
    shared: &HashMap<KeyId, u64>,
) -> u32 {
    let (Some(plan), Some(event)) = (explainer.steps.get(step), explainer.events().get(at)) else {
        return 0;
    };
    let keys = trace.keys.of(explainer, &plan.keys, event);
    let steps = keys.iter().filter_map(|key| shared.get(key));
    steps.map(|steps| steps.count_ones()).max().unwrap_or(0)
}

/// The key that most steps of a sample have an event with, and a step that has none.
fn of_sample<E: Fields + Clone>(explainer: &Explainer<E>, trace: &mut Trace) -> Option<Stop> {
    let shared = shared_keys(explainer, trace, usize::MAX);
    let most = shared.iter().map(|(key, steps)| (steps.count_ones(), *key));
    let most = most.max_by_key(|(count, key)| (*count, std::cmp::Reverse(*key)));
    let Some((_, key)) = most else {
        return beginning(explainer, trace);
    };
    let has = shared.get(&key).copied().unwrap_or(0);
    let step = (0..explainer.steps.len()).find(|step| has >> (step % 64) & 1 == 0)?;
    let plan = explainer.steps.get(step)?;
    let mut best = None;
    for at in explainer.of_kind(step).take(BEGINNERS_MAX) {
        let Some(event) = explainer.events().get(at) else {
            continue;
        };
        let keys = trace.keys.of(explainer, &plan.keys, event);
        let differing = keys.iter().map(|other| trace.keys.differing(key, *other));
        let differing = differing.min_by_key(SmallVec::len).unwrap_or_default();
        let distance = explainer.distance(step, at);
        let wrongs = u32::try_from(differing.len()).unwrap_or(u32::MAX);
        let rank = (
            distance.clauses.saturating_add(wrongs),
            differing.len(),
            u32::MAX - distance.weight,
        );
        if best.as_ref().is_none_or(|(known, _)| rank < *known) {
            best = Some((rank, (at, differing)));
        }
    }
    let near = best.map(|(_, (at, differing))| Near {
        at,
        clauses: explainer.distance(step, at).clauses,
        wrong: (!differing.is_empty())
            .then_some(Wrong::Key(differing))
            .into_iter()
            .collect(),
    });
    // The partial stands for the key, so that it can be named.
    trace.partials.push(Partial {
        key,
        events: SmallVec::new(),
        end: End::Open,
    });
    Some(Stop {
        partial: Some(trace.partials.len() - 1),
        step,
        near,
        as_near: 0,
    })
}
