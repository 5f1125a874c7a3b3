//! Hands the committed eBPF objects to the crate, if they were built from the sources beside them.
//!
//! Sets `LB_OBJ_DIR` (the folder to `include_bytes!` from) and `LB_OBJECT_HASH` (SHA-256 of the manifest, which
//! names every source and every object).

#[path = "../lb-ebpf/manifest.rs"]
mod manifest;

use manifest::{Manifest, Misfit, OBJECT_DIR};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = package
        .parent()
        .expect("the package is a folder of the repository");
    let misfits = match Manifest::read(root) {
        Err(misfit) => vec![misfit],
        Ok(manifest) => {
            let misfits = manifest.misfits(root);
            if misfits.is_empty() {
                watch(root, &manifest);
            }
            misfits
        }
    };
    if !misfits.is_empty() {
        return refuse(&misfits);
    }
    let bytes = fs::read(manifest::path(root)).expect("it was read a moment ago");
    println!("cargo:rustc-env=LB_OBJ_DIR={}", root.join(OBJECT_DIR).display());
    println!("cargo:rustc-env=LB_OBJECT_HASH={}", manifest::sha256(&bytes));
    ExitCode::SUCCESS
}

/// Has cargo run this again when the manifest or a file of it changes (after a failure it does so anyway).
fn watch(root: &Path, manifest: &Manifest) {
    println!("cargo:rerun-if-changed={}", manifest::path(root).display());
    let object_dir = root.join(OBJECT_DIR);
    let sources = manifest.sources.iter().map(|file| root.join(&file.path));
    let objects = manifest.objects.iter().map(|file| object_dir.join(&file.path));
    for path in sources.chain(objects) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

fn refuse(misfits: &[Misfit]) -> ExitCode {
    eprintln!("The eBPF objects in {OBJECT_DIR} do not fit the sources:");
    for misfit in misfits {
        eprintln!("  {misfit}");
    }
    eprintln!("Build them anew and commit them: cargo xtask build-ebpf");
    ExitCode::FAILURE
}
