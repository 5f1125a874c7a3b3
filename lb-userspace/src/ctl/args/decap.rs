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
        /// Addresses or prefixes of the nodes' outer sources, at most 1,024; repeatable. For the second chance those of the
        /// other backends as well.
        #[arg(long, required = true, num_args = 1.., value_name = "PREFIX", value_parser = prefix)]
        allow: Vec<IpNet>,
        /// The UDP port that is taken for GUE, as `gue_port` of the pool; 0: GUE is left alone.
        #[arg(long, value_name = "PORT", default_value_t = lb_common::gue::PORT)]
        gue_port: u16,
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
