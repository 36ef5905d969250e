//! Puts the kernel object into the daemon.
//!
//! In: `sensor-ebpf`, or a ready object named by `EQL_SENSOR_BPF_OBJECT`. Out: `OUT_DIR/kernel_object`, empty where no kernel
//! toolchain is at hand, so that checking, linting and testing everything else need stable Rust alone; and `OUT_DIR/layout`, which
//! tells this build's records and maps from another's. Must never install anything: that is `cargo xtask setup`.

#[path = "src/kernel/load/plain.rs"]
mod plain;

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use sha2::{Digest as _, Sha256};

/// A ready object for packagers; set but empty: embed nothing.
const OBJECT: &str = "EQL_SENSOR_BPF_OBJECT";
/// The linker to use in place of the one that is found.
const LINKER: &str = "EQL_SENSOR_BPF_LINKER";
/// The distribution's compiler that ships with the library sources.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
/// The first release whose LLVM the linker can read.
const RUSTC_MINOR_MIN: u32 = 96;

/// Sources below `sensor-ebpf/src` that say what is in records and in maps that outlive a daemon.
const LAYOUT: &[&str] = &[
    "lib.rs",
    "maps.rs",
    "globals.rs",
    "interest.rs",
    "programs/again.rs",
    "programs/gates.rs",
];

fn main() -> ExitCode {
    match describe_layout().and_then(|()| embed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("cannot build the kernel object: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn describe_layout() -> Result<(), String> {
    let sources = variable("CARGO_MANIFEST_DIR")?.join("../sensor-ebpf/src");
    let mut hash = Sha256::new();
    for name in LAYOUT {
        let path = sources.join(name);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        hash.update(format!("{name}\n{}\n", plain::plain(&text)));
    }
    let mut said = "eql-sensor layout ".to_owned();
    for byte in hash.finalize() {
        write!(said, "{byte:02x}").map_err(|error| error.to_string())?;
    }
    println!("cargo::rerun-if-changed=src/kernel/load/plain.rs");
    write(&variable("OUT_DIR")?.join("layout"), said.as_bytes())
}

fn embed() -> Result<(), String> {
    let workspace = variable("CARGO_MANIFEST_DIR")?.join("..");
    let object = variable("OUT_DIR")?.join("kernel_object");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed={LINKER}");
    // `cargo xtask setup` touches this file after it has installed a toolchain.
    println!("cargo::rerun-if-changed=build.rs");
    for source in ["sensor-ebpf/src", "sensor-ebpf/Cargo.toml"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    if let Some(ready) = env::var_os(OBJECT) {
        if ready.is_empty() {
            return write(&object, &[]);
        }
        let ready = PathBuf::from(ready);
        println!("cargo::rerun-if-changed={}", ready.display());
        let bytes = fs::read(&ready)
            .map_err(|error| format!("{OBJECT}: cannot read {}: {error}", ready.display()))?;
        return write(&object, &bytes);
    }
    match (find_linker(&workspace), find_compiler()) {
        (Some(linker), Some(compiler)) => build(&workspace, &compiler, &linker, &object),
        (linker, compiler) => {
            let missing = match (linker, compiler) {
                (None, None) => "no bpf-linker and no Rust compiler with library sources",
                (None, Some(_)) => "no bpf-linker",
                _ => "no Rust compiler with library sources",
            };
            println!(
                "cargo::warning=no kernel programs in this build: {missing}; `cargo xtask setup` installs what is missing"
            );
            write(&object, &[])
        }
    }
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{name} is not set; run this through cargo"))
}

fn write(object: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(object, bytes).map_err(|error| format!("cannot write {}: {error}", object.display()))
}

/// How to run a compiler that can build `core` for the kernel.
struct Compiler {
    cargo: Vec<OsString>,
    /// `None`: the one that `cargo` finds by itself.
    rustc: Option<&'static str>,
}

/// A nightly with its sources, else the distribution's compiler with its.
fn find_compiler() -> Option<Compiler> {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    if has_sources(&mut rustup) {
        return Some(Compiler {
            cargo: ["rustup", "run", "nightly", "cargo"]
                .map(OsString::from)
                .into(),
            rustc: None,
        });
    }
    let mut distribution = Command::new(DISTRIBUTION_RUSTC);
    distribution.args(["--print", "sysroot"]);
    if !has_sources(&mut distribution) || distribution_minor()? < RUSTC_MINOR_MIN {
        return None;
    }
    Some(Compiler {
        cargo: vec![env::var_os("CARGO")?],
        rustc: Some(DISTRIBUTION_RUSTC),
    })
}

fn has_sources(print_sysroot: &mut Command) -> bool {
    clean(print_sysroot);
    let Ok(output) = print_sysroot.output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
}

/// The `96` of `rustc 1.96.0 (...)`.
fn distribution_minor() -> Option<u32> {
    let mut rustc = Command::new(DISTRIBUTION_RUSTC);
    let output = clean(rustc.arg("--version")).output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .split(['.', ' '])
        .nth(2)?
        .parse()
        .ok()
}

fn find_linker(workspace: &Path) -> Option<PathBuf> {
    if let Some(linker) = env::var_os(LINKER) {
        return Some(linker.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(workspace.join("target/tools/bin"))
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .map(|linker| fs::canonicalize(&linker).unwrap_or(linker))
}

fn build(
    workspace: &Path,
    compiler: &Compiler,
    linker: &Path,
    object: &Path,
) -> Result<(), String> {
    // Shared by every profile and feature set, which all embed the same object: `<target>/<profile>/build/<package>/out`.
    let out = variable("OUT_DIR")?;
    let target = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    // What `-Ctarget-cpu=v2` is for: 5.10 accepts it, and it compiles to the code the verifier follows best.
    let flags = format!("-Ctarget-cpu=v2\u{1f}-Clinker={}", linker.display());
    let (program, arguments) = compiler.cargo.split_first().ok_or("no cargo to run")?;
    let mut cargo = Command::new(program);
    cargo.args(arguments);
    clean(&mut cargo)
        .current_dir(workspace.join("sensor-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // The standard library's crates are built from source with a compiler that is not a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["build", "--locked", "--release", "--package", "sensor-ebpf"])
        .args(["--bin", "sensor-ebpf", "--target", "bpfel-unknown-none"])
        .args(["-Zbuild-std=core", "--target-dir"])
        .arg(&target);
    if let Some(rustc) = compiler.rustc {
        cargo.env("RUSTC", rustc);
    }
    let output = cargo
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!(
            "{}\nset {OBJECT} to a ready object, or to nothing to go without",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let built = target.join("bpfel-unknown-none/release/sensor-ebpf");
    let bytes =
        fs::read(&built).map_err(|error| format!("cannot read {}: {error}", built.display()))?;
    write(object, &bytes)
}

/// Takes away what the outer cargo set for its own build; settings of registries and network stay.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keeps = [
            "CARGO_HOME",
            "CARGO_HTTP_",
            "CARGO_NET_",
            "CARGO_REGISTR",
            "CARGO_SOURCE_",
        ];
        let leaks = text.starts_with("CARGO") && !keeps.iter().any(|keep| text.starts_with(keep))
            || text.starts_with("RUSTC")
            || text == "RUSTFLAGS"
            || text == "RUSTUP_TOOLCHAIN"
            || text == "RUST_RECURSION_COUNT";
        if leaks {
            command.env_remove(&name);
        }
    }
    command
}
