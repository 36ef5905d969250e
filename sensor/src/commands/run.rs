//! `eql-sensor run`: the daemon.
//!
//! In: rules, settings, the kernel's records. Out: alerts, to the outputs. It never starts without a rule unless told to, nor beside
//! another daemon on the same control socket; it starts on the last good settings and rules rather than not at all.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::baselines::Baselines;
use super::matching::{self, Matching};
use super::{Exit, Failure, OrExit as _, live, log, output_options};
use crate::cli::RunArgs;
use crate::config::{self, Config};
use crate::control::front::{self, Front};
use crate::control::server::{BindError, Server};
use crate::control::{Bell, Desk, Socket};
use crate::enrich::host;
use crate::event::{Kind, Kinds};
use crate::fd_store::{FdStore, Inherited};
use crate::kernel::Options;
use crate::output::Outputs;
use crate::output::handed::{Earlier, Handed};
use crate::output::receipts::Receipts;
use crate::pipeline::{self, Pipeline, Recalled, Sight, Start};
use crate::reload::{self, Kept, Refused, Reloader, Roster, Set};
use crate::response::{Deed, Guard, Responder};
use crate::rule::{self, Verdict};
use crate::state::{Saved, Store};
use crate::trial;
use crate::watchdog;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Settings, flags or rules that can't be, a kernel that refuses, an output that can't be opened.
pub fn run(args: &RunArgs, inherited: Inherited) -> Result<Exit, Failure> {
    Config::default()
        .apply_kernel(&args.kernel)
        .or_exit(Exit::Usage)?;
    let kept = Kept::below(pipeline::state_directory().as_deref());
    let (mut set, problems) = reload::at_start(args, &kept).map_err(refused)?;
    log(&problems);
    if let Err(error) = kept.save(&set.roster) {
        tracing::warn!(
            "the rules can not be kept for a start on which they are broken: {}: {error}",
            kept.path().display()
        );
    }
    let mut config = set.config.clone();
    config.processes.environment.extend(environment(&set));
    // Before the kernel is touched: a mistyped path or a second daemon should not cost a start.
    let server = bind(&config.control)?;
    let to = &config.output;
    let options = output_options(&config, pipeline::state_directory());
    let outputs = Outputs::open(&to.alerts, &options).or_exit(Exit::Configuration)?;
    let (bell, desk) = Desk::new();
    let roster = Arc::clone(&set.roster);
    let rules: Vec<_> = roster.iter().cloned().collect();
    let learning = config.rules.new_terms_learning;
    let baselines = Baselines::at_start(&roster, &mut set.engine, learning);
    let runtime = live::runtime()?;
    runtime.block_on(async {
        let hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
        let interest = roster.interest();
        let options = Options {
            kinds: pipeline::records_for(interest),
            named: pipeline::named_for(&rules),
            room_for_bulk: true,
            ..pipeline::options(&config.kernel)
        };
        let directory = pipeline::state_directory();
        let store = directory.as_deref().map(Store::below);
        let host = Arc::new(host::this_host(directory.as_deref()));
        let saved = store.as_ref().and_then(|store| store.load(&host));
        let (recalled, remembered) = saved.map(parts).unzip();
        let mut descriptors = FdStore::of_this_service(inherited).filter(|_| store.is_some());
        let followed = descriptors.as_mut().map_or((None, None), |descriptors| {
            let behind = remembered.as_ref().map(|kept: &matching::Kept| kept.alerts);
            followed(descriptors, behind)
        });
        let announce_scan = options.scope.is_empty() && interest.contains(Kind::AlreadyRunning);
        let pipeline = Pipeline::start(Start {
            options: &options,
            processes: &config.processes,
            wanted: pipeline::reading_for(&rules),
            files: &config.files,
            fault: args.kernel.fault,
            announce_scan,
            check: config.kernel.self_check,
            recalled,
            store: descriptors,
        });
        let pipeline = pipeline.map_err(live::failure)?;
        let reloader = Arc::new(Reloader::new(
            args.clone(),
            kept,
            bell.clone(),
            Some(pipeline.widener()),
            set.config.clone(),
            Arc::clone(&roster),
        ));
        let (pulse, progress) = (pipeline.pulse(), outputs.progress());
        let (doors, response) = (outputs.doors(), config.response);
        let guard = Guard::new(&host, &config.kernel.scope);
        let tell = Box::new(move |deed: &Arc<Deed>| doors.tell(deed));
        let mut responder = Responder::new(guard, Arc::clone(&host), tell);
        responder.set(response);
        let (told, receipts) = followed;
        outputs.note_receipts(receipts);
        let mut matching = Matching::new(set, outputs, desk, Arc::clone(&pulse));
        matching.respond_by(responder);
        matching.baselines = baselines;
        if let (Some(store), Some(directory)) = (store, &directory) {
            let covered = pipeline.covered();
            let trials = trial::Store::below(directory);
            matching.go_on_with(trials.load());
            let stores = (store, trials);
            matching.keep_in(stores, covered, Arc::clone(&host.boot_id), remembered);
        }
        if let Some((handed, earlier)) = told {
            matching.follow(handed, earlier);
        }
        serve(server.as_ref(), &config.control, bell, &reloader)?;
        log_verdicts(&roster, &pipeline.sight());
        tokio::spawn(reload_on(hangup, reloader));
        watchdog::start(pulse, progress).context("cannot start the watchdog's thread")?;
        let ready = |pipeline: &Pipeline| live::ready(pipeline, &roster.in_words());
        let ended = pipeline.run(&mut matching, ready).await;
        let summary = ended.map_err(live::failure)?;
        matching.finish(&summary);
        Ok(Exit::Ok)
    })
}

