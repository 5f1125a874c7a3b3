//! `cargo xtask build-ebpf`: the eBPF programs, from their sources to `lb-ebpf/obj` and its manifest.

use crate::manifest::{self, FLAGS, Hashed, Manifest};
use crate::toolchain::{self, Toolchain};
use crate::{rustc_wrapper, step};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build nothing: say whether the committed objects fit the sources (needs no toolchain)
    #[arg(long, conflicts_with_all = ["verify", "lint"])]
    check: bool,
    /// Build, and compare with the committed objects byte for byte instead of replacing them
    #[arg(long, conflicts_with = "lint")]
    verify: bool,
    /// Run clippy on the programs instead of building them
    #[arg(long)]
    lint: bool,
}

/// Files beside the dep-info that decide what cargo builds. The root's `Cargo.toml` is not one of them
/// (docs/adr/0001-ebpf-object.md).
const CARGO_FILES: [&str; 3] = ["lb-common/Cargo.toml", "lb-ebpf/Cargo.lock", "lb-ebpf/Cargo.toml"];

/// What the kernel, aya, or a person with a verifier log needs.
const SECTIONS: [&str; 3] = [".BTF", ".BTF.ext", "license"];

struct Built {
    manifest: Manifest,
    /// File name in `lb-ebpf/obj` and contents.
    objects: Vec<(String, Vec<u8>)>,
}

/// The command.
///
/// # Errors
/// When the toolchain can't be had, the programs don't build, or the objects don't fit.
pub(crate) fn build_ebpf(root: &Path, args: &Args) -> Result<()> {
    if args.check {
        check(root)
    } else if args.lint {
        lint(root)
    } else if args.verify {
        verify(root)
    } else {
        write(root, &build(root)?)
    }
}

/// Whether the committed objects fit the sources.
///
/// # Errors
/// With everything that does not fit.
pub(crate) fn check(root: &Path) -> Result<()> {
    let misfits = Manifest::read(root)?.misfits(root);
    if !misfits.is_empty() {
        let lines: Vec<String> = misfits.iter().map(|misfit| format!("  {misfit}")).collect();
        bail!(
            "the eBPF objects do not fit the sources:\n{}\nBuild them anew: cargo xtask build-ebpf",
            lines.join("\n")
        );
    }
    println!("the eBPF objects fit the sources");
    Ok(())
}

/// Builds the programs and compares them with the committed objects.
///
/// # Errors
/// When the same toolchain makes other bytes. Another toolchain is no error: it can't prove anything.
pub(crate) fn verify(root: &Path) -> Result<()> {
    let committed = Manifest::read(root)?;
    // From nothing: what an earlier build left could be taken for what the sources build to.
    let release_dir = Toolchain::release_dir(&root.join("target/ebpf"));
    if release_dir.exists() {
        fs::remove_dir_all(&release_dir)
            .with_context(|| format!("can't remove {}", release_dir.display()))?;
    }
    let built = build(root)?.manifest;
    let versions = |manifest: &Manifest| {
        let Manifest {
            rustc,
            llvm,
            bpf_linker,
            ..
        } = manifest;
        format!("rustc {rustc}, LLVM {llvm}, bpf-linker {bpf_linker}")
    };
    if versions(&committed) != versions(&built) {
        println!(
            "the eBPF programs build, but can't be compared byte for byte: the committed ones are from {}, \
             here is {}",
            versions(&committed),
            versions(&built)
        );
        return Ok(());
    }
    if committed != built {
        bail!(
            "the committed eBPF objects are not what their sources build to.\n--- committed\n{committed}\
             --- built here\n{built}"
        );
    }
    println!("the eBPF objects are byte for byte what their sources build to");
    Ok(())
}

/// Clippy on the programs.
///
/// # Errors
/// On any warning.
pub(crate) fn lint(root: &Path) -> Result<()> {
    let toolchain = toolchain::obtain(&root.join("target"))?;
    let mut clippy = toolchain.clippy(&root.join("lb-ebpf"))?;
    clippy
        .args(["--locked", "--quiet", "--target-dir"])
        .arg(root.join("target/ebpf-lint"));
    clippy
        .env("CLIPPY_CONF_DIR", root)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Dwarnings");
    step::run_on_stderr(&mut clippy)?;
    println!("clippy has nothing to say about the eBPF programs");
    Ok(())
}

