//! What may go wrong while a lab is set up or driven.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// An error of the lab kit. Every variant names the command, file or process that it is about.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces, links and BPF need root.
    #[error("a lab needs root (it makes network namespaces and loads BPF programs)")]
    NotRoot,
    /// A tool could not be started at all.
    #[error("can't run `{command}`: {source} (needed: the Debian packages iproute2, ethtool and util-linux)")]
    Spawn {
        /// The command line.
        command: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// A tool ended with another exit code than 0.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, and for a batch the line that it refused.
        stderr: String,
    },
    /// A file, socket or system call.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// Something that should happen did not.
    #[error("{what} did not happen within {within:?}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// A process that should run has ended.
    #[error("{name} ended ({status}); the end of its log:\n{log}")]
    Exited {
        /// The process's name in the lab.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// A process wasn't running when it had to be.
    #[error("{name} is not running")]
    NotRunning {
        /// The process's name in the lab.
        name: String,
    },
    /// A binary of this workspace was not found.
    #[error(
        "binary {name} is neither in $LB_BIN_DIR nor in {looked:?}; run `cargo build --workspace --bins`"
    )]
    Binary {
        /// Its file name.
        name: &'static str,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// Output of a program of ours that isn't what we expect.
    #[error("{what}: unexpected output: {source}")]
    Json {
        /// The command or message.
        what: String,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// A field is missing in the output of a program of ours.
    #[error("{what}: field `{field}` is missing or of another type")]
    Field {
        /// The command.
        what: String,
        /// The path of the field.
        field: &'static str,
    },
    /// The node's configuration could not be written as YAML.
    #[error("node config: {0}")]
    Yaml(#[from] serde_yaml::ser::Error),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] lb_userspace::peer::pki::Error),
    /// A stranger could not be made.
    #[error("{what}: {source}")]
    Stranger {
        /// What was tried.
        what: String,
        /// TLS's or the certificate's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The router can't spread as it is asked to.
    #[error(
        "NOTHING WAS TESTED: the router's kernel has no resilient nexthop groups (Linux 5.12 or later, iproute2 5.12 or \
         later): {0}"
    )]
    Resilient(Box<LabError>),
    /// The pass program could not be loaded or attached.
    #[error("pass program at {interface}: {source}")]
    Pass {
        /// The interface.
        interface: String,
        /// aya's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A node's pinned maps could not be read.
    #[error("maps at {}: {source}", root.display())]
    Maps {
        /// The node's folder in bpffs.
        root: PathBuf,
        /// The data plane's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More hosts than the address plan has room for.
    #[error("at most {most} {what} in a lab, not {asked}")]
    TooMany {
        /// Nodes or backends.
        what: &'static str,
        /// The plan's limit.
        most: usize,
        /// What was asked for.
        asked: usize,
    },
    /// The person at the keyboard asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Attaches what was tried to an I/O error.
pub(crate) trait IoContext<T> {
    /// `what` with its path, such as `write /run/tandem-lab/7/lb1.yaml`.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|e| LabError::Io {
            what: what(),
            source: e.into(),
        })
    }
}
