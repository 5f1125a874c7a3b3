//! The command line of `lbd`.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::api::{DEFAULT_SOCKET, DEFAULT_STATE};
use crate::dataplane::pin::DEFAULT_ROOT;

/// Tandem's agent: programs the XDP balancer of this node from a configuration file and keeps it current.
///
/// SIGHUP reads the file again. Stopping the agent leaves the balancer running; `lbctl detach` takes it off.
#[derive(Debug, Parser)]
#[command(name = "lbd", version)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and exit: 0 valid, 1 not.
    #[arg(long)]
    pub check: bool,
    /// Load, fill and pin everything, but attach to no interface.
    #[arg(long)]
    pub no_attach: bool,
    /// The folder for pins, on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub pin_root: PathBuf,
    /// The folder for what survives a restart: the operator's orders, the journal.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state_dir: PathBuf,
    /// The Unix socket that `lbctl` commands the agent by; `none` for no socket.
    #[arg(long, value_name = "PATH|none", default_value = DEFAULT_SOCKET)]
    pub api_socket: PathBuf,
    /// A group, by name or number, whose members may command the agent beside root. Without CAP_CHOWN, as under the
    /// systemd unit, the agent must be in it (`SupplementaryGroups=`).
    #[arg(long, value_name = "GROUP")]
    pub api_group: Option<String>,
}

impl Args {
    /// The socket, where there is to be one.
    pub(super) fn socket(&self) -> Option<&Path> {
        (self.api_socket != Path::new("none")).then_some(&self.api_socket)
    }
}
