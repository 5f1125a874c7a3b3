//! Arguments of `lbctl decap`.

use clap::Subcommand;
use ipnet::IpNet;

use super::{Mode, prefix};

/// What `lbctl decap` can do.
#[derive(Debug, Subcommand)]
pub enum Decap {
    /// Attach to an interface, and allow exactly these outer sources.
    Attach {
        /// The interface that encapsulated packets come in by.
        #[arg(long)]
        interface: String,
        /// Addresses or prefixes of the nodes' outer sources, at most 1,024; repeatable.
        #[arg(long, required = true, num_args = 1.., value_name = "PREFIX", value_parser = prefix)]
        allow: Vec<IpNet>,
        /// Native or generic mode; auto falls back to generic.
        #[arg(long, value_enum, default_value_t = Mode::Auto)]
        attach: Mode,
    },
    /// Take it off an interface.
    Detach {
        /// The interface.
        #[arg(long)]
        interface: String,
    },
    /// Interfaces, allowed sources, counters.
    Status,
}