fn build(root: &Path) -> Result<Built> {
    check_edition(root)?;
    let toolchain = toolchain::obtain(&root.join("target"))?;
    let target_dir = root.join("target/ebpf");
    let folder = root.join("lb-ebpf");
    // The sources' folders must be known before the build, which hides their paths.
    let mut fetch = step::cargo(&folder);
    step::run_on_stderr(fetch.args(["fetch", "--locked", "--quiet"])).context(
        "after a change of dependencies, run `cargo update --workspace --manifest-path lb-ebpf/Cargo.toml` first",
    )?;
    let mut cargo = toolchain.cargo("build", &folder)?;
    cargo
        .args(["--locked", "--bins", "--target-dir"])
        .arg(&target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(root)?);
    rustc_wrapper::install(&mut cargo)?;
    step::run_on_stderr(&mut cargo)?;

    let release_dir = Toolchain::release_dir(&target_dir);
    let mut sources: BTreeSet<String> = CARGO_FILES.iter().map(|&file| file.to_owned()).collect();
    let mut objects = Vec::new();
    for program in programs(&folder)? {
        sources.extend(dep_info(root, &release_dir.join(format!("{program}.d")))?);
        let bytes = strip(&toolchain, &release_dir.join(&program))?;
        objects.push((format!("{program}.o"), bytes));
    }
    let hashed = |path: &String| {
        let bytes = fs::read(root.join(path)).with_context(|| format!("can't read {path}"))?;
        Ok(Hashed {
            path: path.clone(),
            sha256: manifest::sha256(&bytes),
        })
    };
    let manifest = Manifest {
        rustc: toolchain.rustc,
        llvm: toolchain.llvm,
        bpf_linker: toolchain.bpf_linker,
        flags: FLAGS.to_owned(),
        sources: sources.iter().map(hashed).collect::<Result<_>>()?,
        objects: objects
            .iter()
            .map(|(path, bytes)| Hashed {
                path: path.clone(),
                sha256: manifest::sha256(bytes),
            })
            .collect(),
    };
    Ok(Built { manifest, objects })
}

/// The names of the programs: the folders of `lb-ebpf/src` that have a `main.rs`, sorted.
fn programs(package: &Path) -> Result<BTreeSet<String>> {
    let folder = package.join("src");
    let mut names = BTreeSet::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("can't read {}", folder.display()))?
            .path();
        if path.join("main.rs").exists() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

/// The one fact that `lb-common` could inherit from the root and that changes what is built.
fn check_edition(root: &Path) -> Result<()> {
    let path = root.join("lb-common/Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    if text
        .lines()
        .any(|line| line.starts_with("edition") && line.contains("workspace"))
    {
        bail!(
            "lb-common/Cargo.toml inherits its edition: the manifest would not notice a change. State it there \
             (docs/adr/0001-ebpf-object.md)."
        );
    }
    Ok(())
}

/// [`FLAGS`], and those that make the objects' bytes the same on every machine.
fn encoded_flags(root: &Path) -> Result<OsString> {
    // In the object only: messages keep paths that one can open.
    let mut flags = OsString::from(FLAGS.replace(' ', "\u{1f}"));
    flags.push("\u{1f}--remap-path-scope=object");
    let mut remap = |from: &Path, to: &str| {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    };
    remap(root, "/tandem");
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let registry = cargo_home
        .context("neither CARGO_HOME nor HOME is set")?
        .join("registry/src");
    // One folder per registry, named after its address.
    let entries = fs::read_dir(&registry).with_context(|| format!("can't read {}", registry.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("can't read {}", registry.display()))?;
        remap(&entry.path(), "/cargo");
    }
    Ok(flags)
}

/// The files of the repository that the dep-info file `path` names, relative to `root`.
fn dep_info(root: &Path, path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let (_, files) = text
        .split_once(": ")
        .with_context(|| format!("{} lists nothing", path.display()))?;
    // A blank in a path is written `\ `.
    let files = files.replace("\\ ", "\0");
    files
        .split_whitespace()
        .map(|file| file.replace('\0', " "))
        .map(|file| {
            let inside = Path::new(&file).strip_prefix(root).ok().and_then(Path::to_str);
            inside
                .map(str::to_owned)
                .with_context(|| format!("{file} went into an object from outside"))
        })
        .collect()
}

/// The object without DWARF, which is nine tenths of it and of no use to the kernel; BTF stays.
fn strip(toolchain: &Toolchain, program: &Path) -> Result<Vec<u8>> {
    let stripped = program.with_extension("o");
    step::run_on_stderr(
        toolchain
            .strip()
            .arg("--strip-debug")
            .arg("-o")
            .arg(&stripped)
            .arg(program),
    )?;
    let bytes = fs::read(&stripped).with_context(|| format!("can't read {}", stripped.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF", stripped.display()))?;
    for name in SECTIONS {
        if file
            .section_by_name(name)
            .is_none_or(|section| section.size() == 0)
        {
            bail!("{} has no section {name}", stripped.display());
        }
    }
    Ok(bytes)
}

fn write(root: &Path, built: &Built) -> Result<()> {
    let folder = root.join(manifest::OBJECT_DIR);
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let entries = fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("can't read {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "o") {
            fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    let put = |path: PathBuf, bytes: &[u8]| {
        fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))
    };
    for (name, bytes) in &built.objects {
        put(folder.join(name), bytes)?;
        println!("{}/{name}: {} bytes", manifest::OBJECT_DIR, bytes.len());
    }
    put(manifest::path(root), built.manifest.to_string().as_bytes())
}
