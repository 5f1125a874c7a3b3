//! Certificates of a group: one authority, and one certificate for each node, named `NODE.GROUP.tandem`.

mod make;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use make::{CA_DAYS, NODE_DAYS, check_authority, init, issue, renew};

/// The authority's certificate, in its own folder and in every node's.
pub const CA: &str = "ca.pem";
/// The authority's key, in its own folder alone.
pub const CA_KEY: &str = "ca.key";
/// A node's certificate.
pub const NODE: &str = "node.pem";
/// A node's key.
pub const NODE_KEY: &str = "node.key";
/// The end of every name.
const SUFFIX: &str = "tandem";
/// More than any of these files has, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Why certificates can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{}: {why}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// A file can't be written.
    #[error("{}: can't be written: {why}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// A file of another kind.
    #[error("{}: holds no PEM {what}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate that can't be understood.
    #[error("{}: not a certificate that can be understood", .0.display())]
    Certificate(PathBuf),
    /// A certificate without a name of ours.
    #[error("{}: names no node: it should have the DNS name NODE.GROUP.{SUFFIX}", .0.display())]
    Nameless(PathBuf),
    /// An authority that none of ours is.
    #[error("{}: not the certificate of a group's authority, as `lbctl pki init` makes it", .0.display())]
    NoAuthority(PathBuf),
    /// It is there already.
    #[error("{} is there already; {hint}", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A key that others may read.
    #[error("{}: open to every user of this host (mode {mode:04o}): make it private with chmod 0600", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a name that a certificate can hold.
    #[error(
        "`{0}` can't be a name in a certificate: letters, digits and inner hyphens, in parts of at most 63"
    )]
    Name(String),
    /// Not a name that a group can have.
    #[error(
        "`{0}` can't be a group's name in certificates: letters, digits and inner hyphens, at most 63 of them"
    )]
    Group(String),
    /// A certificate of another group.
    #[error("{}: is of group `{found}`, and not of `{own}`", .path.display())]
    OtherGroup {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        own: String,
    },
    /// A new certificate whose time is not now, in place of one whose is.
    #[error("{}: its time is over, or has not come yet", .0.display())]
    NotNow(PathBuf),
    /// A key of another certificate.
    #[error("{}: is not the key of the certificate beside it", .0.display())]
    OtherKey(PathBuf),
    /// A certificate that no peer would take that trusts as this node does.
    #[error("{}: is not by an authority of the {CA} beside it", .0.display())]
    OtherAuthority(PathBuf),
    /// A folder of the other kind.
    #[error("{}: is an authority's folder: a node needs one of its own, without {CA_KEY}", .0.display())]
    Authority(PathBuf),
    /// A certificate of another node.
    #[error("{}: is the certificate of `{found}`, and this node is `{own}`", .path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        own: String,
    },
    /// The authority has not so long to live.
    #[error(
        "the authority's certificate ends in {0} days, before the node's would: make a new one with `lbctl pki init`, or ask for fewer --days"
    )]
    Outlives(i64),
    /// No days at all, or more than a date can hold.
    #[error("{0} days: from 1 to 36500")]
    Days(u32),
    /// rcgen refuses.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// rustls refuses.
    #[error("TLS: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The kernel has no random numbers.
    #[error("random numbers: {0}")]
    Random(#[from] rustix::io::Errno),
}

impl Error {
    /// The same where it is about what lies in this folder and rustls names no file.
    pub(super) fn of(self, folder: &Path) -> Self {
        use tokio_rustls::rustls::Error as Tls;
        match self {
            Self::Tls(Tls::InconsistentKeys(_)) => Self::OtherKey(folder.join(NODE_KEY)),
            other => other,
        }
    }
}

