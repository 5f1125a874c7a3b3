//! What a guest holds: an initramfs with the test programs, their libraries, a few tools, and a script that runs them.

use super::image::{self, Image};
use super::quiet;
use super::transcript::{MARK, Step};
use crate::step;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Tools that the tests start, taken from this host; busybox has the others.
const TOOLS: [&str; 6] = ["ip", "tc", "ethtool", "nsenter", "setpriv", "nstat"];

/// Kernel modules that the tests need: a kernel without a disk loads none by itself.
const MODULES: [&str; 4] = ["veth", "macvlan", "sch_ingress", "cls_bpf"];

/// Makes the initramfs; the file's path.
///
/// # Errors
/// When a program, library or module isn't there.
pub(super) fn pack(
    folder: &Path,
    image: &Image,
    programs: &[(&'static str, PathBuf)],
    steps: &[Step],
) -> Result<PathBuf> {
    let busybox = image::unpack(folder, "busybox-static")?.join("bin/busybox");
    let root = tempfile::tempdir_in(folder).context("can't make a folder for the initramfs")?;
    let root = root.path();
    for path in [
        "bin", "sbin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp",
    ] {
        let path = root.join(path);
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
    }
    copy(&busybox, &root.join("bin/busybox"))?;
    let mut files = Vec::new();
    for (name, file) in programs {
        copy(file, &root.join("bin").join(name))?;
        files.push(file.clone());
    }
    for name in TOOLS {
        let file = step::find_program(name).with_context(|| format!("{name} is not there"))?;
        copy(&file, &root.join("sbin").join(name))?;
        files.push(file);
    }
    for library in libraries(&files)? {
        let inside = library.strip_prefix("/").context("libraries have whole paths")?;
        let to = root.join(inside);
        let parent = to.parent().context("a library is in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
        copy(&library, &to)?;
    }
    let modules = image.modules(&MODULES, &root.join("modules"))?;
    let init = root.join("init");
    fs::write(&init, script(&modules, steps)).with_context(|| format!("can't write {}", init.display()))?;
    fs::set_permissions(&init, Permissions::from_mode(0o755)).context("can't make the script executable")?;
    archive(root, &folder.join(format!("{}.cpio", image.package)))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("can't copy {} to {}", from.display(), to.display()))
        .map(drop)
}

/// The shared libraries of programs, the loader among them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let listing = step::output(quiet("ldd").args(programs))?;
    let words = listing.lines().filter_map(|line| line.strip_prefix('\t'));
    let path = |line: &str| {
        let file = line.split(" => ").last()?.split(" (").next()?;
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    Ok(words.filter_map(path).collect())
}

/// The guest's first process. It reports each step's end on the console and turns the machine off.
fn script(modules: &[PathBuf], steps: &[Step]) -> String {
    let mut text = String::from(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/sbin:/bin HOME=/root RUST_BACKTRACE=1\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmp /tmp\n\
         mount -t tmpfs run /run\n\
         chmod 1777 /tmp\n\
         ip link set lo up\n",
    );
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("insmod /modules/{name}\n"));
    }
    text.push_str(&format!("cd /tmp\necho \"{MARK} up $(uname -r)\"\n"));
    for Step { name, command, .. } in steps {
        text.push_str(&format!(
            "echo '{MARK} begin {name}'\n{command}\necho \"{MARK} end {name} $?\"\n"
        ));
    }
    text.push_str(&format!("echo '{MARK} off'\npoweroff -f\n"));
    text
}

fn archive(root: &Path, file: &Path) -> Result<PathBuf> {
    let names = step::output(quiet("find").arg(".").current_dir(root))?;
    let list = root.with_extension("list");
    fs::write(&list, names).with_context(|| format!("can't write {}", list.display()))?;
    let open = File::open(&list).with_context(|| format!("can't read {}", list.display()))?;
    let output = File::create(file).with_context(|| format!("can't make {}", file.display()))?;
    let mut cpio = quiet("cpio");
    cpio.args(["--create", "--quiet", "--format=newc", "--owner=0:0"]);
    cpio.current_dir(root).stdin(Stdio::from(open)).stdout(output);
    let result = step::run(&mut cpio);
    fs::remove_file(&list).with_context(|| format!("can't remove {}", list.display()))?;
    result.map(|()| file.to_path_buf())
}
