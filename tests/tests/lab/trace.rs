//! `lbctl trace` says what becomes of packets, and nobody notices that it was asked.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Output;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::Xdp;
use lb_common::abi::LAB_PASS as LAB_PASS_NAME;
use lb_tests::host::Node;
use lb_tests::topo::{ECHO_PORT, HTTP_PORT};
use lb_tests::{Family, Lab, LabError, binary, command};
use lb_userspace::dataplane::object::LAB_PASS;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::Value;

/// `lbctl trace` in the node's namespace: an interface is known by its number there.
fn trace(node: &Node, args: &[&str]) -> Result<Output, LabError> {
    let mut lbctl = node.namespace().command(binary::find("lbctl")?);
    lbctl
        .arg("--pin-root")
        .arg(node.pin_root())
        .arg("trace")
        .args(args);
    command::output(&mut lbctl)
}

/// Its exit code and document.
fn trace_json(node: &Node, args: &[&str]) -> Result<(i32, Value), LabError> {
    let out = trace(node, &[args, &["--output", "json"]].concat())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&out.stderr)));
    Ok((out.status.code().expect("not killed"), value))
}

fn refused(node: &Node, args: &[&str], words: &str) -> Result<(), LabError> {
    let out = trace(node, args)?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(
        stderr.contains(words) && out.stdout.is_empty(),
        "{args:?}: {stderr}"
    );
    Ok(())
}

