//! A pool's `health`.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_yaml::Spanned;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use super::{Check, Trail, place};
use crate::config::duration;
use crate::config::error::Place;
use crate::config::raw::{self, Field, METHODS, TRUTH, TYPES, Type};
use crate::config::source::Excerpt;
use crate::config::what::{Family, What};
use crate::config::wrong_health::WrongHealth;
use crate::model::Health;
use crate::model::health::{Flap, From, Grpc, Http, Method, Probe, Tls, Trust, Udp};

/// The most that is read of a file with authorities, in bytes; all of the web's fit into a quarter of it.
const CA_FILE_MAX: u64 = 1 << 20;

/// The check of a pool. `family` is that of the pool's backends, `path` the configuration's.
pub(super) fn health(
    check: &mut Check<'_>,
    item: &Spanned<raw::Health>,
    trail: Trail<'_>,
    family: Option<Family>,
    path: &Path,
) -> Option<Health> {
    let raw = &item.value;
    let kind = check.required(&raw.kind, place(item), trail.field("type"));
    let kind = kind.and_then(|text| check.choice(text, trail.field("type"), &TYPES));
    let probe = kind.and_then(|kind| probe(check, item, trail, kind, path));
    let interval = check.duration(
        &raw.interval,
        trail.field("interval"),
        (Health::INTERVAL_MIN, Health::DURATION_MAX),
        Health::INTERVAL,
    );
    let timeout = timeout(check, raw, trail, interval);
    let death_grace = check.duration(
        &raw.death_grace,
        trail.field("death_grace"),
        (Duration::ZERO, Health::DURATION_MAX),
        Health::DEATH_GRACE,
    );
    let runs = (1, Health::RUN_MAX);
    let rise = check.number_or(&raw.rise, trail.field("rise"), runs, Health::RISE);
    let fall = check.number_or(&raw.fall, trail.field("fall"), runs, Health::FALL);
    let jitter = check.number_or(
        &raw.jitter,
        trail.field("jitter"),
        (0, Health::JITTER_MAX),
        Health::JITTER,
    );
    let fail_open = check.number_or(
        &raw.fail_open,
        trail.field("fail_open"),
        (0, 100),
        Health::FAIL_OPEN,
    );
    let flap = flap(check, raw, trail);
    let is_direct = !is_through_tunnel(check, raw, trail);
    // Through the tunnel the VIP's family counts, which is known later.
    let from = from(check, raw, trail, family.filter(|_| is_direct));
    if let (Some(text), true) = (&raw.vip, is_direct) {
        check.wrong(text, trail.field("vip"), WrongHealth::Direct);
    }
    Some(Health {
        probe: probe?,
        from,
        vip: None,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        jitter: jitter?,
        death_grace: death_grace?,
        flap: flap?,
        fail_open: fail_open?,
    })
}

/// Whether questions go through the tunnel; which VIP they ask is found once VIPs are known.
fn is_through_tunnel(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>) -> bool {
    let text = raw.through_tunnel.as_ref();
    text.and_then(|text| check.choice(text, trail.field("through_tunnel"), &TRUTH))
        .unwrap_or(false)
}

fn timeout(
    check: &mut Check<'_>,
    raw: &raw::Health,
    trail: Trail<'_>,
    interval: Option<Duration>,
) -> Option<Duration> {
    let trail = trail.field("timeout");
    let longest = interval.unwrap_or(Health::DURATION_MAX);
    let range = (Health::TIMEOUT_MIN, Health::DURATION_MAX);
    let timeout = check.duration(&raw.timeout, trail, range, Health::TIMEOUT.min(longest))?;
    if let (Some(text), true) = (&raw.timeout, timeout > longest) {
        let wrong = WrongHealth::Overlap {
            timeout: duration::text(timeout),
            interval: duration::text(longest),
        };
        check.wrong(text, trail, wrong);
    }
    Some(timeout)
}

fn flap(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>) -> Option<Flap> {
    let default = Flap::default();
    let Some(flap) = &raw.flap else {
        return Some(default);
    };
    let trail = trail.field("flap");
    let limit = check.number_or(
        &flap.value.limit,
        trail.field("limit"),
        (0, Flap::LIMIT_MAX),
        default.limit,
    );
    let half_life = check.duration(
        &flap.value.half_life,
        trail.field("half_life"),
        (Flap::HALF_LIFE_MIN, Health::DURATION_MAX),
        default.half_life,
    );
    Some(Flap {
        limit: limit?,
        half_life: half_life?,
    })
}

