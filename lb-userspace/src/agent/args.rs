//! The command line of `lbd`.

use std::path::PathBuf;

use clap::Parser;

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
    /// The folder for what the next agent takes over.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tandem")]
    pub state_dir: PathBuf,
}
