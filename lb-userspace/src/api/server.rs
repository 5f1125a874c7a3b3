//! The socket: who may connect, and what one connection may take.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{Gid, chown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::call::Who;
use super::refusal::Refusal;

/// Root and the group may connect; everybody else is refused by the file system and then by [`Listener::may`].
const MODE: u32 = 0o660;

/// So many connections are served at once, others wait.
const CONNECTIONS: usize = 32;

/// A request's head must be complete after so long.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// A connection ends after so long, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(120);

/// Pause after an error of `accept`, such as no free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent serves there.
    #[error(
        "another lbd answers on {}: stop it, or give this one a socket of its own with --api-socket (`none` for no API)",
        .0.display()
    )]
    InUse(PathBuf),
    /// There is something else.
    #[error("{} is there and is no socket: move it away, or give lbd another path with --api-socket", .0.display())]
    NotASocket(PathBuf),
    /// No such group.
    #[error("no group {0:?} in /etc/group (--api-group)")]
    NoGroup(String),
    /// Something the file system said.
    #[error("API socket {}: {why}", .path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    group: Option<u32>,
}

impl Listener {
    /// Binds `path`, inside a tokio runtime; members of `group` (a name or a number) may use it beside root. Folders
    /// that are missing are made. The socket of a dead agent is replaced.
    ///
    /// # Errors
    /// [`Error`]: a living agent's socket, something else in its place, an unknown group, no rights.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Error> {
        let fail = |why| Error::Path {
            path: path.to_owned(),
            why,
        };
        let group = group.map(gid).transpose()?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let mut make = fs::DirBuilder::new();
            make.recursive(true).mode(0o755).create(dir).map_err(fail)?;
        }
        clear(path)?;
        let socket = UnixListener::bind(path).map_err(fail)?;
        if let Some(group) = group {
            chown(path, None, Some(Gid::from_raw(group))).map_err(|e| fail(e.into()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(fail)?;
        let meta = fs::metadata(path).map_err(fail)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
            group,
        })
    }

    /// Serves for ever.
    pub async fn serve(self, router: Router) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("the semaphore is never closed");
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    warn!("API socket: {e}");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let service = match self.may(&stream) {
                Ok(who) => router.clone().layer(Extension(who)),
                Err(refusal) => forbidding(refusal),
            };
            tokio::spawn(async move {
                connection(stream, service).await;
                drop(slot);
            });
        }
    }

    /// Who is there, if it may be there: root, the agent's own user, or a member of the group.
    fn may(&self, stream: &UnixStream) -> Result<Who, Option<u32>> {
        let peer = stream.peer_cred().map_err(|_| None)?;
        let (uid, pid) = (peer.uid(), peer.pid().unwrap_or(0));
        let own = rustix::process::geteuid().as_raw();
        let member = |group| peer.gid() == group || groups(pid).contains(&group);
        if uid == 0 || uid == own || self.group.is_some_and(member) {
            Ok(Who { uid, pid })
        } else {
            Err(Some(uid))
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not that of an agent that has taken our place.
        if fs::metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a dead agent.
fn clear(path: &Path) -> Result<(), Error> {
    let fail = |why| Error::Path {
        path: path.to_owned(),
        why,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match Blocking::connect(path) {
        Ok(_) => Err(Error::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(fail),
        Err(e) => Err(fail(e)),
    }
}

/// The number of a group.
fn gid(group: &str) -> Result<u32, Error> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let number = |line: &str| -> Option<u32> {
        let mut parts = line.split(':');
        (parts.next() == Some(group)).then(|| parts.nth(1)?.parse().ok())?
    };
    text.lines()
        .find_map(number)
        .ok_or_else(|| Error::NoGroup(group.to_owned()))
}

/// The supplementary groups of a process; none where it has ended.
fn groups(pid: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let numbers = line.unwrap_or_default().split_whitespace();
    numbers.filter_map(|number| number.parse().ok()).collect()
}

fn forbidding(uid: Option<u32>) -> Router {
    let uid = uid.unwrap_or(u32::MAX);
    let refuse = move || std::future::ready(Response::from(Refusal::Forbidden { uid }.into_response()));
    Router::new().fallback(refuse)
}

async fn connection(stream: UnixStream, router: Router) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_MAX, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => debug!("API connection: {e}"),
        Err(_) => debug!("API connection: too long"),
    }
}
