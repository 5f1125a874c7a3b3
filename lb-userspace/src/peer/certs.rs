//! The certificates' files, looked at again while we run.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::pki::{self, Error, Named};
use super::tls::{self, Ends};

/// What is in use, and what the files looked like when they were looked at last.
pub(super) struct Certs {
    folder: PathBuf,
    stamps: [Option<SystemTime>; 3],
    pub(super) named: Named,
    pub(super) ca_until: i64,
    pub(super) ends: Ends,
    /// The files hold something that can't be used.
    pub(super) failed: bool,
}

impl Certs {
    /// Reads those of the node `own`.
    pub(super) fn open(folder: &Path, own: &str) -> Result<Self, Error> {
        let stamps = pki::stamps(folder);
        let material = pki::load(folder)?;
        let found = material.named.node.clone().unwrap_or_default();
        if found != own {
            let (path, own) = (folder.join(pki::NODE), own.to_owned());
            return Err(Error::OtherNode { path, found, own });
        }
        Ok(Self {
            folder: folder.to_owned(),
            stamps,
            named: material.named.clone(),
            ca_until: material.ca_until,
            ends: tls::ends(material).map_err(|e| e.of(folder))?,
            failed: false,
        })
    }

    /// Why peers may refuse this node, which doesn't keep it from talking: they may trust others, and their clocks may differ.
    pub(super) fn doubt(&self) -> Option<Error> {
        let path = self.folder.join(pki::NODE);
        if !self.named.is_good() {
            return Some(Error::NotNow(path));
        }
        (!self.ends.is_trusted).then_some(Error::OtherAuthority(path))
    }

    /// Reads the files again if they have changed, or in any case. `Ok(false)`: nothing new. After an error what was in use
    /// stays.
    pub(super) fn again(&mut self, always: bool) -> Result<bool, Error> {
        let stamps = pki::stamps(&self.folder);
        // Several files are one change, so a failed look is repeated when the next one has been written.
        if !always && stamps == self.stamps {
            return Ok(false);
        }
        self.stamps = stamps;
        let own = self.named.node.clone().unwrap_or_default();
        match Self::open(&self.folder, &own) {
            Ok(new) => match self.refuses(&new) {
                None => {
                    *self = new;
                    Ok(true)
                }
                Some(e) => {
                    self.failed = true;
                    Err(e)
                }
            },
            Err(e) => {
                self.failed = true;
                Err(e)
            }
        }
    }

    /// Why what is in use is better than something new.
    fn refuses(&self, new: &Self) -> Option<Error> {
        let path = self.folder.join(pki::NODE);
        let (found, own) = (&new.named.group, &self.named.group);
        if found != own {
            let (found, own) = (found.clone(), own.clone());
            return Some(Error::OtherGroup { path, found, own });
        }
        let is_worse = self.named.is_good() && !new.named.is_good();
        is_worse.then_some(Error::NotNow(path))
    }
}
