//! Second chance: which packets `lb_decap` sends on, and what becomes of them, with real sockets of this namespace.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use lb_common::stop::DecapStop;
use lb_tests::model::Verdict;

use crate::decap::{Decap, Want};
use crate::frame::{Ip, MACS, TCP, UDP, ip, tcp, udp};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A node, this backend, and the other one, of each family.
const HOSTS: [[&str; 3]; 2] = [
    ["10.0.0.5", "10.0.1.1", "10.0.1.2"],
    ["fd00::5", "fd00:1::1", "fd00:1::2"],
];
/// Nodes, and backends' addresses beside them.
const ALLOW: [&str; 4] = ["10.0.0.0/24", "10.0.1.0/24", "fd00::/112", "fd00:1::/112"];

fn private(kind: u8, address: IpAddr) -> Vec<u8> {
    let head = [0x7a, 0x1d, kind, 0];
    match address {
        IpAddr::V4(address) => [&head[..], &address.octets()].concat(),
        IpAddr::V6(address) => [&head[..], &address.octets()].concat(),
    }
}

/// `inner` in GUE from the node to this backend, with this private data.
fn wrap(v6: bool, inner: &Ip, private: &[u8]) -> Ip {
    let [node, here, _] = HOSTS[usize::from(v6)].map(ip);
    let proto = if inner.src.is_ipv4() { 4 } else { 41 };
    let inner = inner.bytes();
    let len = (12 + private.len() + inner.len()) as u16;
    let head = [50_000, 6080, len, 0].map(u16::to_be_bytes).concat();
    let gue = [(private.len() / 4) as u8, proto, 0, 0];
    Ip::new(node, here, UDP, [&head[..], &gue, private, &inner].concat())
}

/// The same, naming the other backend.
fn named(v6: bool, inner: &Ip) -> Ip {
    wrap(v6, inner, &private(1, ip(HOSTS[usize::from(v6)][2])))
}

/// What [`named`] is as it goes on: from here to the other one, spent, and back where the frame came from.
fn sent_on(v6: bool, inner: &Ip, tag: Option<u16>) -> Vec<u8> {
    let [_, here, other] = HOSTS[usize::from(v6)].map(ip);
    let was = wrap(v6, inner, &private(2, here));
    let next = Ip {
        src: here,
        dst: other,
        ttl: was.ttl - 1,
        ..was
    };
    let mut frame = tag.map_or(next.frame(), |tci| next.tagged(tci));
    frame[..6].copy_from_slice(&MACS[1]);
    frame[6..12].copy_from_slice(&MACS[0]);
    frame
}

fn segment(from: SocketAddr, to: SocketAddr, flags: u8) -> Ip {
    let mut bytes = tcp(from.port(), to.port(), b"data");
    bytes[13] = flags;
    Ip::new(from.ip(), to.ip(), TCP, bytes)
}

fn loopback() {
    let up = Command::new("ip")
        .args(["link", "set", "dev", "lo", "up"])
        .status();
    assert!(up.expect("run ip").success());
}

/// A listener and a connection to it: its client's address, its server's, and both ends.
struct Service {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Service {
    fn new(v6: bool) -> Self {
        let address = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
        let listener = TcpListener::bind(address).expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (server, _) = listener.accept().expect("the same");
        Self {
            listener,
            client,
            server,
        }
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        (
            self.client.local_addr().expect("connected"),
            self.listener.local_addr().expect("bound"),
        )
    }
}

fn elsewhere(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip(), from.port() ^ 1)
}

#[test]
fn what_is_here_and_what_is_sent_on() {
    let decap = Decap::new(&ALLOW);
    loopback();
    for outer in [false, true] {
        for v6 in [false, true] {
            let service = Service::new(v6);
            let (from, to) = service.ends();
            let removed = |what: &str, inner: &Ip| {
                decap.check(what, &named(outer, inner).frame(), &Want::Removed(inner.frame()));
            };
            let on = |what: &str, inner: &Ip| {
                decap.check(
                    what,
                    &named(outer, inner).frame(),
                    &Want::SentOn(sent_on(outer, inner, None)),
                );
                let want = Want::SentOn(sent_on(outer, inner, Some(7)));
                decap.check(what, &named(outer, inner).tagged(7), &want);
            };
            removed("a connection", &segment(from, to, ACK));
            on("a listener", &segment(elsewhere(from), to, ACK));
            on("a listener, RST", &segment(elsewhere(from), to, RST));
            on("a listener, no flag", &segment(elsewhere(from), to, 0));
            removed("a new connection", &segment(elsewhere(from), to, SYN));
            removed("a SYN with ACK", &segment(elsewhere(from), to, SYN | ACK));
            on("nobody", &segment(from, elsewhere(to), ACK));
            let mut datagram = segment(from, elsewhere(to), ACK);
            (datagram.proto, datagram.payload) = (UDP, udp(1, 2, b"data and so on"));
            removed("UDP", &datagram);
            let unknown = segment(elsewhere(from), to, ACK);
            if !v6 {
                let with = |frag| Ip {
                    frag,
                    ..unknown.clone()
                };
                removed("a later fragment", &with(0x2001));
                on("a first fragment", &with(0x2000));
                let options = Ip {
                    options: vec![1; 12],
                    ..unknown.clone()
                };
                on("options", &options);
            }
            let mut short = unknown.clone();
            short.payload.truncate(19);
            removed("a TCP header that is cut off", &short);

            // TIME-WAIT is this host's: it answers what comes late.
            let Service {
                mut client,
                server,
                listener,
            } = service;
            drop(server);
            assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
            drop(client);
            std::thread::sleep(std::time::Duration::from_millis(50));
            removed("TIME-WAIT", &segment(from, to, ACK));
            drop(listener);
            removed("TIME-WAIT without a listener", &segment(from, to, ACK));
            on("nobody any more", &segment(elsewhere(from), to, ACK));
        }
    }
}

