//! The free place with its own, good certificate: it may say anything, and must not be believed what no node would say.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use lb_common::be::Be16;
use lb_common::flow::{Entry, Key};
use lb_common::header::proto;
use lb_common::tick::Tick;
use lb_common::{id, vip};
use lb_tests::LabError;
use lb_tests::stranger::Stranger;
use lb_tests::topo::{ECHO_PORT, Topology, VIP4};
use lb_userspace::dataplane::flows::Table;
use lb_userspace::group::{self, Cell, Generation, Msg, Nodes, Order, Target, Term};
use lb_userspace::peer::wire::{CONTROL, FRAME_MAX, PROTOCOL, RECORDS, encode, frame_header, opening};
use lb_userspace::peer::{Facts, Phase};
use lb_userspace::sync::{Frame, Hello, Kind, Record};
use quinn::{Connection, RecvStream, SendStream};
use tokio::time::{sleep, timeout};

use super::ground::{Ground, HOSTILE};

const SOON: Duration = Duration::from_secs(10);
/// A flood ends after this, however far it has come.
const FLOOD: Duration = Duration::from_secs(1);
/// Channels of control messages: the group's, the charter's.
const GROUP: u8 = 1;
const CHARTER: u8 = 2;
/// The place in `group.nodes`.
const PLACE: u8 = HOSTILE as u8;
const TICK: Tick = Tick(5_000_000);

/// Bytes that nobody chose, the same in each run.
struct Noise(u32);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 24) as u8
        };
        (0..count).map(|_| next()).collect()
    }
}

/// It, and where it finds the others.
pub(super) struct Member {
    stranger: Stranger,
    others: [SocketAddr; 3],
}

/// A session: what it says as control messages, and what it is told.
struct Session {
    connection: Connection,
    control: SendStream,
    told: RecvStream,
}

impl Member {
    pub(super) fn new(ground: &Ground<'_>) -> Result<Self, LabError> {
        let (authority, own) = (ground.path("authority"), ground.path("lb1.pki"));
        let namespace = ground.lab.nodes()[HOSTILE].namespace();
        let at = ground.own_address();
        let make = async { Stranger::new(namespace, at, &authority, Some(&own)) };
        Ok(Self {
            stranger: ground.block_on(make)?,
            others: [0, 1, 2].map(|index| ground.at(index)),
        })
    }

    /// A connection without anything on it.
    async fn call(&self, good: usize) -> (Connection, RecvStream) {
        let name = format!("{}.lab.tandem", Topology::node_name(good));
        let called = timeout(SOON, self.stranger.call(self.others[good], &name)).await;
        called.expect("an answer").expect("its certificate is good")
    }

    async fn session(&self, good: usize) -> Session {
        let (connection, mut told) = self.call(good).await;
        let mut control = connection.open_uni().await.expect("a stream");
        control.write_all(&opening(&[])).await.expect("written");
        let nodes = [0; 3];
        told.read_exact(&mut opening(&nodes)).await.expect("read");
        Session {
            connection,
            control,
            told,
        }
    }

    /// A session with a stream of this kind that begins with these bytes. Dropped, it ends its control stream.
    async fn stream(&self, good: usize, kind: u8, bytes: &[u8]) -> Session {
        let session = self.session(good).await;
        put(&session.connection, kind, bytes).await;
        session
    }

    /// Frames of all channels that hold no message, and streams of kinds that nobody knows: ignored.
    pub(super) async fn nonsense(&self, ground: &Ground<'_>, good: usize) {
        let mut noise = Noise(1);
        let mut session = self.session(good).await;
        for channel in 0..=u8::MAX {
            let payload = noise.bytes(usize::from(channel) * 8);
            send(&mut session.control, channel, &payload).await;
        }
        let order = postcard::to_stdvec(&order(term(9, 1), Order::Report)).expect("it can be written");
        for cut in 0..order.len() {
            send(&mut session.control, GROUP, &order[..cut]).await;
            send(&mut session.control, CHARTER, &order[..cut]).await;
        }
        for kind in 3..40 {
            put(&session.connection, kind, &noise.bytes(100)).await;
        }
        for length in 0..200 {
            drop(session.connection.send_datagram(noise.bytes(length).into()));
        }
        // It is still listened to: an order of an old term is answered.
        let old = order_of_old();
        send_msg(&mut session.control, &old).await;
        stale(&mut session.told).await;
        assert!(session.connection.close_reason().is_none());
        drop(session);
        let ready = ground.lab.nodes()[good].lbctl(&["ready"]).expect("lbctl runs");
        assert!(ready.status.success(), "{ready:?}");
    }