fn from(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>, family: Option<Family>) -> From {
    let source = raw.source.as_ref().and_then(|text| {
        let trail = trail.field("source");
        let Ok(found) = text.value.parse::<IpAddr>() else {
            check.report(place(text), trail, What::Address(Excerpt::new(&text.value)));
            return None;
        };
        if family.is_some_and(|family| family != Family::of(found)) {
            let family = Family::of(found);
            check.wrong(text, trail, WrongHealth::Source { found, family });
        }
        Some(found)
    });
    let interface = raw
        .interface
        .as_ref()
        .and_then(|text| check.interface(text, trail.field("interface")));
    From { source, interface }
}

/// What is asked; a field that this type doesn't have is a problem, since whoever wrote it meant something.
fn probe(
    check: &mut Check<'_>,
    item: &Spanned<raw::Health>,
    trail: Trail<'_>,
    kind: Type,
    path: &Path,
) -> Option<Probe> {
    let raw = &item.value;
    foreign(check, raw, trail, kind);
    if kind == Type::Icmp {
        return Some(Probe::Icmp);
    }
    let port = check.required(&raw.port, place(item), trail.field("port"));
    let port = port.and_then(|text| check.number(text, trail.field("port"), (1, u16::MAX.into())));
    let port = port.and_then(|port| u16::try_from(port).ok());
    Some(match kind {
        Type::Tcp => Probe::Tcp { port: port? },
        Type::Http | Type::Https => http(check, raw, trail, (kind, port), path)?,
        Type::Udp => udp(check, item, trail, port)?,
        Type::Grpc => {
            let host = host(check, raw, trail);
            let tls = match &raw.tls {
                Some(tls) => Some(self::tls(check, Some(tls), trail, path)?),
                None => None,
            };
            Probe::Grpc(Grpc {
                port: port?,
                service: raw
                    .service
                    .as_ref()
                    .map(|text| text.value.clone())
                    .unwrap_or_default(),
                host,
                tls,
            })
        }
        Type::Icmp => Probe::Icmp,
    })
}

