//! The questions, asked by sockets of this host.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::header::proto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::advice::{advice, full, meaning};
use super::icmp::{self, Kind, Notice};
use super::judge::{Seen, judge};
use super::{Answer, Evidence, Outer, Patient, Report, Verdict};
use crate::net;
use crate::probe::{Outcome, Prober, Way, Wrap, astray, echo, touch};

/// How long one question waits for an answer.
const PATIENCE: Duration = Duration::from_millis(800);
/// The same for one of many that the host is known to answer quickly.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// How often a question that got none is asked.
const TRIES: usize = 2;
/// Where nobody answered, more errors are waited for: hosts send about one in a second.
const LISTEN: Duration = Duration::from_millis(1200);
/// A protocol that nobody has (RFC 3692 section 2.1: for experiments).
const NOBODYS: u8 = 253;
/// The shortest packet that is asked for when the longest one that passes is sought.
const SHORTEST: u16 = 576;

/// What one address said.
struct Reached {
    answer: Answer,
    echo: bool,
    detail: String,
}

/// Examines a backend; takes a few seconds.
pub async fn examine(patient: &Patient, wrap: &dyn Wrap) -> Report {
    let mut evidence = Vec::new();
    let outer = match (&patient.way, wrap.mark(patient.id)) {
        (Ok(outer), Ok(mark)) => (*outer, mark),
        (Err(why), _) => return report(patient, vec![Verdict::NoNextHop], noted(why), None),
        (_, Err(why)) => return report(patient, vec![Verdict::NotAsked], noted(&why.to_string()), None),
    };
    let exam = Exam {
        patient,
        outer: outer.0,
        mark: outer.1,
    };
    let mut notices = Notices::listen(patient);
    let before = wrap.wrapped(exam.mark);
    let (own, vip, service, ()) = tokio::join!(
        exam.reach(Way::default(), patient.address),
        exam.reach(exam.tunnel(true), patient.vip),
        exam.service(wrap),
        exam.ask_nobody(),
    );
    let is_astray = wrap.wrapped(exam.mark) == before;
    let inner = exam.reach(exam.tunnel(false), patient.address).await;
    let hears = exam.hears_errors().await;
    if vip.answer != Answer::Yes {
        notices.wait(LISTEN).await;
    }
    let notices = notices.all();
    evidence.push(line(format!("{} itself", patient.address), &own));
    evidence.push(line(format!("{}, through the tunnel", patient.vip), &vip));
    evidence.push(line(format!("{}, through the tunnel", patient.address), &inner));
    let (full, largest) = exam.sizes(&vip, &mut evidence).await;
    evidence.extend(service.iter().map(|outcome| of_service(patient, outcome)));
    let tells = told(&notices, |notice| {
        notice.proto == NOBODYS && notice.to == patient.address
    });
    evidence.push(errors(patient, &notices, hears, tells));
    let is_wrapped =
        |notice: &&Notice| notice.to == patient.address && matches!(notice.proto, proto::IPV4 | proto::IPV6);
    let mut vip_answer = vip.answer;
    if is_astray {
        vip_answer = Answer::Unknown;
        let detail = astray(patient.vip, &Outcome::Silent("no answer".to_owned())).await;
        evidence.push(Evidence {
            question: "packets into the tunnel".to_owned(),
            answer: Answer::No,
            detail,
        });
    }
    let seen = Seen {
        own: own.answer,
        vip: vip_answer,
        inner: inner.answer,
        full,
        service,
        refuses_tunnel: notices
            .iter()
            .filter(is_wrapped)
            .any(|notice| notice.kind == Kind::NoProtocol),
        went_on: notices.iter().any(|notice| {
            notice.to == patient.vip && matches!(notice.kind, Kind::TimeExceeded | Kind::Unreachable)
        }),
        tells: if hears { tells } else { Answer::Unknown },
        mixed: patient.vip.is_ipv4() != patient.address.is_ipv4(),
    };
    report(patient, judge(&seen), evidence, largest)
}

fn noted(why: &str) -> Vec<Evidence> {
    vec![Evidence {
        question: "a way to the backend".to_owned(),
        answer: Answer::No,
        detail: why.to_owned(),
    }]
}

fn report(
    patient: &Patient,
    verdicts: Vec<Verdict>,
    evidence: Vec<Evidence>,
    largest: Option<u16>,
) -> Report {
    let meanings: Vec<&str> = verdicts.iter().map(|verdict| meaning(*verdict)).collect();
    let is_several_faults = verdicts.first() == Some(&Verdict::MtuTooSmall);
    let between = if is_several_faults { "; and " } else { "; or " };
    let all = verdicts
        .iter()
        .flat_map(|verdict| advice(*verdict, patient, largest));
    Report {
        backend: patient.name.clone(),
        address: patient.address.to_string(),
        vip: patient.vip.to_string(),
        summary: meanings.join(between),
        evidence,
        advice: all.collect(),
        verdicts,
    }
}

