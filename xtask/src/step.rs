//! Running other programs: their output goes through, their failure becomes an error that names them.

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("xtask is a folder of the repository")
        .to_path_buf()
}

/// Cargo, run in the repository `root`: the one that started this program, else the one on PATH.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root);
    command
}

/// Runs `command` to its end.
///
/// # Errors
/// When it can't be started, or ends with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = with_sbin(command)
        .status()
        .with_context(|| format!("can't start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// As [`run`], for programs that make noise on stdout where ours is meant for somebody else.
pub(crate) fn run_on_stderr(command: &mut Command) -> Result<()> {
    run(command.stdout(io::stderr()))
}

/// Runs `command` and returns what it printed.
///
/// # Errors
/// When it can't be started, fails (its stderr is in the error), or prints what is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = with_sbin(command)
        .output()
        .with_context(|| format!("can't start {}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed: {}\n{}",
            line(command),
            output.status,
            stderr.trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", line(command)))
}

/// `path`, and root's own folders, which are not on the PATH that a user brings along through sudo.
fn folders(path: &OsStr) -> Vec<PathBuf> {
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(path).chain(sbin).collect()
}

/// Has `command` and all that it starts find root's programs: dpkg refuses to work where it can't.
pub(crate) fn with_sbin(command: &mut Command) -> &mut Command {
    let own = command.get_envs().find(|(name, _)| *name == "PATH");
    let path = own.map_or_else(|| env::var_os("PATH"), |(_, path)| path.map(OsStr::to_owned));
    match env::join_paths(folders(&path.unwrap_or_default())) {
        Ok(path) => command.env("PATH", path),
        // A colon in a folder of PATH: nothing can be added to such a PATH.
        Err(_) => command,
    }
}

/// The file of the program `name` on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    folders(&env::var_os("PATH")?)
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file()))
}

/// The command as one would type it, without its environment.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}
