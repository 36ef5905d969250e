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
use crate::event::Kinds;
use crate::output::json::write_date;
use crate::pipeline::{Sight, named_for, records_for};
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
    let [besides, of_all] = asks_besides(state, listed);
    document["asks_besides"] = json!(besides);
    document["asks_of_all"] = json!(of_all);
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
        "actions": would.actions,
        "live_too": listed.both,
        "alert": alert,
    })
}

fn date(ns: i64) -> Value {
    let mut text = Vec::new();
    write_date(ns, &mut text);
    String::from_utf8_lossy(&text).into()
}

/// Kinds of records that no live rule asks for and this one does; and those that it asks for of all processes, and they of processes
/// with certain names alone.
fn asks_besides(state: &State, listed: &Listed) -> [Vec<&'static str>; 2] {
    let live = state.roster.live_rules();
    let interest = live
        .iter()
        .fold(Kinds::NONE, |kinds, live| kinds.and(live.interest()));
    let (without, with) = (records_for(interest), records_for(listed.rule.interest()));
    let narrow = named_for(&live).kinds();
    let own = named_for(std::slice::from_ref(&listed.rule)).kinds();
    let mut asks = [Vec::new(), Vec::new()];
    for kind in state.hooks.iter().map(|hook| hook.kind) {
        let [besides, of_all] = &mut asks;
        let names = match (with.contains(kind), without.contains(kind)) {
            (true, false) => besides,
            (true, true) if narrow.contains(kind) && !own.contains(kind) => of_all,
            _ => continue,
        };
        if !names.contains(&kind.name()) {
            names.push(kind.name());
        }
    }
    asks
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::rule;

    fn listed(path: &Path, id: &str, on_trial: bool) -> Listed {
        let text = format!(
            "[rule]\nrule_id = \"{id}\"\nname = \"{id}\"\ntype = \"eql\"\nquery = 'any where true'\n"
        );
        let path = path.into();
        let mut loaded = rule::load_source(&Source { path, text });
        Listed {
            rule: loaded.rules.remove(0),
            stale: None,
            on_trial,
        }
    }

    #[test]
    fn a_rule_goes_where_it_counts_and_what_gives_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [etc, lib, trial] = ["etc", "lib", "trial"].map(|name| folder.path().join(name));
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(etc.join("mask.toml"), "").unwrap();
        let tried = |name: &str, id: &str| listed(&trial.join(name), id, true);
        let roster = |live: &[(&Path, &str)]| Roster {
            rules: live
                .iter()
                .map(|(path, id)| listed(path, id, false))
                .collect(),
            places: vec![etc.clone(), lib.clone()],
            ..Roster::default()
        };
        let (own, shipped) = (etc.join("own.toml"), lib.join("shipped.toml"));
        let live: &[(&Path, &str)] = &[(&own, "own-1"), (&shipped, "shipped-1")];
        for (name, id, to, replaces) in [
            ("new.toml", "new-1", etc.join("new.toml"), vec![]),
            // The same id: by the live file's name, before it or in its place.
            ("x.toml", "own-1", own.clone(), vec![&own]),
            (
                "x.toml",
                "shipped-1",
                etc.join("shipped.toml"),
                vec![&shipped],
            ),
            // Another id under the same name hides that file, and a mask is something, too.
            (
                "shipped.toml",
                "new-1",
                etc.join("shipped.toml"),
                vec![&shipped],
            ),
            (
                "mask.toml",
                "new-1",
                etc.join("mask.toml"),
                vec![&etc.join("mask.toml")],
            ),
        ] {
            let found = promotion(&roster(live), &tried(name, id));
            let replaces: Vec<String> = replaces.into_iter().map(|path| shown(path)).collect();
            let expected = json!({ "to": shown(&to), "replaces": replaces });
            assert_eq!(found, expected, "{name} {id}");
        }
        // Only single files are live.
        let mut files = roster(&[]);
        files.places = vec![etc.join("mask.toml")];
        assert_eq!(promotion(&files, &tried("a.toml", "a")), Value::Null);
    }
}