/// What is noted of alerts that are told: what they are and how far outputs are, with what an earlier run noted of those behind the
/// last one its state covers; and what the journal took.
type Noted = (Option<(Handed, Earlier)>, Option<Receipts>);

fn followed(descriptors: &mut FdStore, behind: Option<u64>) -> Noted {
    let resumed = behind.map_or(Ok(None), |behind| Handed::resume(descriptors, behind));
    let noted = match resumed {
        Ok(Some(noted)) => Ok(noted),
        Ok(None) => Handed::begin(descriptors).map(|handed| (handed, Earlier::default())),
        Err(error) => Err(error),
    };
    let say = |error: &io::Error| tracing::error!("alerts may be told twice after a kill: {error}");
    let noted = noted.inspect_err(say).ok();
    let taken = noted.as_ref().and_then(|(_, earlier)| earlier.taken);
    // What the last ones said is noted.
    let receipts = Receipts::begin(descriptors, taken).inspect_err(say).ok();
    (noted, receipts)
}

/// What an earlier run left: for the stages before the engine, and for it.
fn parts(saved: Saved) -> (Recalled, matching::Kept) {
    let recalled = Recalled {
        memory: saved.memory,
        images: saved.images,
        at_ns: saved.taken.at_ns,
        number: saved.taken.number,
        lost: saved.taken.lost,
        pid: saved.taken.pid,
    };
    let kept = matching::Kept {
        engine: saved.engine,
        alerts: saved.alerts,
        by_rule: saved.by_rule,
        baselines: saved.baselines,
    };
    (recalled, kept)
}

/// Environment variables that some rule tests.
pub(super) fn environment(set: &Set) -> Vec<String> {
    rule::environment::patterns(set.roster.iter().map(|rule| &**rule))
}

/// Says in the log how far the rules can do their work on this kernel.
fn log_verdicts(roster: &Roster, sight: &Sight) {
    let mut counts = [0; Verdict::ALL.len()];
    for listed in &roster.rules {
        let rule = &listed.rule;
        let found = rule.judge(sight.kinds);
        let verdict = found.verdict();
        let count = counts.get_mut(verdict as usize);
        if let Some(count) = count.filter(|_| !listed.on_trial) {
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
            "rule `{}`{} is {}: {}",
            rule.name,
            if listed.on_trial { ", on trial," } else { "" },
            verdict.name(),
            words.join("; ")
        );
    }
    let [armed, degraded, blind] = counts;
    tracing::info!("rules: {armed} armed, {degraded} degraded, {blind} blind");
}

fn refused(refused: Refused) -> Failure {
    log(&refused.problems);
    Failure {
        exit: Exit::Configuration,
        error: anyhow!("{}", refused.reason),
    }
}

/// The control socket. Where the settings leave the choice, a place that does not allow one is no reason not to start.
fn bind(control: &config::Control) -> Result<Option<Server>, Failure> {
    let Some(path) = control.socket.path() else {
        return Ok(None);
    };
    match Server::bind(&path) {
        Ok(server) => Ok(Some(server)),
        Err(error @ BindError::Io { .. }) if control.socket == Socket::Auto => {
            let error = super::chain(&error.into());
            tracing::warn!("no control socket, so no `status` and no `reload`: {error}");
            Ok(None)
        }
        Err(error) => Err(error).or_exit(Exit::Configuration),
    }
}

fn serve(
    server: Option<&Server>,
    control: &config::Control,
    bell: Bell,
    reloader: &Arc<Reloader>,
) -> anyhow::Result<()> {
    if let Some(path) = &control.metrics_file {
        front::write_metrics(path, bell.clone()).context("cannot start the metrics' thread")?;
    }
    if let Some(server) = server {
        let front = Front::new(bell, Arc::clone(reloader));
        server
            .serve(Arc::new(front))
            .context("cannot start the control socket's thread")?;
    }
    Ok(())
}

/// Reloads on every SIGHUP, on a thread of its own. What comes of it is in the log.
async fn reload_on(mut hangup: Signal, reloader: Arc<Reloader>) {
    while hangup.recv().await.is_some() {
        let reloader = Arc::clone(&reloader);
        let started = std::thread::Builder::new()
            .name("reload".into())
            .spawn(move || reloader.reload());
        if let Err(error) = started {
            tracing::error!("no thread to reload on: {error}");
        }
    }
}

/// Kinds of events that some rule can make use of.
pub(super) fn interest(rules: &[Arc<rule::Rule>]) -> Kinds {
    rules
        .iter()
        .fold(Kinds::NONE, |kinds, rule| kinds.and(rule.interest()))
}
