//! Certificates for the nodes of a lab: an authority of its own, and one certificate per node.
//!
//! They have the form that `lbctl pki` gives them: the node's name in the group as DNS name `NODE.GROUP.tandem`, for both
//! ends of a connection. Made here, so that labs can also make those that must not be taken.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{IoContext, LabError};

/// The group's name in certificates.
pub const GROUP: &str = "lab";

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; nothing that another has issued is good here.
    pub fn new() -> Result<Self, LabError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{GROUP}.tandem"));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Makes the folder `dir` with `ca.pem`, `node.pem` and `node.key` for a node of this name.
    pub fn issue(&self, node: &str, dir: &Path) -> Result<(), LabError> {
        let name = format!("{node}.{GROUP}.tandem");
        let mut params = CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::create_dir_all(dir).context(|| format!("make {}", dir.display()))?;
        write(&dir.join("ca.pem"), &self.issuer.pem(), 0o644)?;
        write(&dir.join("node.pem"), &certificate.pem(), 0o644)?;
        write(&dir.join("node.key"), &key.serialize_pem(), 0o600)
    }
}

/// A private key must not be readable by others for a moment either.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), LabError> {
    use std::io::Write;
    let open = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .open(path);
    let written = open.and_then(|mut file| file.write_all(text.as_bytes()));
    written.context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::pem::Pem;

    use super::*;

    fn first(path: &Path) -> Pem {
        let pem = fs::read(path).expect("the file");
        Pem::iter_from_buffer(&pem)
            .next()
            .expect("one at least")
            .expect("PEM")
    }

    #[test]
    fn a_node_has_its_name_for_both_ends_and_a_secret_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = Authority::new().expect("ours");
        let folder = dir.path().join("lb1.pki");
        ours.issue("lb1", &folder).expect("issued");
        let node = first(&folder.join("node.pem"));
        let node = node.parse_x509().expect("a certificate");
        let names = node
            .subject_alternative_name()
            .expect("valid")
            .expect("names are there");
        let name = format!("{:?}", names.value.general_names);
        assert!(name.contains("lb1.lab.tandem"), "{name}");
        let usage = node.extended_key_usage().expect("valid").expect("there");
        assert!(usage.value.server_auth && usage.value.client_auth);
        let mode = fs::metadata(folder.join("node.key"))
            .expect("key")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
