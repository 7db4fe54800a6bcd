// SPDX-License-Identifier: Apache-2.0
//! Which BPF object does the agent carry?
//!
//! Builds `policy-ebpf` for the BPF target and hands its path to `src/datapath/load.rs`, so that the
//! agent is one file to ship. `NETPOL_BPF_OBJECT` names a prebuilt object to embed instead.

use std::{
    env,
    error::Error,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

const TARGET: &str = "bpfel-unknown-none";
const OVERRIDE: &str = "NETPOL_BPF_OBJECT";
const LIBRARY: &str = "lib/rustlib/src/rust/library/core";
const NO_TOOLCHAIN: &str = "no Rust toolchain with library sources and `bpf-linker` was found, which the BPF programs need: \
     run `make setup`, or name a prebuilt object in NETPOL_BPF_OBJECT";

#[expect(clippy::print_stderr, reason = "cargo shows it where the build fails")]
fn main() {
    if let Err(error) = run() {
        // As text: a returned error would be shown with its line breaks escaped.
        eprintln!("{error}");
        process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let object = if let Some(path) = env::var_os(OVERRIDE) {
        let object = fs::canonicalize(&path)
            .map_err(|error| format!("{OVERRIDE}=`{}`: {error}", path.display()))?;
        println!("cargo::rerun-if-changed={}", object.display());
        object
    } else {
        let [object, reference] = build()?;
        // Only the benchmark reads it.
        println!(
            "cargo::rustc-env=NETPOL_BPF_REFERENCE={}",
            reference.display()
        );
        object
    };
    println!("cargo::rustc-env=NETPOL_BPF_EMBED={}", object.display());
    Ok(())
}

/// Builds `policy-ebpf` and returns the paths of its object and of the one to measure it against.
fn build() -> Result<[PathBuf; 2], Box<dyn Error>> {
    let workspace = Path::new(&env::var("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the agent's folder has no parent")?
        .to_path_buf();
    for input in [
        "Cargo.lock",
        "Cargo.toml",
        "policy-ebpf/Cargo.toml",
        "policy-ebpf/src",
        "policy-ebpf/common/Cargo.toml",
        "policy-ebpf/common/src",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    // OUT_DIR is <target>/<profile>/build/<package>/out. One folder beside the profiles serves them
    // all, so that core is compiled once.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target_dir = out
        .ancestors()
        .nth(4)
        .ok_or("OUT_DIR is not inside a target directory")?
        .join("bpf");

    let mut cargo = Toolchain::find().ok_or(NO_TOOLCHAIN)?.cargo();
    cargo
        .current_dir(&workspace)
        .args(["build", "--locked", "--package", "policy-ebpf"])
        .args(["--profile", "bpf", "--target", TARGET])
        .args(["-Z", "build-std=core"])
        .args([
            "--config",
            &format!("target.{TARGET}.linker=\"bpf-linker\""),
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        // Separated by 0x1f: debug information becomes BTF only if the linker is asked to; the third
        // instruction set (Linux 5.1) computes in 32 bits, which is most of what there is to compute.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3",
        );
    let output = cargo
        .output()
        .map_err(|error| format!("cannot run {cargo:?}: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("building the BPF programs failed:\n{stderr}").into());
    }
    // Cargo rewrites the objects in place, and other profiles share the folder: embed a copy.
    let built = target_dir.join(TARGET).join("bpf");
    let objects = ["policy-ebpf", "reference"].map(|name| out.join(name).with_extension("o"));
    for object in &objects {
        let name = object.file_stem().ok_or("an object without a name")?;
        fs::copy(built.join(name), object)?;
    }
    Ok(objects)
}

/// A compiler that can build `core` for the BPF target.
enum Toolchain {
    /// rustup's nightly, with the rust-src component.
    Nightly,
    /// A distribution's stable compiler at this prefix with its library sources, which accepts
    /// nightly flags when told to.
    Prefix(PathBuf),
}

impl Toolchain {
    fn find() -> Option<Self> {
        on_path("bpf-linker")?;
        let nightly = clean(Command::new("rustup"))
            .args(["run", "nightly", "rustc", "--print", "sysroot"])
            .output()
            .ok()
            .filter(|output| output.status.success())
            .and_then(|output| String::from_utf8(output.stdout).ok());
        if nightly.is_some_and(|sysroot| Path::new(sysroot.trim()).join(LIBRARY).exists()) {
            return Some(Self::Nightly);
        }
        let prefix = Path::new("/usr");
        let complete = ["bin/cargo", "bin/rustc", LIBRARY]
            .iter()
            .all(|file| prefix.join(file).exists());
        complete.then(|| Self::Prefix(prefix.to_path_buf()))
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Nightly => {
                let mut command = clean(Command::new("rustup"));
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Prefix(prefix) => {
                let mut command = clean(Command::new(prefix.join("bin/cargo")));
                command
                    .env("RUSTC", prefix.join("bin/rustc"))
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

/// Removes what the outer cargo and rustup set for their own children.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let kept = name_text == "CARGO_HOME" || name_text.starts_with("CARGO_NET_");
        let leaks = name_text.starts_with("CARGO")
            || name_text.starts_with("RUSTC")
            || name_text == "RUSTUP_TOOLCHAIN"
            || name_text == "RUSTFLAGS";
        if leaks && !kept {
            command.env_remove(&name);
        }
    }
    command
}

fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program.as_ref()))
        .find(|candidate| candidate.is_file())
}
