//! Arguments of `lbctl pki`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::peer::pki::NODE_DAYS;

/// What `lbctl pki` can do.
///
/// The authority's folder stays where only you get at it; each node gets a folder with `ca.pem`, `node.pem` and `node.key`, by
/// default `/etc/tandem/pki` (`group.peering.pki`).
#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Makes the authority of a group: `ca.pem`, and `ca.key`, which no node needs.
    Init {
        /// The authority's folder.
        dir: PathBuf,
        /// The group's name in certificates: letters, digits, hyphens.
        #[arg(long)]
        group: String,
        /// Replace an authority: every node then needs a new certificate.
        #[arg(long)]
        force: bool,
    },
    /// Makes a node's key and certificate.
    Issue {
        /// The authority's folder.
        dir: PathBuf,
        /// The node's name, as its `node.name` says it.
        node: String,
        /// The node's folder, to be moved there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how long it is good.
        #[arg(long, value_name = "N", default_value_t = NODE_DAYS)]
        days: u32,
        /// Replace a key and certificate that are there.
        #[arg(long)]
        force: bool,
    },
    /// Makes a new certificate for a node's key. Running agents take it within seconds, and no connection ends.
    ///
    /// To change the authority: `init` one of the same group in another folder, and append its `ca.pem` to that of every node; when
    /// all trust both, `renew` every node by the new one; then take the old one out of every `ca.pem`, which stands behind the new one
    /// there. Agents then begin their sessions anew, with the new certificates.
    Renew {
        /// The authority's folder.
        dir: PathBuf,
        /// The node's folder, or a copy of it.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how long it is good.
        #[arg(long, value_name = "N", default_value_t = NODE_DAYS)]
        days: u32,
    },
    /// Whose certificates are in a folder, and until when they are good. Exit code 1: one is not, or not any more, or what is there
    /// doesn't belong together.
    Show {
        /// The authority's folder, or a node's.
        dir: PathBuf,
    },
}