/// Asks a VIP's echo from this port; the client's address and the name of the backend that answered.
fn ask(lab: &Lab, vip: SocketAddr, port: u16, tcp: bool) -> Result<(SocketAddr, String), LabError> {
    let client: IpAddr = match vip {
        SocketAddr::V4(_) => "10.9.1.2".parse().expect("an address"),
        SocketAddr::V6(_) => "fd00:9:1::2".parse().expect("an address"),
    };
    let from = SocketAddr::new(client, port);
    let answer = lab.client().namespace().within(|| {
        if !tcp {
            let socket = std::net::UdpSocket::bind(from).expect("a free port");
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .expect("a timeout");
            socket.send_to(b"x", vip).expect("it is sent");
            let mut buffer = [0; 64];
            let (len, _) = socket.recv_from(&mut buffer).expect("an answer");
            return String::from_utf8_lossy(&buffer[..len]).into_owned();
        }
        let family = if vip.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket(family, SocketType::STREAM, None).expect("a socket");
        bind(socket.as_fd(), &from).expect("a free port");
        connect(socket.as_fd(), &vip).expect("a connection");
        let mut stream = std::net::TcpStream::from(socket);
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        stream.write_all(b"x\n").expect("it is sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        line
    })?;
    let name = answer.split(' ').next().expect("a name").to_owned();
    Ok((from, name))
}

#[test]
fn a_trace_names_the_backend_that_answers() {
    Lab::builder("trace-answers")
        .nodes(1)
        .run(|lab| {
            let mut seen = Vec::new();
            for family in Family::BOTH {
                let vip = family.vip(ECHO_PORT);
                for (port, tcp) in (40_000..40_012).flat_map(|port| [(port, true), (port, false)]) {
                    let (from, name) = ask(lab, vip, port, tcp)?;
                    let (from, to) = (from.to_string(), vip.to_string());
                    let protocol = if tcp { "tcp" } else { "udp" };
                    let mut args = vec!["--from", &from, "--to", &to, "--protocol", protocol];
                    let (code, data) = trace_json(lab.node(0), &args)?;
                    assert_eq!((code, &data["forwarded"]), (0, &true.into()), "{data:#}");
                    assert_eq!(data["backend"]["backend"], *name, "{data:#}");
                    assert_eq!(data["out"]["interface"], "eth0", "{data:#}");
                    assert_eq!(data["warnings"], serde_json::json!([]), "{data:#}");
                    if tcp {
                        args.push("--syn");
                        let (_, syn) = trace_json(lab.node(0), &args)?;
                        assert_eq!(syn["backend"], data["backend"]);
                        assert_eq!(
                            (&syn["parse"]["flags"], &data["parse"]["flags"]),
                            (&"SYN".into(), &"ACK".into())
                        );
                    }
                    seen.push(name);
                }
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen, ["be1", "be2", "be3"]);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// What a trace could have changed: counters of the reasons that it met and of what it forwarded, every other map.
fn facts(node: &Node) -> Result<Vec<Value>, LabError> {
    let mut facts = vec![node.lbctl_json(&["status"])?];
    for name in [
        "lb_vips",
        "lb_slots",
        "lb_backends",
        "lb_devices",
        "lb_vip_stats",
        "lb_be_stats",
    ] {
        facts.push(node.lbctl_json(&["maps", name])?);
    }
    let stats = node.lbctl_json(&["stats"])?;
    // The network's own packets are counted all the time for other reasons.
    let met = ["unserved", "fragment", "too_big"];
    let stops = stats["stops"].as_array().expect("a list").iter();
    facts.extend(
        stops
            .filter(|stop| met.iter().any(|reason| stop["reason"] == *reason))
            .cloned(),
    );
    Ok(facts)
}

#[test]
fn a_trace_changes_nothing_and_tells_why_a_packet_stops() {
    Lab::builder("trace-stops")
        .nodes(1)
        .run(|lab| {
            let before = facts(lab.node(0))?;
            assert_eq!(before.len(), 10);
            let node = lab.node(0);
            let vip = Family::V4.vip(HTTP_PORT).to_string();
            let to = |to: &'static str| vec!["--from", "10.9.1.2:40000", "--to", to];
            // A fragment of 60 bytes to the VIP: more fragments, offset 0.
            let fragment = "020000000002 020000000001 0800 4500 002e 0001 2000 4006 0000 0a090102 0ac80101"
                .to_owned()
                + &"00".repeat(26);
            let big = [&to("10.200.1.1:80")[..], &["--payload", "1541"]].concat();
            let fits = [&to("10.200.1.1:80")[..], &["--payload", "1540"]].concat();
            for (args, stage, reason) in [
                (to("10.200.1.9:80"), "vip", "not_vip"),
                (to("10.200.1.1:81"), "vip", "unserved"),
                (big, "encap", "too_big"),
                (vec!["--hex", &fragment], "vip", "fragment"),
                (vec!["--hex", "ffffffffffff0200000000010806"], "parse", "not_ip"),
            ] {
                let (code, trace) = trace_json(node, &args)?;
                assert_eq!((code, &trace["forwarded"]), (1, &false.into()), "{trace:#}");
                assert_eq!(trace["stop"]["stage"], stage, "{trace:#}");
                assert_eq!(trace["stop"]["reason"], reason, "{trace:#}");
            }
            let (code, trace) = trace_json(node, &fits)?;
            assert_eq!((code, &trace["encap"]["bytes"]), (0, &1600.into()), "{trace:#}");
            let out = crate::trace::trace(node, &["--from", "10.9.1.2:40000", "--to", &vip])?;
            let text = String::from_utf8_lossy(&out.stdout);
            for words in ["STOP", "WARNING", "WRONG"] {
                assert!(!text.contains(words), "{text}");
            }
            for words in [
                "10.200.1.1:80/tcp found by its own port, pool web4",
                "checksum right",
                "forwarded to be",
            ] {
                assert!(text.contains(words), "{text}");
            }
            let out = crate::trace::trace(node, &fits)?;
            let text = String::from_utf8_lossy(&out.stdout);
            // 20 and 20 bytes of headers, 1,540 of payload.
            assert!(text.contains("... 1452 bytes more"), "{text}");
            assert_eq!(facts(node)?, before);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// A pcap file, little-endian, with these frames.
fn pcap(frames: &[&[u8]]) -> Vec<u8> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut file = words(&[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 262_144, 1]);
    for frame in frames {
        let len = frame.len() as u32;
        file.extend(words(&[0, 0, len, len]));
        file.extend(*frame);
    }
    file
}

#[test]
fn a_packet_of_a_file_is_traced_by_the_second_link() {
    Lab::builder("trace-file")
        .nodes(1)
        .second_link(0)
        .run(|lab| {
            let node = lab.node(0);
            let mut udp = vec![0; 14 + 40 + 8 + 5];
            udp[12..21].copy_from_slice(&[0x86, 0xdd, 0x6b, 0x80, 0, 0, 0, 13, 17]);
            let address = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
            udp[22..38].copy_from_slice(&address("fd00:9:1::2"));
            udp[38..54].copy_from_slice(&address("fd00:200:1::1"));
            udp[54..60].copy_from_slice(&[0x9c, 0x40, 0, 7, 0, 13]);
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("two.pcap");
            fs::write(&path, pcap(&[&[0xff; 60], &udp])).expect("it is written");
            let file = path.to_str().expect("text");
            let (code, trace) = trace_json(node, &["--file", file, "--packet", "2", "--interface", "eth0"])?;
            assert_eq!(code, 0, "{trace:#}");
            // Class 0xb8: expedited forwarding, outside as inside.
            assert_eq!(
                (&trace["parse"]["ip"]["dscp"], &trace["encap"]["dscp"]),
                (&46.into(), &46.into())
            );
            assert_eq!(
                trace["out"],
                serde_json::json!({ "how": "redirect", "interface": "eth1" })
            );
            assert_eq!(trace["encap"]["kind"], "6in6", "{trace:#}");
            let (_, back) = trace_json(node, &["--file", file, "--packet", "2", "--interface", "eth1"])?;
            assert_eq!(
                back["out"],
                serde_json::json!({ "how": "transmit", "interface": "eth1" })
            );
            assert_eq!(back["frame"], trace["frame"]);
            let (code, first) = trace_json(node, &["--file", file])?;
            assert_eq!(
                (code, &first["stop"]["reason"]),
                (1, &"not_ip".into()),
                "{first:#}"
            );
            refused(
                node,
                &["--file", file, "--packet", "3"],
                "no packet 3: the file has 2",
            )
        })
        .expect("the lab runs");
}

#[test]
fn what_can_not_be_traced_is_refused() {
    Lab::builder("trace-refused")
        .nodes(1)
        .run(|lab| {
            let node = lab.node(0);
            let flow = ["--from", "10.9.1.2:40000", "--to", "10.200.1.1:80"];
            let by = |interface| [&flow[..], &["--interface", interface]].concat();
            refused(
                node,
                &by("eth9"),
                "lb_xdp is not attached to eth9; it is to: eth0",
            )?;
            // Outside of its namespace an interface is another one, or none.
            let out = node.lbctl(&[&["trace"], &flow[..]].concat())?;
            let stderr = String::from_utf8_lossy(&out.stderr);
            assert!(
                out.status.code() == Some(2) && stderr.contains("not in this network namespace"),
                "{stderr}"
            );
            another_program(node);
            let (code, trace) = trace_json(node, &flow)?;
            let warning = trace["warnings"][0].as_str().expect("a warning");
            assert!(
                code == 0 && warning.contains("is not the one in this lbctl"),
                "{trace:#}"
            );
            node.stop()?;
            assert!(node.lbctl(&["detach"])?.status.success());
            refused(node, &flow, "nothing is loaded")
        })
        .expect("the lab runs");
}

/// Pins another program where the agent's is.
fn another_program(node: &Node) {
    let path = node.pin_root().join("program");
    fs::remove_file(&path).expect("a pin");
    let mut object = Ebpf::load(LAB_PASS).expect("an object");
    let program: &mut Xdp = object
        .program_mut(LAB_PASS_NAME)
        .expect("a program")
        .try_into()
        .expect("for XDP");
    program.load().expect("the kernel takes it");
    program.pin(&path).expect("a pin");
}
