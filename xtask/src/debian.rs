//! The eBPF compiler from Debian's packages, unpacked into a folder: nothing is installed, so a user's own Rust
//! (with which Debian's packages conflict) stays as it is.

use crate::step;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler, its lints, and `core` for eBPF. `rustc-web` is the Rust that Debian keeps current for browsers.
const COMPILER: [&str; 3] = ["rustc-web", "rust-web-clippy", "libstd-rust-web-dev-bpf"];
/// Taken with the libraries that it depends on, the compiler's own and LLVM among them.
const LIBRARIES_OF: &str = "libstd-rust-web-dev";
/// Unpacked even when the host has them installed: they must be of one piece with the compiler.
const OWN_LIBRARIES: [&str; 2] = ["libstd-rust-web", "libllvm"];

/// An unpacked compiler.
pub(crate) struct Unpacked {
    /// Has the packages' `usr/` in it.
    root: PathBuf,
    /// LLVM's major version, as packages are named after it.
    pub(crate) llvm_major: String,
}

impl Unpacked {
    pub(crate) fn rustc(&self) -> PathBuf {
        self.root.join("usr/bin/rustc")
    }

    pub(crate) fn clippy(&self) -> PathBuf {
        self.root.join("usr/bin/clippy-driver")
    }

    pub(crate) fn strip(&self) -> PathBuf {
        self.root
            .join(format!("usr/lib/llvm-{}/bin/llvm-strip", self.llvm_major))
    }

    /// Where the loader must look for the compiler's libraries.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.root.join(format!("usr/lib/{ARCH}-linux-gnu"))
    }

    /// A folder with a `lib/` in which linkers find `libLLVM.so`.
    pub(crate) fn llvm_prefix(&self) -> PathBuf {
        self.root.join("llvm")
    }
}

/// Whether this system has the tools for it.
pub(crate) fn is_debian() -> bool {
    ["apt-get", "apt-cache", "dpkg", "dpkg-query"]
        .iter()
        .all(|name| step::find_program(name).is_some())
}

/// The compiler in `folder`, unpacked now unless an earlier call did.
///
/// # Errors
/// When Debian's lists don't have the packages, or they can't be fetched or unpacked.
pub(crate) fn obtain(folder: &Path) -> Result<Unpacked> {
    let root = folder.join("root");
    if let Some(unpacked) = present(&root) {
        return Ok(unpacked);
    }
    let packages = packages()?;
    eprintln!(
        "xtask: fetching the eBPF compiler from Debian (about 170 MB): {}",
        packages.join(" ")
    );
    let archives = folder.join("archives");
    remove(&archives)?;
    fs::create_dir_all(&archives).with_context(|| format!("can't make {}", archives.display()))?;
    let mut download = Command::new("apt-get");
    download
        .current_dir(&archives)
        .args(["-q", "download"])
        .args(&packages);
    step::run_on_stderr(&mut download).context(
        "can't fetch Debian's packages; if the lists are old, `sudo apt-get update` and try again",
    )?;
    // Under another name until all is there, so that a call that was cut short leaves nothing that looks whole.
    let part = folder.join("root.part");
    remove(&part)?;
    remove(&root)?;
    unpack(&archives, &part)?;
    link_llvm(&part)?;
    fs::rename(&part, &root).with_context(|| format!("can't rename {}", part.display()))?;
    remove(&archives)?;
    present(&root).with_context(|| format!("{} lacks the compiler after unpacking", root.display()))
}

fn present(root: &Path) -> Option<Unpacked> {
    let llvm_major = fs::read_dir(root.join("usr/lib")).ok()?.find_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.strip_prefix("llvm-").map(str::to_owned)
    })?;
    let unpacked = Unpacked {
        root: root.to_path_buf(),
        llvm_major,
    };
    let parts = [
        unpacked.rustc(),
        unpacked.clippy(),
        unpacked.strip(),
        unpacked.llvm_prefix(),
    ];
    parts.iter().all(|part| part.exists()).then_some(unpacked)
}

/// The names of all packages to unpack.
fn packages() -> Result<Vec<String>> {
    let lists = || step::output(Command::new("apt-cache").args(["show", "--no-all-versions", COMPILER[2]]));
    if lists().is_err() {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "Debian's package lists do not know {}: run `sudo apt-get update`",
                COMPILER[2]
            );
        }
        step::run_on_stderr(Command::new("apt-get").args(["-q", "update"]))?;
        lists().context("this Debian release has no Rust core library for eBPF")?;
    }
    let libraries = missing_libraries()?;
    let llvm_major = libraries
        .iter()
        .find_map(|name| name.strip_prefix("libllvm"))
        .context("Debian's Rust libraries name no LLVM")?;
    let mut packages: Vec<String> = COMPILER.iter().map(|&name| name.to_owned()).collect();
    packages.push(format!("llvm-{llvm_major}"));
    packages.extend(libraries);
    Ok(packages)
}

/// The libraries that the compiler needs and the host lacks.
fn missing_libraries() -> Result<BTreeSet<String>> {
    let mut depends = Command::new("apt-cache");
    depends.args([
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
    ]);
    depends.args(["--no-breaks", "--no-replaces", "--no-enhances", LIBRARIES_OF]);
    let listing = step::output(&mut depends)?;
    // A package starts its line, its dependencies are indented; `<virtual>` and `name:arch` are none to unpack.
    let wanted: BTreeSet<String> = listing
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']) && !line.contains(':'))
        .map(str::to_owned)
        .collect();
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(&wanted);
    // Fails when it does not know one of the names, and lists the others all the same.
    let answer = query.output().context("can't start dpkg-query")?;
    let answer = String::from_utf8_lossy(&answer.stdout);
    let installed: BTreeSet<&str> = answer
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    let is_own = |name: &str| OWN_LIBRARIES.iter().any(|prefix| name.starts_with(prefix));
    Ok(wanted
        .into_iter()
        .filter(|name| is_own(name) || !installed.contains(name.as_str()))
        .collect())
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    let entries = fs::read_dir(archives).with_context(|| format!("can't read {}", archives.display()))?;
    for entry in entries {
        let archive = entry
            .with_context(|| format!("can't read {}", archives.display()))?
            .path();
        step::run_on_stderr(Command::new("dpkg").arg("--extract").arg(&archive).arg(root))?;
    }
    Ok(())
}

/// Makes the one link that linking against LLVM takes, in place of `llvm-*-dev` with its 400 MB.
fn link_llvm(root: &Path) -> Result<()> {
    let libraries = format!("usr/lib/{ARCH}-linux-gnu");
    let folder = root.join(&libraries);
    let entries = fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    let library = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("libLLVM.so."))
        .with_context(|| format!("no libLLVM in {}", folder.display()))?;
    let lib = root.join("llvm/lib");
    fs::create_dir_all(&lib).with_context(|| format!("can't make {}", lib.display()))?;
    symlink(
        Path::new("../..").join(&libraries).join(library),
        lib.join("libLLVM.so"),
    )
    .with_context(|| format!("can't make a link in {}", lib.display()))
}

/// Removes a folder that may be there.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
