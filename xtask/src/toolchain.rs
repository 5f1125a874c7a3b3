//! The toolchain that builds the eBPF programs: Debian's compiler (unpacked) with our own build of bpf-linker,
//! or else a nightly from rustup with the bpf-linker on PATH.

use crate::debian::{self, Unpacked};
use crate::step;
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker that we build; it must know the compiler's LLVM.
const BPF_LINKER: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";

/// A toolchain that is there and works.
pub(crate) struct Toolchain {
    kind: Kind,
    /// Version and commit of the compiler.
    pub(crate) rustc: String,
    /// Version of the compiler's LLVM.
    pub(crate) llvm: String,
    /// Version of the linker.
    pub(crate) bpf_linker: String,
}

enum Kind {
    Debian { unpacked: Unpacked, linker_dir: PathBuf },
    Nightly { strip: PathBuf },
}

/// Gets the toolchain; what an earlier call left under `target` is used again.
///
/// # Errors
/// When neither way works; says what to do for each.
pub(crate) fn obtain(target: &Path) -> Result<Toolchain> {
    let folder = target.join("ebpf-toolchain");
    let kind = if debian::is_debian() {
        from_debian(&folder)
    } else {
        Err(anyhow::anyhow!(
            "this is no Debian system: apt-get and dpkg are not there"
        ))
    };
    let kind = match kind {
        Ok(kind) => kind,
        Err(error) => {
            eprintln!("xtask: no compiler from Debian's packages: {error:#}\nxtask: trying rustup's nightly");
            nightly()?
        }
    };
    describe(kind)
}

fn from_debian(folder: &Path) -> Result<Kind> {
    let unpacked = debian::obtain(folder)?;
    let linker_dir = folder.join("bin");
    let mut version = Command::new(linker_dir.join("bpf-linker"));
    version
        .arg("--version")
        .env("LD_LIBRARY_PATH", unpacked.libraries());
    if step::output(&mut version).is_ok_and(|text| text.trim_end().ends_with(BPF_LINKER)) {
        return Ok(Kind::Debian { unpacked, linker_dir });
    }
    eprintln!("xtask: building bpf-linker {BPF_LINKER} (one or two minutes)");
    let mut install = step::cargo(folder);
    clean_environment(&mut install);
    install.env("LLVM_PREFIX", unpacked.llvm_prefix());
    install
        .env("LIBRARY_PATH", unpacked.libraries())
        .env("LD_LIBRARY_PATH", unpacked.libraries());
    install.args([
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--locked",
        "--force",
        "--quiet",
    ]);
    install.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{}", unpacked.llvm_major),
    ]);
    install.arg("--root").arg(folder);
    // Its hint to put the folder on PATH would only mislead.
    install.env("PATH", prepend(&linker_dir, "PATH")?);
    step::run_on_stderr(&mut install).context("can't build bpf-linker; a C compiler (`cc`) must be there")?;
    Ok(Kind::Debian { unpacked, linker_dir })
}

fn nightly() -> Result<Kind> {
    const HELP: &str = "To build the eBPF programs on this system, install\n  \
        rustup toolchain install nightly --component rust-src --component clippy\n  \
        bpf-linker, built for that nightly's LLVM (https://github.com/aya-rs/bpf-linker)\n  \
        llvm-strip (package `llvm`)\n\
        The objects in lb-ebpf/obj are there already: only a change of lb-ebpf or lb-common needs this.";
    let sysroot =
        step::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
            .context(HELP)?;
    let core = Path::new(sysroot.trim_end()).join("lib/rustlib/src/rust/library/core");
    if !core.exists() {
        bail!(
            "rustup's nightly has no rust-src: {} is not there.\n{HELP}",
            core.display()
        );
    }
    if step::find_program("bpf-linker").is_none() {
        bail!("bpf-linker is not on PATH.\n{HELP}");
    }
    let strip =
        step::find_program("llvm-strip").with_context(|| format!("no llvm-strip on PATH.\n{HELP}"))?;
    Ok(Kind::Nightly { strip })
}

