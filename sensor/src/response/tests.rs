//! Real processes, and what must keep each from being killed.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::*;
use crate::alert::sample;
use crate::enrich::procfs::Procfs;

/// A process that goes on until it is ended.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        let mut command = Command::new("sleep");
        Sleeper(command.arg("600").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The signal that ended it, if any did.
    fn signal(&mut self) -> Option<i32> {
        self.0
            .try_wait()
            .unwrap()
            .and_then(|status| status.signal())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn host() -> Host {
    Host {
        id: "h".into(),
        boot_id: "b".into(),
        ..Host::default()
    }
}

fn guard() -> Guard {
    Guard::new(&host(), &[])
}

fn target(pid: u32, entity_id: Arc<str>) -> Target {
    Target {
        pid,
        entity_id,
        name: Some("sleep".into()),
        executable: None,
        command_line: None,
    }
}

/// The process as an event would tell of it.
fn known(guard: &Guard, pid: u32) -> Target {
    target(pid, guard.entity_id(pid))
}

fn refusal(guard: &Guard, target: &Target) -> Option<Refusal> {
    match guard.find(target) {
        Err(Outcome::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

static NOT_ENDING: AtomicBool = AtomicBool::new(false);

#[test]
fn the_process_of_an_event_is_killed() {
    let (guard, mut sleeper) = (guard(), Sleeper::start());
    let found = guard.find(&known(&guard, sleeper.pid())).unwrap();
    assert_eq!(found.would_end(), Outcome::DryRun);
    assert!(sleeper.lives(), "a dry run");
    assert_eq!(found.end(&NOT_ENDING), Outcome::Killed);
    assert_eq!(sleeper.signal(), Some(9));
    assert_eq!(found.would_end(), Outcome::Ended);
    assert_eq!(found.end(&NOT_ENDING), Outcome::Ended);
}

#[test]
fn who_has_the_pid_now_is_another() {
    let (guard, mut sleeper) = (guard(), Sleeper::start());
    let pid = sleeper.pid();
    // Alive, of the right pid, and started at another time, in another boot, on another host.
    let ids = |id: &str, boot: &str| {
        let host = Host {
            id: id.into(),
            boot_id: boot.into(),
            ..Host::default()
        };
        Guard::new(&host, &[]).entity_id(pid)
    };
    let other = Sleeper::start();
    for entity_id in [
        guard.entity_id(other.pid()),
        ids("h", "c"),
        ids("i", "b"),
        "".into(),
    ] {
        let found = refusal(&guard, &target(pid, entity_id));
        assert_eq!(found, Some(Refusal::Another));
    }
    assert!(sleeper.lives());
    assert_eq!(ids("h", "b"), guard.entity_id(pid));
}

#[test]
fn a_descriptor_never_reaches_who_gets_the_pid_later() {
    let (guard, mut sleeper) = (guard(), Sleeper::start());
    let found = guard.find(&known(&guard, sleeper.pid())).unwrap();
    sleeper.0.kill().unwrap();
    sleeper.0.wait().unwrap();
    // Whoever has the pid from here on is not behind the descriptor.
    assert_eq!(found.end(&NOT_ENDING), Outcome::Ended);
}

#[test]
fn one_that_has_ended_is_left_alone() {
    let guard = guard();
    let mut sleeper = Sleeper::start();
    let target = known(&guard, sleeper.pid());
    sleeper.0.kill().unwrap();
    // Not waited for yet: its pid is still its own.
    while guard.find(&target).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(guard.find(&target).unwrap_err(), Outcome::Ended);
    sleeper.0.wait().unwrap();
    assert_eq!(guard.find(&target).unwrap_err(), Outcome::Ended);
}

#[test]
fn the_first_process_the_sensor_and_those_above_it_are_spared() {
    let guard = guard();
    assert_eq!(refusal(&guard, &known(&guard, 1)), Some(Refusal::First));
    let own = std::process::id();
    assert_eq!(refusal(&guard, &known(&guard, own)), Some(Refusal::Own));

    let mut sleeper = Sleeper::start();
    let guard = guard.for_sensor(sleeper.pid());
    // This test is above the sleeper, and so is what started this test.
    let above = [own, std::os::unix::process::parent_id()];
    for pid in above.into_iter().filter(|pid| *pid > 1) {
        let found = refusal(&guard, &known(&guard, pid));
        assert_eq!(found, Some(Refusal::Above), "{pid}");
    }
    assert!(sleeper.lives());
    let other = Sleeper::start();
    assert_eq!(
        refusal(&guard, &known(&guard, other.pid())),
        None,
        "beside it"
    );
}

#[test]
fn kernel_threads_are_spared() {
    let mut sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (before, after) = stat.split_once(") ").unwrap();
    let mut fields: Vec<String> = after.split(' ').map(str::to_owned).collect();
    let flags: u64 = fields[6].parse().unwrap();
    fields[6] = (flags | 0x0020_0000).to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(pid.to_string())).unwrap();
    let path = folder.path().join(format!("{pid}/stat"));
    std::fs::write(path, format!("{before}) {}", fields.join(" "))).unwrap();
    let guard = guard().reading(Procfs::at(folder.path()));
    let found = refusal(&guard, &known(&guard, pid));
    assert_eq!(found, Some(Refusal::KernelThread));
    assert!(sleeper.lives());
}

#[test]
fn what_is_outside_of_the_scope_is_spared() {
    let mut sleeper = Sleeper::start();
    let pid = sleeper.pid();
    let elsewhere = Guard::new(&host(), &[PathBuf::from("/sys/fs/cgroup/of-nobody")]);
    let found = refusal(&elsewhere, &known(&elsewhere, pid));
    assert_eq!(found, Some(Refusal::OutOfScope));
    assert!(sleeper.lives());
}

#[test]
fn no_pid_is_no_process() {
    for pid in [0, u32::MAX] {
        let found = guard().find(&target(pid, "x".into())).unwrap_err();
        assert_eq!(found, Outcome::Failed(format!("{pid} is no pid")));
    }
    // The largest that a kernel gives is below.
    let found = guard().find(&target(0x7fff_ffff, "x".into())).unwrap_err();
    assert_eq!(found, Outcome::Ended);
}

#[test]
fn so_many_in_a_minute_and_no_more() {
    let mut limit = Limit::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(limit.allows(at(0), 2));
    assert!(limit.allows(at(30), 2));
    assert!(!limit.allows(at(59), 2));
    assert!(limit.allows(at(60), 2), "the first is a minute ago");
    assert!(
        !limit.allows(at(89), 2),
        "those not allowed count for nothing"
    );
    assert!(limit.allows(at(90), 2));
}

/// A responder, and what it told.
struct Bench {
    responder: Responder,
    told: Arc<Mutex<Vec<Arc<Deed>>>>,
}

impl Bench {
    fn new(settings: config::Response) -> Bench {
        let told: Arc<Mutex<Vec<Arc<Deed>>>> = Arc::default();
        let kept = Arc::clone(&told);
        let tell = Box::new(move |deed: &Arc<Deed>| kept.lock().unwrap().push(Arc::clone(deed)));
        let mut responder = Responder::new(guard(), Arc::new(host()), tell);
        responder.set(settings);
        Bench { responder, told }
    }

    fn order(&self, targets: &[Option<Target>]) {
        let rule = sample::rule_that_kills("process where true");
        let alert = sample::alert(&rule, &[], 0);
        let wanted = targets
            .iter()
            .map(|target| (rule.actions[0], target.clone()));
        self.responder.order(&alert, wanted.collect());
    }

    /// Words of outcomes, and messages without pids.
    fn end(self) -> Vec<String> {
        self.responder.end();
        let told = self.told.lock().unwrap();
        let shown = told.iter().map(|deed| {
            let pid = deed.order.target.as_ref().map_or(0, |target| target.pid);
            let message = deed.message.replace(&format!(" (pid {pid})"), "");
            format!("{}: {message}", deed.outcome.word())
        });
        shown.collect()
    }
}

const ON: config::Response = config::Response {
    enabled: true,
    dry_run: false,
    per_minute_max: 2,
};

#[test]
fn every_order_is_told_of_whatever_came_of_it() {
    let bench = Bench::new(ON);
    let guard = guard();
    let mut sleepers = [Sleeper::start(), Sleeper::start(), Sleeper::start()];
    let mut targets: Vec<_> = sleepers
        .iter()
        .map(|sleeper| Some(known(&guard, sleeper.pid())))
        .collect();
    // Neither of these counts for the limit.
    targets.insert(1, Some(known(&guard, 1)));
    targets.insert(2, None);
    bench.order(&targets);
    while bench.responder.report().counts.iter().sum::<u64>() < 5 {
        std::thread::yield_now();
    }
    let report = bench.responder.report();
    assert_eq!(report.mode, Mode::On);
    assert_eq!(report.counts, [2, 0, 0, 1, 1, 1]);
    assert_eq!(
        bench.end(),
        [
            "killed: Killed sleep after alert 1, as R asks",
            "refused: Did not kill sleep after alert 1, as R asks: it is the first process of the system",
            "failed: Could not kill a process after alert 1, as R asks: the event does not tell which process it is",
            "killed: Killed sleep after alert 1, as R asks",
            "limited: Did not kill sleep after alert 1, as R asks: 2 within a minute are as many as \
             response.per_minute_max allows",
        ]
    );
    assert_eq!(
        sleepers.each_mut().map(Sleeper::lives),
        [false, false, true]
    );
}

#[test]
fn a_dry_run_only_tells_and_off_does_not_even_ask() {
    let dry = Bench::new(config::Response {
        dry_run: true,
        ..ON
    });
    let mut sleeper = Sleeper::start();
    dry.order(&[Some(known(&guard(), sleeper.pid()))]);
    let told = dry.end();
    assert_eq!(
        told,
        ["dry_run: Would have killed sleep after alert 1, as R asks: dry run"]
    );
    assert!(sleeper.lives());

    let mut off = Bench::new(config::Response::default());
    assert_eq!(off.responder.report(), Report::default());
    assert!(off.responder.worker.is_none(), "no thread for nothing");
    // As a reload does.
    off.responder.set(ON);
    assert_eq!(off.responder.report().mode, Mode::On);
    off.responder.set(config::Response::default());
    assert_eq!(off.responder.report().mode, Mode::Off);
}

/// An order about a shell with a child that has a child: what is told of each from the top, and who lives.
fn family(settings: config::Response, tree: bool, expected: &[&str], living: [bool; 3]) {
    let script = "sh -c 'sleep 600 & echo $$ $!; wait' & wait";
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(Stdio::piped());
    let mut shell = command.spawn().unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let below: Vec<u32> = line
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let pids = [shell.id(), below[0], below[1]];
    let guard = guard();
    let entities = pids.map(|pid| guard.entity_id(pid));

    let bench = Bench::new(settings);
    let rule = sample::rule_that_kills("process where true");
    let mut action = rule.actions[0];
    action.tree = tree;
    let alert = sample::alert(&rule, &[], 0);
    let target = target(pids[0], Arc::clone(&entities[0]));
    bench.responder.order(&alert, vec![(action, Some(target))]);
    while bench.told.lock().unwrap().len() < expected.len() {
        std::thread::yield_now();
    }
    bench.responder.end();
    let told = bench.told.lock().unwrap();
    let of: Vec<Arc<str>> = told
        .iter()
        .map(|deed| Arc::clone(&deed.order.target.as_ref().unwrap().entity_id))
        .collect();
    assert_eq!(of, entities[..of.len()], "parents first");
    let words: Vec<&str> = told.iter().map(|deed| deed.outcome.word()).collect();
    assert_eq!(words, expected);
    let stands = |pid: u32| Procfs::default().stat(pid).map(|stat| stat.state);
    let lives = |pid| stands(pid).is_some_and(|state| !matches!(state, b'Z' | b'X'));
    assert_eq!(pids.map(lives), living, "{expected:?}");
    for pid in pids {
        assert_ne!(stands(pid), Some(b'T'), "left stopped");
    }
    for pid in pids.into_iter().filter(|pid| lives(*pid)) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    shell.wait().unwrap();
}

#[test]
fn descendants_go_along_when_they_are_asked_for() {
    let on = config::Response {
        per_minute_max: 10,
        ..ON
    };
    family(on, true, &["killed", "killed", "killed"], [false; 3]);
    family(on, false, &["killed"], [false, true, true]);
    // Each counts for the limit, and what is below one that is spared is spared.
    let one = config::Response {
        per_minute_max: 1,
        ..ON
    };
    family(one, true, &["killed", "limited"], [false, true, true]);
    let dry = config::Response {
        dry_run: true,
        ..on
    };
    family(dry, true, &["dry_run", "dry_run", "dry_run"], [true; 3]);
}
