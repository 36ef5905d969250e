//! The rules on trial, as the control socket tells of them.
//!
//! In: a [`State`]. Out: one document for each: what it would have alerted since when, what that cost, how it differs from the live
//! rule of its id, and where it would go if it were promoted. With the alerts themselves for one that is asked for by its file. It
//! changes nothing: files are moved by who asks, who may do that.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::server::{Say, error, line};
use super::state::{State, shown};
use crate::output::json::write_date;
use crate::pipeline::{Sight, records_for};
use crate::reload::{Listed, Roster};
use crate::trial::Trial;

/// Every rule on trial, then files that are none; or the one of a file, with its alerts.
pub(super) fn answer(state: &State, path: Option<&str>, say: Say<'_>) -> io::Result<()> {
    let sight = Sight::of_hooks(&state.hooks);
    let first = state.roster.live_count();
    let trials = state.roster.on_trial().iter().zip(&state.trials.rules);
    for (at, (listed, trial)) in trials.enumerate() {
        let mut document = standing(state, first + at, listed, trial, &sight);
        match path {
            None => say(&line(&document))?,
            Some(path) if document["path"] == path => {
                document["would"] = trial.last().map(would).collect();
                return say(&line(&document));
            }
            Some(_) => {}
        }
    }
    if let Some(path) = path {
        return say(&error(&format!("no rule on trial is of `{path}`")));
    }
    for failed in state.roster.failed.iter().filter(|failed| failed.on_trial) {
        say(&line(&json!({
            "verdict": "failed",
            "path": shown(&failed.path),
            "why": [failed.reason],
        })))?;
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn standing(state: &State, number: usize, listed: &Listed, trial: &Trial, sight: &Sight) -> Value {
    let mut document = state.rule(number, listed, sight);
    let cost = trial.cost(state.costs.get(number).copied().unwrap_or_default());
    let counts = trial.counts;
    let live = state.roster.live();
    let beside = live.iter().find(|live| live.rule.id == listed.rule.id);
    document["version"] = json!(listed.rule.version);
    document["digest"] = json!(format!("{:016x}", listed.rule.digest));
    document["since"] = date(trial.since_ns);
    document["worked_ms"] = json!(trial.worked_ns(state.now_ns) / 1_000_000);
    document["alerts"] = json!(counts.alerts);
    document["hidden"] = json!({
        "by_exceptions": counts.excepted,
        "by_rate_limits": counts.limited,
    });
    document["events"] = json!(cost.events);
    document["engine_ns"] = json!(cost.nanoseconds);
    document["asks_besides"] = json!(asks_besides(&state.roster, listed, state));
    document["beside"] = beside.map_or(Value::Null, |beside| {
        json!({
            "path": shown(&beside.rule.path),
            "version": beside.rule.version,
            "both": counts.both,
            "only_trial": counts.only_trial,
            "only_live": counts.only_live,
            "missed": trial.missed().map(|missed| json!({
                "time": date(missed.wall_ns),
                "number": missed.number,
                "message": missed.message,
            })).collect::<Vec<Value>>(),
        })
    });
    document["promotion"] = promotion(&state.roster, listed);
    document
}

fn would(listed: &crate::trial::Listed) -> Value {
    let would = &listed.would;
    let alert: Value = serde_json::from_str(&would.document).unwrap_or_default();
    json!({
        "time": date(would.wall_ns),
        "message": would.message,
        "hidden_by": would.hidden,
        "because": would.because,
        "live_too": listed.both,
        "alert": alert,
    })
}

fn date(ns: i64) -> Value {
    let mut text = Vec::new();
    write_date(ns, &mut text);
    String::from_utf8_lossy(&text).into()
}

/// Kinds of records that are attached for this rule and that no live one asks for.
fn asks_besides(roster: &Roster, listed: &Listed, state: &State) -> Vec<&'static str> {
    let live = roster.live().iter();
    let interest = live.fold(crate::event::Kinds::NONE, |kinds, live| {
        kinds.and(live.rule.interest())
    });
    let (without, with) = (records_for(interest), records_for(listed.rule.interest()));
    let mut names = Vec::new();
    for hook in state.hooks.iter() {
        let is_its = with.contains(hook.kind) && !without.contains(hook.kind);
        if is_its && !names.contains(&hook.kind.name()) {
            names.push(hook.kind.name());
        }
    }
    names
}

/// Where the file goes when the rule is promoted, and which files would not count any more then. With a live rule of its id it takes
/// that one's place, under that one's name.
fn promotion(roster: &Roster, listed: &Listed) -> Value {
    let takes_files = |place: &&PathBuf| place.is_dir() || !place.exists();
    let Some(place) = roster.places.iter().find(takes_files) else {
        return Value::Null;
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    let live = roster.live().iter().map(|live| absolute(&live.rule.path));
    let same = roster
        .live()
        .iter()
        .find(|live| live.rule.id == listed.rule.id);
    let same = same.map(|live| absolute(&live.rule.path));
    let to = match &same {
        Some(path) if path.starts_with(place) => path.clone(),
        Some(path) => place.join(name(path)),
        None => place.join(name(&listed.rule.path)),
    };
    let mut replaces: Vec<PathBuf> = same.into_iter().collect();
    // Whatever is there: a mask, a broken file, a rule of another id.
    replaces.extend(Some(to.clone()).filter(|to| to.symlink_metadata().is_ok()));
    replaces.extend(live.filter(|path| name(path) == name(&to)));
    replaces.sort();
    replaces.dedup();
    let replaces: Vec<String> = replaces.iter().map(|path| shown(path)).collect();
    json!({ "to": shown(&to), "replaces": replaces })
}