fn foreign(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>, kind: Type) {
    let web = matches!(kind, Type::Http | Type::Https);
    let (udp, grpc) = (kind == Type::Udp, kind == Type::Grpc);
    let at = |field: &Field<String>| field.as_ref().map(place);
    let fields: [(&'static str, Option<Place>, bool); 12] = [
        ("port", at(&raw.port), kind != Type::Icmp),
        ("method", at(&raw.method), web),
        ("path", at(&raw.path), web),
        ("host", at(&raw.host), web || grpc),
        ("status", raw.status.as_ref().map(place), web),
        ("body", at(&raw.body), web),
        ("tls", raw.tls.as_ref().map(place), kind == Type::Https || grpc),
        ("request", at(&raw.request), udp),
        ("request_hex", at(&raw.request_hex), udp),
        ("response", at(&raw.response), udp),
        ("response_hex", at(&raw.response_hex), udp),
        ("service", at(&raw.service), grpc),
    ];
    let kind = TYPES
        .iter()
        .find(|(_, this)| *this == kind)
        .map_or("", |(word, _)| *word);
    for (field, found, fits) in fields {
        if let (Some(place), false) = (found, fits) {
            let what = What::Health(WrongHealth::Foreign { field, kind });
            check.report(place, trail.field(field), what);
        }
    }
}

fn http(
    check: &mut Check<'_>,
    raw: &raw::Health,
    trail: Trail<'_>,
    (kind, port): (Type, Option<u16>),
    config: &Path,
) -> Option<Probe> {
    let method = match &raw.method {
        Some(text) => check.choice(text, trail.field("method"), &METHODS),
        None => Some(Method::default()),
    };
    let path = raw.path.as_ref().map_or("/", |text| {
        if !text.value.starts_with('/') || !text.value.bytes().all(|byte| byte.is_ascii_graphic()) {
            check.wrong(
                text,
                trail.field("path"),
                WrongHealth::Path(Excerpt::new(&text.value)),
            );
        }
        &text.value
    });
    let host = host(check, raw, trail);
    let status = status(check, raw, trail);
    let body = raw.body.as_ref().map(|text| {
        if text.value.is_empty() {
            check.wrong(text, trail.field("body"), WrongHealth::Empty);
        } else if method == Some(Method::Head) {
            check.wrong(text, trail.field("body"), WrongHealth::BodyOfHead);
        }
        text.value.clone()
    });
    let tls = match kind {
        Type::Https => Some(self::tls(check, raw.tls.as_ref(), trail, config)?),
        _ => None,
    };
    Some(Probe::Http(Http {
        port: port?,
        method: method?,
        path: path.to_owned(),
        host,
        status,
        body,
        tls,
    }))
}

fn host(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>) -> Option<String> {
    let text = raw.host.as_ref()?;
    // What `:authority` takes, which is stricter than a `Host` header.
    if text.value.parse::<hyper::http::uri::Authority>().is_err() || text.value.contains('@') {
        check.wrong(
            text,
            trail.field("host"),
            WrongHealth::Host(Excerpt::new(&text.value)),
        );
    }
    Some(text.value.clone())
}

fn status(check: &mut Check<'_>, raw: &raw::Health, trail: Trail<'_>) -> Vec<RangeInclusive<u16>> {
    let Some(list) = &raw.status else {
        return vec![200..=399];
    };
    let trail = trail.field("status");
    if list.value.is_empty() {
        check.report(place(list), trail, What::EmptyList);
    }
    let mut ranges = Vec::with_capacity(list.value.len());
    for (index, text) in list.value.iter().enumerate() {
        match range(&text.value) {
            Some(range) => ranges.push(range),
            None => check.wrong(
                text,
                trail.item(index),
                WrongHealth::Status(Excerpt::new(&text.value)),
            ),
        }
    }
    ranges
}

/// `204` or `200-399`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| {
        let is_code = text.len() == 3 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|code| is_code && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (code(first)?, code(last)?);
    (first <= last).then_some(first..=last)
}

/// `tls:`, which may be left out: verified against what this host trusts.
fn tls(
    check: &mut Check<'_>,
    item: Option<&Spanned<raw::Tls>>,
    trail: Trail<'_>,
    config: &Path,
) -> Option<Tls> {
    let Some(item) = item else {
        return Some(Tls {
            trust: Trust::System,
            server_name: None,
        });
    };
    let trail = trail.field("tls");
    let raw = &item.value;
    let verify = match &raw.verify {
        Some(text) => check.choice(text, trail.field("verify"), &TRUTH),
        None => Some(true),
    };
    let authorities = raw.ca_file.as_ref().map(|text| {
        let trail = trail.field("ca_file");
        if verify == Some(false) {
            check.wrong(text, trail, WrongHealth::Unverified);
            return Vec::new();
        }
        let file = config.parent().unwrap_or(Path::new("")).join(&text.value);
        let read = authorities(&file);
        read.map_err(|wrong| check.wrong(text, trail, wrong))
            .unwrap_or_default()
    });
    if let Some(text) = &raw.server_name
        && ServerName::try_from(text.value.as_str()).is_err()
    {
        let wrong = WrongHealth::ServerName(Excerpt::new(&text.value));
        check.wrong(text, trail.field("server_name"), wrong);
    }
    let trust = match (verify?, authorities) {
        (false, _) => Trust::Anyone,
        (true, Some(authorities)) => Trust::Authorities(authorities),
        (true, None) => Trust::System,
    };
    Some(Tls {
        trust,
        server_name: raw.server_name.as_ref().map(|text| text.value.clone()),
    })
}

/// The certificates of a PEM file, as DER.
fn authorities(file: &Path) -> Result<Vec<Vec<u8>>, WrongHealth> {
    use std::io::Read as _;
    let unreadable = |error: std::io::Error| WrongHealth::Unreadable(error.kind());
    // Pipes and devices are refused before they are opened, since that could block for ever.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(WrongHealth::NoCertificate);
    }
    let mut pem = Vec::new();
    let file = std::fs::File::open(file).map_err(unreadable)?;
    file.take(CA_FILE_MAX).read_to_end(&mut pem).map_err(unreadable)?;
    let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect();
    let found = found.map_err(|_| WrongHealth::NoCertificate)?;
    if found.is_empty() {
        return Err(WrongHealth::NoCertificate);
    }
    Ok(found)
}

