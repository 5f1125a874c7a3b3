//! TLS between nodes: version 1.3, a certificate of the group's authority on both ends, and names that are configured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::ring::hmac;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, EndpointConfig, TransportErrorCode};
use quinn_proto::HashedConnectionIdGenerator;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig, version};

use super::link::code;
use super::pki::{self, Material, Named};
use super::status::Refusal;

/// What both ends speak.
const ALPN: &[u8] = b"tandem/1";
/// What stateless resets are made with, beside the node's private key.
const RESET: &[u8] = b"tandem stateless reset";
/// The same for connection IDs.
const IDS: &[u8] = b"tandem connection id";

/// Alerts that say why a certificate was refused (RFC 8446, section 6.2).
mod alert {
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const CERTIFICATE_REQUIRED: u8 = 116;
}

/// Both ends' configuration, made of one node's certificate.
pub(super) struct Ends {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// This node trusts the authority of its own certificate.
    pub(super) is_trusted: bool,
    reset: Arc<hmac::Key>,
    ids: u64,
}

impl Ends {
    /// Whether the other end's certificate is of an authority that is trusted now. What has expired since the connection began does
    /// not count: a group that forgot to renew must not fall silent all at once.
    pub(super) fn trusts(&self, connection: &quinn::Connection) -> bool {
        chain(connection).is_some_and(|chain| trust(self.verifier.as_ref(), &chain).is_ok())
    }

    /// Of the socket. An agent that has started anew answers packets of its predecessor's connections by a reset that the
    /// peer believes (RFC 9000, section 10.3), so the peer calls at once, not when its connection is idle for too long.
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::clone(&self.reset) as _);
        // The same key with each start: what isn't recognised is thrown away and not reset.
        let ids = self.ids;
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        config
    }
}

/// Whether a certificate is of an authority that the verifier trusts, at the end of its time where that is over.
fn trust(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
    let (end, between) = chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    let until = pki::named(end).and_then(|named| u64::try_from(named.until).ok());
    let then = UnixTime::since_unix_epoch(Duration::from_secs(until.unwrap_or_default()));
    let when = UnixTime::now().min(then);
    verifier.verify_client_cert(end, between, when).map(drop)
}

/// Whether a node's folder holds what it needs to speak TLS, and what its peers take.
///
/// # Errors
/// Files that are missing, open to all, or don't belong together.
pub fn check_folder(folder: &Path) -> Result<(), pki::Error> {
    let ends = ends(pki::load(folder)?).map_err(|e| e.of(folder))?;
    match ends.is_trusted {
        true => Ok(()),
        false => Err(pki::Error::OtherAuthority(folder.join(pki::NODE))),
    }
}

/// # Errors
/// A key that isn't the certificate's, authorities that are none.
pub(super) fn ends(material: Material) -> Result<Ends, pki::Error> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, material.key.secret_der());
    let reset = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, RESET).as_ref());
    let mut ids = [0; 8];
    ids.copy_from_slice(&hmac::sign(&secret, IDS).as_ref()[..8]);
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in material.roots {
        roots.add(root)?;
    }
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let is_trusted = trust(verifier.as_ref(), &material.chain).is_ok();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(material.chain.clone(), material.key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not show the certificate of today.
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(material.chain, material.key)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    let no_suite = |e: quinn::crypto::rustls::NoInitialCipherSuite| rustls::Error::General(e.to_string());
    Ok(Ends {
        client: Arc::new(QuicClientConfig::try_from(client).map_err(no_suite)?),
        server: Arc::new(QuicServerConfig::try_from(server).map_err(no_suite)?),
        verifier,
        is_trusted,
        reset: Arc::new(reset),
        ids: u64::from_le_bytes(ids),
    })
}

/// What the certificate on the other end says, which TLS has verified.
pub(super) fn other_end(connection: &quinn::Connection) -> Option<Named> {
    pki::named(chain(connection)?.first()?)
}

fn chain(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let identity = connection.peer_identity()?;
    identity.downcast().ok().map(|chain| *chain)
}

/// Whether one end has refused the other's certificate, which end ever. These alerts come when both have shown that they are where they say
/// (RFC 8446, section 6.2: about certificates, an unknown authority, a wrong signature, no certificate).
pub(super) fn is_certificate(error: &ConnectionError) -> bool {
    // RFC 9001, section 4.8.
    let is_about = |code: TransportErrorCode| {
        let alert = u64::from(code).checked_sub(0x100);
        alert.is_some_and(|alert| matches!(alert, 42..=46 | 48 | 51 | 116))
    };
    match error {
        ConnectionError::TransportError(error) => is_about(error.code),
        ConnectionError::ConnectionClosed(close) => is_about(close.error_code),
        ConnectionError::ApplicationClosed(close) => {
            [code::NAME, code::AUTHORITY].contains(&close.error_code)
        }
        _ => false,
    }
}

/// Why a connection did not come about, where this end has refused it.
pub(super) fn refusal(error: &ConnectionError) -> Option<Refusal> {
    let ConnectionError::TransportError(error) = error else {
        return None;
    };
    // The authority that a certificate names may be known and its signature still not good.
    let is_signature = error.reason.contains("BadSignature") || error.reason.contains("UnknownIssuer");
    let is = |alert| error.code == TransportErrorCode::crypto(alert);
    Some(if is(alert::CERTIFICATE_EXPIRED) {
        Refusal::Expired
    } else if is(alert::UNKNOWN_CA) || is_signature {
        Refusal::Authority
    } else if is(alert::CERTIFICATE_REQUIRED) {
        Refusal::NoCertificate
    } else if error.reason.contains("not valid for name") || error.reason.contains("NotValidForName") {
        Refusal::Name
    } else if error.reason.contains("certificate") {
        Refusal::Certificate
    } else {
        Refusal::Handshake
    })
}
