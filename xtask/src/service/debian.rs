//! A fresh Debian 12: the oldest system the package is made for, and nothing of this one.
//!
//! In: the Debian mirror that this system is set to. Out: a folder with an installed root, made once and kept below `target`. Must
//! never hand out half a root: it gets its name when it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{mirror, shell};

const SUITE: &str = "bookworm";
/// What an installed Debian has besides its essential packages (a service manager and its bus), what the acts need (a compiler),
/// and what shows the manual pages. Nothing that the package depends on is named for its sake.
const PACKAGES: &str = "systemd-sysv,dbus,gcc,libc6-dev,man-db";

/// Why there can be none.
pub(super) fn obstacle() -> Option<String> {
    let error = mirror::packages_of(SUITE).err()?;
    Some(format!(
        "{error:#}; on this very system instead: cargo xtask service --here"
    ))
}

/// The root's folder; made now if it is not there, or is of other packages.
pub(super) fn root(workspace: &Path) -> Result<PathBuf> {
    let folder = workspace.join("target/service");
    let root = folder.join(SUITE);
    let stamp = folder.join(format!("{SUITE}.packages"));
    if fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == PACKAGES) && root.exists() {
        return Ok(root);
    }
    println!("making a fresh Debian 12 in target/service (about 90 seconds, once): {PACKAGES}");
    let started = Instant::now();
    let part = folder.join(format!("{SUITE}.part"));
    for left in [&part, &root] {
        if left.exists() {
            fs::remove_dir_all(left)
                .with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    fs::create_dir_all(&folder)?;
    let sources = folder.join("sources.list");
    fs::write(&sources, mirror::packages_of(SUITE)?)?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .args(access()?.iter().map(|line| format!("--aptopt={line}")))
        .arg(SUITE)
        .args([&part, &sources]);
    shell::output(&mut make).context("no fresh Debian 12 can be made")?;
    fs::rename(&part, &root)?;
    fs::write(&stamp, PACKAGES)?;
    println!("made in {} s", started.elapsed().as_secs());
    Ok(root)
}

/// How this system's apt reaches its mirrors: proxies and the like, which the new root's apt does not know.
fn access() -> Result<Vec<String>> {
    let text = shell::output(Command::new("apt-config").arg("dump"))?;
    let is_access = |line: &&str| {
        ["Acquire::http::", "Acquire::https::"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    Ok(text.lines().filter(is_access).map(str::to_owned).collect())
}
