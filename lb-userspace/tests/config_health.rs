//! The `health` of pools: what a file says is what is checked. Refusals are among `fixtures/config/refused`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lb_userspace::config::{self, Error, What, WrongHealth};
use lb_userspace::model::Health;
use lb_userspace::model::health::{Flap, From, Grpc, Http, Method, Probe, Tls, Trust, Udp};

const NODE: &str = "node: {name: lb1, interfaces: [eth0]}\n";

fn health(text: &str) -> Result<Health, Error> {
    let file = format!(
        "{NODE}pools: [{{name: p, backends: [{{name: b, address: 198.51.100.1}}], health: {{{text}}}}}]\n"
    );
    config::parse(&file, Path::new("lb.yaml")).map(|mut model| model.pools.remove(0).health.expect("a check"))
}

#[test]
fn checks_get_their_defaults() {
    let health = health("type: tcp, port: 80").unwrap();
    let want = Health {
        probe: Probe::Tcp { port: 80 },
        from: From::default(),
        vip: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
        jitter: 10,
        death_grace: Duration::from_secs(3),
        flap: Flap {
            limit: 3,
            half_life: Duration::from_secs(60),
        },
        fail_open: 50,
    };
    assert_eq!(health, want);
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let health = health("type: icmp, interval: 200ms").unwrap();
    assert_eq!(health.timeout, Duration::from_millis(200));
}

#[test]
fn every_type_of_check_is_read() {
    let plain = Http {
        port: 80,
        method: Method::Get,
        path: "/".into(),
        host: None,
        status: vec![200..=399],
        body: None,
        tls: None,
    };
    let system = Tls {
        trust: Trust::System,
        server_name: None,
    };
    let grpc = Grpc {
        port: 50051,
        service: String::new(),
        host: None,
        tls: None,
    };
    let udp = |request: &[u8], response: Option<&[u8]>| {
        Probe::Udp(Udp {
            port: 53,
            request: request.to_vec(),
            response: response.map(<[u8]>::to_vec),
        })
    };
    for (text, want) in [
        ("type: icmp", Probe::Icmp),
        ("type: http, port: 80", Probe::Http(plain.clone())),
        (
            "type: http, port: 80, method: HEAD, path: /a?b=c, host: \"w.example:8080\", status: [200, 404-405]",
            Probe::Http(Http {
                method: Method::Head,
                path: "/a?b=c".into(),
                host: Some("w.example:8080".into()),
                status: vec![200..=200, 404..=405],
                ..plain.clone()
            }),
        ),
        (
            "type: https, port: 80",
            Probe::Http(Http {
                tls: Some(system.clone()),
                ..plain.clone()
            }),
        ),
        (
            "type: https, port: 80, body: ok, tls: {verify: false, server_name: w.example}",
            Probe::Http(Http {
                body: Some("ok".into()),
                tls: Some(Tls {
                    trust: Trust::Anyone,
                    server_name: Some("w.example".into()),
                }),
                ..plain
            }),
        ),
        ("type: udp, port: 53, request: hi", udp(b"hi", None)),
        (
            "type: udp, port: 53, request_hex: \"00ff\", response_hex: \"0D0a\"",
            udp(&[0, 255], Some(b"\r\n")),
        ),
        ("type: grpc, port: 50051", Probe::Grpc(grpc.clone())),
        (
            "type: grpc, port: 50051, service: shop.Cart, tls: {}",
            Probe::Grpc(Grpc {
                service: "shop.Cart".into(),
                tls: Some(system),
                ..grpc
            }),
        ),
    ] {
        let health = health(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(health.probe, want, "{text}");
    }
}

/// The VIP that is asked through the tunnel.
fn vip_of(health: &str) -> Option<String> {
    let file = format!(
        "{NODE}pools: [{{name: p, backends: [{{name: b, address: 198.51.100.1}}], health: {{{health}}}}}]\n\
         vips:\n\
         - {{address: 203.0.113.1, port: 53, protocol: udp, pool: p}}\n\
         - {{address: 203.0.113.2, port: 80, protocol: tcp, pool: p}}\n\
         - {{address: \"2001:db8::1\", port: 80, protocol: tcp, pool: p}}\n"
    );
    let mut model = config::parse(&file, Path::new("lb.yaml")).unwrap_or_else(|e| panic!("{health}: {e}"));
    let vip = model.pools.remove(0).health.expect("a check").vip;
    vip.map(|vip| vip.to_string())
}

#[test]
fn the_vip_that_is_asked() {
    for (health, want) in [
        ("type: tcp, port: 80", None),
        ("type: tcp, port: 80, through_tunnel: false", None),
        ("type: tcp, port: 80, through_tunnel: true", Some("203.0.113.2")),
        ("type: grpc, port: 80, through_tunnel: true", Some("203.0.113.2")),
        (
            "type: udp, port: 53, request: x, through_tunnel: true",
            Some("203.0.113.1"),
        ),
        ("type: icmp, through_tunnel: true", Some("203.0.113.1")),
        (
            "type: tcp, port: 80, through_tunnel: true, vip: \"2001:db8:0::1\"",
            Some("2001:db8::1"),
        ),
        (
            "type: tcp, port: 80, through_tunnel: true, vip: 203.0.113.1",
            Some("203.0.113.1"),
        ),
        // Of the family of what is asked, whatever the backends'.
        (
            "type: tcp, port: 80, through_tunnel: true, vip: \"2001:db8::1\", source: \"2001:db8::9\"",
            Some("2001:db8::1"),
        ),
    ] {
        assert_eq!(vip_of(health).as_deref(), want, "{health}");
    }
}

#[test]
fn authorities_are_read_with_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["w.example".to_owned()])
        .unwrap()
        .cert;
    let pem = certificate.pem();
    fs::write(folder.path().join("ca.pem"), format!("{pem}{pem}")).unwrap();
    fs::write(folder.path().join("none.pem"), "hello\n").unwrap();
    let text = |file: &str| {
        format!(
            "{NODE}pools: [{{name: p, backends: [{{name: b, address: 198.51.100.1}}],\n\
             health: {{type: https, port: 443, tls: {{ca_file: {file}}}}}}}]\n"
        )
    };
    let parse = |file: &str| config::parse(&text(file), &folder.path().join("lb.yaml"));
    let model = parse("ca.pem").unwrap_or_else(|error| panic!("{error}"));
    let Some(Probe::Http(http)) = model.pools[0].health.as_ref().map(|health| &health.probe) else {
        panic!("an https check");
    };
    let der = certificate.der().to_vec();
    let trust = &http.tls.as_ref().unwrap().trust;
    assert_eq!(*trust, Trust::Authorities(vec![der.clone(), der]));
    for (file, why) in [
        ("none.pem", WrongHealth::NoCertificate),
        (
            "missing.pem",
            WrongHealth::Unreadable(std::io::ErrorKind::NotFound),
        ),
        (".", WrongHealth::NoCertificate),
    ] {
        let error = parse(file).expect_err("must be refused");
        let what: Vec<&What> = error.problems.iter().map(|problem| &problem.what).collect();
        assert_eq!(what, [&What::Health(why)], "{file}");
    }
}
