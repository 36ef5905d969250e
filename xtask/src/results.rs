//! Counting what ran.
//!
//! In: what test programs print. Out: how many tests passed, failed and were skipped. Must never count a program that ended
//! badly as passed because its closing line is missing.

use std::fmt;
use std::fs;
use std::ops::AddAssign;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::shell;

/// Numbers of tests, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Tally {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Sum of the `test result:` lines in what test programs printed. A test that says it could not check something, on a
    /// line that starts with `SKIPPED:`, counts as skipped on top.
    pub(crate) fn of_tests(text: &str) -> Self {
        let mut tally = Self::default();
        for line in text.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                tally.passed += count(counts, "passed");
                tally.failed += count(counts, "failed");
                tally.skipped += count(counts, "ignored");
            } else if line.starts_with("SKIPPED: ") {
                tally.skipped += 1;
            }
        }
        tally
    }
}

/// Number before a word: `1` for `passed` in `ok. 1 passed; 0 failed`.
fn count(text: &str, word: &str) -> u32 {
    let words: Vec<_> = text
        .split([' ', ';'])
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs one test program to its end or its limit; what it printed comes back with the counts.
pub(crate) fn run(
    root: &Path,
    name: &str,
    command: &Command,
    limit: Duration,
) -> Result<(Tally, String)> {
    let folder = root.join("target/test-logs");
    fs::create_dir_all(&folder)?;
    let log = folder.join(format!(
        "{}.log",
        name.replace(|c: char| !c.is_alphanumeric(), "_")
    ));
    let status = shell::bounded(command, limit, &log)?;
    let mut text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut tally = Tally::of_tests(&text);
    match status {
        Some(status) if status.success() => {}
        Some(status) if tally.failed == 0 => {
            tally.failed = 1;
            text.push_str(&format!("{name} ended with {status}\n"));
        }
        Some(_) => {}
        None => {
            tally.failed += 1;
            text.push_str(&format!(
                "{name} was still running after {} s and was ended\n",
                limit.as_secs()
            ));
        }
    }
    Ok((tally, text))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let text = "running 3 tests\n\
                    SKIPPED: no shared folder\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s\n\
                    test result: ok. 9 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let tally = Tally::of_tests(text);
        assert_eq!(tally.to_string(), "11 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn a_program_that_ends_badly_without_a_result_line_fails() {
        let root = std::env::temp_dir().join(format!("xtask-results-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo started; exit 3"]);
        let (tally, text) = run(&root, "bad one", &command, Duration::from_secs(10)).unwrap();
        assert_eq!(tally, Tally::FAILED, "{text}");
        assert!(
            text.contains("started") && text.contains("exit status: 3"),
            "{text}"
        );
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_program_past_its_limit_is_ended_with_all_it_started() {
        let root = std::env::temp_dir().join(format!("xtask-limit-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let (tally, text) = run(&root, "slow", &command, Duration::from_secs(2)).unwrap();
        assert_eq!(tally.failed, 1, "{text}");
        let pid: u32 = text.lines().next().unwrap().parse().unwrap();
        // A killed process may stay as a zombie until init collects it; it has no command line any more.
        let is_gone = || {
            fs::read(format!("/proc/{pid}/cmdline"))
                .unwrap_or_default()
                .is_empty()
        };
        let since = Instant::now();
        while !is_gone() {
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "process {pid} is still there"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
