//! The charter on disk: what is committed, what is pending, and the history.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::agent::store::{Loaded, Store, StoreError};
use crate::charter::fsm::{Kept, Save};
use crate::charter::message::Held;
use crate::group::Generation;

/// The folder in the state folder.
const DIR: &str = "charter";

/// The folder of the history in it.
const HISTORY: &str = "history";

/// The last one that was committed.
const CURRENT: &str = "current";

/// The one that was accepted.
const PENDING: &str = "pending";

/// The generation that this node's file says.
const WRITTEN: &str = "written";

/// Whether this node has left the group.
const LEFT: &str = "left";

/// So many generations are kept, and so many with another text than the one before.
pub(in crate::agent) const KEPT: usize = 10;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    /// The highest number that was seen.
    last: u64,
    held: Option<Held>,
}

/// A file that can't be understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::agent) struct Unreadable {
    /// Where it is now.
    pub(in crate::agent) kept: String,
    /// What is wrong with it.
    pub(in crate::agent) why: String,
}

/// The folder.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Shelf {
    store: Store,
    history: Store,
}

impl Shelf {
    pub(in crate::agent) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join(DIR);
        Ok(Self {
            store: Store::open(&dir)?,
            history: Store::open(&dir.join(HISTORY))?,
        })
    }

    /// What is on the disk, and what of it can't be understood. In place of a current one that can't, the newest of the
    /// history holds: it was in force, and the peers know what came after it.
    pub(in crate::agent) fn load(&self) -> Result<(Kept, Vec<Unreadable>), StoreError> {
        let mut lost = Vec::new();
        let pending: Pending = self.read(PENDING, &mut lost)?.unwrap_or_default();
        let current: Option<Held> = self.read(CURRENT, &mut lost)?;
        let newest = self.history()?.into_iter().next();
        let newest = newest.filter(|held| held.generation.number > 0);
        let committed = match (current, newest) {
            (Some(current), newest) => {
                if newest.is_none_or(|newest| newest.generation < current.generation) {
                    self.remember(&current);
                }
                Some(current)
            }
            (None, newest) => newest,
        };
        let kept = Kept {
            committed,
            pending: pending.held,
            last: pending.last,
        };
        Ok((kept, lost))
    }

    fn read<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        lost: &mut Vec<Unreadable>,
    ) -> Result<Option<T>, StoreError> {
        match self.store.load(name)? {
            Loaded::Nothing => Ok(None),
            Loaded::Value(value) => Ok(Some(value)),
            Loaded::Unreadable { kept, why } => {
                let kept = kept.display().to_string();
                lost.push(Unreadable { kept, why });
                Ok(None)
            }
        }
    }

    pub(in crate::agent) fn save(&self, save: &Save) -> Result<(), StoreError> {
        match save {
            Save::Pending(held) => {
                let (last, held) = (held.generation.number, Some(held.clone()));
                self.store.save(PENDING, &Pending { last, held })
            }
            Save::Dropped { last } => self.store.save(
                PENDING,
                &Pending {
                    last: *last,
                    held: None,
                },
            ),
            Save::Committed(held) => {
                self.store.save(CURRENT, held)?;
                // Decided. What is pending is older now, and is taken for nothing when it is read.
                let last = held.generation.number;
                if let Err(e) = self.store.save(PENDING, &Pending { last, held: None }) {
                    warn!("{e}");
                }
                self.remember(held);
                Ok(())
            }
        }
    }

    /// Adds to the history, which nothing depends on.
    pub(in crate::agent) fn remember(&self, held: &Held) {
        let done = self.history.save(&file(held.generation), held);
        let done = done.and_then(|()| self.forget());
        if let Err(e) = done {
            warn!("the history of configurations could not be written: {e}");
        }
    }

    /// Notes that this node's file says what this generation does.
    pub(in crate::agent) fn note_written(&self, generation: Generation) {
        if let Err(e) = self.store.save(WRITTEN, &generation) {
            warn!("{e}");
        }
    }

    /// What was noted last.
    pub(in crate::agent) fn written(&self) -> Option<Generation> {
        match self.store.load(WRITTEN) {
            Ok(Loaded::Value(generation)) => Some(generation),
            Ok(Loaded::Nothing | Loaded::Unreadable { .. }) | Err(_) => None,
        }
    }

    /// Notes whether this node has left.
    pub(in crate::agent) fn note_left(&self, left: bool) -> Result<(), StoreError> {
        self.store.save(LEFT, &left)
    }

    /// What was noted last.
    pub(in crate::agent) fn has_left(&self) -> bool {
        matches!(self.store.load(LEFT), Ok(Loaded::Value(true)))
    }

    /// Takes the note away, if there is one.
    pub(in crate::agent) fn forget_left(state_dir: &Path) -> Result<(), StoreError> {
        if !state_dir.join(DIR).is_dir() {
            return Ok(());
        }
        let shelf = Self::open(state_dir)?;
        if shelf.has_left() {
            shelf.note_left(false)
        } else {
            Ok(())
        }
    }

    /// Keeps the newest, and the newest texts: many orders must not push out what can be gone back to.
    fn forget(&self) -> Result<(), StoreError> {
        let all = self.history()?;
        let texts = all.iter().map(|held| &held.charter.text);
        let before = texts.skip(1).map(Some).chain([None]);
        let mut texts = 0;
        for (number, (held, before)) in all.iter().zip(before).enumerate() {
            let is_new = before != Some(&held.charter.text);
            texts += usize::from(is_new);
            if number < KEPT || is_new && texts <= KEPT {
                continue;
            }
            let name = file(held.generation);
            let path = self.history.dir().join(name);
            fs::remove_file(&path).map_err(|why| StoreError { path, why })?;
        }
        Ok(())
    }

    /// Names of the history's files, the newest first.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let dir = self.history.dir();
        let fail = |why| StoreError {
            path: dir.to_owned(),
            why,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let name = name.to_string_lossy();
            if name.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// The last generations, the newest first. Those that can't be read are kept aside and left out.
    pub(in crate::agent) fn history(&self) -> Result<Vec<Held>, StoreError> {
        let mut held = Vec::new();
        for name in self.names()? {
            match self.history.load(&name)? {
                Loaded::Value(one) => held.push(one),
                Loaded::Nothing => {}
                Loaded::Unreadable { kept, why } => {
                    warn!(
                        "a configuration of the history can't be read: {why}; it is kept as {}",
                        kept.display()
                    );
                }
            }
        }
        Ok(held)
    }
}

/// Its order by name is that of generations.
fn file(generation: Generation) -> String {
    format!("{:016}-{:03}", generation.number, generation.node)
}

#[cfg(test)]
mod tests;
