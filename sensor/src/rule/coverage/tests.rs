//! What is found missing, clause by clause, and what comes of it.
//!
//! In: queries. Out: findings as text. Nothing here reads a file.

use super::*;
use crate::eql::{self, Mode, OpenSchema};
use crate::event::Kind;

fn query(text: &str) -> Query {
    let checked = eql::compile(text, &OpenSchema, Mode::Live);
    checked.unwrap_or_else(|e| panic!("{text}: {e:?}")).query
}

fn judged(text: &str) -> Judgement {
    judge(&query(text), text, Kinds::ALL)
}

fn check(text: &str, expected: &[&str]) {
    let mut found: Vec<String> = judged(text).findings.iter().map(Finding::lack).collect();
    found.dedup();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn what_is_read_is_named() {
    check(
        r#"process where event.action == "exec" and process.name == "x""#,
        &[],
    );
    check(
        r#"process where event.action in ("exec", "ProcessRollup2") and not x.y == "z""#,
        &["step 1: no `x.y` on exec"],
    );
    check(
        r#"process where event.type == "start" and ?x.y : "z*""#,
        &["step 1: no `x.y` on exec"],
    );
    check(
        r#"process where event.action == "executed""#,
        &["step 1: no event has the wanted `event.action`"],
    );
    check(
        r#"process where host.os.type == "windows""#,
        &["step 1: no event has the wanted `host.os.type`"],
    );
    check(
        r#"sequence by host.id, a.b [process where event.action == "end"] [file where event.type == "creation"]"#,
        &["step 1: no `a.b` on end", "step 2: no `a.b` on creation"],
    );
    check(
        r#"sequence [file where event.action == "creation"] as e0
                    [process where event.action == "exec" and startsWith(process.name, e0.no.such)]"#,
        &["step 2: no `no.such` on creation"],
    );
    check(
        r#"process where event.action == "exec" and descendant of [process where a.b == "c"]"#,
        &["step 1: no `a.b` on exec"],
    );
    check(
        r#"process where event.action == "exec" and
             (process.name == "x" or descendant of [process where event.action == "start" and a.b == "c"])"#,
        &[],
    );
}

#[test]
fn branches_of_other_systems_are_dropped() {
    check(
        r#"process where event.action == "exec" and
             (process.name == "a" or (host.os.type == "windows" and c.d == "e"))"#,
        &[],
    );
    check(
        r#"any where event.category == "process" and event.action == "exec" or event.module == "other" and c.d == 1"#,
        &[],
    );
    assert!(is_for_linux(&query(
        r#"process where host.os.type in~ ("Linux", "macos") and true"#
    )));
    assert!(!is_for_linux(&query(
        r#"sequence [process where true] [process where host.os.type : "win*" and a == 1]"#
    )));
}

#[test]
fn fields_of_one_act_are_not_asked_of_others() {
    // Only a rename has an old name; a creation without one is as it should be.
    check(
        r#"file where event.action in ("creation", "rename") and not file.Ext.original.extension == "x""#,
        &[],
    );
    check(
        r#"file where event.action == "creation" and file.Ext.original.extension == "x""#,
        &["step 1: no `file.Ext.original.extension` on creation"],
    );
}

/// Verdict, then each finding with its effect.
fn words(text: &str, given: Kinds) -> Vec<String> {
    let found = judge(&query(text), text, given);
    let mut words = vec![found.verdict().name().to_owned()];
    words.extend(found.findings.iter().map(|finding| finding.words(text)));
    words
}

#[test]
fn consequences_are_said() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(words(text, Kinds::ALL), expected, "{text}");
    };
    check(r#"process where event.action == "exec""#, &["armed"]);
    check(
        r#"process where event.action == "exec" and not x.y == "z""#,
        &[
            "degraded",
            r#"step 1: no `x.y` on exec for `x.y == "z"`: the exclusion never applies: more false alarms"#,
        ],
    );
    check(
        r#"process where event.action == "exec" and (process.name == "a" or x.y == "z")"#,
        &[
            "degraded",
            r#"step 1: no `x.y` on exec for `x.y == "z"`: this branch is never taken: what only it finds is missed"#,
        ],
    );
    check(
        r#"process where event.action == "exec" and x.y != null"#,
        &[
            "blind",
            "step 1: no `x.y` on exec for `x.y != null`: the step can never hold, so the rule can never fire",
        ],
    );
    check(
        r#"process where event.action == "exec" and x.y == null"#,
        &[
            "degraded",
            "step 1: no `x.y` on exec for `x.y == null`: it always counts as absent: more false alarms",
        ],
    );
    check(
        r#"sequence by a.b with maxspan=1m [process where event.action == "exec"] [process where event.action == "end"]"#,
        &[
            "blind",
            "step 1: no `a.b` on exec to join by: the step can never hold, so the rule can never fire",
            "step 2: no `a.b` on end to join by: the step can never hold, so the rule can never fire",
        ],
    );
    check(
        "authentication where true",
        &[
            "blind",
            "step 1: no event of category `authentication`: the step can never hold, so the rule can never fire",
        ],
    );
    check(
        r#"sequence by host.id with maxspan=1m [process where event.action == "exec"] ![iam where true]"#,
        &[
            "degraded",
            "step 2: no event of category `iam`: what should hold the alarm back is not seen: more false alarms",
        ],
    );
}

#[test]
fn what_a_kernel_does_not_give_is_not_there() {
    let given = Kinds::ALL.without(Kind::LoadModule);
    let check = |text: &str, expected: &[&str]| assert_eq!(words(text, given), expected);
    check(
        r#"process where event.action == "load_module""#,
        &[
            "blind",
            "step 1: no event `load_module`: the step can never hold, so the rule can never fire",
        ],
    );
    check(
        r#"process where event.action in ("load_module", "exec")"#,
        &[
            "degraded",
            "step 1: no event `load_module`: the step misses them",
        ],
    );
    // Asks for starts of programs, one way or another.
    check(
        r#"process where event.type == "start" and (event.action == "exec" or process.name == "x")"#,
        &["armed"],
    );
}

#[test]
fn the_positive_measure_forgives_exclusions_and_options() {
    let positive = |text: &str| judged(text).is_positive;
    assert!(positive(
        r#"process where event.action == "exec" and not x.y == "z""#
    ));
    assert!(positive(
        r#"process where event.action == "exec" and (process.pid == 1 or ?x.y == "z")"#
    ));
    assert!(!positive(
        r#"process where event.action == "exec" and (process.pid == 1 or x.y == "z")"#
    ));
    assert!(!positive(
        r#"process where event.action == "exec" and (process.pid == 1 or ?x.y != null)"#
    ));
}

#[test]
fn own_kinds_agree_with_the_vocabulary() {
    for (action, categories, types, dataset) in acts::VOCABULARY {
        if let Some(kind) = Kind::ALL.iter().find(|kind| kind.action() == *action) {
            assert!(
                categories.iter().all(|c| kind.categories().contains(c)),
                "{action}"
            );
            assert!(kind.types().iter().all(|t| types.contains(t)), "{action}");
            assert_eq!(kind.dataset(), *dataset, "{action}");
        }
    }
}
