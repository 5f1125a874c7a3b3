//! The process's own limit of open files.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::error::{IoContext, LabError};

/// Allows as many open files as the hard limit lets: a socket each for thousands of connections.
pub fn raise_open_files() -> Result<(), LabError> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context(|| "raise the limit of open files".to_owned())
}
