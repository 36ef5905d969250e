//! Sets built beside others: what is taken, what is kept, what is refused, in whose words.

use std::fs;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

/// A rules directory, a settings file and a state directory.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            folder: tempfile::tempdir().unwrap(),
        };
        for below in ["rules", "trial", "state"] {
            fs::create_dir(place.path(below)).unwrap();
        }
        place.write("settings", "");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn rule(&self, name: &str, process: &str) {
        self.rule_in("rules", name, process);
    }

    fn rule_in(&self, folder: &str, name: &str, process: &str) {
        let text = format!(
            "[rule]\nrule_id = \"{name}\"\nname = \"{name}\"\ntype = \"eql\"\n\
             query = 'process where process.name == \"{process}\"'\n"
        );
        self.write(&format!("{folder}/{name}.toml"), &text);
    }

    fn args(&self) -> RunArgs {
        let words = [
            "eql-sensor".into(),
            "run".into(),
            "--rules".into(),
            self.path("rules"),
            "--trial".into(),
            self.path("trial"),
            "--config".into(),
            self.path("settings"),
        ];
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => args,
            _ => unreachable!(),
        }
    }

    fn kept(&self) -> Kept {
        Kept::below(Some(&self.path("state")))
    }

    fn build(&self, good: &[Arc<Rule>]) -> Result<(Set, Vec<Problem>), Refused> {
        build(&self.args(), settings(&self.args())?, good)
    }
}

fn names(roster: &Roster) -> Vec<(&str, bool)> {
    let of = |listed: &'_ Listed| listed.stale.is_some();
    let mut names: Vec<(&str, bool)> = roster
        .rules
        .iter()
        .map(|listed| (&*listed.rule.name, of(listed)))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_broken_rule_keeps_its_last_good_version_and_a_new_one_stays_out() {
    let place = Place::new();
    place.rule("a", "x");
    place.rule("b", "y");
    let (old, problems) = place.build(&[]).unwrap();
    assert_eq!(problems, []);
    place.write("rules/b.toml", "[rule]\nquery = '");
    place.write("rules/c.toml", "[rule]\nquery = '");
    place.rule("d", "z");
    let good: Vec<_> = old.roster.iter().cloned().collect();
    let (new, problems) = place.build(&good).unwrap();
    assert_eq!(
        names(&new.roster),
        [("a", false), ("b", true), ("d", false)]
    );
    assert_eq!(new.roster.failed.len(), 1);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        lines.iter().all(|line| line.contains(".toml:2:")),
        "{lines:?}"
    );
    let difference = Difference::between(&old.roster, &new.roster);
    assert_eq!(difference.added, ["d (d)"]);
    assert_eq!((difference.unchanged, difference.removed.len()), (2, 0));
    assert_eq!(
        new.roster.in_words(),
        "3 rules (1 in their last good version), 1 failed"
    );
}

#[test]
fn an_override_reaches_a_rule_in_its_last_good_version() {
    let place = Place::new();
    place.rule("a", "x");
    fs::create_dir(place.path("overrides")).unwrap();
    let folder = place.path("overrides");
    let settings = format!("[rules]\noverrides = [\"{}\"]\n", folder.display());
    place.write("settings", &settings);
    let (old, _) = place.build(&[]).unwrap();
    place.write("rules/a.toml", "[rule]\nquery = '");
    place.write(
        "overrides/o.toml",
        "[[override]]\nrule_id = \"a\"\nrisk_score = 99\n",
    );
    let good: Vec<_> = old.roster.iter().cloned().collect();
    let (new, _) = place.build(&good).unwrap();
    assert_eq!(names(&new.roster), [("a", true)]);
    let risk = |set: &Set| set.roster.rules[0].rule.risk_score;
    assert_eq!(risk(&new), 99);
    assert_ne!(risk(&old), 99, "the set that runs stays as it is");
}

#[test]
fn what_can_not_be_read_changes_nothing() {
    let place = Place::new();
    place.rule("a", "x");
    let cases: [(&str, &dyn Fn(), &str); 4] = [
        (
            "settings: 2:1",
            &|| place.write("settings", "[kernel]\nteir = \"auto\"\n"),
            "the settings can not be used",
        ),
        (
            "everybody may write this",
            &|| {
                place.write("settings", "");
                mode(&place.path("rules"), 0o777);
            },
            "the rules can not be trusted",
        ),
        (
            "",
            &|| {
                mode(&place.path("rules"), 0o755);
                fs::rename(place.path("rules"), place.path("away")).unwrap();
            },
            "cannot read rules from `",
        ),
        (
            "",
            &|| fs::create_dir(place.path("rules")).unwrap(),
            "no rule to watch for",
        ),
    ];
    for (said, break_it, reason) in cases {
        break_it();
        let refused = place.build(&[]).map(drop).unwrap_err();
        assert!(refused.reason.starts_with(reason), "{}", refused.reason);
        let problems: String = refused.problems.iter().map(ToString::to_string).collect();
        let said = said.replace(' ', "");
        assert!(problems.replace(' ', "").contains(&said), "{problems}");
    }
}

