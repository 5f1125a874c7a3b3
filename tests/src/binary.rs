//! Where the programs of this workspace are.

use std::path::PathBuf;

use crate::error::LabError;

/// The path of `lbd`, `lbctl` or `lb-lab`: in `$LB_BIN_DIR`, else beside the running executable
/// (for a test, which cargo puts into `deps/`, one folder up).
pub fn find(name: &'static str) -> Result<PathBuf, LabError> {
    let mut looked = Vec::new();
    if let Some(dir) = std::env::var_os("LB_BIN_DIR") {
        looked.push(PathBuf::from(dir));
    } else if let Ok(exe) = std::env::current_exe() {
        looked.extend(exe.ancestors().skip(1).take(2).map(PathBuf::from));
    }
    let found = looked
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    let path = found.ok_or(LabError::Binary { name, looked })?;
    Ok(path.canonicalize().unwrap_or(path))
}
