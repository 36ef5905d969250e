//! What is shipped: a Debian package and a tarball, of one and the same tree of files.
//!
//! In: a built daemon and the files of this project. Out: packages in `target/dist`. Must never list a file twice: the tree is
//! put together here, and both packages hold it as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{apt, artifacts, setup, shell};

/// Version of `cargo-deb` to build packages with.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// Files that are shipped as they are: where from, where to. A folder's files of the given ending go where it says.
const FILES: &[(&str, &str)] = &[
    (
        "systemd/eql-sensor.service",
        "usr/lib/systemd/system/eql-sensor.service",
    ),
    (
        "systemd/eql-sensor.sysusers",
        "usr/lib/sysusers.d/eql-sensor.conf",
    ),
    (
        "systemd/eql-sensor.tmpfiles",
        "usr/lib/tmpfiles.d/eql-sensor.conf",
    ),
    (
        "sensor/eql-sensor.toml",
        "usr/share/eql-sensor/eql-sensor.toml",
    ),
    ("rules/README.md", "usr/share/doc/eql-sensor/rules.md"),
    ("README.md", "usr/share/doc/eql-sensor/README.md"),
    ("CHANGELOG.md", "usr/share/doc/eql-sensor/CHANGELOG.md"),
    ("LICENSE-MIT", "usr/share/doc/eql-sensor/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/eql-sensor/LICENSE-APACHE"),
];
const FOLDERS: &[(&str, &str, &str)] = &[
    ("rules", "toml", "usr/lib/eql-sensor/rules.d"),
    ("systemd/drop-ins", "conf", "usr/share/eql-sensor/drop-ins"),
];

/// Shells, and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/eql-sensor"),
    ("zsh", "usr/share/zsh/vendor-completions/_eql-sensor"),
    (
        "fish",
        "usr/share/fish/vendor_completions.d/eql-sensor.fish",
    ),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Take the debug build: for tests, quicker to make
    #[arg(long)]
    debug: bool,
}

/// How well the package is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressed {
    Well,
    Quickly,
}

/// What was made.
pub(crate) struct Packages {
    pub(crate) deb: PathBuf,
    pub(crate) tarball: PathBuf,
}

/// `cargo xtask dist`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    setup::kernel_toolchain(root)?;
    let (sensor, pressed) = if options.debug {
        (artifacts::sensor(root)?, Pressed::Quickly)
    } else {
        (artifacts::release(root)?, Pressed::Well)
    };
    let made = packages(root, &sensor, pressed)?;
    for path in [&made.deb, &made.tarball] {
        let size = path.metadata()?.len();
        println!(
            "{} ({:.1} MiB)",
            path.display(),
            size as f64 / f64::from(1 << 20)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes both packages of a built daemon.
pub(crate) fn packages(root: &Path, sensor: &Path, pressed: Pressed) -> Result<Packages> {
    let out = root.join("target/dist");
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot empty {}", tree.display()))?;
    }
    put_together(root, sensor, &tree)?;
    Ok(Packages {
        deb: deb(root, &out, pressed)?,
        tarball: tarball(root, &out)?,
    })
}

fn put_together(root: &Path, sensor: &Path, tree: &Path) -> Result<()> {
    let binary = tree.join("usr/sbin/eql-sensor");
    copy(sensor, &binary)?;
    // Names of functions stay, for backtraces; lines are told by the same build, unstripped.
    shell::output(Command::new("strip").arg("--strip-debug").arg(&binary))
        .context("`strip` of Debian's binutils is needed")?;
    for (from, to) in FILES {
        copy(&root.join(from), &tree.join(to))?;
    }
    for (from, ending, to) in FOLDERS {
        for entry in fs::read_dir(root.join(from))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == *ending) {
                let name = path.file_name().context("a file has a name")?;
                copy(&path, &tree.join(to).join(name))?;
            }
        }
    }
    // It has happened that the optimizer left out a step of the reader, which tests of an unoptimized build do not see.
    shell::output(
        Command::new(&binary)
            .arg("test")
            .arg(root.join("rules"))
            .arg("--config")
            .arg(root.join("sensor/eql-sensor.toml")),
    )
    .context("the program that would be shipped fails the tests of its own rules")?;
    let man = tree.join("usr/share/man/man8");
    fs::create_dir_all(&man)?;
    shell::output(Command::new(&binary).args(["man", "--directory"]).arg(&man))?;
    for (kind, to) in COMPLETIONS {
        let script = shell::output(Command::new(&binary).args(["completions", kind]))?;
        write(&tree.join(to), &script)?;
    }
    let mut catalog = Command::new(&binary);
    catalog.args(["catalog", "--rules"]).arg(root.join("rules"));
    // Whatever settings this machine has are none of the package's business.
    catalog
        .arg("--config")
        .arg(root.join("sensor/eql-sensor.toml"));
    let catalog = shell::output(&mut catalog)?;
    write(
        &tree.join("usr/lib/systemd/catalog/eql-sensor.catalog"),
        &catalog,
    )?;
    let notices = third_party(root)?;
    write(&tree.join("usr/share/doc/eql-sensor/THIRD-PARTY"), &notices)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    make_room(to)?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    make_room(to)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

