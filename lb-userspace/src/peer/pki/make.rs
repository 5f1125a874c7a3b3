//! Making authorities and certificates, for `lbctl pki`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{CA, CA_KEY, Error, NODE, NODE_KEY, Named, SUFFIX, dns_name, look, named, read};

/// For how long an authority is good.
pub const CA_DAYS: u32 = 3650;
/// For how long a node's certificate is good where nothing is said.
pub const NODE_DAYS: u32 = 365;
/// Clocks of nodes may differ.
const SKEW: Duration = Duration::from_secs(3600);
/// Seconds of a day.
const DAY: u32 = 86_400;
/// A hundred years.
const DAYS_MAX: u32 = 36_500;

/// Makes a group's authority in `folder`. With `force` also where there is one, which then counts for nothing.
///
/// # Errors
/// A name that DNS has not, an authority that is there, files that can't be written.
pub fn init(folder: &Path, group: &str, force: bool) -> Result<Named, Error> {
    dns_name("node", group)?;
    for name in [CA, CA_KEY] {
        vacant(
            &folder.join(name),
            force,
            "--force replaces it, and every node then needs a new certificate",
        )?;
    }
    let key = KeyPair::generate()?;
    let mut params = params(CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{group}.{SUFFIX}"));
    let certificate = params.self_signed(&key)?;
    make_folder(folder)?;
    replace(&folder.join(CA_KEY), &key.serialize_pem(), 0o600)?;
    replace(&folder.join(CA), &certificate.pem(), 0o644)?;
    look(&folder.join(CA))
}

/// Makes a key and a certificate for `node` by the authority in `folder`, and puts them with the authority's
/// certificate into `out`. With `force` also where there are some.
///
/// # Errors
/// As [`init`], and an authority that is missing or ends earlier.
pub fn issue(folder: &Path, node: &str, out: &Path, days: u32, force: bool) -> Result<Named, Error> {
    for name in [NODE, NODE_KEY] {
        vacant(
            &out.join(name),
            force,
            "`lbctl pki renew` gives it more time, --force replaces it and its key",
        )?;
    }
    let key = KeyPair::generate()?;
    let text = sign(folder, node, &key, days)?;
    make_folder(out)?;
    replace(&out.join(NODE_KEY), &key.serialize_pem(), 0o600)?;
    put(folder, out, &text)
}

/// Makes a new certificate for the node whose certificate and key are in `out`. The old one stays until the new one
/// takes its place at once; running agents see it within seconds, and no connection ends.
///
/// # Errors
/// As [`issue`], and a certificate or key that is missing.
pub fn renew(folder: &Path, out: &Path, days: u32) -> Result<Named, Error> {
    let file = out.join(NODE);
    let node = look(&file)?.node.ok_or(Error::Nameless(file))?;
    let path = out.join(NODE_KEY);
    let key = key(&path)?;
    let text = sign(folder, &node, &key, days)?;
    put(folder, out, &text)
}

/// A node's certificate and the authority's, each whole or not at all.
fn put(folder: &Path, out: &Path, text: &str) -> Result<Named, Error> {
    let authority = read(&folder.join(CA))?;
    let target = out.join(CA);
    if fs::read(&target).ok().as_deref() != Some(&authority) {
        replace(&target, &String::from_utf8_lossy(&authority), 0o644)?;
    }
    replace(&out.join(NODE), text, 0o644)?;
    look(&out.join(NODE))
}

/// A certificate for a node's key.
fn sign(folder: &Path, node: &str, key: &KeyPair, days: u32) -> Result<String, Error> {
    let path = folder.join(CA);
    let authority = look(&path)?;
    if authority.node.is_some() {
        return Err(Error::NoAuthority(path));
    }
    let pem = read(&path)?;
    let issuer = Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&pem), self::key(&folder.join(CA_KEY))?)?;
    let name = dns_name(node, &authority.group)?;
    let mut params = params(days)?;
    params.subject_alt_names = CertificateParams::new(vec![name.clone()])?.subject_alt_names;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(key, &issuer)?;
    let until = named(certificate.der()).map_or(i64::MAX, |named| named.until);
    if until > authority.until {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = authority.until - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        return Err(Error::Outlives(left / i64::from(DAY)));
    }
    Ok(certificate.pem())
}

