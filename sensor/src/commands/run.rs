//! `eql-sensor run`: the daemon.
//!
//! In: rules, settings, the kernel's records. Out: alerts, to the outputs. It never starts without a rule unless told to, and
//! every alert says whether records were lost in its window.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{
    Exit, Failure, OrExit as _, compile, gate, live, load_config, load_rules, load_tuning, log,
    output_options,
};
use crate::alert;
use crate::baseline::{Restored, Store};
use crate::cli::RunArgs;
use crate::engine::{Engine, Match, Tally};
use crate::event::{Event, Evidence, FieldTable, Kind, Kinds};
use crate::kernel::Options;
use crate::output::{Outputs, lifecycle};
use crate::pipeline::{self, Consumer, Pipeline, Sight, Status, Summary};
use crate::rule::{self, Rule, Verdict};
use crate::tuning::Gate;

/// For outputs to write what is waiting, at the end.
const OUTPUTS_MAX: Duration = Duration::from_millis(600);
/// Between two words to the service manager.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// Between two writes of what rules for new terms have seen.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Records being written while the ring looked empty are not older than this.
const LATE_MAX_NS: u64 = 100_000_000;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Settings, flags or rules that can't be, a kernel that refuses, an output that can't be opened.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let mut config = load_config(&args.settings)?;
    config.apply_kernel(&args.kernel).or_exit(Exit::Usage)?;
    config.apply_output(&args.output);
    config.apply_rules(&args.rules);
    config.apply_tuning(&args.tuning);
    let mut rules = load_rules(&args.rules, &config, args.allow_no_rules)?;
    let tuning = load_tuning(&args.tuning, &config)?;
    log(&tuning.apply(&mut rules));
    let mut table = FieldTable::sensor();
    let (rules, mut engine) = compile(rules, &mut table, &config, args.allow_no_rules)?;
    let gate = gate(&tuning, &rules, &mut table);
    let baselines = baselines(&rules, &mut engine, config.rules.new_terms_learning);
    let environment = rule::environment::patterns(rules.iter().map(|rule| &**rule));
    config.processes.environment.extend(environment);
    let alerts = alert::Builder::new(&mut table);
    // Before the kernel is touched: a mistyped path should not cost a start.
    let to = &config.output;
    let outputs =
        Outputs::open(&to.alerts, &output_options(&config)).or_exit(Exit::Configuration)?;
    let mut matching = Matching::new(rules, engine, alerts, outputs);
    matching.gate = gate;
    matching.baselines = baselines;
    let runtime = live::runtime()?;
    runtime.block_on(async {
        let interest = interest(&matching.rules);
        let options = Options {
            kinds: pipeline::records_for(interest),
            named: pipeline::named_for(&matching.rules),
            ..pipeline::options(&config.kernel)
        };
        let announce_scan = options.scope.is_empty() && interest.contains(Kind::AlreadyRunning);
        let pipeline = Pipeline::start(
            &options,
            &config.processes,
            (pipeline::reading_for(&matching.rules), &config.files),
            args.kernel.fault,
            announce_scan,
            config.kernel.self_check,
        );
        let pipeline = pipeline.map_err(live::failure)?;
        matching.judge(&pipeline.sight());
        live::ready(&pipeline, &matching.rules_in_words());
        let summary = pipeline.run(&mut matching).await.map_err(live::failure)?;
        matching.finish(&summary);
        Ok(Exit::Ok)
    })
}

/// Kinds of events that some rule can make use of.
pub(super) fn interest(rules: &[Arc<Rule>]) -> Kinds {
    rules
        .iter()
        .fold(Kinds::NONE, |kinds, rule| kinds.and(rule.interest()))
}

/// Gives rules for new terms what they had seen, and says which have to learn. `None` when there is nothing to keep, or
/// nowhere.
fn baselines(
    rules: &[Arc<Rule>],
    engine: &mut Engine<Arc<Event>>,
    learning: Duration,
) -> Option<Store> {
    engine.set_learning(learning);
    let count = rules.iter().filter(|rule| rule.asks_for_new()).count();
    if count == 0 {
        return None;
    }
    let directory = pipeline::state_directory();
    let store = directory.as_deref().map(Store::new);
    let restored = match &store {
        Some(store) => store.restore(engine, rules, pipeline::wall_offset_ns(), wall_ns()),
        None => {
            tracing::warn!(
                "there is no state directory: what rules for new terms see is forgotten at the end"
            );
            Restored {
                kept: 0,
                learning: count,
            }
        }
    };
    let Restored {
        kept,
        learning: fresh,
    } = restored;
    tracing::info!(
        "rules for new terms: {kept} go on with what they had seen, {fresh} learn for {} s and tell nothing new until then",
        learning.as_secs()
    );
    store
}

