//! The journal on disk: `events.jsonl` and the older `events.1.jsonl` to `events.3.jsonl`.
//!
//! A record is in the file when [`Journal::append`] returns, with one `write`; with [`Journal::sync`] after it, on the
//! disk too. Commands, configurations, starts and ends are synced before they are answered or go on; what network and
//! health report is left to the kernel to write back, so a power cut may lose its last half a minute.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::event::Record;

/// The file that records are written to.
pub const NAME: &str = "events.jsonl";

/// A file is closed and numbered when the next record would make it longer, in bytes.
pub const FILE_MAX: u64 = 4 << 20;

/// Files that are kept, the current one included.
pub const FILES: usize = 4;

/// The journal can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("journal {}: {why}", .path.display())]
pub struct Error {
    path: PathBuf,
    why: io::Error,
}

/// The one writer.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    len: u64,
    max: u64,
    next: u64,
}

impl Journal {
    /// Opens the journal in a folder that exists, and goes on where it ends.
    ///
    /// # Errors
    /// [`Error`], where it can't be read or written.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, FILE_MAX)
    }

    /// The same, with files of another size.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_with(dir: &Path, max: u64) -> Result<Self, Error> {
        let path = dir.join(NAME);
        let fail = |why| Error {
            path: path.clone(),
            why,
        };
        let next = read_last(dir, 1)?.last().map_or(1, |last| last.seq + 1);
        let mut file = open(&path).map_err(fail)?;
        let len = end_line(&mut file).map_err(fail)?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            len,
            max,
            next,
        })
    }

    /// Writes a record, whose number it gives.
    ///
    /// # Errors
    /// [`Error`]; the record is then not in the journal.
    pub fn append(&mut self, mut record: Record) -> Result<(), Error> {
        record.seq = self.next;
        let mut line = serde_json::to_vec(&record).map_err(|e| self.error(e.into()))?;
        line.push(b'\n');
        let long = line.len() as u64;
        if self.len > 0 && self.len + long > self.max {
            self.rotate().map_err(|e| self.error(e))?;
        }
        if let Err(e) = self.file.write_all(&line) {
            // Half a line must not spoil the next one. Where this fails too, the reader skips it.
            let _ = self.file.set_len(self.len);
            return Err(self.error(e));
        }
        self.len += long;
        self.next += 1;
        Ok(())
    }

    /// Waits until the disk has what was written.
    ///
    /// # Errors
    /// [`Error`].
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| self.error(e))
    }

    fn rotate(&mut self) -> io::Result<()> {
        for age in (1..FILES).rev() {
            match fs::rename(numbered(&self.dir, age - 1), numbered(&self.dir, age)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.file = open(&self.dir.join(NAME))?;
        self.len = 0;
        Ok(())
    }

    fn error(&self, why: io::Error) -> Error {
        Error {
            path: self.dir.join(NAME),
            why,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
}

/// Ends a line that a crash has cut off; the length of the file.
fn end_line(file: &mut File) -> io::Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    if len == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(len - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(len);
    }
    file.write_all(b"\n")?;
    Ok(len + 1)
}

/// The current file for age 0, else an older one.
fn numbered(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(NAME),
        age => dir.join(format!("events.{age}.jsonl")),
    }
}

/// The last `count` records, the oldest first. A journal that isn't there is empty.
///
/// # Errors
/// [`Error`], where a file is there and can't be read.
pub fn read_last(dir: &Path, count: usize) -> Result<Vec<Record>, Error> {
    let mut found: Vec<Record> = Vec::new();
    for age in 0..FILES {
        if found.len() >= count {
            break;
        }
        let mut older = records(&numbered(dir, age))?;
        older.append(&mut found);
        found = older;
    }
    found.drain(..found.len().saturating_sub(count));
    Ok(found)
}

/// Differs where something was written since it was taken: the current file and its length.
pub fn mark(dir: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(dir.join(NAME)).ok()?;
    Some((meta.ino(), meta.len()))
}

/// All records with a greater number than `seq`, the oldest first.
///
/// # Errors
/// As [`read_last`].
pub fn read_after(dir: &Path, seq: u64) -> Result<Vec<Record>, Error> {
    let mut found: Vec<Record> = Vec::new();
    for age in 0..FILES {
        let mut older = records(&numbered(dir, age))?;
        let whole = older
            .first()
            .is_some_and(|first| first.seq <= seq.saturating_add(1));
        older.append(&mut found);
        found = older;
        if whole {
            break;
        }
    }
    found.retain(|record| record.seq > seq);
    // A rotation between two reads shows a file twice.
    found.sort_by_key(|record| record.seq);
    found.dedup_by_key(|record| record.seq);
    Ok(found)
}

/// The records of one file; lines that are none (a crash cut them off) are left out.
fn records(path: &Path) -> Result<Vec<Record>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => {
            return Err(Error {
                path: path.to_owned(),
                why,
            });
        }
    };
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}
