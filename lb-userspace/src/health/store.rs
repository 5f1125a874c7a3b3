//! What one agent leaves to the next: a JSON file, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::monitor::Record;

/// The shape of the file.
const VERSION: u32 = 1;

/// The file's name in the state directory.
pub const FILE: &str = "health.json";

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    backends: Vec<Record>,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read or written.
    #[error("{path}: {why}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// It holds something else.
    #[error("{path}: {why}", path = .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        why: serde_json::Error,
    },
    /// It was written by another version of the agent.
    #[error("{path}: version {found}, this agent knows {VERSION}", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Reads what was left; nothing where there is no file.
///
/// # Errors
/// Where there is one that can't be used.
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    let owned = || path.to_owned();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => {
            return Err(Error::Io { path: owned(), why });
        }
    };
    let saved: Saved = serde_json::from_slice(&text).map_err(|why| Error::Form { path: owned(), why })?;
    if saved.version != VERSION {
        return Err(Error::Version {
            path: owned(),
            found: saved.version,
        });
    }
    Ok(saved.backends)
}

/// Replaces the file, so that at any moment it is the old one or the new one, also after a power failure. Makes its
/// folder if need be.
///
/// # Errors
/// Where the folder or the file can't be written.
pub fn write(path: &Path, records: &[Record]) -> Result<(), Error> {
    let saved = Saved {
        version: VERSION,
        backends: records.to_vec(),
    };
    let text = serde_json::to_vec(&saved).map_err(|why| Error::Form {
        path: path.to_owned(),
        why,
    })?;
    replace(path, &text).map_err(|why| Error::Io {
        path: path.to_owned(),
        why,
    })
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("json.new");
    let mut file = File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Phase;

    fn record() -> Record {
        Record {
            id: u64::MAX,
            address: "198.51.100.1".parse().unwrap(),
            phase: Phase::Suspect,
            since_unix_ms: 1_700_000_000_123,
            reason: "connection refused".into(),
            penalty: 1.5,
            held: false,
            at_unix_ms: 1_700_000_001_000,
            open: 1,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state").join(FILE);
        assert_eq!(read(&path).unwrap(), []);
        write(&path, &[record()]).unwrap();
        assert_eq!(read(&path).unwrap(), [record()]);
        write(&path, &[]).unwrap();
        assert_eq!(read(&path).unwrap(), []);
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing else stays");
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "{\"version\":1,\"backends\":[").unwrap();
        assert!(matches!(read(&path), Err(Error::Form { .. })));
        fs::write(&path, "{\"version\":2,\"backends\":[]}").unwrap();
        assert!(matches!(read(&path), Err(Error::Version { found: 2, .. })));
        assert!(matches!(read(folder.path()), Err(Error::Io { .. })));
    }
}
