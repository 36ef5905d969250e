//! Trials by hand: pairs, bounds, what is kept.

use super::*;

fn act(boot_ns: u64) -> Act {
    Act {
        kind: Kind::Exec,
        boot_ns,
        pid: 7,
        start_ns: 1,
    }
}

fn acts(times: &[u64]) -> Vec<Act> {
    times.iter().copied().map(act).collect()
}

fn about(id: &str, digest: u64, live: Option<u64>) -> About {
    About {
        id: id.to_owned(),
        digest,
        live,
    }
}

fn trials(rules: Vec<About>) -> Trials {
    Trials::default().next(Some(rules), |_| Cost::default(), 1, 0)
}

fn would(bytes: usize) -> Would {
    Would {
        wall_ns: 5,
        message: "m".to_owned(),
        hidden: None,
        because: None,
        actions: Vec::new(),
        document: "x".repeat(bytes),
    }
}

fn missed(number: u64) -> Option<Missed> {
    Some(Missed {
        wall_ns: 5,
        number,
        message: "m".to_owned(),
    })
}

/// What is raised in turn, by times of events: `(live, events)`.
fn compared(alerts: &[(bool, &[u64])]) -> (u64, u64, u64) {
    let mut trials = trials(vec![about("a", 1, Some(2))]);
    for (is_live, times) in alerts {
        if *is_live {
            trials.raised(0, acts(times), missed(1));
        } else {
            trials.would(0, acts(times), None, 0, || would(1));
        }
    }
    let trial = &trials.rules[0];
    let both = trial.last().filter(|listed| listed.both).count() as u64;
    assert_eq!(both, trial.counts.both, "each is listed");
    assert_eq!(trial.missed().count() as u64, trial.counts.only_live);
    let counts = trial.counts;
    (counts.both, counts.only_trial, counts.only_live)
}

#[test]
fn alerts_of_both_versions_are_one_when_one_ends_within_the_other() {
    let (trial, live) = (false, true);
    for (alerts, expected) in [
        (&[(trial, &[1, 2][..])][..], (0, 1, 0)),
        (&[(live, &[1, 2])], (0, 0, 1)),
        (&[(live, &[1, 2]), (trial, &[1, 2])], (1, 0, 0)),
        (&[(trial, &[1, 2]), (live, &[1, 2])], (1, 0, 0)),
        // One more step on either side, in front or at the end.
        (&[(live, &[1, 2]), (trial, &[1, 2, 3])], (1, 0, 0)),
        (&[(live, &[2]), (trial, &[1, 2])], (1, 0, 0)),
        (&[(trial, &[1, 2]), (live, &[1, 2, 3])], (1, 0, 0)),
        // The same beginning is not the same alert.
        (&[(live, &[1, 2]), (trial, &[1, 3])], (0, 1, 1)),
        // One for one.
        (&[(live, &[1]), (trial, &[1]), (trial, &[1])], (1, 1, 0)),
        (&[(live, &[1]), (live, &[2]), (trial, &[2])], (1, 0, 1)),
    ] {
        assert_eq!(compared(alerts), expected, "{alerts:?}");
    }
}

#[test]
fn what_an_exception_hides_is_counted_apart_and_not_compared() {
    let mut trials = trials(vec![about("a", 1, Some(2))]);
    for hidden in [
        None,
        Some(HiddenBy::Exception),
        Some(HiddenBy::Exception),
        Some(HiddenBy::RateLimit),
    ] {
        trials.would(0, acts(&[1]), hidden, 0, || would(1));
    }
    let counts = trials.rules[0].counts;
    assert_eq!((counts.alerts, counts.excepted, counts.limited), (1, 2, 1));
    assert_eq!(counts.only_trial, 2);
}

#[test]
fn everything_has_a_bound_and_nothing_goes_uncounted() {
    let mut trials = trials(vec![about("a", 1, Some(2)), about("b", 1, None)]);
    let mut worded = 0;
    // All in one second, then one in each.
    for time in 0..1000 {
        trials.would(0, acts(&[time]), None, 0, || {
            worded += 1;
            would(1)
        });
    }
    assert_eq!(worded, WORDED_PER_SECOND);
    for second in 1..=200 {
        trials.raised(0, acts(&[10_000 + second]), missed(second));
        trials.would(0, acts(&[second]), None, second * SECOND_NS, || would(1));
    }
    let trial = &trials.rules[0];
    assert_eq!((trial.counts.alerts, trial.counts.only_live), (1200, 200));
    assert_eq!(trial.last().count(), ALERTS_MAX);
    assert_eq!(trial.missed().count(), MISSED_MAX);
    assert_eq!(trial.missed().last().map(|missed| missed.number), Some(200));
    assert_eq!(trial.alone.len(), ALONE_MAX);
    // Bytes are taken from who has most of them.
    for second in 300..320 {
        trials.would(1, Vec::new(), None, second * SECOND_NS, || {
            would(BYTES_MAX / 4)
        });
    }
    let listed: Vec<usize> = trials
        .rules
        .iter()
        .map(|rule| rule.last().count())
        .collect();
    assert_eq!(listed, [ALERTS_MAX, 3]);
    assert_eq!(trials.rules[1].counts.alerts, 20);
}

