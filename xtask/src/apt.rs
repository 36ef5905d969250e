//! System packages by apt, on Debian and its kin.
//!
//! In: package names, each with what it is for. Out: the packages installed, or an error with the one command that a person
//! should run. Must never install anything without naming it and saying why first.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A package and what this project needs it for.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) purpose: &'static str,
}

impl Package {
    pub(crate) fn new(name: impl Into<String>, purpose: &'static str) -> Self {
        Self {
            name: name.into(),
            purpose,
        }
    }
}

/// Whether this system installs packages by apt.
pub(crate) fn is_here() -> bool {
    shell::find("apt-get").is_some() && shell::find("dpkg-query").is_some()
}

/// Installs those of the packages that are missing.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages
        .iter()
        .filter(|package| !is_installed(&package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|package| package.name.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    if !is_here() {
        bail!(
            "this system has no apt-get; install what Debian calls {names} with its own package manager"
        );
    }
    if !shell::is_root() {
        bail!(
            "installing packages needs root; run: sudo apt-get install --no-install-recommends {names}"
        );
    }
    for package in &missing {
        println!(
            "installing Debian package {}: {}",
            package.name, package.purpose
        );
    }
    // Without lists, or with lists older than the mirror, the first try fails at once; fresh lists settle both.
    if install(&missing).is_err() {
        refresh()?;
        install(&missing)?;
    }
    Ok(())
}

/// Installs the packages, or brings them to the newest version that fresh package lists offer.
///
/// For packages whose age decides: lists that came with a machine's image offer what was new when it was made.
pub(crate) fn ensure_newest(packages: &[Package]) -> Result<()> {
    ensure(packages)?;
    if shell::is_root() {
        refresh()?;
        install(&packages.iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn refresh() -> Result<()> {
    println!("refreshing the package lists (apt-get update)");
    shell::output(apt_get().arg("update")).map(drop)
}

/// Whether apt knows the package, installed or not.
pub(crate) fn is_known(name: &str) -> bool {
    shell::output(Command::new("apt-cache").args(["show", "--quiet", name]))
        .is_ok_and(|text| !text.trim().is_empty())
}

fn is_installed(name: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", name]);
    shell::output(&mut query).is_ok_and(|status| status == "installed")
}

fn install(packages: &[&Package]) -> Result<String> {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]);
    command.args(packages.iter().map(|package| package.name.as_str()));
    shell::output(&mut command)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}
