//! A group on the loopback, a relay between its nodes, and strangers.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lb_userspace::model::{Group, Peering};
use lb_userspace::peer::{self, Event, Facts, Life, Peers, Phase, Refusal, no_streams, pki};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A group on ports of the loopback that were free, with certificates for all.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) dead_after: Duration,
}

impl World {
    pub(crate) fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("it works");
        pki::init(&dir.path().join("ca"), "blue", false).expect("it works");
        let sockets: Vec<_> = (0..count)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("it works"))
            .collect();
        let world = Self {
            addresses: sockets
                .iter()
                .map(|socket| socket.local_addr().expect("it works"))
                .collect(),
            dir,
            // This machine's two cores may be busy with something else.
            dead_after: Duration::from_millis(500),
        };
        for place in 0..count {
            world.issue("ca", &name(place), &name(place));
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn issue(&self, ca: &str, node: &str, out: &str) {
        pki::issue(&self.path(ca), node, &self.path(out), 10, true).expect("it works");
    }

    pub(crate) fn group(&self, pki: &str) -> Group {
        Group {
            nodes: (0..self.addresses.len())
                .map(|place| name(place).parse().expect("it works"))
                .collect(),
            key: None,
            max_tracked: Group::MAX_TRACKED,
            peering: Some(Peering {
                addresses: self.addresses.clone(),
                pki: self.path(pki),
                heartbeat: Peering::HEARTBEAT,
                dead_after: self.dead_after,
                withdraw_after: Peering::WITHDRAW_AFTER,
                join_within: Peering::JOIN_WITHIN,
            }),
        }
    }

    pub(crate) fn start(&self, place: usize) -> Peers {
        peer::start(&self.group(&name(place)), place, no_streams()).expect("it works")
    }
}

pub(crate) fn name(place: usize) -> String {
    format!("lb{place}")
}

pub(crate) fn ready(epoch: u64) -> Facts {
    Facts {
        phase: Phase::Ready,
        version: "1.2.3".to_owned(),
        epoch,
        ..Facts::default()
    }
}

/// The first event that is wanted.
pub(crate) async fn wait<T>(peers: &mut Peers, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(peers.event().await) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

pub(crate) async fn up(peers: &mut Peers) -> u64 {
    wait(peers, |event| match event {
        Event::Up { session, .. } => Some(session),
        _ => None,
    })
    .await
}

pub(crate) async fn life(peers: &mut Peers, wanted: Life) {
    let is = |event| matches!(event, Event::Life { life, .. } if life == wanted).then_some(());
    wait(peers, is).await;
}

/// Until so many of a kind were refused.
pub(crate) async fn refused(peers: &Peers, refusal: Refusal, count: u64) -> BTreeMap<Refusal, u64> {
    let start = Instant::now();
    loop {
        let refused = peers.status().refused.clone();
        if refused.get(&refusal).is_some_and(|found| *found >= count) {
            return refused;
        }
        assert!(start.elapsed() < PATIENCE, "{refused:?}, not {refusal:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Passes datagrams on in both directions.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) swallow: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr) -> Self {
        use std::sync::atomic::Ordering;
        let front = UdpSocket::bind("127.0.0.1:0").expect("it works");
        let back = UdpSocket::bind("127.0.0.1:0").expect("it works");
        let address = front.local_addr().expect("it works");
        let swallow = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let caller = std::sync::Arc::new(std::sync::Mutex::new(None));
        let (front2, back2) = (
            front.try_clone().expect("it works"),
            back.try_clone().expect("it works"),
        );
        let (swallow1, swallow2, caller2) = (swallow.clone(), swallow.clone(), caller.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((length, from)) = front.recv_from(&mut bytes) {
                *caller.lock().expect("it works") = Some(from);
                if !swallow1.load(Ordering::Relaxed) {
                    let _ = back.send_to(&bytes[..length], to);
                }
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((length, _)) = back2.recv_from(&mut bytes) {
                let caller = *caller2.lock().expect("it works");
                if let (Some(caller), false) = (caller, swallow2.load(Ordering::Relaxed)) {
                    let _ = front2.send_to(&bytes[..length], caller);
                }
            }
        });
        Self { address, swallow }
    }

    pub(crate) fn swallow(&self, yes: bool) {
        self.swallow.store(yes, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A certificate by the group's authority as `lbctl pki` doesn't make them; `days` from now.
pub(crate) fn forge(world: &World, dns: &str, days: i64) {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    world.issue("ca", "lb1", "bad");
    let key = KeyPair::from_pem(&fs::read_to_string(world.path("bad/node.key")).expect("it works"))
        .expect("it works");
    let ca_key =
        KeyPair::from_pem(&fs::read_to_string(world.path("ca/ca.key")).expect("it works")).expect("it works");
    let ca = fs::read_to_string(world.path("ca/ca.pem")).expect("it works");
    let mut params = CertificateParams::new(vec![dns.to_owned()]).expect("it works");
    let day = Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    params.not_before = (now - 20 * day).into();
    params.not_after = if days < 0 {
        (now - day).into()
    } else {
        (now + 10 * day).into()
    };
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).expect("it works");
    fs::write(
        world.path("bad/node.pem"),
        params.signed_by(&key, &issuer).expect("it works").pem(),
    )
    .expect("it works");
}

/// Somebody with a QUIC stack of its own.
pub(crate) struct Stranger {
    pub(crate) endpoint: quinn::Endpoint,
}

impl Stranger {
    pub(crate) fn new(world: &World, pki: Option<&str>) -> Self {
        use quinn::crypto::rustls::QuicClientConfig;
        use tokio_rustls::rustls::crypto::ring;
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
        use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(world.path("ca/ca.pem")).expect("it works"))
            .expect("it works");
        let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("it works")
            .with_root_certificates(roots);
        let mut config = match pki {
            None => config.with_no_client_auth(),
            Some(folder) => {
                let chain = vec![
                    CertificateDer::from_pem_file(world.path(folder).join("node.pem")).expect("it works"),
                ];
                let key =
                    PrivateKeyDer::from_pem_file(world.path(folder).join("node.key")).expect("it works");
                config.with_client_auth_cert(chain, key).expect("it works")
            }
        };
        config.alpn_protocols = vec![b"tandem/1".to_vec()];
        let config = quinn::ClientConfig::new(std::sync::Arc::new(
            QuicClientConfig::try_from(config).expect("it works"),
        ));
        let mut endpoint =
            quinn::Endpoint::client("127.0.0.1:0".parse().expect("it works")).expect("it works");
        endpoint.set_default_client_config(config);
        Self { endpoint }
    }

    /// The connection, if the other end still wants it after its handshake.
    pub(crate) async fn call(
        &self,
        address: SocketAddr,
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        let connection = self
            .endpoint
            .connect(address, "lb1.blue.tandem")
            .expect("it works")
            .await?;
        // It opens its control stream where it is content.
        connection.accept_uni().await?;
        Ok(connection)
    }
}