impl Named {
    /// Whether it is good now.
    pub fn is_good(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        (self.from..=self.until).contains(&now)
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The node, or nothing for an authority.
    pub node: Option<String>,
    /// The group.
    pub group: String,
    /// From when on it is good, seconds since 1970.
    pub from: i64,
    /// Until when it is good, seconds since 1970.
    pub until: i64,
}

/// What a node needs to speak TLS.
#[derive(Debug)]
pub struct Material {
    /// Authorities that are trusted; more than one while the authority is replaced.
    pub roots: Vec<CertificateDer<'static>>,
    /// This node's certificate, with what leads to the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// This node's key.
    pub key: PrivateKeyDer<'static>,
    /// What the node's certificate says.
    pub named: Named,
    /// Until when the first authority's certificate is good, seconds since 1970.
    pub ca_until: i64,
}

/// The DNS name of a node in certificates.
///
/// # Errors
/// Names that DNS has not.
pub fn dns_name(node: &str, group: &str) -> Result<String, Error> {
    let name = format!("{node}.{group}.{SUFFIX}");
    match ServerName::try_from(name.clone()) {
        Ok(ServerName::DnsName(_)) if !group.contains('.') => Ok(name),
        _ => Err(Error::Name(name)),
    }
}

/// What a certificate says; nothing where it is none of ours.
pub fn named(der: &[u8]) -> Option<Named> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let (node, group) = if certificate.is_ca() {
        let name = certificate.subject().iter_common_name().next()?;
        (None, name.as_str().ok()?.strip_suffix(".tandem")?.to_owned())
    } else {
        let alternatives = certificate.subject_alternative_name().ok()??;
        let [GeneralName::DNSName(name)] = alternatives.value.general_names.as_slice() else {
            return None;
        };
        let (node, group) = name.strip_suffix(".tandem")?.rsplit_once('.')?;
        (Some(node.to_owned()), group.to_owned())
    };
    Some(Named {
        node,
        group,
        from,
        until,
    })
}

/// The public key of a certificate, DER.
fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

/// What a folder holds for a node.
///
/// # Errors
/// Files that are missing, open to all, or hold something else.
pub fn load(folder: &Path) -> Result<Material, Error> {
    let (ca, node, key) = (folder.join(CA), folder.join(NODE), folder.join(NODE_KEY));
    let roots = certificates(&ca)?;
    let authority = named(&roots[0]).filter(|named| named.node.is_none());
    let ca_until = authority.ok_or(Error::NoAuthority(ca))?.until;
    let chain = certificates(&node)?;
    let named = named(&chain[0]).filter(|named| named.node.is_some());
    Ok(Material {
        roots,
        named: named.ok_or(Error::Nameless(node))?,
        chain,
        key: private(&key)?,
        ca_until,
    })
}

/// What the certificate in a file says.
///
/// # Errors
/// A file that can't be read or holds something else.
pub fn look(path: &Path) -> Result<Named, Error> {
    let der = certificates(path)?;
    named(&der[0]).ok_or_else(|| Error::Nameless(path.to_owned()))
}

/// What all certificates in a file say; more than one authority's while that is replaced.
///
/// # Errors
/// As [`look`].
pub fn look_all(path: &Path) -> Result<Vec<Named>, Error> {
    let all = certificates(path)?.into_iter();
    all.map(|der| named(&der).ok_or_else(|| Error::Nameless(path.to_owned())))
        .collect()
}

/// When each of a node's files was written last; nothing for one that isn't there.
pub fn stamps(folder: &Path) -> [Option<SystemTime>; 3] {
    [CA, NODE, NODE_KEY].map(|name| fs::metadata(folder.join(name)).ok()?.modified().ok())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |why| Error::Read {
        path: path.to_owned(),
        why,
    };
    if fs::metadata(path).map_err(wrong)?.len() > FILE_MAX {
        return Err(wrong(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(wrong)
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path)?;
    let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| Error::Pem {
        path: path.to_owned(),
        what: "certificate",
    })
}

/// A key that not everyone may read.
fn private(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    use std::os::unix::fs::PermissionsExt as _;

    let text = read(path)?;
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o7777);
    if let Ok(mode) = mode
        && mode & 0o007 != 0
    {
        let path = path.to_owned();
        return Err(Error::Open { path, mode });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| Error::Pem {
        path: path.to_owned(),
        what: "key",
    })
}
