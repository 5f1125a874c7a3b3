//! The group's key from a file of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::what::KeyFileError;
use crate::model::{GroupKey, KeyError};

/// What is read of a key file: enough for a key and the white space around it.
const READ_MAX: u64 = 4096;

/// Everyone may read or write.
const OPEN_BITS: u32 = 0o006;

/// Reads a key: 32 hex digits, white space around them.
///
/// Pipes and devices are refused before they are opened, since that could block for ever.
///
/// # Errors
/// The file can't be read, isn't regular, is open to everyone or holds no key.
pub(super) fn read(path: &Path) -> Result<GroupKey, KeyFileError> {
    let unreadable = |error: std::io::Error| KeyFileError::Unreadable(error.kind());
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(KeyFileError::NotAFile);
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & OPEN_BITS != 0 {
        return Err(KeyFileError::Open { mode });
    }
    let mut text = String::new();
    match file.take(READ_MAX).read_to_string(&mut text) {
        Ok(_) => text.trim().parse().map_err(KeyFileError::Key),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(KeyFileError::Key(KeyError::Digit)),
        Err(error) => Err(unreadable(error)),
    }
}
