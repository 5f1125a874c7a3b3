//! Clients that use a port again whose old connection its backend still has.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::host::Node;
use lb_tests::topo::{ECHO_PORT, Family, VIP4};
use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabError};
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::drained::slots;
use crate::steady::{self, SOON};

const PORTS: std::ops::Range<u16> = 20_000..20_080;
/// A handshake that has to be asked for again takes a second.
const PATIENCE: Duration = Duration::from_secs(8);

/// From this port of the client's.
fn open(port: u16) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    // Closed by a RST, which nobody gets where there is no route: the backend knows nothing of it.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    connect(&socket, &Family::V4.vip(ECHO_PORT))?;
    Ok(socket.into())
}

fn order(node: &Node, verb: &str) -> Result<(), LabError> {
    for pool in ["web4", "web6"] {
        let target = format!("{pool}/be2");
        until_ok(SOON, &format!("{verb} {target}"), || {
            Ok(node.lbctl(&[verb, &target])?.status.success())
        })?;
    }
    Ok(())
}

/// be2 is new in its slots, whose other flows are at `origin`: it asks for what it still has, and has to hear the answer.
#[test]
fn a_port_is_used_again_while_its_slot_is_tracked() {
    let (builder, _) = steady::lab("reuse", "on-change", |_| {});
    builder
        .run(|lab: &mut Lab| {
            let client = lab.client().namespace().clone();
            let before = slots(&lab.nodes()[0], "be2")?;
            let old: Vec<TcpStream> = client
                .within(|| PORTS.map(open).collect::<io::Result<_>>())?
                .expect("they open");
            client.ip(&[format!("route add blackhole {VIP4}/32")])?;
            drop(old);
            client.ip(&[format!("route del blackhole {VIP4}/32")])?;
            order(&lab.nodes()[0], "down")?;
            until_ok(SOON, "be2 is dead", || Ok(slots(&lab.nodes()[0], "be2")? == 0))?;
            order(&lab.nodes()[0], "up")?;
            until_ok(SOON, "be2 has its slots again", || {
                Ok(slots(&lab.nodes()[0], "be2")? == before)
            })?;
            let start = Instant::now();
            let opened = client.within(|| PORTS.map(open).collect::<Vec<_>>())?;
            let failed: Vec<_> = opened.iter().filter_map(|one| one.as_ref().err()).collect();
            println!(
                "reuse: {} opened in {:?}, {} failed",
                opened.len(),
                start.elapsed(),
                failed.len()
            );
            assert!(failed.is_empty(), "{failed:?}");
            // The control: be2 had old ones, and got rid of them by answers of the client.
            let asked = lab
                .backend(1)
                .namespace()
                .within(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))?;
            let asked = asked.expect("it is read");
            let challenges = counter(&asked, "TCPChallengeACK");
            assert!(challenges >= 10, "{challenges} questions of be2");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// A counter of /proc/net/netstat: lines of names and of values in turn.
fn counter(text: &str, name: &str) -> u64 {
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.chunks(2).find_map(|pair| {
        let place = pair[0].split(' ').position(|word| word == name)?;
        pair.get(1)?.split(' ').nth(place)?.parse().ok()
    });
    found.expect("the kernel counts it")
}