#[test]
fn time_and_cost_are_of_all_runs_together() {
    let cost = |events| Cost {
        events,
        nanoseconds: events * 10,
    };
    let mut first = trials(vec![about("a", 1, Some(2))]);
    first.would(0, acts(&[1]), None, 0, || would(1));
    let rule = &first.rules[0];
    assert_eq!((rule.worked_ns(70), rule.cost(cost(5))), (70, cost(5)));
    // Another engine, which goes on with the account.
    first.settle(|_| cost(5), 100);
    let rules = vec![about("new", 1, None), about("a", 1, Some(2))];
    let second = first.next(Some(rules), |at| cost([0, 5][at]), 50, 100);
    let rule = &second.rules[1];
    assert_eq!((rule.since_ns, rule.worked_ns(130)), (1, 130));
    assert_eq!(rule.cost(cost(8)), cost(8));
    assert_eq!(second.rules[0].since_ns, 50);
    // Another run, whose engine begins at nothing.
    let folder = tempfile::tempdir().unwrap();
    let store = Store::below(folder.path());
    store
        .save(&second.keep(|at| cost([0, 8][at]), 130))
        .unwrap();
    let rules = vec![about("a", 1, Some(2)), about("b", 1, None)];
    let third = store.load().next(Some(rules), |_| Cost::default(), 60, 7);
    let rule = &third.rules[0];
    assert_eq!((rule.since_ns, rule.worked_ns(10)), (1, 133));
    assert_eq!(rule.cost(cost(2)), cost(10));
    assert_eq!(rule.counts.only_trial, 1);
    assert_eq!(
        rule.last().map(|l| &*l.would).collect::<Vec<_>>(),
        [&would(1)]
    );
    assert_eq!(third.rules[1].since_ns, 60);
}

#[test]
fn another_live_version_is_compared_with_anew() {
    let mut before = trials(vec![about("a", 1, Some(2))]);
    before.raised(0, acts(&[1]), missed(1));
    before.would(0, acts(&[1]), None, 0, || would(1));
    before.raised(0, acts(&[2]), missed(2));
    let after = before.next(
        Some(vec![about("a", 1, Some(3))]),
        |_| Cost::default(),
        9,
        9,
    );
    let trial = &after.rules[0];
    let expected = Counts {
        alerts: 1,
        ..Counts::default()
    };
    assert_eq!((trial.counts, trial.since_ns), (expected, 1));
    assert_eq!(trial.missed().count(), 0);
    assert!(trial.last().all(|listed| !listed.both));
}

#[test]
fn a_file_that_can_not_be_used_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::below(folder.path());
    assert_eq!(store.load().rules.len(), 0);
    for damage in [
        "",
        "{",
        "[]",
        r#"{"format":"eql-sensor trial","version":9,"rules":[]}"#,
    ] {
        std::fs::write(store.path(), damage).unwrap();
        assert_eq!(store.load().rules.len(), 0, "{damage}");
        assert!(!store.path().exists(), "{damage}");
    }
    // Without trials there is no file.
    let some = trials(vec![about("a", 1, None)]);
    store.save(&some.keep(|_| Cost::default(), 0)).unwrap();
    assert!(store.path().exists());
    for _ in 0..2 {
        let none = Trials::default().keep(|_| Cost::default(), 0);
        store.save(&none).unwrap();
        assert!(!store.path().exists());
    }
}

#[test]
fn a_start_on_the_last_good_rules_ends_no_trial() {
    let cost = |_| Cost {
        events: 3,
        nanoseconds: 30,
    };
    let mut before = trials(vec![about("a", 1, None)]);
    before.would(0, acts(&[1]), None, 0, || would(1));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::below(folder.path());
    store.save(&before.keep(cost, 100)).unwrap();
    let unread = store.load().next(None, |_| Cost::default(), 50, 7);
    assert_eq!(unread.rules.len(), 0);
    // Over one more start, and then mended while it runs.
    store.save(&unread.keep(|_| Cost::default(), 90)).unwrap();
    let unread = store.load().next(None, |_| Cost::default(), 60, 8);
    let rules = vec![about("a", 1, None)];
    let mended = unread.next(Some(rules), |_| Cost::default(), 70, 10);
    let rule = &mended.rules[0];
    assert_eq!((rule.since_ns, rule.counts.alerts), (1, 1));
    assert_eq!(
        (rule.worked_ns(15), rule.cost(Cost::default())),
        (105, cost(0))
    );
}

#[test]
fn whatever_counts_a_file_holds_nothing_overflows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::below(folder.path());
    let some = trials(vec![about("a", 1, Some(2))]);
    store.save(&some.keep(|_| Cost::default(), 0)).unwrap();
    let text = std::fs::read_to_string(store.path()).unwrap();
    let text = text.replace(":0", &format!(":{}", u64::MAX));
    assert!(text.contains(&u64::MAX.to_string()), "{text}");
    std::fs::write(store.path(), text).unwrap();
    let rules = vec![about("a", 1, Some(2))];
    let mut read = store.load().next(Some(rules), |_| Cost::default(), 1, 5);
    for hidden in [None, Some(HiddenBy::Exception), Some(HiddenBy::RateLimit)] {
        read.would(0, acts(&[1]), hidden, 5, || would(1));
        read.raised(0, acts(&[1]), missed(1));
        read.raised(0, acts(&[2]), missed(1));
    }
    let cost = Cost {
        events: 1,
        nanoseconds: 1,
    };
    assert_eq!(read.rules[0].worked_ns(9), u64::MAX);
    assert_eq!(read.rules[0].cost(cost).events, u64::MAX);
    assert_eq!(read.rules[0].counts.alerts, u64::MAX);
}
