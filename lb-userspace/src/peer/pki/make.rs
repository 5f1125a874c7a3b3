//! Making authorities and certificates, for `lbctl pki`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SerialNumber,
};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::{
    CA, CA_KEY, Error, NODE, NODE_KEY, Named, SUFFIX, certificates, dns_name, look, named, public_key, read,
};

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
    dns_name("node", group).map_err(|_| Error::Group(group.to_owned()))?;
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
/// As [`init`], and an authority that is missing or ends earlier, or whose folder `out` is.
pub fn issue(folder: &Path, node: &str, out: &Path, days: u32, force: bool) -> Result<Named, Error> {
    if out.join(CA_KEY).exists() {
        return Err(Error::Authority(out.to_owned()));
    }
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
    let authorities = String::from_utf8_lossy(&read(&folder.join(CA))?).into_owned();
    put(&authorities, out, &text)
}

/// Makes a new certificate for the node whose certificate and key are in `out`. The old one stays until the new one
/// takes its place at once; running agents see it within seconds, and no connection ends. Authorities that the folder trusts beside
/// this one stay in its [`CA`], behind it.
///
/// # Errors
/// As [`issue`], and a certificate or key that is missing, or is of another group.
pub fn renew(folder: &Path, out: &Path, days: u32) -> Result<Named, Error> {
    let path = out.join(NODE);
    let Named {
        node, group: found, ..
    } = look(&path)?;
    let own = look(&folder.join(CA))?.group;
    if own != found {
        return Err(Error::OtherGroup { path, found, own });
    }
    let node = node.ok_or(Error::Nameless(path))?;
    let text = sign(folder, &node, &key(&out.join(NODE_KEY))?, days)?;
    let authorities = together(&folder.join(CA), &out.join(CA))?;
    put(&authorities, out, &text)
}

/// Authorities' certificates with those that a node trusts beside them: while an authority is replaced there are two.
fn together(authority: &Path, trusted: &Path) -> Result<String, Error> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let mut text = String::from_utf8_lossy(&read(authority)?).into_owned();
    let known = certificates(authority)?;
    let trusted = match read(trusted) {
        Err(Error::Read { why, .. }) if why.kind() == io::ErrorKind::NotFound => return Ok(text),
        trusted => String::from_utf8_lossy(&trusted?).into_owned(),
    };
    for block in trusted.split(BEGIN).skip(1) {
        let block = format!("{BEGIN}{block}");
        let is_other =
            CertificateDer::from_pem_slice(block.as_bytes()).is_ok_and(|der| !known.contains(&der));
        if is_other {
            text.push_str(&block);
        }
    }
    Ok(text)
}

/// A node's certificate and its authorities', each whole or not at all.
fn put(authorities: &str, out: &Path, text: &str) -> Result<Named, Error> {
    let target = out.join(CA);
    if fs::read(&target).ok().as_deref() != Some(authorities.as_bytes()) {
        replace(&target, authorities, 0o644)?;
    }
    replace(&out.join(NODE), text, 0o644)?;
    look(&out.join(NODE))
}

/// A certificate for a node's key.
fn sign(folder: &Path, node: &str, key: &KeyPair, days: u32) -> Result<String, Error> {
    let (authority, issuer) = authority(folder)?;
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

/// An authority, and what signs for it.
fn authority(folder: &Path) -> Result<(Named, Issuer<'static, KeyPair>), Error> {
    let path = folder.join(CA);
    let authority = look(&path)?;
    if authority.node.is_some() {
        return Err(Error::NoAuthority(path));
    }
    let pem = read(&path)?;
    let path = folder.join(CA_KEY);
    let key = key(&path)?;
    if public_key(&certificates(&folder.join(CA))?[0]).as_deref() != Some(&key.subject_public_key_info()) {
        return Err(Error::OtherKey(path));
    }
    let issuer = Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&pem), key)?;
    Ok((authority, issuer))
}

/// Whether the folder of an authority holds what signs for it.
///
/// # Errors
/// Files that are missing or don't belong together.
pub fn check_authority(folder: &Path) -> Result<(), Error> {
    authority(folder).map(drop)
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
    made.map_err(|why| Error::Write {
        path: folder.to_owned(),
        why,
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
    write().map_err(|why| Error::Write {
        path: path.to_owned(),
        why,
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
        // Another authority of the group, which the node trusts beside its first one.
        let next = dir.path().join("next");
        init(&next, "blue", false).unwrap();
        let pem = |folder: &Path| fs::read_to_string(folder.join(CA)).unwrap();
        fs::write(node.join(CA), pem(&node) + &pem(&next)).unwrap();
        renew(&next, &node, 60).unwrap();
        assert_eq!(pem(&node), pem(&next) + &pem(&ca), "its own comes first");
        renew(&next, &node, 60).unwrap();
        assert_eq!(
            load(&node).unwrap().roots.len(),
            2,
            "no other is lost, none comes twice"
        );
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
            assert!(matches!(init(&ca, group, false), Err(Error::Group(_))), "{group}");
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
        assert!(matches!(
            issue(&ca, "lb2", &ca, 1, false),
            Err(Error::Authority(_))
        ));
        let other = dir.path().join("other");
        init(&other, "red", false).unwrap();
        let before = fs::read(node.join(NODE)).unwrap();
        let refused = renew(&other, &node, 1).unwrap_err().to_string();
        assert!(refused.contains("is of group `blue`"), "{refused}");
        assert_eq!(fs::read(node.join(NODE)).unwrap(), before);
        fs::copy(other.join(CA_KEY), ca.join(CA_KEY)).unwrap();
        assert!(matches!(renew(&ca, &node, 1), Err(Error::OtherKey(_))));
        fs::write(node.join(NODE), "nothing").unwrap();
        assert!(matches!(renew(&ca, &node, 1), Err(Error::Pem { .. })));
    }
}
