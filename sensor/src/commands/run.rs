//! `eql-sensor run`: the daemon.
//!
//! In: rules, settings, the kernel's records. Out: alerts, to the outputs. It never starts without a rule unless told to, and
//! every alert says whether records were lost in its window.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{Exit, Failure, OrExit as _, compile, live, load_config, load_rules};
use crate::alert;
use crate::cli::RunArgs;
use crate::engine::{Engine, Match};
use crate::event::{Event, Evidence, FieldTable};
use crate::output::Outputs;
use crate::pipeline::{self, Consumer, Pipeline, Status, Summary};
use crate::rule::Rule;

/// For outputs to write what is waiting, at the end.
const OUTPUTS_MAX: Duration = Duration::from_millis(600);
/// Between two words to the service manager.
const STATUS_EVERY: Duration = Duration::from_secs(10);
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
    let rules = load_rules(&args.rules, &config, args.allow_no_rules)?;
    let mut table = FieldTable::sensor();
    let (rules, engine) = compile(rules, &mut table, &config, args.allow_no_rules)?;
    let alerts = alert::Builder::new(&mut table);
    let runtime = live::runtime()?;
    runtime.block_on(async {
        let options = pipeline::options(&config.kernel);
        let announce_scan = options.scope.is_empty();
        let pipeline = Pipeline::start(
            &options,
            &config.processes,
            args.kernel.fault,
            announce_scan,
        );
        let pipeline = pipeline.map_err(live::failure)?;
        let to = &config.output;
        let outputs = Outputs::open(&to.alerts, to.format, to.queue_alerts_max)
            .or_exit(Exit::Configuration)?;
        let mut matching = Matching::new(rules, engine, alerts, outputs);
        live::ready(&pipeline, &matching.rules_in_words());
        let summary = pipeline.run(&mut matching).await.map_err(live::failure)?;
        matching.finish(&summary);
        Ok(Exit::Ok)
    })
}

/// Matches events against the rules and sends alerts.
struct Matching {
    rules: Vec<Arc<Rule>>,
    engine: Engine<Arc<Event>>,
    alerts: alert::Builder,
    outputs: Outputs,
    matches: Vec<Match<Arc<Event>>>,
    told: Instant,
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
            alerts,
            outputs,
            matches: Vec::new(),
            told: Instant::now(),
        }
    }

    fn rules_in_words(&self) -> String {
        match self.rules.len() {
            1 => "1 rule".to_owned(),
            count => format!("{count} rules"),
        }
    }

    fn send(&mut self, found: alert::Group<Event>, status: &Status) {
        let Some(rule) = self.rules.get(found.rule) else {
            return;
        };
        let lost = found
            .events
            .first()
            .map_or(0, |first| status.gaps.since(first.boot_ns));
        let events = found
            .events
            .into_iter()
            .map(|event| event as Arc<dyn Evidence>);
        let alert = self.alerts.build(rule, &found.keys, events.collect(), lost);
        self.outputs.send(&Arc::new(alert));
    }

    /// One line for the service manager.
    fn tell(&mut self, status: &Status) {
        if self.told.elapsed() < STATUS_EVERY {
            return;
        }
        self.told = Instant::now();
        let line = format!(
            "{}, {} events, {} lost, {} alerts",
            self.rules_in_words(),
            status.received.total(),
            status.gaps.total(),
            self.alerts.count(),
        );
        let _ = sd_notify::notify(&[NotifyState::Status(&line)]);
    }

    /// Lets the outputs write what is waiting, and says what became of it.
    fn finish(self, summary: &Summary) {
        let alerts = self.alerts.count();
        for (output, count) in self.outputs.close(OUTPUTS_MAX) {
            if count.dropped > 0 {
                tracing::error!(
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
            events = summary.enrich.events,
            lost = summary.kernel.lost(),
            alerts,
            evicted,
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
        ControlFlow::Continue(())
    }

    fn wants_losses(&self) -> bool {
        !self.matches.is_empty()
    }
}
