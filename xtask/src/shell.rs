//! Running other programs: with their output shown, captured, or bounded in time.
//!
//! In: a [`Command`]. Out: success, or an error that names the command. Must never leave a process behind that it started
//! with a time limit: the whole process group ends with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Folder of the workspace this xtask was built from.
pub(crate) fn workspace_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Full path of a program, looked up in PATH and in the administrator's folders, which are often missing from it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The cargo that runs this xtask, at the workspace root, without the variables that belong to the xtask package.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let inherited = name.to_string_lossy();
        if inherited.starts_with("CARGO_PKG_") || inherited.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The command as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Runs a command and keeps what it says; an exit code other than zero is an error that carries it.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = captured(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end and keeps what it says, whatever its exit code.
pub(crate) fn captured(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))
}

/// Shell that runs a command and ends its whole process group when the process that started it is gone: a person's Ctrl-C or a
/// killed CI job must not leave a guest running.
const WATCH: &str = r#"
starter=$1
shift
"$@" &
child=$!
while kill -0 "$child" 2> /dev/null; do
    kill -0 "$starter" 2> /dev/null || kill -KILL 0
    sleep 0.1
done
wait "$child"
"#;

/// Runs a command with all output in `log`, for at most `limit`; `None` when the limit ended it and all it had started.
pub(crate) fn bounded(
    command: &Command,
    limit: Duration,
    log: &Path,
) -> Result<Option<ExitStatus>> {
    use std::os::unix::process::CommandExt as _;
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut watched = Command::new("sh");
    watched
        .args(["-c", WATCH, "watch", &std::process::id().to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => watched.env(name, value),
            None => watched.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        watched.current_dir(folder);
    }
    watched
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0);
    let mut child = watched
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > limit {
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if let Some(group) = group {
        // Also after a normal end: a helper that outlived its parent would keep the log and the processor busy.
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.wait()?;
    Ok(status)
}