fn udp(
    check: &mut Check<'_>,
    item: &Spanned<raw::Health>,
    trail: Trail<'_>,
    port: Option<u16>,
) -> Option<Probe> {
    let raw = &item.value;
    if raw.request.is_none() && raw.request_hex.is_none() {
        check.report(place(item), trail.field("request"), What::Missing("request"));
    }
    let request = bytes(
        check,
        trail,
        ("request", &raw.request),
        ("request_hex", &raw.request_hex),
    );
    let response = bytes(
        check,
        trail,
        ("response", &raw.response),
        ("response_hex", &raw.response_hex),
    );
    let given = raw.response.as_ref().or(raw.response_hex.as_ref());
    if let (Some(text), Some([])) = (given, response.as_deref()) {
        check.wrong(text, trail.field("response"), WrongHealth::Empty);
    }
    let request = request?;
    if let (Some(text), true) = (
        raw.request.as_ref().or(raw.request_hex.as_ref()),
        request.len() > Udp::PAYLOAD_MAX,
    ) {
        check.wrong(text, trail.field("request"), WrongHealth::Long(request.len()));
    }
    Some(Probe::Udp(Udp {
        port: port?,
        request,
        response,
    }))
}

/// Bytes that are given as text or as hex digits.
fn bytes(
    check: &mut Check<'_>,
    trail: Trail<'_>,
    (text_name, text): (&'static str, &Field<String>),
    (hex_name, hex): (&'static str, &Field<String>),
) -> Option<Vec<u8>> {
    if let (Some(_), Some(hex)) = (text, hex) {
        let wrong = WrongHealth::Twice {
            text: text_name,
            hex: hex_name,
        };
        check.wrong(hex, trail.field(hex_name), wrong);
    }
    if let Some(text) = text {
        return Some(text.value.clone().into_bytes());
    }
    let hex = hex.as_ref()?;
    let bytes = unhex(&hex.value);
    if bytes.is_none() {
        check.wrong(
            hex,
            trail.field(hex_name),
            WrongHealth::Hex(Excerpt::new(&hex.value)),
        );
    }
    bytes
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |pair: &[u8]| {
        let pair = str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

impl Check<'_> {
    pub(super) fn wrong<T>(&mut self, value: &Spanned<T>, trail: Trail<'_>, wrong: WrongHealth) {
        self.report(place(value), trail, What::Health(wrong));
    }

    /// A number in a range, or what holds where it is left out.
    fn number_or(
        &mut self,
        field: &Field<String>,
        trail: Trail<'_>,
        range: (u32, u32),
        default: u32,
    ) -> Option<u32> {
        match field {
            Some(text) => self.number(text, trail, range),
            None => Some(default),
        }
    }

    /// A duration in a range, or what holds where it is left out.
    pub(super) fn duration(
        &mut self,
        field: &Field<String>,
        trail: Trail<'_>,
        (min, max): (Duration, Duration),
        default: Duration,
    ) -> Option<Duration> {
        let Some(text) = field else {
            return Some(default);
        };
        let found = Excerpt::new(&text.value);
        let wrong = match duration::parse(&text.value) {
            None => WrongHealth::Duration(found),
            Some(duration) if (min..=max).contains(&duration) => return Some(duration),
            Some(_) => WrongHealth::DurationRange {
                found,
                min: duration::text(min),
                max: duration::text(max),
            },
        };
        self.wrong(text, trail, wrong);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_status_codes() {
        for (text, want) in [
            ("200", Some(200..=200)),
            ("200-399", Some(200..=399)),
            ("100-599", Some(100..=599)),
            ("399-200", None),
            ("99", None),
            ("600", None),
            ("200-", None),
            ("2xx", None),
            ("+20", None),
            ("", None),
        ] {
            assert_eq!(range(text), want, "{text}");
        }
    }

    #[test]
    fn hex() {
        assert_eq!(unhex("0d0A"), Some(vec![13, 10]));
        assert_eq!(unhex(""), Some(vec![]));
        assert_eq!((unhex("0"), unhex("zz"), unhex("é")), (None, None, None));
    }
}