fn make_room(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Names, versions, licences and licence texts of everything compiled into the daemon.
fn third_party(root: &Path) -> Result<String> {
    let mut metadata = shell::cargo(root);
    metadata.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Value = serde_json::from_str(&shell::output(&mut metadata)?)?;
    let needed = compiled_in(&metadata)?;
    let mut text = String::from(
        "eql-sensor contains the following programs of others, under the licences given with each.\n",
    );
    let list = metadata["packages"]
        .as_array()
        .context("cargo lists no packages")?;
    for package in list {
        let id = package["id"].as_str().unwrap_or_default();
        if package["source"].is_null() || !needed.iter().any(|one| one == id) {
            continue;
        }
        let word = |key: &str| package[key].as_str().unwrap_or("unknown").to_owned();
        text.push_str(&format!(
            "\n==== {} {}\nLicence: {}\nSource: {}\n",
            word("name"),
            word("version"),
            word("license"),
            word("repository")
        ));
        let folder = Path::new(package["manifest_path"].as_str().unwrap_or_default()).parent();
        for licence in folder.map(licence_files).transpose()?.unwrap_or_default() {
            let bytes = fs::read(&licence)?;
            text.push('\n');
            text.push_str(String::from_utf8_lossy(&bytes).trim_end());
            text.push('\n');
        }
    }
    Ok(text)
}

/// Ids of the packages that the daemon is made of, itself included; tools of the build and of the tests are not in it.
fn compiled_in(metadata: &Value) -> Result<Vec<String>> {
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .context("cargo resolves nothing")?;
    let by_id: BTreeMap<&str, &Value> = nodes
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let start = by_id.keys().find(|id| id.contains("/sensor#"));
    let mut open = vec![*start.context("cargo does not know the daemon")?];
    let mut needed: Vec<String> = Vec::new();
    while let Some(id) = open.pop() {
        if needed.iter().any(|known| known == id) {
            continue;
        }
        needed.push(id.to_owned());
        let deps = by_id.get(id).and_then(|node| node["deps"].as_array());
        for dep in deps.into_iter().flatten() {
            let kinds = dep["dep_kinds"].as_array();
            let is_normal = kinds
                .into_iter()
                .flatten()
                .any(|kind| kind["kind"].is_null());
            if is_normal && let Some(id) = dep["pkg"].as_str() {
                open.push(id);
            }
        }
    }
    Ok(needed)
}

fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "COPYING", "NOTICE"]
            .iter()
            .any(|word| name.starts_with(word));
        if is_licence && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn deb(root: &Path, out: &Path, pressed: Pressed) -> Result<PathBuf> {
    let tool = cargo_deb(root)?;
    if shell::find("dpkg-shlibdeps").is_none() {
        apt::ensure(&[apt::Package::new(
            "dpkg-dev",
            "says which libraries the package needs",
        )])?;
    }
    let path = out.join("eql-sensor.deb");
    let mut command = Command::new(tool);
    command
        .current_dir(root)
        .args([
            "--package",
            "sensor",
            "--no-build",
            "--no-strip",
            "--no-dbgsym",
            "--locked",
            "--quiet",
        ])
        .arg("--output")
        .arg(&path);
    if pressed == Pressed::Quickly {
        command.arg("--fast");
    }
    shell::output(&mut command)?;
    let version = shell::output(
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(&path)
            .args(["Version"]),
    )?;
    let named = out.join(format!("eql-sensor_{}_amd64.deb", version.trim()));
    fs::rename(&path, &named)?;
    Ok(named)
}

/// `cargo-deb` in `target/tools` or in PATH; built when it is missing.
fn cargo_deb(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/tools");
    let own = folder.join("bin/cargo-deb");
    let runs = |tool: &PathBuf| shell::output(Command::new(tool).arg("--version")).is_ok();
    if let Some(found) = Some(own.clone())
        .filter(runs)
        .or_else(|| shell::find("cargo-deb").filter(runs))
    {
        return Ok(found);
    }
    println!(
        "building cargo-deb {CARGO_DEB_VERSION} into target/tools: makes the Debian package (takes about two minutes)"
    );
    let mut command = shell::cargo(root);
    command
        .args([
            "install",
            "cargo-deb",
            "--quiet",
            "--locked",
            "--no-default-features",
            "--version",
            CARGO_DEB_VERSION,
        ])
        .arg("--root")
        .arg(&folder);
    shell::output(&mut command)?;
    if !runs(&own) {
        bail!("cargo-deb was built, but does not run");
    }
    Ok(own)
}

fn tarball(root: &Path, out: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("eql-sensor-{version}-x86_64");
    let path = out.join(format!("{name}.tar.gz"));
    let script = root.join("packaging/tarball/install.sh");
    // The same bytes for the same files: no names of this machine's users, no time of today.
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ])
    .args(["--mtime=@0", "--mode=u=rwX,go=rX"])
    .arg(format!("--transform=s,^,{name}/,"))
    .arg("--file")
    .arg(&path)
    .arg("--directory")
    .arg(script.parent().context("a script is in a folder")?)
    .arg("install.sh")
    .arg("--directory")
    .arg(out)
    .arg("tree");
    shell::output(&mut tar)?;
    Ok(path)
}
