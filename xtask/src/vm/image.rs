//! A kernel from Debian's packages, unpacked: never installed.

use super::quiet;
use crate::step;
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An unpacked kernel.
pub(super) struct Image {
    /// Its Debian package.
    pub(super) package: String,
    /// The bootable file.
    pub(super) kernel: PathBuf,
    /// Has `kernel/`, the folder of modules.
    modules: PathBuf,
}

/// Gets the newest kernel of a version, such as `6.1`; what an earlier call left is used again.
///
/// # Errors
/// When Debian's lists have no such kernel, or it can't be fetched or unpacked.
pub(super) fn obtain(folder: &Path, version: &str) -> Result<Image> {
    let package = match package(version) {
        Ok(package) => package,
        // Lists that are old, or empty as on a fresh machine.
        Err(_) => {
            step::run_on_stderr(Command::new("apt-get").args(["-q", "update"]))?;
            package(version)?
        }
    };
    let root = unpack(folder, &package)?;
    let release = package.trim_start_matches("linux-image-");
    // Debian 13 has them under /usr.
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|path| root.join(path).join(release))
        .into_iter()
        .find(|path| path.is_dir())
        .with_context(|| format!("{package} has no modules"))?;
    Ok(Image {
        kernel: root.join("boot").join(format!("vmlinuz-{release}")),
        package,
        modules,
    })
}

/// Gets a package and unpacks it into `folder`, under its own name, unless an earlier call did.
///
/// # Errors
/// When it can't be fetched or unpacked.
pub(super) fn unpack(folder: &Path, package: &str) -> Result<PathBuf> {
    let root = folder.join(package);
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!("xtask: fetching {package} from Debian");
    let part = folder.join(format!("{package}.part"));
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can't remove {}", part.display()));
        }
        _ => {}
    }
    fs::create_dir_all(&part).with_context(|| format!("can't make {}", part.display()))?;
    let mut download = Command::new("apt-get");
    download.current_dir(&part).args(["-q", "download", package]);
    step::run_on_stderr(&mut download).context("can't fetch it; `apt-get update` may help")?;
    let archive = entries(&part)?
        .pop()
        .with_context(|| format!("apt-get left no {package}"))?;
    step::run_on_stderr(quiet("dpkg").arg("--extract").arg(&archive).arg(&part))?;
    fs::remove_file(&archive).with_context(|| format!("can't remove {}", archive.display()))?;
    fs::rename(&part, &root).with_context(|| format!("can't rename {}", part.display()))?;
    Ok(root)
}

/// The package that stands for a version now. The cloud flavour is the same source with fewer drivers, a third of the
/// size: it has BPF, BTF, XDP and veth.
fn package(version: &str) -> Result<String> {
    let of = |meta: &str| -> Result<Option<String>> {
        let mut depends = quiet("apt-cache");
        depends.args(["depends", "--important", meta]);
        let listing = step::output(&mut depends)?;
        let words = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        let names = |name: &&str| name.starts_with(&format!("linux-image-{version}."));
        Ok(words.map(str::trim).find(names).map(str::to_owned))
    };
    // The release's own kernel, then one that it has beside it.
    for meta in [
        "linux-image-cloud-amd64".to_owned(),
        format!("linux-image-{version}-cloud-amd64"),
    ] {
        if let Ok(Some(package)) = of(&meta) {
            return Ok(package);
        }
    }
    bail!("Debian's package lists have no kernel {version} (of the flavour cloud-amd64)")
}

impl Image {
    /// The files of modules and of all that they need, in the order in which to load them, unpacked into `folder`.
    ///
    /// # Errors
    /// When one isn't there or can't be read.
    pub(super) fn modules(&self, names: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in names {
            self.module(name, folder, &mut files)?;
        }
        Ok(files)
    }

    fn module(&self, name: &str, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        let file = folder.join(format!("{name}.ko"));
        if files.contains(&file) {
            return Ok(());
        }
        let found = find(&self.modules, &[&format!("{name}.ko"), &format!("{name}.ko.xz")])?
            .with_context(|| format!("{} has no module {name}", self.package))?;
        if found.extension().is_some_and(|end| end == "xz") {
            let output = fs::File::create(&file).with_context(|| format!("can't make {}", file.display()))?;
            step::run(
                quiet("xz")
                    .args(["--decompress", "--stdout"])
                    .arg(&found)
                    .stdout(output),
            )?;
        } else {
            fs::copy(&found, &file).with_context(|| format!("can't copy {}", found.display()))?;
        }
        let bytes = fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        for needed in needs(&bytes).with_context(|| format!("can't read {}", found.display()))? {
            self.module(&needed, folder, files)?;
        }
        files.push(file);
        Ok(())
    }
}

/// The modules that a module names in its `.modinfo`.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    let depends = text.split('\0').find_map(|entry| entry.strip_prefix("depends="));
    let names = depends
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty());
    // A module's file may spell with `-` what its name spells with `_`.
    Ok(names.map(str::to_owned).collect())
}

/// The first file below `folder` with one of the names; `-` and `_` are the same.
fn find(folder: &Path, names: &[&str]) -> Result<Option<PathBuf>> {
    for path in entries(folder)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if let Some(found) = find(&path, names)? {
                return Ok(Some(found));
            }
        } else if names.contains(&name.replace('-', "_").as_str()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.with_context(|| format!("can't read {}", folder.display()))
}