/// What all have: a serial number that no other has, and their time.
fn params(days: u32) -> Result<CertificateParams, Error> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Error::Days(days));
    }
    let mut serial = [0; 16];
    getrandom(&mut serial, GetRandomFlags::empty())?;
    // A positive number (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = (now - SKEW).into();
    params.not_after = (now + Duration::from_secs(u64::from(days) * u64::from(DAY))).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

fn key(path: &Path) -> Result<KeyPair, Error> {
    let text = read(path)?;
    KeyPair::from_pem(&String::from_utf8_lossy(&text)).map_err(|_| Error::Pem {
        path: path.to_owned(),
        what: "key",
    })
}

fn vacant(path: &Path, force: bool, hint: &'static str) -> Result<(), Error> {
    if !force && path.symlink_metadata().is_ok() {
        let path = path.to_owned();
        return Err(Error::Exists { path, hint });
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| Error::Write {
        path: folder.to_owned(),
        source,
    })
}

/// Puts a file in place as a whole: written beside it, then renamed.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let beside = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::peer::pki::load;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_authority_and_its_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, node) = (dir.path().join("ca"), dir.path().join("lb1"));
        let made = init(&ca, "blue", false).unwrap();
        assert_eq!((made.node, made.group.as_str()), (None, "blue"));
        assert_eq!((mode(&ca.join(CA_KEY)), mode(&ca)), (0o600, 0o700));
        let again = init(&ca, "blue", false).unwrap_err().to_string();
        assert!(again.contains("is there already"), "{again}");
        let issued = issue(&ca, "lb1", &node, 30, false).unwrap();
        assert_eq!(issued.node.as_deref(), Some("lb1"));
        assert_eq!((issued.until - issued.from) / 3600, 30 * 24 + 1);
        assert_eq!(mode(&node.join(NODE_KEY)), 0o600);
        assert!(!node.join(CA_KEY).exists());
        assert!(matches!(
            issue(&ca, "lb1", &node, 30, false),
            Err(Error::Exists { .. })
        ));
        let (key, old) = (fs::read(node.join(NODE_KEY)).unwrap(), load(&node).unwrap());
        let renewed = renew(&ca, &node, 60).unwrap();
        assert!(renewed.until > issued.until && renewed.node.as_deref() == Some("lb1"));
        assert_eq!(fs::read(node.join(NODE_KEY)).unwrap(), key);
        let new = load(&node).unwrap();
        assert_ne!(new.chain, old.chain);
        assert_eq!(new.roots, old.roots);
        assert_eq!(fs::read_dir(&node).unwrap().count(), 3, "nothing is left behind");
    }

    #[test]
    fn what_can_not_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, node) = (dir.path().join("ca"), dir.path().join("lb1"));
        assert!(matches!(
            issue(&ca, "lb1", &node, 30, false),
            Err(Error::Read { .. })
        ));
        for group in ["", "a.b", "a b", "-a"] {
            assert!(matches!(init(&ca, group, false), Err(Error::Name(_))), "{group}");
        }
        init(&ca, "blue", false).unwrap();
        for days in [0, 36_501] {
            assert!(matches!(
                issue(&ca, "lb1", &node, days, false),
                Err(Error::Days(_))
            ));
        }
        let longer = issue(&ca, "lb1", &node, CA_DAYS + 1, false);
        assert!(matches!(longer, Err(Error::Outlives(3649..=3650))), "{longer:?}");
        assert!(matches!(issue(&ca, "lb 1", &node, 1, false), Err(Error::Name(_))));
        assert!(!node.exists(), "nothing was written");
        issue(&ca, "lb1", &node, 1, false).unwrap();
        fs::set_permissions(node.join(NODE_KEY), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load(&node), Err(Error::Open { .. })));
        fs::write(node.join(NODE), "nothing").unwrap();
        assert!(matches!(renew(&ca, &node, 1), Err(Error::Pem { .. })));
    }
}
