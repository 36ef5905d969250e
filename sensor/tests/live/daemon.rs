//! The daemon as a child process.
//!
//! In: its arguments. Out: what it writes, line by line as JSON, and how it ends. Must never outlive its test.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::is_guest;
use crate::kept::Manager;
use crate::scope::Scope;

/// Long enough for a machine with other work, here and emulated; nothing waits this long unless something is wrong.
fn limit() -> Duration {
    Duration::from_secs(if is_guest() { 1500 } else { 400 })
}

/// Socket for what it tells the service manager, in the daemon's folder.
const NOTIFY: &str = "notify";

/// The built binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_eql-sensor");

/// Rules of this project.
pub(crate) fn shipped_rules() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../rules"))
}

/// The rule that most tests run.
pub(crate) fn rules() -> PathBuf {
    shipped_rules().join("execution_network_connection_via_recently_compiled_executable.toml")
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    output: PathBuf,
    log: PathBuf,
    // Holds output, log and sockets, outside of what the daemon watches; removed at the end.
    folder: tempfile::TempDir,
    /// Lines to the service manager, read as they come: who sends them waits for a reader.
    told: Receiver<String>,
}

/// What a daemon left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// From SIGTERM to the end.
    pub(crate) took: Duration,
    pub(crate) lines: Vec<Value>,
    pub(crate) log: String,
}

impl Daemon {
    /// `run` with one of this project's rules, JSON lines on standard output, scoped.
    pub(crate) fn run(scope: &Scope, tier: &str) -> Self {
        Self::run_with(scope, tier, &rules(), &[])
    }

    /// `run` with some rules, JSON lines on standard output, scoped.
    pub(crate) fn run_with(scope: &Scope, tier: &str, rules: &Path, more: &[&str]) -> Self {
        let mut arguments = vec!["run", "--output", "stdout", "--format", "json", "--rules"];
        arguments.push(rules.to_str().unwrap());
        arguments.extend(more);
        Self::start(scope, tier, &arguments)
    }

    /// `record` of all kinds that it usually attaches, scoped.
    pub(crate) fn record(scope: &Scope, tier: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["record"];
        arguments.extend(more);
        Self::start(scope, tier, &arguments)
    }

    /// `record` of some kinds, scoped: what is not attached need not be verified, which takes long where processors are emulated.
    pub(crate) fn record_only(scope: &Scope, tier: &str, events: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["--only", events];
        arguments.extend(more);
        Self::record(scope, tier, &arguments)
    }

    fn start(scope: &Scope, tier: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        Self::launch(scope, tier, command)
    }

