//! What builds the kernel programs: a Rust compiler with its library sources, and a linker for BPF.
//!
//! In: this machine. Out: both found, or installed and said so, or an error with the one command that a person should run.
//! Must never download a toolchain behind rustup's back, and does nothing when both are there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Package};
use crate::shell;

/// Version of `bpf-linker` to build, and the LLVM versions that it can be built with.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// LLVM of Debian's `rustc-web`, whose version apt does not tell before it is installed.
const DEBIAN_LLVM: u32 = 22;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also make ready what guests need: QEMU, virtme-ng and the kernels themselves
    #[arg(long)]
    guests: bool,
}

/// A compiler that can build the kernel programs.
struct Compiler {
    /// For messages.
    what: String,
    llvm_major: u32,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    kernel_toolchain(root)?;
    if options.guests {
        for kernel in crate::kernels::ALL {
            crate::guest::tools(root)?;
            let files = kernel.fetch(root)?;
            println!("guest kernel {}: {}", kernel.name, files.release);
        }
    }
    Ok(())
}

/// Finds or installs compiler and linker.
pub(crate) fn kernel_toolchain(root: &Path) -> Result<()> {
    if let Some(object) = std::env::var_os("EQL_SENSOR_BPF_OBJECT") {
        println!(
            "kernel programs: prebuilt object {}",
            Path::new(&object).display()
        );
        return Ok(());
    }
    let (found_compiler, found_linker) = (find_compiler()?, find_linker(root));
    let complete = found_compiler.is_some() && found_linker.is_some();
    let compiler = match found_compiler {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    let linker = match found_linker {
        Some(linker) => linker,
        None => install_linker(root, &compiler)?,
    };
    if !complete {
        rebuild_kernel_object(root)?;
    }
    println!("kernel programs: {}, {}", compiler.what, linker.display());
    Ok(())
}

/// Has the next build look for the toolchain again: an earlier one may have gone without.
fn rebuild_kernel_object(root: &Path) -> Result<()> {
    let script = root.join("sensor/build.rs");
    let file = fs::File::options()
        .append(true)
        .open(&script)
        .with_context(|| format!("cannot open {}", script.display()))?;
    file.set_modified(SystemTime::now())
        .with_context(|| format!("cannot touch {}", script.display()))
}

fn find_compiler() -> Result<Option<Compiler>> {
    Ok(match find_nightly()? {
        Some(nightly) => Some(nightly),
        None => find_debian_compiler()?,
    })
}

/// The rustup nightly, if it has the library sources.
fn find_nightly() -> Result<Option<Compiler>> {
    let Some(rustup) = shell::find("rustup") else {
        return Ok(None);
    };
    let rustc = |argument: &[&str]| {
        // No `RUSTUP_TOOLCHAIN`: it would not override `run`, but a missing nightly must not be installed on the fly.
        let mut command = Command::new(&rustup);
        command
            .env("RUSTUP_AUTO_INSTALL", "0")
            .args(["run", "nightly", "rustc"])
            .args(argument);
        shell::output(&mut command).ok()
    };
    let Some(sysroot) = rustc(&["--print", "sysroot"]) else {
        return Ok(None);
    };
    if !has_library_sources(Path::new(sysroot.trim())) {
        return Ok(None);
    }
    let version = rustc(&["--version", "--verbose"]).unwrap_or_default();
    Ok(Some(Compiler {
        what: "rustup nightly with rust-src".to_owned(),
        llvm_major: llvm_major(&version)?,
    }))
}

/// Debian's compiler, if it comes with the library sources.
fn find_debian_compiler() -> Result<Option<Compiler>> {
    let rustc = Path::new("/usr/bin/rustc");
    if !rustc.exists() {
        return Ok(None);
    }
    let sysroot = shell::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let version = shell::output(Command::new(rustc).args(["--version", "--verbose"]))?;
    let llvm_major = llvm_major(&version)?;
    // An older distribution compiler is left alone: it has no place beside the version the workspace asks for.
    if !has_library_sources(Path::new(sysroot.trim())) || !LINKER_LLVM.contains(&llvm_major) {
        return Ok(None);
    }
    let name = version
        .lines()
        .next()
        .unwrap_or("rustc")
        .split(" (")
        .next()
        .unwrap_or("rustc");
    Ok(Some(Compiler {
        what: format!("Debian {name}"),
        llvm_major,
    }))
}

fn has_library_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
}

