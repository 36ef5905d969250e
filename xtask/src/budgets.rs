//! Writes down what the kernel programs cost the verifier, on this kernel and in guests.
//!
//! In: what the test `live_verifier` prints under each kernel. Out: `sensor/tests/verifier.toml`, to which the same test then
//! holds every later build. Must never write a figure that no kernel told: a kernel that did not run keeps its old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::artifacts::{self, TestProgram};
use crate::kernels::Kernel;
use crate::{guest, live, setup, shell};

const TEST: &str = "live_verifier";
/// The file, below the workspace.
const FILE: &str = "sensor/tests/verifier.toml";
/// Tells the test to compare nothing.
const MEASURE: &str = "EQL_SENSOR_MEASURE";
const LIMIT: Duration = Duration::from_secs(600);

/// Above what was measured, a program may cost this much more: compilers and stable kernels move a little.
const SLACK_PERCENT: u32 = 15;
/// Budget of a program or a kernel without figures; the verifier's own limit is a million.
const OTHERS: u32 = 400_000;

const HEADER: &str = "\
# Instructions that each kernel's verifier follows in each program. The test `live_verifier` fails when a program costs more
# than its figure and `slack_percent` on top; programs and kernels without a figure may cost `others`. The verifier itself
# gives up at a million. Written by `cargo xtask budgets`; by hand only the first two lines.
";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to measure: running (this kernel), 5.10, 6.1, 6.12, newest, or all of these; may be given several times
    #[arg(long = "kernel", default_value = "all")]
    kernels: Vec<String>,
}

/// Instructions by kernel series, by program.
type Figures = BTreeMap<String, BTreeMap<String, u64>>;

/// `cargo xtask budgets`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    setup::kernel_toolchain(root)?;
    let test = artifacts::one_test(root, TEST)?;
    let file = root.join(FILE);
    let mut figures = read(&file)?;
    let before = figures.clone();
    let mut named = BTreeSet::new();
    for kernel in live::chosen(&options.kernels) {
        let text = measure(root, kernel, &test)
            .with_context(|| format!("cannot measure on kernel {kernel}"))?;
        named.extend(take(&text, &mut figures)?);
    }
    figures.retain(|program, _| named.contains(program));
    fs::write(&file, shown(&figures)).with_context(|| format!("cannot write {FILE}"))?;
    for (program, kernels) in &figures {
        for (series, now) in kernels {
            match before.get(program).and_then(|old| old.get(series)) {
                Some(old) if old == now => {}
                Some(old) => println!("{program} on {series}: {old} -> {now}"),
                None => println!("{program} on {series}: {now}"),
            }
        }
    }
    println!("{FILE} is written");
    Ok(ExitCode::SUCCESS)
}

fn measure(root: &Path, kernel: &str, test: &TestProgram) -> Result<String> {
    let program = test.path.display();
    if kernel == live::RUNNING {
        if let Some(obstacle) = live::obstacle() {
            bail!(obstacle);
        }
        let mut command = Command::new(&test.path);
        command.env(MEASURE, "1").arg("--show-output");
        return shell::output(&mut command);
    }
    guest::tools(root)?;
    let files = Kernel::named(kernel)?.fetch(root)?;
    println!("booting guest kernel {kernel} ({})", files.release);
    let script = format!("{MEASURE}=1 '{program}' --show-output");
    let outcome = guest::run(root, &files, &[], &script, LIMIT)?;
    if outcome.exit != Some(0) {
        outcome.print_console();
        bail!("the guest's test failed:\n{}", outcome.output);
    }
    Ok(outcome.output)
}

/// Takes over the figures in what a test printed, in place of all older ones of that kernel; tells every program named.
fn take(text: &str, figures: &mut Figures) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    let mut fresh = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["verified", series, program, count, ..] => {
                named.insert((*program).to_owned());
                fresh.push(((*program).to_owned(), (*series).to_owned(), count.parse()?));
            }
            ["no", "hook", _, program, ..] => {
                named.insert((*program).to_owned());
            }
            _ => {}
        }
    }
    let Some((_, series, _)) = fresh.first() else {
        bail!("the test told no figures:\n{text}");
    };
    for kernels in figures.values_mut() {
        kernels.remove(series);
    }
    for (program, series, count) in fresh {
        figures.entry(program).or_default().insert(series, count);
    }
    Ok(named)
}

fn read(file: &PathBuf) -> Result<Figures> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let table: toml::Table =
        toml::from_str(&text).with_context(|| format!("cannot understand {FILE}"))?;
    match table.get("programs") {
        Some(programs) => programs
            .clone()
            .try_into()
            .with_context(|| format!("cannot understand {FILE}")),
        None => Ok(Figures::new()),
    }
}

fn shown(figures: &Figures) -> String {
    let mut text = format!("{HEADER}slack_percent = {SLACK_PERCENT}\nothers = {OTHERS}\n");
    text.push_str("\n[programs]\n");
    for (program, kernels) in figures {
        let mut kernels: Vec<_> = kernels.iter().collect();
        kernels.sort_by_key(|(series, _)| version(series));
        let row: Vec<_> = kernels
            .iter()
            .map(|(series, count)| format!("\"{series}\" = {count}"))
            .collect();
        text.push_str(&format!("{program} = {{ {} }}\n", row.join(", ")));
    }
    text
}

/// Numbers of a series, so that 6.12 comes after 6.1.
fn version(series: &str) -> Vec<u32> {
    series
        .split('.')
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_ran_replaces_its_figures_and_no_other() {
        let old = "[programs]\ngone = { \"6.1\" = 5 }\nmoved = { \"5.10\" = 7, \"6.1\" = 6 }\n";
        let table: toml::Table = toml::from_str(old).unwrap();
        let mut figures: Figures = table["programs"].clone().try_into().unwrap();
        let text =
            "running 1 test\nverified 6.1 moved 8 of 9\nno hook 6.1 hookless fexit/f: none\n";
        let named = take(text, &mut figures).unwrap();
        assert_eq!(named.len(), 2);
        assert_eq!(figures["moved"]["5.10"], 7);
        assert_eq!(figures["moved"]["6.1"], 8);
        assert!(figures["gone"].is_empty());
        let written = shown(&figures);
        assert!(
            written.contains("moved = { \"5.10\" = 7, \"6.1\" = 8 }\n"),
            "{written}"
        );
        assert_eq!(toml::from_str::<toml::Table>(&written).unwrap().len(), 3);
        assert!(take("nothing", &mut figures).is_err());
    }
}
