//! Somebody with a QUIC stack of its own and any certificate, for what no agent would ever say to its peers.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb_userspace::peer::pki;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, TokioRuntime};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use crate::error::{IoContext, LabError};
use crate::netns::Netns;

/// What nodes speak.
const ALPN: &[u8] = b"tandem/1";
const DAY: Duration = Duration::from_secs(86_400);

/// One end of connections that it opens.
#[derive(Debug)]
pub struct Stranger {
    endpoint: Endpoint,
}

fn wrong<E: std::error::Error + Send + Sync + 'static>(what: &str) -> impl FnOnce(E) -> LabError {
    let what = what.to_owned();
    move |source| LabError::Stranger {
        what,
        source: Box::new(source),
    }
}

impl Stranger {
    /// In `namespace` at `address`, with the certificate in the folder `papers`, if any. It trusts the authority in the folder
    /// `authority`. Has to be called within a runtime.
    pub fn new(
        namespace: &Netns,
        address: IpAddr,
        authority: &Path,
        papers: Option<&Path>,
    ) -> Result<Self, LabError> {
        let bind = || UdpSocket::bind((address, 0)).and_then(|s| s.set_nonblocking(true).map(|()| s));
        let socket = namespace
            .within(bind)?
            .context(|| format!("a socket at {address}"))?;
        let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
            .context(|| format!("an endpoint at {address}"))?;
        endpoint.set_default_client_config(client(authority, papers)?);
        Ok(Self { endpoint })
    }

    /// The connection and the other end's control stream, if it still wants it after its handshake.
    pub async fn call(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> Result<(Connection, RecvStream), ConnectionError> {
        let calling = self.endpoint.connect(address, name);
        let connection = calling.map_err(|_| ConnectionError::CidsExhausted)?.await?;
        let control = connection.accept_uni().await?;
        Ok((connection, control))
    }

    /// Begins so many calls and waits for none of them, `within` at most.
    pub async fn knock(&self, address: SocketAddr, name: &str, calls: usize, within: Duration) {
        let calls = (0..calls).filter_map(|_| self.endpoint.connect(address, name).ok());
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(within).await;
        drop(calls);
    }
}

fn client(authority: &Path, papers: Option<&Path>) -> Result<quinn::ClientConfig, LabError> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.join("ca.pem")).map_err(wrong("the authority"))?;
    roots.add(ca).map_err(wrong("the authority"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(wrong("TLS 1.3"))?
        .with_root_certificates(roots);
    let mut config = match papers {
        None => config.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::from_pem_file(folder.join("node.pem")).map_err(wrong("node.pem"))?;
            let key = PrivateKeyDer::from_pem_file(folder.join("node.key")).map_err(wrong("node.key"))?;
            config
                .with_client_auth_cert(vec![chain], key)
                .map_err(wrong("a certificate"))?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    let quic = QuicClientConfig::try_from(config).map_err(wrong("QUIC"))?;
    Ok(quinn::ClientConfig::new(Arc::new(quic)))
}

/// Makes a certificate by `authority` in the folder `out` as `lbctl pki` makes none: for any name, good or `expired`.
pub fn forge(authority: &Path, name: &str, expired: bool, out: &Path) -> Result<(), LabError> {
    // Its key and everything beside it.
    pki::issue(authority, "lb1", out, 10, true)?;
    let read = |path: &Path| fs::read_to_string(path).context(|| format!("read {}", path.display()));
    let key = KeyPair::from_pem(&read(&out.join("node.key"))?).map_err(wrong("node.key"))?;
    let ca_key = KeyPair::from_pem(&read(&authority.join("ca.key"))?).map_err(wrong("ca.key"))?;
    let ca = read(&authority.join("ca.pem"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).map_err(wrong("ca.pem"))?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(wrong(name))?;
    let now = SystemTime::now();
    params.not_before = (now - 20 * DAY).into();
    params.not_after = if expired { now - DAY } else { now + 10 * DAY }.into();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let signed = params.signed_by(&key, &issuer).map_err(wrong(name))?;
    let file = out.join("node.pem");
    fs::write(&file, signed.pem()).context(|| format!("write {}", file.display()))
}
