//! What must survive a restart beside the maps: small JSON files, each replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all files. One of another version is kept aside.
const VERSION: u32 = 1;

/// A state file is read up to this size, in bytes.
const READ_MAX: u64 = 64 << 20;

/// A file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: io::Error,
}

/// A folder of state files, readable by the agent's user alone.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// What a file had to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// There is none.
    Nothing,
    /// This.
    Value(T),
    /// Nothing that can be understood; it was moved to `kept`, so that it isn't lost and isn't met again.
    Unreadable {
        /// Where it is now.
        kept: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    version: u32,
    data: T,
}

/// The version alone, whatever else is there.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

impl Store {
    /// The folder at `dir`, made with mode 0700 where it is missing.
    ///
    /// # Errors
    /// [`StoreError`], where it can't be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let fail = |why| StoreError {
            path: dir.to_owned(),
            why,
        };
        let mut make = fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(dir).map_err(fail)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads a file; one that can't be understood is renamed to `NAME.unreadable`.
    ///
    /// # Errors
    /// [`StoreError`], where a file is there and can't be read or moved.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Loaded<T>, StoreError> {
        let path = self.dir.join(name);
        let fail = |why| StoreError {
            path: path.clone(),
            why,
        };
        let bytes = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
            Err(e) => return Err(fail(e)),
            Ok(meta) if meta.len() > READ_MAX => Err("it is too long".to_owned()),
            Ok(_) => Ok(fs::read(&path).map_err(fail)?),
        };
        let why = match bytes.and_then(|bytes| parse(&bytes)) {
            Ok(value) => return Ok(Loaded::Value(value)),
            Err(why) => why,
        };
        let kept = self.dir.join(format!("{name}.unreadable"));
        fs::rename(&path, &kept).map_err(fail)?;
        Ok(Loaded::Unreadable { kept, why })
    }

    /// Replaces a file: at every moment, also after a power cut, it holds the old value or the new one.
    ///
    /// # Errors
    /// [`StoreError`]; the old value is then still there.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        let data = Envelope {
            version: VERSION,
            data: value,
        };
        let text = serde_json::to_vec_pretty(&data).map_err(io::Error::from);
        let text = text.map_err(|why| StoreError {
            path: path.clone(),
            why,
        })?;
        Draft::write(&path, &text)?.publish()
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let any: AnyVersion = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if any.version != VERSION {
        return Err(format!(
            "it has version {}, this agent knows {VERSION}",
            any.version
        ));
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    Ok(envelope.data)
}

/// A new content for a file, on the disk beside it; dropped, it is removed.
#[derive(Debug)]
pub struct Draft {
    draft: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Draft {
    /// Writes the new content beside `path`, with the mode and owner of the file that is there, else 0600.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(path: &Path, content: &[u8]) -> Result<Self, StoreError> {
        let draft = Self {
            draft: beside(path, ".new"),
            path: path.to_owned(),
            published: false,
        };
        match draft.fill(content) {
            Ok(()) => Ok(draft),
            Err(why) => Err(StoreError {
                path: draft.draft.clone(),
                why,
            }),
        }
    }

    fn fill(&self, content: &[u8]) -> io::Result<()> {
        // What a crash has left may be somebody's link: it is not followed.
        match fs::remove_file(&self.draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&self.draft)?;
        file.write_all(content)?;
        if let Ok(meta) = fs::metadata(&self.path) {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
                chown(&self.draft, Some(meta.uid()), Some(meta.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))?;
        }
        file.sync_all()
    }

    /// Puts it in the place of the file.
    ///
    /// # Errors
    /// [`StoreError`]; the file is then as it was.
    pub fn publish(mut self) -> Result<(), StoreError> {
        let fail = |why| StoreError {
            path: self.path.clone(),
            why,
        };
        fs::rename(&self.draft, &self.path).map_err(fail)?;
        self.published = true;
        sync_dir(&self.path).map_err(fail)
    }

    /// Keeps a copy of the present file as `FILE.bak`, then takes its place. The copy's path; `None` where there was no
    /// file.
    ///
    /// # Errors
    /// [`StoreError`]; the file is then as it was.
    pub fn publish_with_backup(self) -> Result<Option<PathBuf>, StoreError> {
        let backup = beside(&self.path, ".bak");
        self.publish_over(backup)
    }

    /// The same with a copy that no later change writes over: `FILE.edited-1`, `FILE.edited-2`, whichever is free.
    ///
    /// # Errors
    /// [`StoreError`]; the file is then as it was.
    pub fn publish_and_keep(self) -> Result<Option<PathBuf>, StoreError> {
        let copies = (1u32..).map(|number| beside(&self.path, &format!(".edited-{number}")));
        let free = copies.into_iter().find(|copy| copy.symlink_metadata().is_err());
        let copy = free.expect("fewer files than numbers");
        // The file is as it was then, and it is tried again.
        self.publish_over(copy.clone())
            .inspect_err(|_| drop(fs::remove_file(&copy)))
    }

    fn publish_over(self, backup: PathBuf) -> Result<Option<PathBuf>, StoreError> {
        let former = match fs::read(&self.path) {
            Ok(former) => former,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.publish().map(|()| None),
            Err(why) => {
                return Err(StoreError {
                    path: self.path.clone(),
                    why,
                });
            }
        };
        // The key of the group may stand in it.
        let meta = fs::metadata(&self.path).and_then(|meta| {
            let copy = Self::write(&backup, &former).map_err(|e| e.why)?;
            fs::set_permissions(&copy.draft, fs::Permissions::from_mode(meta.mode() & 0o777))?;
            copy.publish().map_err(|e| e.why)
        });
        meta.map_err(|why| StoreError {
            path: backup.clone(),
            why,
        })?;
        self.publish().map(|()| Some(backup))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.draft);
        }
    }
}

/// A file's path with more at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Makes a rename last.
fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}
