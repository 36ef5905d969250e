//! The state's file: whole or refused.

use std::fs;

use super::*;
use crate::commands::compile;
use crate::config::Config;
use crate::enrich::Enricher;
use crate::enrich::process_table::TableLimits;
use crate::enrich::testing::{Run, exec_body};
use crate::enrich::users::Users;
use crate::event::{FieldTable, Fields as _};

const SECOND: u64 = 1_000_000_000;

fn host(boot_id: &str) -> Arc<Host> {
    Arc::new(Host {
        boot_id: boot_id.into(),
        ..Host::default()
    })
}

fn enricher(host: &Arc<Host>) -> Enricher {
    let users = Users::from_files("/nonexistent", "/nonexistent");
    Enricher::new(Arc::clone(host), TableLimits::default(), users, None)
}

/// A process that has exec'd, and a rule that waits for a file of its name.
fn saved(host: &Arc<Host>) -> (Saved, Enricher) {
    let rule = crate::alert::sample::rule("R", "r-1", "low");
    let mut table = FieldTable::sensor();
    let (_, mut engine) =
        compile::<Arc<Event>>(vec![rule], &mut table, &Config::default(), true).unwrap();
    let mut enricher = enricher(host);
    let run = Run::of("/tmp/rev", &["./rev", "-v"]);
    let mut found = Vec::new();
    let event = enricher.feed_exec(SECOND, (7, SECOND), &exec_body(), &run);
    engine.process(&Arc::new(event), &mut found);
    let mut memory = enricher.remember();
    let waiting = enricher.feed_creation(2 * SECOND, (7, SECOND), b"/tmp/other");
    memory.waiting.push(waiting);
    let saved = Saved {
        taken: Taken {
            boot_id: Arc::clone(&host.boot_id),
            at_ns: 2 * SECOND,
            last: true,
            pid: 7,
            number: 300,
            lost: 0,
        },
        memory,
        engine: engine.save(Arc::clone),
        alerts: 41,
        by_rule: vec![("r-1".to_owned(), 3)],
        baselines: vec![Baseline {
            rule: "r-2".to_owned(),
            digest: 9,
            since_ns: -5,
            terms: vec![(u128::MAX - 1, 77)],
        }],
        images: Gauge::default(),
    };
    (saved, enricher)
}

#[test]
fn a_state_reads_back_whole() {
    let host = host("boot");
    let (saved, mut before) = saved(&host);
    let held = saved.engine.held();
    assert_eq!(held, 1);
    let bytes = saved.write().unwrap();
    let back = Saved::read(&bytes, &host).unwrap().unwrap();
    assert_eq!(back.taken, saved.taken);
    assert_eq!((back.alerts, &back.by_rule), (41, &saved.by_rule));
    assert_eq!(back.baselines, saved.baselines);
    assert_eq!(back.engine.held(), held);
    assert_eq!(
        back.memory.waiting[0].file().unwrap().path(),
        Some("/tmp/other")
    );
    assert!(back.images.bytes() > 0, "images read back are counted");
    // What reads back is written the same again: nothing is left out on the way.
    let again = Saved {
        images: Gauge::default(),
        ..Saved::read(&bytes, &host).unwrap().unwrap()
    };
    assert_eq!(again.write().unwrap(), bytes);
    // The process is known as before: the same act gives the same event.
    let mut after = enricher(&host);
    after.recall(back.memory, back.images);
    let act =
        |enricher: &mut Enricher| enricher.feed_creation(3 * SECOND, (7, SECOND), b"/tmp/rev");
    let (one, other) = (act(&mut before), act(&mut after));
    let table = FieldTable::sensor();
    for row in crate::event::FIELDS {
        let id = table.resolve(row.path).unwrap();
        let values = |event: &Event| format!("{:?}", event.values(id).iter().collect::<Vec<_>>());
        if row.path != "event.sequence" {
            assert_eq!(values(&one), values(&other), "{}", row.path);
        }
    }
}

#[test]
fn the_form_has_a_version() {
    // When this fails, the form of something kept has changed: raise VERSION, then put the new hash here.
    let (saved, _) = saved(&host("boot"));
    let bytes = saved.write().unwrap();
    let hash = Sha256::digest(&bytes[HEAD_LEN..]);
    let shape = (VERSION, u32::from_be_bytes(hash[..4].try_into().unwrap()));
    assert_eq!(shape, SHAPE);
}

/// Version, and the hash of the sample's file.
const SHAPE: (u32, u32) = (2, 3_835_930_420);

#[test]
fn a_file_that_is_not_whole_or_not_ours_is_refused() {
    let host = host("boot");
    let (saved, _) = saved(&host);
    let bytes = saved.write().unwrap();
    for length in 0..bytes.len() {
        assert!(Saved::read(&bytes[..length], &host).is_err(), "{length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(
        Saved::read(&longer, &host),
        Err(ReadError::Length { .. })
    ));
    let mut other = bytes.clone();
    other[MAGIC.len()] += 1;
    assert!(matches!(
        Saved::read(&other, &host),
        Err(ReadError::Version(3))
    ));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Saved::read(&flipped, &host).is_err(), "byte {at}");
    }
}

#[test]
fn damage_that_a_hash_does_not_tell_never_panics() {
    let host = host("boot");
    let (saved, _) = saved(&host);
    let bytes = saved.write().unwrap();
    let body = &bytes[HEAD_LEN..];
    for length in 0..body.len() {
        assert!(
            Saved::read_body(&body[..length], &host).is_err(),
            "{length}"
        );
    }
    let mut read = 0;
    for bit in 0..8 * body.len() {
        let mut flipped = body.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Another name is as good as the one that was there; what comes of it must still be of use.
        if let Ok(Some(back)) = Saved::read_body(&flipped, &host) {
            read += 1;
            let mut after = enricher(&host);
            after.recall(back.memory, back.images);
            after.feed_creation(3 * SECOND, (7, SECOND), b"/tmp/rev");
        }
    }
    assert!(read > 0);
}

#[test]
fn another_boot_s_state_is_none_and_a_broken_one_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::below(directory.path());
    let here = host("boot");
    assert!(store.load(&here).is_none());
    let (saved, _) = saved(&here);
    let length = store.save(&saved).unwrap();
    assert_eq!(fs::metadata(store.path()).unwrap().len(), length as u64);
    assert!(store.load(&here).is_some());
    assert!(store.load(&host("another")).is_none());
    assert!(store.path().exists());
    let mut bytes = fs::read(store.path()).unwrap();
    bytes[HEAD_LEN + 5] ^= 1;
    fs::write(store.path(), &bytes).unwrap();
    assert!(store.load(&here).is_none());
    assert!(!store.path().exists());
    let aside = directory.path().join(format!("{FILE_NAME}.broken"));
    assert_eq!(fs::read(aside).unwrap(), bytes);
}