fn describe(kind: Kind) -> Result<Toolchain> {
    let mut toolchain = Toolchain {
        kind,
        rustc: String::new(),
        llvm: String::new(),
        bpf_linker: String::new(),
    };
    let verbose = step::output(toolchain.rustc_command().arg("-vV"))?;
    let after = |prefix: &str| {
        verbose
            .lines()
            .find_map(|line| line.strip_prefix(prefix))
            .map(str::to_owned)
    };
    toolchain.rustc = after("rustc ").context("rustc does not tell its version")?;
    toolchain.llvm = after("LLVM version: ").context("rustc does not tell its LLVM's version")?;
    let linker = step::output(toolchain.linker_command().arg("--version"))?;
    toolchain.bpf_linker = linker
        .split_whitespace()
        .last()
        .context("bpf-linker does not tell its version")?
        .to_owned();
    Ok(toolchain)
}

impl Toolchain {
    /// `cargo SUBCOMMAND` for the eBPF target, to be run in `folder`.
    ///
    /// # Errors
    /// When PATH can't be extended.
    pub(crate) fn cargo(&self, subcommand: &str, folder: &Path) -> Result<Command> {
        let mut command = match &self.kind {
            Kind::Debian { unpacked, linker_dir } => {
                let mut command = step::cargo(folder);
                clean_environment(&mut command);
                command.env("PATH", prepend(linker_dir, "PATH")?);
                command.env("LD_LIBRARY_PATH", unpacked.libraries());
                command.env("RUSTC", unpacked.rustc());
                // The target is not a stable one.
                command.env("RUSTC_BOOTSTRAP", "1");
                command.arg(subcommand);
                command
            }
            Kind::Nightly { .. } => {
                let mut command = Command::new("rustup");
                clean_environment(&mut command);
                command.current_dir(folder);
                command.args(["run", "nightly", "cargo", subcommand, "-Zbuild-std=core"]);
                command
            }
        };
        command.args(["--release", "--target", TARGET]);
        Ok(command)
    }

    /// As [`Self::cargo`], a check with clippy's lints.
    pub(crate) fn clippy(&self, folder: &Path) -> Result<Command> {
        match &self.kind {
            Kind::Debian { unpacked, .. } => {
                let mut command = self.cargo("check", folder)?;
                command.env("RUSTC_WORKSPACE_WRAPPER", unpacked.clippy());
                Ok(command)
            }
            Kind::Nightly { .. } => self.cargo("clippy", folder),
        }
    }

    /// `llvm-strip`.
    pub(crate) fn strip(&self) -> Command {
        match &self.kind {
            Kind::Debian { unpacked, .. } => with_libraries(&unpacked.strip(), unpacked),
            Kind::Nightly { strip } => Command::new(strip),
        }
    }

    /// Where cargo puts the built programs in its target folder.
    pub(crate) fn release_dir(target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("release")
    }

    fn rustc_command(&self) -> Command {
        match &self.kind {
            Kind::Debian { unpacked, .. } => with_libraries(&unpacked.rustc(), unpacked),
            Kind::Nightly { .. } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
        }
    }

    fn linker_command(&self) -> Command {
        match &self.kind {
            Kind::Debian { unpacked, linker_dir } => with_libraries(&linker_dir.join("bpf-linker"), unpacked),
            Kind::Nightly { .. } => Command::new("bpf-linker"),
        }
    }
}

fn with_libraries(program: &Path, unpacked: &Unpacked) -> Command {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", unpacked.libraries());
    command
}

/// Takes away what a user's environment would change in the objects' bytes.
fn clean_environment(command: &mut Command) {
    const PREFIXES: [&str; 4] = [
        "CARGO_PROFILE_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_ENCODED_",
    ];
    const NAMES: [&str; 5] = [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC",
        "CARGO_INCREMENTAL",
    ];
    for (name, _) in env::vars_os() {
        let matches =
            |text: &str| PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || NAMES.contains(&text);
        if name.to_str().is_some_and(matches) {
            command.env_remove(name);
        }
    }
}

/// The list of folders in `variable` with `folder` before the others.
fn prepend(folder: &Path, variable: &str) -> Result<OsString> {
    let rest = env::var_os(variable).unwrap_or_default();
    let folders = [folder.to_path_buf()].into_iter().chain(env::split_paths(&rest));
    env::join_paths(folders).with_context(|| format!("{} can't be put on {variable}", folder.display()))
}