    /// What ends a session at once: too long, cut off, no frame at all, another version, a second control stream.
    pub(super) async fn broken_frames(&self, good: usize) {
        let too_long = u32::try_from(FRAME_MAX + 1).expect("a few MiB").to_be_bytes();
        let mut session = self.session(good).await;
        write(&mut session.control, &[&too_long[..], &[GROUP, 1, 2, 3]].concat()).await;
        ended("a frame too long", &session.connection).await;
        let mut session = self.session(good).await;
        write(&mut session.control, &[0xff; 9000]).await;
        ended("no frame at all", &session.connection).await;
        for cut in [3, 5, 70] {
            let mut session = self.session(good).await;
            let whole = [&frame_header(GROUP, 1000).expect("short")[..], &[7; 1000]].concat();
            write(&mut session.control, &whole[..cut]).await;
            session.control.finish().expect("it is open");
            ended("a frame cut off", &session.connection).await;
        }
        let (connection, _told) = self.call(good).await;
        put(&connection, CONTROL, &[PROTOCOL + 1]).await;
        ended("another version", &connection).await;
        let session = self.stream(good, CONTROL, &[PROTOCOL]).await;
        ended("a second control stream", &session.connection).await;
    }

    /// Streams of flow records that break the rules: each ends its session.
    pub(super) async fn records_that_are_none(&self, good: usize) {
        let genuine = genuine(PLACE);
        let replayed = [&genuine[..], &announce(0)].concat();
        let ahead = [&genuine[..], &announce(1 << 40)].concat();
        let behind = [&genuine[..], &hello(PLACE)].concat();
        let cut = &genuine[..genuine.len() - 3];
        // The version is taken for the upper byte of a length: there has to be more than that.
        let inside = [cut, &genuine[..], &[0; 1024]].concat();
        for (what, bytes) in [
            ("noise, longer than a frame", Noise(2).bytes(80_000)),
            ("no hello", announce(0)),
            ("somebody else's", hello(2)),
            ("an old sequence number", replayed),
            ("one that isn't due", ahead),
            ("a second hello", behind),
            ("one frame inside another", inside),
            (
                "the longest frame, empty",
                [&hello(PLACE)[..], &[4, 0xff, 0xff], &[0; 65535]].concat(),
            ),
        ] {
            let session = self.stream(good, RECORDS, &bytes).await;
            ended(what, &session.connection).await;
        }
    }

    /// What was said once, and taken back, is said again as it was recorded: on a stream beside the first one, and in another
    /// session behind what that has said.
    pub(super) async fn replayed(&self, ground: &Ground<'_>) {
        for good in ground.good() {
            let maps = ground.maps(good);
            let is_there = || maps.entry(Table::Replicas, &flow()).expect("a map").is_some();
            let session = self.session(good).await;
            let genuine = genuine(PLACE);
            let mut records = put(&session.connection, RECORDS, &genuine).await;
            // The control: what is said in order counts.
            comes("a record counts", is_there).await;
            write(&mut records, &delete(1)).await;
            comes("its end counts", || !is_there()).await;
            put(&session.connection, RECORDS, &genuine).await;
            ended("a stream played again", &session.connection).await;
            let again = [&genuine[..], &delete(1), &announce(0)].concat();
            let session = self.stream(good, RECORDS, &again).await;
            ended("a record played again", &session.connection).await;
            comes("the replay changes nothing", || !is_there()).await;
        }
    }

    /// Orders of a term that is over, each twice: answered by the term that is in force, and not obeyed.
    pub(super) async fn old_orders(&self, good: usize) {
        let mut session = self.session(good).await;
        let cells = || {
            let cell = |slot| Cell {
                pool: id::stable("web4", ""),
                slot,
                backend: id::stable("web4", "be4"),
            };
            (0..1000).map(cell).collect::<Vec<_>>()
        };
        let target = Target {
            generation: Generation { number: 1, node: 0 },
            verdict: 0,
            rings: 7,
        };
        let mut answers = 0;
        for job in [
            Order::Prepare(target),
            Order::Commit(target),
            Order::Bury(cells()),
            Order::Close(cells()),
            Order::Retire(cells()),
            Order::Finish(cells()),
        ] {
            for _ in 0..2 {
                send_msg(&mut session.control, &order(term(0, PLACE), job.clone())).await;
                answers += 1;
            }
        }
        for _ in 0..answers {
            stale(&mut session.told).await;
        }
        assert!(session.connection.close_reason().is_none());
    }

