//! The service's unit and its drop-ins, held against what systemd says of them.
//!
//! In: `systemd/`. Out: every complaint of `systemd-analyze verify`, and a failure when the sandbox scores worse than the bound.
//! Must never install anything into this system: a copy in a folder of its own is looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{apt, shell};

/// Largest exposure that `systemd-analyze security` may find, in tenths: 0 is none, 100 is all.
const EXPOSURE_MAX: &str = "25";
/// The same with the drop-in that opens the network.
const EXPOSURE_MAX_NETWORK: &str = "32";

/// Checks the unit as it is shipped, then with each drop-in.
pub(crate) fn check(root: &Path) -> Result<()> {
    if shell::find("systemd-analyze").is_none() {
        apt::ensure(&[apt::Package::new("systemd", "judges the service's unit")])?;
    }
    let folder = root.join("target/units");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut drop_ins: Vec<PathBuf> = fs::read_dir(root.join("systemd/drop-ins"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    drop_ins.sort();
    one(root, &folder.join("shipped"), None, EXPOSURE_MAX)?;
    for drop_in in &drop_ins {
        let name = drop_in.file_stem().context("a drop-in has a name")?;
        let max = if name == "network-output" {
            EXPOSURE_MAX_NETWORK
        } else {
            EXPOSURE_MAX
        };
        one(root, &folder.join(name), Some(drop_in), max)?;
    }
    Ok(())
}

fn one(root: &Path, folder: &Path, drop_in: Option<&Path>, exposure_max: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let text = fs::read_to_string(root.join("systemd/eql-sensor.service"))?;
    // The program and the manual page are not installed here; all else is looked at as it is shipped.
    let text = text.replace("/usr/sbin/eql-sensor", "/bin/true");
    let unit = folder.join("eql-sensor.service");
    fs::write(&unit, text)?;
    if let Some(drop_in) = drop_in {
        let below = folder.join("eql-sensor.service.d");
        fs::create_dir_all(&below)?;
        fs::copy(drop_in, below.join("drop-in.conf"))?;
    }
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&unit);
    let said = shell::captured(&mut verify)?;
    let complaints = String::from_utf8_lossy(&said.stderr).into_owned();
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("eql-sensor"))
        .collect();
    if !said.status.success() || !ours.is_empty() {
        bail!("`{}` complains:\n{complaints}", shell::shown(&verify));
    }
    let mut security = Command::new("systemd-analyze");
    security
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={exposure_max}"))
        .arg(&unit);
    let found = shell::output(&mut security)?;
    let score = found.lines().last().unwrap_or_default();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    println!("{name}: {}", score.trim_start_matches(['→', ' ']));
    Ok(())
}