struct Exam<'p> {
    patient: &'p Patient,
    outer: Outer,
    mark: u32,
}

impl Exam<'_> {
    /// The way through the tunnel; `as_check`: from where the pool's check asks.
    fn tunnel(&self, as_check: bool) -> Way {
        let check = self.patient.check.as_ref();
        let from = check.filter(|check| as_check && check.vip.is_some());
        Way {
            mark: Some(self.mark),
            ..from.map_or_else(Way::default, |check| Way::from(&check.from))
        }
    }

    /// Whether an address says anything, by echo or TCP.
    async fn reach(&self, way: Way, to: IpAddr) -> Reached {
        let echo = repeated(|| echo(&way, to, 0, PATIENCE));
        let touch = repeated(|| touch(&way, SocketAddr::new(to, self.patient.port), PATIENCE));
        let (echo, touch) = tokio::join!(echo, touch);
        let said = |outcome: &Outcome| matches!(outcome, Outcome::Good | Outcome::Refuses(_));
        let answer = if said(&echo) || said(&touch) {
            Answer::Yes
        } else if matches!((&echo, &touch), (Outcome::Unasked(_), Outcome::Unasked(_))) {
            Answer::Unknown
        } else {
            Answer::No
        };
        let port = self.patient.port;
        let text = |outcome: &Outcome, good: &str| outcome.reason().unwrap_or(good).to_owned();
        Reached {
            answer,
            echo: echo == Outcome::Good,
            detail: format!(
                "echo: {}; TCP port {port}: {}",
                text(&echo, "a reply"),
                text(&touch, "a connection")
            ),
        }
    }

    /// What the pool's check says at the VIP.
    async fn service(&self, wrap: &dyn Wrap) -> Option<Outcome> {
        let check = self.patient.check.as_ref()?;
        let prober = Prober::new(Arc::clone(check), Way::default()).by(self.tunnel(true));
        Some(prober.ask_through(wrap, self.patient.id, self.patient.vip).await)
    }

    /// Sends the host a packet of a protocol that it can't know. Without CAP_NET_RAW nothing is sent, and nothing known.
    async fn ask_nobody(&self) {
        let to = self.patient.address;
        let sent = || -> io::Result<()> {
            let kind = Some(Protocol::from(i32::from(NOBODYS)));
            let socket = Socket::new(domain(to), Type::RAW.nonblocking(), kind)?;
            socket.send_to(&[0; 8], &SocketAddr::new(to, 0).into()).map(drop)
        };
        for _ in 0..TRIES {
            if sent().is_err() {
                return;
            }
            tokio::time::sleep(PATIENCE).await;
        }
    }

    /// Whether errors about encapsulated packets come to this host: they go to the outer source.
    async fn hears_errors(&self) -> bool {
        let own = net::addresses().await.unwrap_or_default();
        !self.outer.varies && own.contains(&self.outer.source)
    }

    /// Whether the longest packets come through, and else how long they may be.
    async fn sizes(&self, vip: &Reached, evidence: &mut Vec<Evidence>) -> (Answer, Option<u16>) {
        let full = full(&self.outer);
        let question = format!(
            "{} through the tunnel, in packets of {full} bytes",
            self.patient.vip
        );
        if vip.answer != Answer::Yes {
            return (Answer::Unknown, None);
        }
        let way = self.tunnel(true);
        let passes = async |bytes: u16| {
            let outcome = repeated(|| echo(&way, self.patient.vip, bytes.into(), SHORT_PATIENCE)).await;
            outcome == Outcome::Good
        };
        let (answer, largest, detail) = if !vip.echo {
            (
                Answer::Unknown,
                None,
                "echo is not answered, so this can't be known".to_owned(),
            )
        } else if passes(full).await {
            (
                Answer::Yes,
                None,
                format!("{} with the outer header", full + self.outer.len),
            )
        } else {
            let (mut good, mut bad) = (SHORTEST, full);
            while bad - good > 4 {
                let middle = good + (bad - good) / 2;
                if passes(middle).await {
                    good = middle;
                } else {
                    bad = middle;
                }
            }
            let detail = format!(
                "no reply; up to about {good} bytes come through, {} with the outer header",
                good + self.outer.len
            );
            (Answer::No, Some(good), detail)
        };
        evidence.push(Evidence {
            question,
            answer,
            detail,
        });
        (answer, largest)
    }
}