/// A packet that was sent on is taken by the other backend, whatever that one knows: it never goes a second time.
#[test]
fn nothing_is_sent_on_twice() {
    let decap = Decap::new(&ALLOW);
    loopback();
    for outer in [false, true] {
        for v6 in [false, true] {
            let (from, to): (SocketAddr, SocketAddr) = if v6 {
                ("[::1]:4000".parse().unwrap(), "[::1]:9".parse().unwrap())
            } else {
                ("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:9".parse().unwrap())
            };
            let inner = segment(from, to, ACK);
            let (verdict, next) = decap.run(&named(outer, &inner).frame());
            assert_eq!(verdict, Verdict::Tx);
            let mut want = inner.frame();
            want[..12].copy_from_slice(&next[..12]);
            decap.check("again", &next, &Want::Removed(want));
        }
    }
}

#[test]
fn what_names_nobody() {
    let decap = Decap::new(&ALLOW);
    loopback();
    for outer in [false, true] {
        let inner = segment(
            "127.0.0.1:4000".parse().unwrap(),
            "127.0.0.1:9".parse().unwrap(),
            ACK,
        );
        let other = ip(HOSTS[usize::from(outer)][2]);
        let removed = |what: &str, packet: &Ip| {
            decap.check(what, &packet.frame(), &Want::Removed(inner.frame()));
        };
        removed("nothing", &wrap(outer, &inner, &[]));
        removed("spent", &wrap(outer, &inner, &private(2, other)));
        removed("another kind", &wrap(outer, &inner, &private(3, other)));
        for byte in [0, 1, 3] {
            let mut bytes = private(1, other);
            bytes[byte] ^= 1;
            removed("another format", &wrap(outer, &inner, &bytes));
        }
        let longer = [private(1, other), vec![0; 4]].concat();
        removed("longer", &wrap(outer, &inner, &longer));
        removed("shorter", &wrap(outer, &inner, &private(1, other)[..4]));
        let wrong = ip(HOSTS[usize::from(!outer)][2]);
        removed("the other family", &wrap(outer, &inner, &private(1, wrong)));
        for ttl in [0, 1] {
            let last = Ip {
                ttl,
                ..named(outer, &inner)
            };
            removed("its last hop", &last);
        }
        let stranger = ip(if outer { "fd00:2::2" } else { "10.0.2.2" });
        let packet = wrap(outer, &inner, &private(1, stranger));
        decap.check("a stranger", &packet.frame(), &Want::Stranger(inner.frame()));
    }
}

#[test]
fn what_is_no_gue() {
    let decap = Decap::new(&ALLOW);
    for outer in [false, true] {
        let inner = segment(
            "127.0.0.1:4000".parse().unwrap(),
            "127.0.0.1:9".parse().unwrap(),
            ACK,
        );
        let with = |at: usize, byte: u8| {
            let mut packet = wrap(outer, &inner, &[]);
            packet.payload[at] = byte;
            packet.frame()
        };
        let stop = |what: &str, frame: &[u8], stop| decap.check(what, frame, &Want::Stop(stop));
        for control in [0x40, 0x80, 0xc0, 0x20] {
            stop("another variant, control", &with(8, control), DecapStop::Gue);
        }
        for (at, byte) in [(9, 6), (9, 0), (10, 0x80), (11, 1)] {
            stop("no IP inside, flags", &with(at, byte), DecapStop::Gue);
        }
        stop("another port", &with(3, 0xc1), DecapStop::NotTunnel);
        stop(
            "more private data than there is",
            &with(8, 31),
            DecapStop::Malformed,
        );
        for len in [0u16, 8, 11, 1000] {
            let mut packet = wrap(outer, &inner, &[]);
            packet.payload[4..6].copy_from_slice(&len.to_be_bytes());
            stop("length of UDP", &packet.frame(), DecapStop::Malformed);
        }
        let foreign = Ip {
            src: ip(if outer { "fd00:9::5" } else { "10.9.0.5" }),
            ..named(outer, &inner)
        };
        stop("a foreign source", &foreign.frame(), DecapStop::NotAllowed);
        if !outer {
            for frag in [0x2000, 0x0001] {
                let fragment = Ip {
                    frag,
                    ..named(outer, &inner)
                };
                stop("a fragment", &fragment.frame(), DecapStop::NotTunnel);
            }
        }
    }
}
