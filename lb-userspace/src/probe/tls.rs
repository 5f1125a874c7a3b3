//! TLS: whose certificates are good, and for which name.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};

use super::{Outcome, failed};
use crate::model::health::{Tls, Trust};

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Why TLS can't be spoken at all: a fault of this host's.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Error {
    /// No authorities to trust.
    #[error("this host trusts no certificate authority; name one by `tls.ca_file`")]
    NoAuthority,
    /// One of `ca_file` is none.
    #[error("`tls.ca_file`: {0}")]
    Authority(rustls::Error),
    /// rustls refuses its own parts.
    #[error("TLS: {0}")]
    Setup(rustls::Error),
    /// The name can't be one.
    #[error("`{0}` is no name for TLS")]
    Name(String),
}

/// Makes TLS connections for one check.
#[derive(Clone)]
pub(super) struct Connector {
    connector: TlsConnector,
    /// Absent: the backend's address.
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// `host` is the check's, `alpn` what is offered.
    pub(super) fn new(tls: &Tls, host: Option<&str>, alpn: &[&[u8]]) -> Result<Self, Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider) as Arc<CryptoProvider>)
            .with_protocol_versions(VERSIONS)
            .map_err(Error::Setup)?;
        let mut config = match &tls.trust {
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone { algorithms }))
                .with_no_client_auth(),
            Trust::System => builder.with_root_certificates(system()?).with_no_client_auth(),
            Trust::Authorities(list) => builder.with_root_certificates(own(list)?).with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // Every check is a handshake of its own: a resumed session would not show the certificate of today.
        config.resumption = rustls::client::Resumption::disabled();
        let name = tls.server_name.as_deref().or(host.map(without_port));
        let name = name.map(|name| {
            let bare = name.trim_start_matches('[').trim_end_matches(']');
            ServerName::try_from(bare.to_owned()).map_err(|_| Error::Name(name.to_owned()))
        });
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: name.transpose()?,
        })
    }

    /// A TLS connection to `to` over `stream`.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        to: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, Outcome> {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(to.ip()));
        self.connector.connect(name, stream).await.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                Outcome::Silent("closed the connection during the TLS handshake".to_owned())
            } else {
                failed(&error)
            }
        })
    }
}

/// `name`, `name:443`, `[::1]`, `[::1]:443`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The authorities that this host trusts, read once.
fn system() -> Result<Arc<RootCertStore>, Error> {
    static STORE: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    });
    if store.is_empty() {
        return Err(Error::NoAuthority);
    }
    Ok(Arc::clone(store))
}

fn own(list: &[Vec<u8>]) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for der in list {
        let added = store.add(CertificateDer::from_slice(der).into_owned());
        added.map_err(Error::Authority)?;
    }
    Ok(Arc::new(store))
}

/// Takes every certificate: whoever runs the check has said that it may be anyone's. The handshake's signature is
/// checked all the same.
#[derive(Debug)]
struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_host_is_no_part_of_its_name() {
        for (host, want) in [
            ("a.example", "a.example"),
            ("a.example:8443", "a.example"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("192.0.2.1:443", "192.0.2.1"),
        ] {
            assert_eq!(without_port(host), want);
        }
    }
}