/// Nanoseconds since the Unix epoch.
fn wall_ns() -> i64 {
    let boot_ns = i64::try_from(pipeline::boot_ns()).unwrap_or(i64::MAX);
    boot_ns.saturating_add(pipeline::wall_offset_ns())
}

/// Matches events against the rules and sends alerts.
struct Matching {
    rules: Vec<Arc<Rule>>,
    engine: Engine<Arc<Event>>,
    /// What overrides and exceptions hide.
    gate: Gate,
    alerts: alert::Builder,
    outputs: Outputs,
    matches: Vec<Match<Arc<Event>>>,
    told: Instant,
    baselines: Option<Store>,
    /// When baselines were last written.
    kept: Instant,
    /// Terms forgotten so far, as told.
    forgotten: u64,
}

impl Matching {
    fn new(
        rules: Vec<Arc<Rule>>,
        engine: Engine<Arc<Event>>,
        alerts: alert::Builder,
        outputs: Outputs,
    ) -> Matching {
        Matching {
            rules,
            engine,
            gate: Gate::default(),
            alerts,
            outputs,
            matches: Vec::new(),
            told: Instant::now(),
            baselines: None,
            kept: Instant::now(),
            forgotten: 0,
        }
    }

    fn rules_in_words(&self) -> String {
        match self.rules.len() {
            1 => "1 rule".to_owned(),
            count => format!("{count} rules"),
        }
    }

    /// Says in the log how far the rules can do their work on this kernel.
    fn judge(&self, sight: &Sight) {
        let mut counts = [0; Verdict::ALL.len()];
        for rule in &self.rules {
            let found = rule.judge(sight.kinds);
            let verdict = found.verdict();
            if let Some(count) = counts.get_mut(verdict as usize) {
                *count += 1;
            }
            if verdict == Verdict::Armed {
                continue;
            }
            let words: Vec<String> = found
                .decisive()
                .iter()
                .map(|finding| finding.words(&rule.query_text))
                .collect();
            tracing::warn!(
                rule.id = rule.id,
                rule.name = rule.name,
                "rule `{}` is {}: {}",
                rule.name,
                verdict.name(),
                words.join("; ")
            );
        }
        let [armed, degraded, blind] = counts;
        tracing::info!("rules: {armed} armed, {degraded} degraded, {blind} blind");
    }

    fn send(&mut self, found: alert::Group<Event>, status: &Status) {
        let Some(rule) = self.rules.get(found.rule) else {
            return;
        };
        let wall_ns = found.events.last().map_or(0, |last| last.wall_ns);
        if self
            .gate
            .hides(found.rule, &found.events, wall_ns)
            .is_some()
        {
            return;
        }
        let begun = match found.tally {
            Some(Tally::Count { since_ns, .. }) => u64::try_from(since_ns).ok(),
            _ => found.events.first().map(|first| first.boot_ns),
        };
        let lost = begun.map_or(0, |begun| status.gaps.since(begun));
        let events = found
            .events
            .into_iter()
            .map(|event| event as Arc<dyn Evidence>);
        let tally = found.tally;
        let alert = self
            .alerts
            .build(rule, &found.keys, events.collect(), tally, lost);
        self.outputs.send(&Arc::new(alert));
    }

    /// One line for the service manager.
    fn tell(&mut self, status: &Status) {
        if self.told.elapsed() < STATUS_EVERY {
            return;
        }
        self.told = Instant::now();
        let line = format!(
            "{}, {} events, {} lost, {} alerts, {} hidden",
            self.rules_in_words(),
            status.received.total(),
            status.gaps.total(),
            self.alerts.count(),
            self.gate.hidden(),
        );
        let _ = sd_notify::notify(&[NotifyState::Status(&line)]);
    }

    /// Writes what rules for new terms have seen, once in a while, and says so when some of it had to go.
    fn keep(&mut self) {
        if self.kept.elapsed() < KEEP_EVERY {
            return;
        }
        self.kept = Instant::now();
        if let Some(store) = &mut self.baselines {
            store.save(
                &self.engine,
                &self.rules,
                pipeline::wall_offset_ns(),
                wall_ns(),
            );
        }
        let forgotten = self.engine.counters().iter().map(|rule| rule.forgotten);
        let forgotten: u64 = forgotten.sum();
        if forgotten > self.forgotten {
            tracing::warn!(
                "rules that remember or count forgot {} terms because there were too many (engine.terms_max): \
                 some may be told again",
                forgotten - self.forgotten
            );
            self.forgotten = forgotten;
        }
    }

