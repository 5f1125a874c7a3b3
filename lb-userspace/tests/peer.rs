//! Real endpoints on the loopback: who may talk, and how fast a death is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use lb_userspace::model::{Group, Peering};
use lb_userspace::peer::{self, Event, Facts, Life, Peers, Phase, Refusal, no_streams, pki};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// A group on ports of the loopback that were free, with certificates for all.
struct World {
    dir: TempDir,
    addresses: Vec<SocketAddr>,
    dead_after: Duration,
}

impl World {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::init(&dir.path().join("ca"), "blue", false).unwrap();
        let sockets: Vec<_> = (0..count)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let world = Self {
            addresses: sockets
                .iter()
                .map(|socket| socket.local_addr().unwrap())
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

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, ca: &str, node: &str, out: &str) {
        pki::issue(&self.path(ca), node, &self.path(out), 10, true).unwrap();
    }

    fn group(&self, pki: &str) -> Group {
        Group {
            nodes: (0..self.addresses.len())
                .map(|place| name(place).parse().unwrap())
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

    fn start(&self, place: usize) -> Peers {
        peer::start(&self.group(&name(place)), place, no_streams()).unwrap()
    }
}

fn name(place: usize) -> String {
    format!("lb{place}")
}

fn ready(epoch: u64) -> Facts {
    Facts {
        phase: Phase::Ready,
        version: "1.2.3".to_owned(),
        epoch,
        ..Facts::default()
    }
}

/// The first event that is wanted.
async fn wait<T>(peers: &mut Peers, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(peers.event().await) {
                return found;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

async fn up(peers: &mut Peers) -> u64 {
    wait(peers, |event| match event {
        Event::Up { session, .. } => Some(session),
        _ => None,
    })
    .await
}

async fn life(peers: &mut Peers, wanted: Life) {
    let is = |event| matches!(event, Event::Life { life, .. } if life == wanted).then_some(());
    wait(peers, is).await;
}

/// Until so many of a kind were refused.
async fn refused(peers: &Peers, refusal: Refusal, count: u64) -> BTreeMap<Refusal, u64> {
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

#[tokio::test]
async fn three_nodes_find_each_other_and_talk() {
    let world = World::new(3);
    let mut all: Vec<Peers> = (0..3).map(|place| world.start(place)).collect();
    for (epoch, peers) in (1..).zip(&all) {
        peers.update(ready(epoch));
    }
    for (place, peers) in all.iter_mut().enumerate() {
        let mut seen = BTreeMap::new();
        while seen.len() < 2 {
            let (peer, facts) = wait(peers, |event| match event {
                Event::Facts { peer, facts } if facts.phase == Phase::Ready => Some((peer, facts)),
                _ => None,
            })
            .await;
            seen.insert(peer, facts.epoch);
        }
        let want = (0..3u8)
            .filter(|p| usize::from(*p) != place)
            .map(|p| (p, u64::from(p) + 1));
        assert_eq!(seen, want.collect());
    }
    let large = vec![7; 3 << 20];
    for channel in 0..20 {
        assert!(all[2].send(0, channel, vec![channel; 3]));
    }
    assert!(all[2].send(0, 20, large.clone()));
    for channel in 0..21 {
        let message = wait(&mut all[0], |event| match event {
            Event::Message {
                peer,
                channel,
                payload,
            } => Some((peer, channel, payload)),
            _ => None,
        })
        .await;
        let payload = if channel == 20 {
            large.clone()
        } else {
            vec![channel; 3]
        };
        assert!(message == (2, channel, payload), "channel {channel}");
    }
    assert!(!all[2].send(0, 0, vec![0; (8 << 20) + 1]), "larger than a frame");
    assert!(
        !all[2].send(2, 0, vec![]) && !all[2].send(9, 0, vec![]),
        "nobody there"
    );
    let status = all[0].status();
    assert_eq!(status.own.as_ref().unwrap().group, "blue");
    for peer in &status.peers {
        assert_eq!((peer.life, peer.sessions), (Life::Alive, 1), "{peer:?}");
        assert!(peer.rtt.unwrap() < Duration::from_secs(1) && peer.heard > 0 && peer.sent > 0);
        assert!(peer.certificate_until.is_some() && peer.trouble.is_none());
    }
    assert!(status.refused.is_empty(), "{:?}", status.refused);
}

#[tokio::test]
async fn a_full_outbox_says_no_and_loses_nothing_that_it_took() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    up(&mut a).await;
    up(&mut b).await;
    // Nobody takes messages at the other end, so at some point there is no room.
    let mut taken = 0;
    while a.send(1, 1, vec![1; 1 << 20]) {
        taken += 1;
        assert!(taken <= 100, "memory has a bound");
        sleep(Duration::from_millis(2)).await;
    }
    let mut came = 0;
    while came < taken {
        wait(&mut b, |event| {
            matches!(event, Event::Message { .. }).then_some(())
        })
        .await;
        came += 1;
    }
    assert!(a.send(1, 1, vec![1; 1 << 20]), "room again");
}

#[tokio::test]
async fn silence_is_noticed_in_time_and_a_joiner_is_one() {
    let mut world = World::new(2);
    world.dead_after = Peering::DEAD_AFTER;
    let (mut a, b) = (world.start(0), world.start(1));
    life(&mut a, Life::Joining).await;
    b.update(ready(1));
    life(&mut a, Life::Alive).await;
    // A good-bye is noticed at once.
    let start = Instant::now();
    drop(b);
    life(&mut a, Life::Dead).await;
    assert!(
        start.elapsed() < Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
    assert!(!a.send(1, 0, vec![]));
    let mut b = world.start(1);
    b.update(ready(2));
    life(&mut a, Life::Alive).await;
    up(&mut b).await;
    assert_eq!(a.status().peers[0].sessions, 2);
}

#[tokio::test]
async fn a_silent_peer_is_suspect_and_then_dead_though_the_connection_stands() {
    // The real address is a relay's, which can be told to swallow everything.
    let mut world = World::new(2);
    world.dead_after = Duration::from_millis(100);
    let relay = Relay::start(world.addresses[1]);
    let mut seen_by_a = world.group("lb0");
    seen_by_a.peering.as_mut().unwrap().addresses[1] = relay.address;
    let mut a = peer::start(&seen_by_a, 0, no_streams()).unwrap();
    let b = world.start(1);
    b.update(ready(1));
    life(&mut a, Life::Alive).await;
    let session = a.status().peers[0].session;
    relay.swallow(true);
    let start = Instant::now();
    life(&mut a, Life::Suspect).await;
    let suspect = start.elapsed();
    life(&mut a, Life::Dead).await;
    let dead = start.elapsed();
    assert!(
        suspect >= Duration::from_millis(35) && dead >= Duration::from_millis(85),
        "{suspect:?} {dead:?}"
    );
    assert!(dead < Duration::from_millis(250), "{dead:?}");
    relay.swallow(false);
    life(&mut a, Life::Alive).await;
    assert_eq!(a.status().peers[0].session, session, "the same connection");
}

/// Passes datagrams on in both directions.
struct Relay {
    address: SocketAddr,
    swallow: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        use std::sync::atomic::Ordering;
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let swallow = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let caller = std::sync::Arc::new(std::sync::Mutex::new(None));
        let (front2, back2) = (front.try_clone().unwrap(), back.try_clone().unwrap());
        let (swallow1, swallow2, caller2) = (swallow.clone(), swallow.clone(), caller.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((length, from)) = front.recv_from(&mut bytes) {
                *caller.lock().unwrap() = Some(from);
                if !swallow1.load(Ordering::Relaxed) {
                    let _ = back.send_to(&bytes[..length], to);
                }
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((length, _)) = back2.recv_from(&mut bytes) {
                let caller = *caller2.lock().unwrap();
                if let (Some(caller), false) = (caller, swallow2.load(Ordering::Relaxed)) {
                    let _ = front2.send_to(&bytes[..length], caller);
                }
            }
        });
        Self { address, swallow }
    }

    fn swallow(&self, yes: bool) {
        self.swallow.store(yes, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Node 1 with the certificates in `pki`, seen by an honest node 0, which calls, and an honest node 2, which answers: nobody of
/// them ever has a session with it, and both count why.
async fn intruder(world: &World, by_caller: Refusal, by_answerer: Refusal) {
    let mut caller = world.start(0);
    let mut answerer = world.start(2);
    let mut bad = peer::start(&world.group("bad"), 1, no_streams()).unwrap();
    refused(&caller, by_caller, 2).await;
    refused(&answerer, by_answerer, 2).await;
    assert!(!bad.send(0, 0, vec![]) && !caller.send(1, 0, vec![]) && !answerer.send(1, 0, vec![]));
    let silent = timeout(Duration::from_millis(100), async {
        wait(&mut bad, |event| {
            matches!(event, Event::Up { .. } | Event::Facts { .. }).then_some(())
        })
        .await;
    });
    assert!(silent.await.is_err(), "it gets nothing");
    for good in [&mut caller, &mut answerer] {
        assert!(
            good.status()
                .peers
                .iter()
                .all(|peer| peer.place != 1 || peer.facts.is_none())
        );
        up(good).await;
    }
    assert!(
        caller
            .status()
            .peers
            .iter()
            .any(|peer| peer.place == 1 && peer.trouble.is_some())
    );
}

#[tokio::test]
async fn another_authority_gets_nothing() {
    let world = World::new(3);
    pki::init(&world.path("other"), "blue", false).unwrap();
    world.issue("other", "lb1", "bad");
    // It trusts everybody, and nobody trusts it.
    fs::copy(world.path("ca/ca.pem"), world.path("bad/ca.pem")).unwrap();
    intruder(&world, Refusal::Authority, Refusal::Authority).await;
}

#[tokio::test]
async fn names_that_should_not_be_there_get_nothing() {
    let world = World::new(3);
    let good = world.start(1);
    let call = async |name: &str| {
        forge(&world, name, 10);
        let call = Stranger::new(&world, Some("bad")).call(world.addresses[1]).await;
        assert!(call.is_err(), "{name}: {call:?}");
    };
    // Another group, a node that isn't configured, this node itself.
    for (count, name) in (1..).zip(["lb0.green.tandem", "lb7.blue.tandem", "lb1.blue.tandem", "lb0"]) {
        call(name).await;
        refused(&good, Refusal::Name, count).await;
    }
    // A node that should be called instead.
    call("lb2.blue.tandem").await;
    refused(&good, Refusal::Protocol, 1).await;
    assert!(
        good.status()
            .peers
            .iter()
            .all(|peer| peer.session.is_none() && peer.facts.is_none())
    );
    // And who calls finds out, too: what answers at lb1's address is of another group.
    drop(good);
    forge(&world, "lb1.green.tandem", 10);
    let caller = world.start(0);
    let _bad = peer::start(&world.group("bad"), 1, no_streams()).unwrap();
    refused(&caller, Refusal::Name, 2).await;
    assert!(!caller.send(1, 0, vec![]));
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing() {
    let world = World::new(3);
    forge(&world, "lb1.blue.tandem", -1);
    intruder(&world, Refusal::Expired, Refusal::Expired).await;
}

/// A certificate by the group's authority as `lbctl pki` doesn't make them; `days` from now.
fn forge(world: &World, dns: &str, days: i64) {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
    world.issue("ca", "lb1", "bad");
    let key = KeyPair::from_pem(&fs::read_to_string(world.path("bad/node.key")).unwrap()).unwrap();
    let ca_key = KeyPair::from_pem(&fs::read_to_string(world.path("ca/ca.key")).unwrap()).unwrap();
    let ca = fs::read_to_string(world.path("ca/ca.pem")).unwrap();
    let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
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
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).unwrap();
    fs::write(
        world.path("bad/node.pem"),
        params.signed_by(&key, &issuer).unwrap().pem(),
    )
    .unwrap();
}

#[tokio::test]
async fn a_node_can_not_pass_for_another() {
    // Node 2's certificate at node 1's address, and node 2 is away.
    let world = World::new(3);
    let mut caller = world.start(0);
    let mut group = world.group("lb2");
    let peering = group.peering.as_mut().unwrap();
    peering.addresses.swap(1, 2);
    let bad = peer::start(&group, 2, no_streams()).unwrap();
    refused(&caller, Refusal::Name, 2).await;
    let silent = timeout(Duration::from_millis(100), up(&mut caller));
    assert!(silent.await.is_err());
    assert!(!bad.send(0, 0, vec![]));
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let world = World::new(2);
    let good = world.start(1);
    let call = Stranger::new(&world, None).call(world.addresses[1]).await;
    assert!(call.is_err(), "{call:?}");
    refused(&good, Refusal::NoCertificate, 1).await;
}

/// Somebody with a QUIC stack of its own.
struct Stranger {
    endpoint: quinn::Endpoint,
}

impl Stranger {
    fn new(world: &World, pki: Option<&str>) -> Self {
        use quinn::crypto::rustls::QuicClientConfig;
        use tokio_rustls::rustls::crypto::ring;
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
        use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(world.path("ca/ca.pem")).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pki {
            None => config.with_no_client_auth(),
            Some(folder) => {
                let chain = vec![CertificateDer::from_pem_file(world.path(folder).join("node.pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(world.path(folder).join("node.key")).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"tandem/1".to_vec()];
        let config =
            quinn::ClientConfig::new(std::sync::Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        Self { endpoint }
    }

    /// The connection, if the other end still wants it after its handshake.
    async fn call(&self, address: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        let connection = self.endpoint.connect(address, "lb1.blue.tandem").unwrap().await?;
        // It opens its control stream where it is content.
        connection.accept_uni().await?;
        Ok(connection)
    }
}

#[tokio::test]
async fn a_member_that_breaks_the_rules_is_cut_off() {
    let world = World::new(2);
    let good = world.start(1);
    let stranger = Stranger::new(&world, Some("lb0"));
    let address = world.addresses[1];
    let cut = |connection: quinn::Connection| async move {
        timeout(PATIENCE, connection.closed()).await.expect("cut off");
    };
    // A length beyond every frame; nothing of it is sent.
    let connection = stranger.call(address).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[1, 1, 0, 0x80, 0, 1, 5]).await.unwrap();
    cut(connection).await;
    refused(&good, Refusal::Oversize, 1).await;
    // Another version of the protocol.
    let connection = stranger.call(address).await.unwrap();
    connection
        .open_uni()
        .await
        .unwrap()
        .write_all(&[1, 9])
        .await
        .unwrap();
    cut(connection).await;
    refused(&good, Refusal::Protocol, 1).await;
    // A second control stream.
    let connection = stranger.call(address).await.unwrap();
    let mut first = connection.open_uni().await.unwrap();
    first.write_all(&[1, 1]).await.unwrap();
    let mut second = connection.open_uni().await.unwrap();
    second.write_all(&[1, 1]).await.unwrap();
    cut(connection).await;
    refused(&good, Refusal::Protocol, 2).await;
    // Datagrams that are no heartbeats: counted, and no sign of life.
    let connection = stranger.call(address).await.unwrap();
    for byte in 0..50u8 {
        connection
            .send_datagram(vec![byte; usize::from(byte)].into())
            .unwrap();
    }
    refused(&good, Refusal::Heartbeat, 40).await;
    assert!(!good.status().peers[0].life.is_heard());
    // More streams than it may have open.
    for _ in 0..16 {
        connection
            .open_uni()
            .await
            .unwrap()
            .write_all(&[2])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    a.update(ready(1));
    b.update(ready(2));
    life(&mut a, Life::Alive).await;
    life(&mut b, Life::Alive).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 1u32;
    for round in 0..5000u32 {
        let bytes: Vec<u8> = (0..round % 1400)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for address in &world.addresses {
            socket.send_to(&bytes, address).unwrap();
        }
    }
    // From an address that no node has not even a handshake is answered.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let mut initial = vec![0; 1200];
    initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
    stranger.send_to(&initial, world.addresses[0]).unwrap();
    sleep(Duration::from_millis(300)).await;
    for peers in [&a, &b] {
        let status = peers.status();
        assert_eq!((status.peers[0].life, status.peers[0].sessions), (Life::Alive, 1));
    }
}

#[tokio::test]
async fn renewed_certificates_are_taken_and_connections_stay() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    let session = up(&mut a).await;
    up(&mut b).await;
    let before = b.status().own.clone().unwrap().certificate_until;
    // A new authority takes over: first both are trusted, then the nodes get certificates by the new one.
    pki::init(&world.path("new"), "blue", false).unwrap();
    let both = [
        fs::read(world.path("new/ca.pem")).unwrap(),
        fs::read(world.path("ca/ca.pem")).unwrap(),
    ]
    .concat();
    for folder in ["lb0", "lb1"] {
        fs::write(world.path(folder).join("ca.pem"), &both).unwrap();
    }
    a.reload();
    b.reload();
    pki::issue(&world.path("new"), "lb1", &world.path("lb1"), 20, true).unwrap();
    fs::write(world.path("lb1/ca.pem"), &both).unwrap();
    b.reload();
    let start = Instant::now();
    while b.status().own.as_ref().unwrap().certificate_until <= before {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        a.status().peers[0].session,
        Some(session),
        "the connection goes on"
    );
    // The next connection is made with the new one.
    drop(a);
    let mut a = world.start(0);
    up(&mut a).await;
    let until = b.status().own.as_ref().unwrap().certificate_until;
    assert_eq!(a.status().peers[0].certificate_until, Some(until));
    // Broken files change nothing.
    fs::write(world.path("lb1/node.pem"), "-----BEGIN").unwrap();
    b.reload();
    while !b.status().own.as_ref().unwrap().reload_failed {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    drop(a);
    let mut a = world.start(0);
    up(&mut a).await;
}

#[tokio::test]
async fn changed_files_are_found_without_being_told() {
    let world = World::new(2);
    let a = world.start(0);
    let before = a.status().own.clone();
    pki::renew(&world.path("ca"), &world.path("lb0"), 30).unwrap();
    let start = Instant::now();
    let until = |own: &Option<peer::Own>| own.as_ref().map(|own| own.certificate_until);
    while until(&a.status().own) <= until(&before)
        || until(&before).is_none() && start.elapsed().as_secs() < 4
    {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_can_not_start() {
    let world = World::new(2);
    let fails = |group: &Group, own: usize| peer::start(group, own, no_streams()).unwrap_err().to_string();
    let mut group = world.group("lb0");
    assert!(fails(&group, 7).contains("don't talk"));
    assert!(fails(&world.group("nowhere"), 0).contains("nowhere/ca.pem"));
    assert!(fails(&world.group("lb1"), 0).contains("is the certificate of `lb1`, and this node is `lb0`"));
    let _taken = UdpSocket::bind(world.addresses[0]).unwrap();
    assert!(fails(&group, 0).contains("can't listen for peers"));
    group.peering = None;
    assert!(fails(&group, 0).contains("don't talk"));
    fs::copy(world.path("lb1/node.key"), world.path("lb0/node.key")).unwrap();
    assert!(
        fails(&world.group("lb0"), 0).contains("TLS"),
        "a key of another certificate"
    );
    assert!(Path::new(&world.path("lb0")).exists());
}
