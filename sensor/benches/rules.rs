//! What it takes to load every public rule, verdicts included, and what a loaded rule holds.
//!
//! In: the public rules beside the checkout, read at run time; without them nothing is measured and that is said. Out: criterion's
//! figures for the whole, and the bytes per rule, queries and their places included.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench states what it relies on"
)]

#[path = "../tests/counting/mod.rs"]
mod counting;

use std::hint::black_box;
use std::path::{Path, PathBuf};

use counting::held;
use criterion::{Criterion, criterion_group, criterion_main};

use sensor::event::Kinds;
use sensor::rule::{self, Verdict};

/// Loads everything and judges it; rules and how many are armed.
fn load(folder: &Path) -> (rule::Loaded, usize) {
    let loaded = rule::load(&[PathBuf::from(folder)]);
    let judged = loaded.rules.iter().map(|rule| rule.judge(Kinds::ALL));
    let armed = judged.filter(|found| found.verdict() == Verdict::Armed);
    let armed = armed.count();
    (loaded, armed)
}

fn public_rules(c: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    if !folder.is_dir() {
        eprintln!("SKIPPED: no public rules at {}", folder.display());
        return;
    }
    let before = held();
    let (loaded, armed) = load(&folder);
    let bytes = held() - before;
    let rules = isize::try_from(loaded.rules.len()).unwrap();
    eprintln!(
        "{} files, {rules} rules, {armed} armed: {} bytes per rule",
        loaded.files,
        bytes / rules.max(1)
    );
    drop(loaded);
    let mut group = c.benchmark_group("rules");
    group.sample_size(10);
    group.bench_function("load and judge every public rule", |b| {
        b.iter(|| black_box(load(&folder).1));
    });
    group.finish();
}

criterion_group!(benches, public_rules);
criterion_main!(benches);