    /// Lets the outputs write what is waiting, and says what became of it.
    fn finish(mut self, summary: &Summary) {
        self.gate.tell();
        let hidden = self.gate.hidden();
        if let Some(mut store) = self.baselines.take() {
            store.finish();
            store.save(
                &self.engine,
                &self.rules,
                pipeline::wall_offset_ns(),
                wall_ns(),
            );
            store.finish();
        }
        let alerts = self.alerts.count();
        for (output, count) in self.outputs.close(OUTPUTS_MAX) {
            if count.dropped > 0 {
                tracing::error!(
                    target: lifecycle::DROPPED,
                    written = count.written,
                    dropped = count.dropped,
                    "output `{output}` dropped alerts"
                );
            }
        }
        let evicted: u64 = self
            .engine
            .counters()
            .iter()
            .map(|rule| rule.evicted + rule.truncated_keys)
            .sum();
        tracing::info!(
            target: lifecycle::ENDED,
            events = summary.enrich.events,
            lost = summary.kernel.lost(),
            left_out = summary.kernel.unwanted(),
            alerts,
            hidden,
            evicted,
            forgotten = self
                .engine
                .counters()
                .iter()
                .map(|rule| rule.forgotten)
                .sum::<u64>(),
            "ended"
        );
    }
}

impl Consumer for Matching {
    fn event(&mut self, event: Event) {
        self.engine.process(&Arc::new(event), &mut self.matches);
    }

    async fn settle(&mut self, status: &Status) -> ControlFlow<()> {
        if status.idle {
            let now = i64::try_from(status.now_ns.saturating_sub(LATE_MAX_NS)).unwrap_or(i64::MAX);
            self.engine.advance(now, &mut self.matches);
        }
        for found in alert::merge(std::mem::take(&mut self.matches)) {
            self.send(found, status);
        }
        self.tell(status);
        self.keep();
        ControlFlow::Continue(())
    }

    fn wants_losses(&self) -> bool {
        !self.matches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::alert::{Alert, sample};
    use crate::cli::Output;
    use crate::config::Config;
    use crate::enrich::Enricher;
    use crate::enrich::process_table::TableLimits;
    use crate::enrich::testing::{Run, exec_body};
    use crate::enrich::users::Users;
    use crate::event::Host;
    use crate::metrics::Gaps;
    use crate::output::Sink;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<(u64, String)>>>);

    impl Sink for Kept {
        fn write(&mut self, alert: &Alert, _: &AtomicBool) -> io::Result<()> {
            let mut kept = self.0.lock().unwrap();
            kept.push((alert.lost, alert.message.clone()));
            Ok(())
        }
    }

    /// An exec at 1 s and a file of that name at 3 s, with a loss of 5 records seen at `lost_at_ns`.
    fn alerts_with_loss_at(lost_at_ns: u64) -> Vec<(u64, String)> {
        const SECOND: u64 = 1_000_000_000;
        let rules = vec![sample::rule("R", "r-1", "low")];
        let mut table = FieldTable::sensor();
        let (rules, engine) = compile(rules, &mut table, &Config::default(), false).unwrap();
        let kept = Kept::default();
        let mut outputs = Outputs::default();
        outputs
            .add(Output::Stdout, Box::new(kept.clone()), 8)
            .unwrap();
        let alerts = alert::Builder::new(&mut table);
        let mut matching = Matching::new(rules, engine, alerts, outputs);
        let users = Users::from_files("/nonexistent", "/nonexistent");
        let host = Arc::new(Host::default());
        let mut enricher = Enricher::new(host, TableLimits::default(), users, None);
        let key = (7, SECOND);
        let run = Run::of("/tmp/rev", &["./rev"]);
        matching.event(enricher.feed_exec(SECOND, key, &exec_body(), &run));
        assert!(!matching.wants_losses());
        matching.event(enricher.feed_creation(3 * SECOND, key, b"/tmp/rev"));
        assert!(matching.wants_losses());
        let mut gaps = Gaps::since_start(0);
        gaps.observe(lost_at_ns - SECOND / 2, 0);
        gaps.observe(lost_at_ns, 5);
        let status = Status {
            gaps,
            ..Status::default()
        };
        let flow = live::runtime().unwrap().block_on(matching.settle(&status));
        assert!(flow.is_continue());
        matching.outputs.close(OUTPUTS_MAX);
        kept.0.lock().unwrap().clone()
    }

    #[test]
    fn an_alert_says_whether_records_were_lost_in_its_window() {
        let message = "R: ./rev (pid 7) → rev wrote /tmp/rev";
        assert_eq!(
            alerts_with_loss_at(2_000_000_000),
            [(5, message.to_owned())]
        );
        assert_eq!(
            alerts_with_loss_at(1_000_000_000),
            [(5, message.to_owned())]
        );
        assert_eq!(alerts_with_loss_at(900_000_000), [(0, message.to_owned())]);
    }
}
