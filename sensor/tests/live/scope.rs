//! A cgroup and a folder of a test's own.
//!
//! In: a name. Out: commands that run inside both. Must never leave either behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// A cgroup of the version 2 hierarchy and a temporary folder, both removed at the end.
pub(crate) struct Scope {
    cgroup: PathBuf,
    folder: tempfile::TempDir,
}

impl Scope {
    pub(crate) fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts
            .lines()
            .find_map(|line| {
                let (before, after) = line.split_once(" - ")?;
                if !after.starts_with("cgroup2 ") {
                    return None;
                }
                before.split(' ').nth(4).map(PathBuf::from)
            })
            .expect("no cgroup version 2 hierarchy is mounted");
        let cgroup = root.join(format!("eql-sensor-live-{name}-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let folder = tempfile::Builder::new()
            .prefix("eql-sensor-live-")
            .tempdir()
            .unwrap();
        // Actors run under other users, too.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).unwrap();
        Self { cgroup, folder }
    }

    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The folder as the kernel names it.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A command in the folder that joins the cgroup before it becomes the program: its exec is seen, its pid is the child's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(&self.cgroup)
            .args(arguments)
            .current_dir(self.folder());
        command
    }

    /// Runs a command inside, expects success, tells its pid.
    pub(crate) fn run(&self, arguments: &[&str]) -> u32 {
        let (pid, output) = self.try_run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?} ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        pid
    }

    /// Runs a command inside, whatever becomes of it.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> (u32, Output) {
        let mut command = self.command(arguments);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        (child.id(), child.wait_with_output().unwrap())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // A process that has just ended can hold the cgroup for a moment longer.
        for _ in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("cannot remove cgroup {}", self.cgroup.display());
    }
}
