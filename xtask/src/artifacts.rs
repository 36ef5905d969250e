//! Builds the sensor and every test of the workspace once, and says where they are.
//!
//! In: the workspace. Out: paths of the daemon and of the test programs. Must never build the same thing under two sets of
//! flags: a second build of everything is what makes a test run long.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// What a build left behind.
pub(crate) struct Artifacts {
    /// The daemon, `eql-sensor`.
    pub(crate) sensor: PathBuf,
    pub(crate) tests: Vec<TestProgram>,
}

/// One program of tests.
pub(crate) struct TestProgram {
    /// Package and target, for messages.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Folder of the package, where cargo would run it.
    pub(crate) folder: PathBuf,
}

impl TestProgram {
    /// Whether it needs a live kernel and root.
    pub(crate) fn is_live(&self) -> bool {
        self.name
            .split(' ')
            .nth(1)
            .is_some_and(|target| target.starts_with("live"))
    }
}

/// Builds the daemon and all tests, the live ones too.
pub(crate) fn tests(root: &Path) -> Result<Artifacts> {
    build(root, &["test", "--workspace", "--all-features", "--no-run"])
}

/// Builds the daemon and the live tests alone.
pub(crate) fn live_tests(root: &Path) -> Result<Artifacts> {
    some_tests(root, "live*")
}

/// Builds one program of live tests.
pub(crate) fn one_test(root: &Path, target: &str) -> Result<TestProgram> {
    let name = format!("sensor {target}");
    some_tests(root, target)?
        .tests
        .into_iter()
        .find(|test| test.name == name)
        .with_context(|| format!("the build made no test `{target}`"))
}

fn some_tests(root: &Path, targets: &str) -> Result<Artifacts> {
    // The same selection of packages and features as for all tests, so that nothing is built twice.
    let arguments = [
        "test",
        "--workspace",
        "--all-features",
        "--no-run",
        "--test",
        targets,
    ];
    build(root, &arguments)
}

/// Builds the daemon alone.
pub(crate) fn sensor(root: &Path) -> Result<PathBuf> {
    Ok(build(
        root,
        &["build", "--package", "sensor", "--bin", "eql-sensor"],
    )?
    .sensor)
}

/// Builds the daemon alone, as it is shipped.
pub(crate) fn release(root: &Path) -> Result<PathBuf> {
    let arguments = [
        "build",
        "--release",
        "--package",
        "sensor",
        "--bin",
        "eql-sensor",
    ];
    Ok(build(root, &arguments)?.sensor)
}

fn build(root: &Path, arguments: &[&str]) -> Result<Artifacts> {
    let mut cargo = shell::cargo(root);
    cargo
        .args(arguments)
        .args(["--locked", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = cargo
        .output()
        .with_context(|| format!("cannot run `{}`", shell::shown(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shell::shown(&cargo), output.status);
    }
    let messages: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let sensor = messages
        .iter()
        .find(|message| {
            message["target"]["name"] == "eql-sensor" && message["profile"]["test"] == false
        })
        .and_then(|message| message["executable"].as_str())
        .context("the build made no eql-sensor")?;
    require_kernel_object(&messages)?;
    Ok(Artifacts {
        sensor: sensor.into(),
        tests: messages.iter().filter_map(test_program).collect(),
    })
}

fn test_program(message: &Value) -> Option<TestProgram> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = message["executable"].as_str()?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = folder.file_name()?.to_string_lossy();
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let name = if kind == "test" {
        format!("{package} {target}")
    } else {
        format!("{package} ({kind} {target})")
    };
    Some(TestProgram {
        name,
        path: path.into(),
        folder: folder.to_owned(),
    })
}

/// The daemon builds without kernel programs where there is no toolchain for them; here that is an error.
fn require_kernel_object(messages: &[Value]) -> Result<()> {
    let script = messages.iter().find(|message| {
        message["reason"] == "build-script-executed"
            && message["package_id"]
                .as_str()
                .is_some_and(|id| id.contains("/sensor#"))
    });
    let object = script
        .and_then(|script| script["out_dir"].as_str())
        .map(|folder| Path::new(folder).join("kernel_object"))
        .context("the build of the daemon said nothing of its kernel programs")?;
    let embedded = object.metadata().is_ok_and(|meta| meta.len() > 0);
    if !embedded {
        bail!(
            "the daemon was built without its kernel programs; the warning above says what is missing"
        );
    }
    Ok(())
}
