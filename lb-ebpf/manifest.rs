//! The manifest of the committed eBPF objects, and whether they fit the sources beside them.
//!
//! Shared by `lb-userspace/build.rs` (refuses objects that do not fit) and `xtask` (writes and checks them); it
//! therefore uses nothing but the standard library and `sha2`. Why there is a manifest at all:
//! `docs/adr/0001-ebpf-object.md`.
//!
//! One fact per line, a keyword and its value:
//!
//! ```text
//! rustc 1.96.0 (ac68faa20 2026-05-25)
//! llvm 22.1.8
//! bpf-linker 0.13.0
//! flags -Cdebuginfo=2 -Clink-arg=--btf
//! source <sha256> <path relative to the repository's root>
//! object <sha256> <file name in lb-ebpf/obj>
//! ```

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{error, fmt, fs, io};

/// Folder of the objects, relative to the repository's root.
pub(crate) const OBJECT_DIR: &str = "lb-ebpf/obj";
/// Compiler flags that decide the objects' bytes. Flags that only rename paths are left out: they differ from
/// machine to machine so that the bytes do not.
pub(crate) const FLAGS: &str =
    "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3 -Ctarget-feature=+allows-misaligned-mem-access";

/// Where the manifest is in the repository `root`.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join(OBJECT_DIR).join("MANIFEST")
}

/// SHA-256 of `bytes` in lower-case hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A file and the hash of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hashed {
    /// Relative to the repository's root (sources) or to [`OBJECT_DIR`] (objects), `/`-separated.
    pub(crate) path: String,
    /// SHA-256, 64 lower-case hex digits.
    pub(crate) sha256: String,
}

/// What the committed objects were built from and with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Version and commit of the compiler.
    pub(crate) rustc: String,
    /// Version of the compiler's LLVM.
    pub(crate) llvm: String,
    /// Version of the linker.
    pub(crate) bpf_linker: String,
    /// [`FLAGS`] at the time of the build.
    pub(crate) flags: String,
    /// Every file of the repository that went into the objects.
    pub(crate) sources: Vec<Hashed>,
    /// The objects.
    pub(crate) objects: Vec<Hashed>,
}

/// Why the committed objects can't be used.
#[derive(Debug)]
pub(crate) enum Misfit {
    /// The manifest or a folder can't be read.
    Unreadable(PathBuf, io::Error),
    /// Line (from 1) of the manifest that says nothing known.
    BadLine(usize),
    /// A source is not what the objects were built from (or is gone).
    Source(String),
    /// An object is not the one that was built (or is gone).
    Object(String),
    /// The objects were built with other flags, these.
    Flags(String),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::BadLine(line) => write!(f, "{OBJECT_DIR}/MANIFEST: line {line} is not understood"),
            Self::Source(path) => write!(f, "{path}: changed since the objects were built"),
            Self::Object(path) => write!(
                f,
                "{OBJECT_DIR}/{path}: missing, or not the object that was built"
            ),
            Self::Flags(flags) => write!(f, "built with the flags `{flags}`, now they are `{FLAGS}`"),
        }
    }
}

impl error::Error for Misfit {}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Written by `cargo xtask build-ebpf`; docs/adr/0001-ebpf-object.md says what for."
        )?;
        writeln!(f, "rustc {}\nllvm {}", self.rustc, self.llvm)?;
        writeln!(f, "bpf-linker {}\nflags {}", self.bpf_linker, self.flags)?;
        for Hashed { path, sha256 } in &self.sources {
            writeln!(f, "source {sha256} {path}")?;
        }
        for Hashed { path, sha256 } in &self.objects {
            writeln!(f, "object {sha256} {path}")?;
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads the manifest of the repository `root`.
    ///
    /// # Errors
    /// [`Misfit::Unreadable`] or [`Misfit::BadLine`].
    pub(crate) fn read(root: &Path) -> Result<Self, Misfit> {
        let path = path(root);
        let text = fs::read_to_string(&path).map_err(|error| Misfit::Unreadable(path, error))?;
        Self::parse(&text)
    }

    /// The inverse of `Display`; empty lines and those that start with `#` are skipped.
    ///
    /// # Errors
    /// [`Misfit::BadLine`] for an unknown keyword or a hash that is none.
    pub(crate) fn parse(text: &str) -> Result<Self, Misfit> {
        let mut manifest = Self::default();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || Misfit::BadLine(index + 1);
            let (keyword, value) = line.split_once(' ').ok_or_else(bad)?;
            match keyword {
                "rustc" => manifest.rustc = value.to_owned(),
                "llvm" => manifest.llvm = value.to_owned(),
                "bpf-linker" => manifest.bpf_linker = value.to_owned(),
                "flags" => manifest.flags = value.to_owned(),
                "source" => manifest.sources.push(Hashed::parse(value).ok_or_else(bad)?),
                "object" => manifest.objects.push(Hashed::parse(value).ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(manifest)
    }

    /// Everything in which the repository `root` differs from what the objects were built from; empty when they
    /// fit.
    pub(crate) fn misfits(&self, root: &Path) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        if self.flags != FLAGS {
            misfits.push(Misfit::Flags(self.flags.clone()));
        }
        let changed = |folder: &Path, file: &Hashed| {
            fs::read(folder.join(&file.path)).map_or(true, |bytes| sha256(&bytes) != file.sha256)
        };
        let sources = self.sources.iter().filter(|file| changed(root, file));
        misfits.extend(sources.map(|file| Misfit::Source(file.path.clone())));
        let object_dir = root.join(OBJECT_DIR);
        let objects = self.objects.iter().filter(|file| changed(&object_dir, file));
        misfits.extend(objects.map(|file| Misfit::Object(file.path.clone())));
        misfits
    }
}

impl Hashed {
    fn parse(value: &str) -> Option<Self> {
        let (sha256, path) = value.split_once(' ')?;
        let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_hash && !path.is_empty()).then(|| Self {
            path: path.to_owned(),
            sha256: sha256.to_owned(),
        })
    }
}