fn mode(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_start_falls_back_on_what_was_kept() {
    let place = Place::new();
    place.rule("a", "x");
    place.rule("b", "y");
    place.write("settings", "[engine]\nidle_s = 77\n");
    let (args, kept) = (place.args(), place.kept());
    let (set, _) = at_start(&args, &kept).unwrap();
    kept.save(&set.roster).unwrap();
    // Broken settings and a broken rule.
    place.write("settings", "[engine]\nidle_s = \"long\"\n");
    place.write("rules/b.toml", "nonsense");
    let (set, _) = at_start(&args, &kept).unwrap();
    assert_eq!(set.config.engine.idle.as_secs(), 77);
    assert_eq!(names(&set.roster), [("a", false), ("b", true)]);
    let stale = set.roster.settings_stale.clone().unwrap();
    assert!(stale.contains("settings:2:10"), "{stale}");
    // Saving what is stale keeps what was good.
    kept.save(&set.roster).unwrap();
    let (set, _) = at_start(&args, &kept).unwrap();
    assert_eq!(set.config.engine.idle.as_secs(), 77);
    assert_eq!(names(&set.roster), [("a", false), ("b", true)]);
    // No rules at all any more.
    fs::remove_dir_all(place.path("rules")).unwrap();
    let (set, _) = at_start(&args, &kept).unwrap();
    assert_eq!(names(&set.roster), [("a", true), ("b", true)]);
    // Nothing kept, nothing to fall back on; nor on damage.
    for damage in ["", "{", "[]"] {
        fs::write(kept.path(), damage).unwrap();
        let refused = at_start(&args, &kept).map(drop).unwrap_err();
        assert!(refused.settings, "{}", refused.reason);
    }
}

#[test]
fn only_the_text_that_runs_is_kept() {
    let place = Place::new();
    place.rule("a", "x");
    let (set, _) = place.build(&[]).unwrap();
    let kept = place.kept();
    kept.save(&set.roster).unwrap();
    place.rule("a", "changed since");
    kept.save(&set.roster).unwrap();
    let rules = kept.load().unwrap().rules();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].digest, set.roster.rules[0].rule.digest);
    assert!(rules[0].query_text.contains("\"x\""));
}

#[test]
fn a_full_disk_leaves_what_was_kept() {
    let place = Place::new();
    place.rule("a", "x");
    let (set, _) = place.build(&[]).unwrap();
    let full = Kept::below(Some(Path::new("/proc/self")));
    assert!(full.save(&set.roster).is_err());
    assert!(Kept::below(None).save(&set.roster).is_ok());
}

#[test]
fn a_rule_on_trial_stands_beside_the_live_one_of_its_id() {
    let place = Place::new();
    place.rule("a", "x");
    place.rule("b", "y");
    let (old, _) = place.build(&[]).unwrap();
    place.rule_in("trial", "a", "other");
    place.rule_in("trial", "c", "z");
    place.write(
        "overrides.toml",
        "[[override]]\nrule_id = \"a\"\nenabled = false\nseverity = \"high\"\n",
    );
    let (new, problems) = {
        let mut args = place.args();
        args.tuning.overrides = vec![place.path("overrides.toml")];
        build(&args, settings(&args).unwrap(), &[]).unwrap()
    };
    assert_eq!(problems, []);
    let roster = &new.roster;
    let listed: Vec<(&str, bool, &str)> = roster
        .rules
        .iter()
        .map(|l| (&*l.rule.id, l.on_trial, l.rule.severity.name()))
        .collect();
    // The override switches the live one off, and is no less of the one on trial.
    let expected = [
        ("b", false, "medium"),
        ("a", true, "high"),
        ("c", true, "medium"),
    ];
    assert_eq!(listed, expected);
    assert_eq!((roster.live().len(), roster.on_trial().len()), (1, 2));
    assert_eq!(roster.in_words(), "1 rule, 2 on trial");
    let difference = Difference::between(&old.roster, roster);
    assert_eq!(difference.added, ["a (a), on trial", "c (c), on trial"]);
    assert_eq!(difference.removed, ["a (a)"]);
    // What is kept for a start on broken files holds no trial: it would be live there.
    place.kept().save(roster).unwrap();
    let kept = place.kept().load().unwrap().rules();
    assert_eq!(kept.iter().map(|rule| &*rule.id).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_broken_trial_keeps_its_last_good_version_and_troubles_no_live_rule() {
    let place = Place::new();
    place.rule("a", "x");
    place.rule_in("trial", "a", "other");
    let (old, _) = place.build(&[]).unwrap();
    place.write("trial/a.toml", "[rule]\nquery = '");
    place.write("trial/b.toml", "[rule]\nquery = '");
    let good: Vec<_> = old.roster.iter().cloned().collect();
    let (new, problems) = place.build(&good).unwrap();
    let on_trial = new.roster.on_trial();
    assert_eq!(on_trial.len(), 1);
    let stale = on_trial[0].stale.as_deref().unwrap();
    assert!(stale.contains("trial/a.toml:2:"), "{stale}");
    assert!(
        new.roster
            .live()
            .iter()
            .all(|listed| listed.stale.is_none())
    );
    let failed = &new.roster.failed;
    assert_eq!(failed.len(), 1);
    assert!(failed[0].on_trial && failed[0].path.ends_with("trial/b.toml"));
    assert!(
        problems
            .iter()
            .any(|problem| problem.path.ends_with("trial/b.toml"))
    );
    // A trial alone is nothing to watch for.
    fs::remove_file(place.path("rules/a.toml")).unwrap();
    let refused = place.build(&[]).map(drop).unwrap_err();
    assert!(
        refused.reason.starts_with("no rule to watch for"),
        "{}",
        refused.reason
    );
    mode(&place.path("trial"), 0o777);
    let refused = place.build(&[]).map(drop).unwrap_err();
    assert_eq!(refused.reason, "the rules can not be trusted");
}