    /// A command that becomes the daemon and passes further arguments on to it.
    pub(crate) fn launch(scope: &Scope, tier: &str, command: Command) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), scope, tier, command)
    }

    /// The same in a folder where another daemon may have left its state.
    pub(crate) fn launch_in(
        folder: tempfile::TempDir,
        scope: &Scope,
        tier: &str,
        mut command: Command,
    ) -> Self {
        let (output, log) = (folder.path().join("output"), folder.path().join("log"));
        let notify = folder.path().join(NOTIFY);
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        // A test may have it keep its state elsewhere.
        if !command
            .get_envs()
            .any(|(name, _)| name == "STATE_DIRECTORY")
        {
            command.env("STATE_DIRECTORY", folder.path());
        }
        let child = command
            .args(["--tier", tier, "--scope"])
            .arg(scope.cgroup())
            .env("NOTIFY_SOCKET", &notify)
            .env("RUNTIME_DIRECTORY", folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut daemon = Self {
            child,
            output,
            log,
            folder,
            told: lines_of(socket),
        };
        daemon.wait_until_told("READY=1");
        daemon
    }

    /// The same under a manager that keeps descriptors and state for the next one. Not waited for.
    pub(crate) fn launch_under(
        manager: &Manager,
        scope: &Scope,
        tier: &str,
        command: &Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (output, log) = (folder.path().join("output"), folder.path().join("log"));
        let told = manager.listen();
        let child = manager
            .handed_to(command)
            .args(["--tier", tier, "--scope"])
            .arg(scope.cgroup())
            .env("STATE_DIRECTORY", manager.folder())
            .env("RUNTIME_DIRECTORY", folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            output,
            log,
            folder,
            told,
        }
    }

    /// Waits for a line to the service manager.
    pub(crate) fn wait_until_told(&mut self, wanted: &str) {
        let started = Instant::now();
        loop {
            while let Ok(line) = self.told.recv_timeout(Duration::from_millis(50)) {
                if line.starts_with(wanted) {
                    return;
                }
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "the daemon ended with {status} before it said {wanted}:\n{}",
                    self.said()
                );
            }
            assert!(
                started.elapsed() < limit(),
                "the daemon did not say {wanted} in {:?}:\n{}",
                limit(),
                self.said()
            );
        }
    }

    /// A subcommand that asks this daemon.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("RUNTIME_DIRECTORY", self.folder.path());
        command
    }

    /// Waits for a text in its log.
    pub(crate) fn wait_until_said(&self, wanted: &str) {
        let started = Instant::now();
        while !self.said().contains(wanted) {
            assert!(
                started.elapsed() < limit(),
                "the daemon did not say {wanted:?} in {:?}:\n{}",
                limit(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same, when its answer is one JSON document.
    pub(crate) fn ask_json(&self, arguments: &[&str]) -> Value {
        let output = self.ask(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far: whole lines only.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.output).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}")))
            .collect()
    }

    /// Waits for a line that satisfies a condition.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            if let Some(found) = self.lines().into_iter().find(&wanted) {
                return found;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!(
                    "the daemon ended with {status} before {what}:\n{}",
                    self.said()
                );
            }
            assert!(
                started.elapsed() < limit(),
                "no {what} in {:?}; {} lines so far; the daemon said:\n{}",
                limit(),
                self.lines().len(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until what it wrote from a line on is enough, and returns that.
    pub(crate) fn wait_from(
        &mut self,
        from: usize,
        what: &str,
        enough: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let lines = self.lines().split_off(from);
            if enough(&lines) {
                return lines;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < limit(),
                "no {what}: {ended:?} after {:?}; {lines:#?}; the daemon said:\n{}",
                started.elapsed(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it said on standard error so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it said that it uses a hook.
    pub(crate) fn uses(&self, hook: &str) -> bool {
        let said = self.said();
        let ready = said.lines().find(|line| line.contains("ready: "));
        ready.unwrap_or_default().contains(hook)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of a process, which is the last of what was done: at its own end the daemon takes only so long for what
    /// is still to be read. For output too large to be read again and again.
    pub(crate) fn wait_for_end_of(&mut self, pid: u32) {
        let (started, mut grown) = (Instant::now(), Instant::now());
        let mut output = BufReader::new(File::open(&self.output).unwrap());
        let mut line = String::new();
        loop {
            if output.read_line(&mut line).unwrap() > 0 {
                grown = Instant::now();
                if line.ends_with('\n') {
                    if line.contains(r#""action":"end""#) {
                        let event: Value = serde_json::from_str(&line).unwrap();
                        if number(&event, "process.pid") == Some(u64::from(pid)) {
                            return;
                        }
                    }
                    line.clear();
                }
                continue;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && grown.elapsed() < limit(),
                "no end of {pid}: {ended:?} after {:?}; the daemon said:\n{}",
                started.elapsed(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it has written nothing for a while: at its end it takes only so long for what is still to be read.
    pub(crate) fn wait_until_idle(&self) {
        const CALM: Duration = Duration::from_secs(2);
        let length = || fs::metadata(&self.output).unwrap().len();
        let started = Instant::now();
        let (mut last, mut since) = (length(), Instant::now());
        while since.elapsed() < CALM {
            assert!(
                started.elapsed() < 5 * limit(),
                "the daemon is still writing after {:?}",
                started.elapsed()
            );
            std::thread::sleep(Duration::from_millis(50));
            let now = length();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// SIGTERM, and everything it left behind. Must end by itself.
    pub(crate) fn stop(mut self) -> Ended {
        let (status, took) = self.end();
        Ended {
            status,
            took,
            lines: self.lines(),
            log: self.said(),
        }
    }

    /// SIGTERM or SIGKILL, and waits for the end. What it said, and the folder with its state.
    pub(crate) fn end_by(mut self, signal: Signal) -> (String, tempfile::TempDir) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        let said = self.said();
        let asked = signal != Signal::KILL;
        assert!(status.success() == asked, "{status}: {said}");
        (
            said,
            std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()),
        )
    }

    /// Where it keeps its state.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGTERM; what it said, and what it wrote, still to be read: for output too large to hold as documents.
    pub(crate) fn stop_unread(mut self) -> (String, BufReader<File>) {
        self.end();
        let output = File::open(&self.output).unwrap();
        (self.said(), BufReader::new(output))
    }

    fn end(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                asked.elapsed() < limit(),
                "the daemon did not end in {:?}:\n{}",
                limit(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = asked.elapsed();
        assert!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            self.said()
        );
        (status, took)
    }
}

/// What comes on a socket for a service manager, line by line, until [`OVER`] does.
fn lines_of(socket: UnixDatagram) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        let mut message = [0; 4096];
        while let Ok(length) = socket.recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]);
            for line in text.lines() {
                if line == OVER || to.send(line.to_owned()).is_err() {
                    return;
                }
            }
        }
    });
    lines
}

/// Sent by the test itself: nobody reads any more.
const OVER: &str = "OVER=1";

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let over = UnixDatagram::unbound();
        let _ =
            over.and_then(|from| from.send_to(OVER.as_bytes(), self.folder.path().join(NOTIFY)));
    }
}

/// A text value by its dotted path.
pub(crate) fn text<'a>(event: &'a Value, path: &str) -> &'a str {
    at(event, path).as_str().unwrap_or_default()
}

/// A number by its dotted path.
pub(crate) fn number(event: &Value, path: &str) -> Option<u64> {
    at(event, path).as_u64()
}

/// A value by its dotted path; null when absent.
pub(crate) fn at<'a>(event: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(event, |value, key| &value[key])
}

/// Whether an event is of a category and action.
pub(crate) fn is(event: &Value, category: &str, action: &str) -> bool {
    text(event, "event.action") == action
        && at(event, "event.category")
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == category))
}