    /// Sessions that begin and go no further, and streams that say half of what they are.
    pub(super) async fn half_open(&self, good: usize) {
        let mut idle = Vec::new();
        for _ in 0..30 {
            let (connection, told) = self.call(good).await;
            for byte in [CONTROL, RECORDS, 9] {
                for _ in 0..4 {
                    if let Ok(Ok(mut stream)) = timeout(FLOOD, connection.open_uni()).await {
                        drop(stream.write_all(&[byte]).await);
                        idle.push((connection.clone(), stream));
                    }
                }
            }
            drop(told);
        }
        // Each gave way to the next; of the last one nobody waits for long.
        let (last, _) = idle.last().expect("some were opened");
        ended("half open", last).await;
    }

    /// Datagrams as fast as they can be sent: nonsense, and heartbeats of before.
    pub(super) async fn datagrams(&self, ground: &Ground<'_>, good: usize) {
        let session = self.session(good).await;
        let heard = || {
            let peers = ground.lab.nodes()[good]
                .lbctl_json(&["peers"])
                .expect("lbctl runs");
            let all = peers["peers"].as_array().expect("a list");
            let own = all.iter().find(|peer| peer["node"] == "lb1").expect("its place");
            own["heard"].as_u64().expect("a number")
        };
        let before = heard();
        let facts = Facts {
            phase: Phase::Joining,
            ..Facts::default()
        };
        let old: Vec<_> = (1..=4).rev().map(|sequence| encode(sequence, &facts)).collect();
        let mut noise = Noise(3);
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < FLOOD {
            for heartbeat in &old {
                drop(
                    session
                        .connection
                        .send_datagram_wait(heartbeat.clone().into())
                        .await,
                );
            }
            for length in [0, 1, 40, 600, 1000] {
                drop(
                    session
                        .connection
                        .send_datagram_wait(noise.bytes(length).into())
                        .await,
                );
                sent += 1;
            }
        }
        println!("{sent} datagrams of nonsense in {:?}", start.elapsed());
        sleep(Duration::from_millis(200)).await;
        // Only what is newer than all before is heard.
        let now = heard();
        assert!((1..=4).contains(&(now - before)), "{before} {now}");
    }

    /// Small messages as fast as they are taken.
    pub(super) async fn messages(&self, good: usize) {
        let mut session = self.session(good).await;
        let mut some = BytesMut::new();
        for _ in 0..100 {
            for (channel, payload) in [(GROUP, &[0xff][..]), (CHARTER, &[0xff]), (9, &[])] {
                some.put_slice(&frame_header(channel, payload.len()).expect("short"));
                some.put_slice(payload);
            }
        }
        let sent = flood(&mut session.control, &some).await;
        println!("{} messages of nonsense", sent * 300);
    }

    /// Fences and ends of resyncs, of which an agent is told each one, as fast as they are taken.
    pub(super) async fn fences(&self, good: usize) {
        let session = self.session(good).await;
        let mut records = put(&session.connection, RECORDS, &hello(PLACE)).await;
        let mut some = BytesMut::new();
        for id in 0..5000 {
            Frame::Fence(id).encode(&mut some);
        }
        let sent = flood(&mut records, &some).await;
        println!("{} fences", sent * 5000);
    }

    /// Streams that begin and end, one after the other.
    pub(super) async fn streams(&self, good: usize) {
        let session = self.session(good).await;
        let (start, mut opened) = (Instant::now(), 0);
        while start.elapsed() < FLOOD {
            let Ok(Ok(mut stream)) = timeout(FLOOD, session.connection.open_uni()).await else {
                break;
            };
            drop(stream.write_all(&[9]).await);
            drop(stream.finish());
            opened += 1;
        }
        println!("{opened} streams of no kind");
    }
}