fn llvm_major(verbose_version: &str) -> Result<u32> {
    let line = verbose_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    line.and_then(|version| version.split('.').next())
        .and_then(|major| major.parse().ok())
        .with_context(|| {
            format!("no LLVM version in what the compiler says of itself: {verbose_version:?}")
        })
}

fn install_compiler() -> Result<Compiler> {
    if !apt::is_here() {
        bail!(
            "the kernel programs need a nightly compiler with library sources; run: \
             rustup toolchain install nightly --component rust-src"
        );
    }
    let packages = [
        Package::new(
            "rustc-web",
            "compiles the kernel programs (rustup has no nightly with rust-src here)",
        ),
        Package::new(
            "rust-web-src",
            "the core library's sources, built for the kernel target",
        ),
    ];
    let advice = "no compiler for the kernel programs; where the packages cannot be had, run: \
                  rustup toolchain install nightly --component rust-src";
    apt::ensure(&packages).context(advice)?;
    if let Some(compiler) = find_debian_compiler()? {
        return Ok(compiler);
    }
    // Installed, yet too old: by package lists as old as the machine's image.
    apt::ensure_newest(&packages).context(advice)?;
    find_debian_compiler()?.with_context(|| {
        format!("/usr/bin/rustc is still not usable: it needs LLVM {LINKER_LLVM:?} and its library sources")
    })
}

/// The linker in `target/tools`, or in PATH, if it runs.
fn find_linker(root: &Path) -> Option<PathBuf> {
    let runs = |linker: &PathBuf| shell::output(Command::new(linker).arg("--version")).is_ok();
    let own = tools(root).join("bin/bpf-linker");
    Some(own)
        .filter(runs)
        .or_else(|| shell::find("bpf-linker").filter(runs))
}

fn tools(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// Builds the linker against an LLVM that reads what the compiler writes: the same version, else the nearest newer one.
fn install_linker(root: &Path, compiler: &Compiler) -> Result<PathBuf> {
    let llvm = llvm_for(compiler.llvm_major)?;
    println!(
        "building bpf-linker {LINKER_VERSION} into target/tools: links the kernel programs (takes about two minutes)"
    );
    let mut command = shell::cargo(root);
    command
        .args([
            "install",
            "bpf-linker",
            "--quiet",
            "--locked",
            "--version",
            LINKER_VERSION,
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{}", llvm.major),
            "--root",
        ])
        .arg(tools(root))
        .env("LLVM_PREFIX", &llvm.prefix);
    shell::output(&mut command)?;
    find_linker(root).context("bpf-linker was built, but does not run")
}

struct Llvm {
    major: u32,
    prefix: PathBuf,
}

fn llvm_for(wanted: u32) -> Result<Llvm> {
    let usable = wanted.max(*LINKER_LLVM.start())..=*LINKER_LLVM.end();
    let prefix = |major: u32| PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let found = |major: &u32| {
        prefix(*major).join("bin/llvm-config").exists() && prefix(*major).join("include").exists()
    };
    if let Some(major) = usable.clone().find(found) {
        return Ok(Llvm {
            major,
            prefix: prefix(major),
        });
    }
    if !apt::is_here() {
        bail!(
            "no bpf-linker; run: cargo install cargo-binstall && cargo binstall --root target/tools bpf-linker"
        );
    }
    let major = usable
        .clone()
        .find(|major| apt::is_known(&format!("llvm-{major}-dev")))
        .unwrap_or(DEBIAN_LLVM.max(wanted));
    apt::ensure(&[Package::new(format!("llvm-{major}-dev"), "bpf-linker is built against it")])
        .context("no LLVM to build bpf-linker with; where the package cannot be had, put a bpf-linker binary into target/tools/bin")?;
    Ok(Llvm {
        major,
        prefix: prefix(major),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_verbose_output() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_major(text).unwrap(), 22);
        let error = llvm_major("rustc 1.97.0\n").unwrap_err().to_string();
        assert!(error.starts_with("no LLVM version"), "{error}");
    }
}