/// Asks until there is an answer.
async fn repeated<F: Future<Output = Outcome>>(ask: impl Fn() -> F) -> Outcome {
    let mut outcome = ask().await;
    for _ in 1..TRIES {
        if !matches!(outcome, Outcome::Silent(_)) {
            break;
        }
        outcome = ask().await;
    }
    outcome
}

fn line(question: String, reached: &Reached) -> Evidence {
    Evidence {
        question,
        answer: reached.answer,
        detail: reached.detail.clone(),
    }
}

fn of_service(patient: &Patient, outcome: &Outcome) -> Evidence {
    let kind = patient.check.as_ref().map_or("", |check| check.probe.name());
    Evidence {
        question: format!("the pool's check ({kind}) at {}, through the tunnel", patient.vip),
        answer: match outcome {
            Outcome::Good | Outcome::Refuses(_) => Answer::Yes,
            Outcome::Silent(_) => Answer::No,
            Outcome::Unasked(_) => Answer::Unknown,
        },
        detail: outcome.reason().unwrap_or("good").to_owned(),
    }
}

fn told(notices: &[Notice], is_it: impl Fn(&Notice) -> bool) -> Answer {
    if notices
        .iter()
        .any(|notice| notice.kind == Kind::NoProtocol && is_it(notice))
    {
        Answer::Yes
    } else {
        Answer::No
    }
}

/// What hosts and routers said.
fn errors(patient: &Patient, notices: &[Notice], hears: bool, tells: Answer) -> Evidence {
    let mut texts: Vec<String> = notices
        .iter()
        .filter(|notice| notice.proto != NOBODYS)
        .map(Notice::to_string)
        .collect();
    texts.sort();
    texts.dedup();
    let answer = if texts.is_empty() { Answer::No } else { Answer::Yes };
    if texts.is_empty() {
        texts.push("none about these packets".to_owned());
    }
    if !hears {
        texts.push(
            "those about encapsulated packets go to the outer source, which is no address of this node"
                .to_owned(),
        );
    }
    texts.push(match tells {
        Answer::Yes => format!("{} does tell of protocols that it doesn't know", patient.address),
        _ => format!(
            "{} doesn't tell of protocols that it doesn't know",
            patient.address
        ),
    });
    Evidence {
        question: "ICMP errors".to_owned(),
        answer,
        detail: texts.join("; "),
    }
}

fn domain(address: IpAddr) -> Domain {
    Domain::for_address(SocketAddr::new(address, 0))
}

/// Errors that come while it lives.
struct Notices {
    found: Vec<Notice>,
    incoming: mpsc::UnboundedReceiver<Notice>,
    _listeners: JoinSet<()>,
}

impl Notices {
    /// Needs CAP_NET_RAW; without it nothing is ever heard.
    fn listen(patient: &Patient) -> Self {
        let (out, incoming) = mpsc::unbounded_channel();
        let mut listeners = JoinSet::new();
        let about = [patient.address, patient.vip];
        let mut families = about.map(|address| address.is_ipv4()).to_vec();
        families.dedup();
        for is_v4 in families {
            let Ok(socket) = raw(is_v4) else { continue };
            let out = out.clone();
            listeners.spawn(async move {
                let mut packet = vec![0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                    let packet = &packet[..length];
                    let notice = if is_v4 {
                        icmp::read_v4(packet)
                    } else {
                        icmp::read_v6(from.ip(), packet)
                    };
                    if let Some(notice) = notice.filter(|notice| about.contains(&notice.to))
                        && out.send(notice).is_err()
                    {
                        return;
                    }
                }
            });
        }
        Self {
            found: Vec::new(),
            incoming,
            _listeners: listeners,
        }
    }

    /// Waits for more, so long or until the host has told that it takes no encapsulated packets.
    async fn wait(&mut self, within: Duration) {
        let end = tokio::time::Instant::now() + within;
        while let Ok(Some(notice)) = tokio::time::timeout_at(end, self.incoming.recv()).await {
            self.found.push(notice);
        }
    }

    fn all(mut self) -> Vec<Notice> {
        while let Ok(notice) = self.incoming.try_recv() {
            self.found.push(notice);
        }
        self.found
    }
}

fn raw(is_v4: bool) -> io::Result<UdpSocket> {
    let (domain, protocol) = if is_v4 {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    // To tokio it is a socket that datagrams go through.
    UdpSocket::from_std(socket.into())
}