/// The same bytes again and again for a while. Returns how often.
async fn flood(stream: &mut SendStream, bytes: &[u8]) -> u64 {
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < FLOOD {
        match timeout(FLOOD, stream.write_all(bytes)).await {
            Ok(Ok(())) => sent += 1,
            _ => break,
        }
    }
    sent
}

async fn put(connection: &Connection, kind: u8, bytes: &[u8]) -> SendStream {
    let mut stream = connection.open_uni().await.expect("a stream");
    write(&mut stream, &[&[kind], bytes].concat()).await;
    stream
}

/// The other end may have gone before the last byte.
async fn write(stream: &mut SendStream, bytes: &[u8]) {
    drop(stream.write_all(bytes).await);
}

async fn send(control: &mut SendStream, channel: u8, payload: &[u8]) {
    let header = frame_header(channel, payload.len()).expect("short");
    write(control, &[&header[..], payload].concat()).await;
}

async fn send_msg(control: &mut SendStream, msg: &Msg) {
    send(
        control,
        GROUP,
        &postcard::to_stdvec(msg).expect("it can be written"),
    )
    .await;
}

/// Waits without standing in the way of what is still to be sent.
async fn comes(what: &str, is: impl Fn() -> bool) {
    let waited = async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(SOON, waited).await.is_ok(), "{what}");
}

/// Until the node closes the session.
async fn ended(what: &str, connection: &Connection) {
    let why = timeout(SOON, connection.closed()).await;
    let is_closed = matches!(why, Ok(quinn::ConnectionError::ApplicationClosed(_)));
    assert!(is_closed, "{what}: {why:?}");
}

/// Reads messages until one says that a term is over.
async fn stale(told: &mut RecvStream) {
    let read = async {
        loop {
            let mut header = [0; 5];
            told.read_exact(&mut header).await.expect("a header");
            let (channel, length) = lb_userspace::peer::wire::frame_of(header).expect("a frame");
            let mut payload = vec![0; length];
            told.read_exact(&mut payload).await.expect("a payload");
            if channel == GROUP
                && let Ok(Msg::Stale(_)) = group::decode(&payload, 3)
            {
                return;
            }
        }
    };
    timeout(SOON, read).await.expect("the term in force");
}

const fn term(number: u64, node: u8) -> Term {
    Term {
        number,
        node,
        epoch: 1,
    }
}

fn order_of_old() -> Msg {
    order(term(0, PLACE), Order::Report)
}

fn order(term: Term, order: Order) -> Msg {
    Msg::Order(group::Numbered {
        term,
        number: u64::MAX,
        members: Nodes::first(3),
        edition: group::Edition {
            term,
            change: u32::MAX,
        },
        adrift: Nodes::default(),
        job: group::Job::Engine(order),
    })
}

/// A flow that no client has.
fn flow() -> Key {
    Key {
        src: IpAddr::from([10, 9, 1, 250]).into(),
        dst: IpAddr::from(VIP4).into(),
        sport: Be16::new(7777),
        dport: Be16::new(ECHO_PORT),
        proto: proto::TCP,
        pad: [0; 3],
    }
}

fn hello(place: u8) -> Vec<u8> {
    let hello = Hello {
        place,
        joins: false,
        connected: vec![1, 2],
    };
    Frame::Hello(hello).bytes().to_vec()
}

/// What a session of a good node begins with: its name, those of a VIP and a backend, and a flow.
fn genuine(place: u8) -> Vec<u8> {
    let vip = Frame::Vip {
        name: 1,
        vip: vip::Key::new(flow().dst, flow().dport, flow().proto),
    };
    let backend = Frame::Backend {
        name: 1,
        id: id::stable("web4", "be1"),
    };
    [&hello(place)[..], &vip.bytes(), &backend.bytes(), &announce(0)].concat()
}

fn announce(first: u64) -> Vec<u8> {
    record(first, Kind::Announce)
}

fn delete(first: u64) -> Vec<u8> {
    record(first, Kind::Delete)
}

fn record(first: u64, kind: Kind) -> Vec<u8> {
    let entry = Entry::probation(1, 9, TICK).confirmed(TICK);
    let mut body = BytesMut::new();
    Record::new(flow(), &entry, kind, 1, 1, TICK).encode(false, &mut body);
    let frame = Frame::Records {
        first,
        now: TICK,
        count: 1,
        body: body.freeze(),
    };
    frame.bytes().to_vec()
}
