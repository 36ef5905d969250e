//! Public rules on a live kernel: each fires on an act of its own, and not on one that misses by little.
//!
//! In: the tables in `public`, which name the rules by their ids, and the files of `../shared/rules-corpus`, read at run time. Each
//! rule has an act that it must fire on and one that differs in one thing and must not; `before` is done ahead of the second, where
//! that one is about what has been seen already. Left out is what has to follow within a second, which no machine with other
//! work can promise; kernel modules, which the running kernel may be without; and what other sources than this sensor see. Out:
//! from one daemon with all rules of a table, an alert of each by its act and none by its near miss. Where that folder is absent
//! the tests say so and count as skipped. Must never touch the host's own files nor send anything away: the acts have namespaces of
//! their own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::daemon::{Daemon, text};
use crate::scope::Scope;
use crate::tiers;

const STAGE: &str = include_str!("public/stage.sh");
const HELPERS: &str = include_str!("public/helpers.sh");
const STAND_IN: &str = include_str!("public/stand_in.c");

/// Alerts come in the order of the acts: an alert of this rule says which one begins.
const NEXT_ACT: &str = r#"
[rule]
rule_id = "next-act"
name = "next act"
type = "eql"
query = '''process where event.action == "exec" and process.name == "next-act"'''
"#;

/// Every new term counts from the start.
const SETTINGS: &str = "rules.new_terms_learning_s = 0\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    rule: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    about: String,
    fires: String,
    misses: String,
    before: Option<String>,
}

/// Files of the rules, by the ids in them.
fn corpus() -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    let rules = sensor::rule::load(&[folder]).rules;
    let path = |rule: &sensor::rule::Rule| (rule.id.clone(), rule.path.to_path_buf());
    rules.iter().map(|rule| path(rule)).collect()
}

/// Name of the act that begins by this alert, if one does.
fn begun(alert: &Value) -> Option<&str> {
    let is_next = text(alert, "rule.id") == "next-act";
    is_next.then(|| text(alert, "process.command_line").trim_start_matches("next-act "))
}

/// Rules that fired, by act.
fn by_act(alerts: &[Value]) -> BTreeMap<&str, Vec<&str>> {
    let mut acts = BTreeMap::new();
    let mut act = "before all";
    for alert in alerts {
        match begun(alert) {
            Some(next) => {
                act = next;
                acts.insert(act, Vec::new());
            }
            None => acts.entry(act).or_default().push(text(alert, "rule.id")),
        }
    }
    acts
}

/// Writes all that is played into a folder.
fn write_acts(cases: &[Case], folder: &Path) {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("stage", STAGE);
    write("helpers", HELPERS);
    write("stand_in.c", STAND_IN);
    for (index, case) in cases.iter().enumerate() {
        let act = |part: &str, text: &str| {
            let text = format!(". /opt/acts/helpers\n{text}\n");
            write(&format!("{index:03}-{part}"), &text);
        };
        act("misses", &case.misses);
        act("fires", &case.fires);
        if let Some(before) = &case.before {
            act("before", before);
        }
    }
}

/// What is not as it should be.
fn complaints(cases: &[Case], alerts: &[Value]) -> String {
    let acts = by_act(alerts);
    let mut complaints = String::new();
    for (index, case) in cases.iter().enumerate() {
        for (part, act, expected) in [
            ("misses", &case.misses, false),
            ("fires", &case.fires, true),
        ] {
            let name = format!("{index:03}-{part}");
            let fired = acts
                .get(name.as_str())
                .unwrap_or_else(|| panic!("{name} did not begin"));
            if fired.contains(&case.id.as_str()) != expected {
                let (id, about) = (&case.id, &case.about);
                let _ = writeln!(
                    complaints,
                    "{id} ({about}) {part}: {act}\n  fired: {fired:?}"
                );
            }
        }
    }
    complaints
}

#[test]
fn rules_about_programs_fire_and_not_on_near_misses() {
    play("programs", include_str!("public/programs.toml"));
}

#[test]
fn rules_about_files_fire_and_not_on_near_misses() {
    play("files", include_str!("public/files.toml"));
}

#[test]
fn rules_about_rights_fire_and_not_on_near_misses() {
    play("rights", include_str!("public/rights.toml"));
}

#[test]
fn rules_about_the_network_fire_and_not_on_near_misses() {
    play("network", include_str!("public/network.toml"));
}

#[test]
fn sequences_and_rules_about_what_is_new_fire_and_not_on_near_misses() {
    play("sequences", include_str!("public/sequences.toml"));
}

/// Does what a table says under every tier, and complains of each rule that was wrong.
fn play(table: &str, cases: &str) {
    let cases = toml::from_str::<Cases>(cases).unwrap().rule;
    let corpus = corpus();
    if corpus.is_empty() {
        println!("SKIPPED: no public rules beside the checkout");
        return;
    }
    let rule_of = |case: &Case| {
        let path = corpus.get(&case.id);
        path.unwrap_or_else(|| panic!("no rule {}: {}", case.id, case.about))
            .to_str()
            .unwrap()
    };
    for tier in tiers() {
        let scope = Scope::new(&format!("public-{table}"));
        let folder = scope.folder();
        write_acts(&cases, &folder);
        let outside = tempfile::tempdir().unwrap();
        let (settings, next) = (
            outside.path().join("settings"),
            outside.path().join("next.toml"),
        );
        fs::write(&settings, SETTINGS).unwrap();
        fs::write(&next, NEXT_ACT).unwrap();
        let mut arguments = vec!["--config", settings.to_str().unwrap()];
        for case in &cases {
            arguments.extend(["--rules", rule_of(case)]);
        }
        let began = Instant::now();
        let mut daemon = Daemon::run_with(&scope, &tier, &next, &arguments);
        println!("{tier}: ready after {:?}", began.elapsed());
        // Without a terminal, whoever runs the tests.
        let stage = [
            "setsid", "--wait", "unshare", "--net", "--mount", "bash", "stage",
        ];
        let places = [folder.to_str().unwrap(), scope.cgroup().to_str().unwrap()];
        scope.run(&[&stage[..], &places].concat());
        println!("{tier}: done after {:?}", began.elapsed());
        daemon.wait_for("end of the acts", |alert| begun(alert) == Some("end"));
        let ended = daemon.stop();
        let (alerts, rules) = (ended.lines.len(), cases.len());
        println!("{tier}: {rules} rules of {table}, {alerts} alerts");
        assert!(ended.log.contains(" lost=0 "), "{tier}: {}", ended.log);
        let complaints = complaints(&cases, &ended.lines);
        assert!(complaints.is_empty(), "{tier}:\n{complaints}");
    }
}
