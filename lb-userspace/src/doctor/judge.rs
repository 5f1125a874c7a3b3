//! What was seen → what is wrong.

use super::{Answer, Verdict};
use crate::probe::Outcome;

/// What was seen of a backend that has a next hop.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Anything from its own address, asked directly.
    pub own: Answer,
    /// Anything from the VIP's address, asked through the tunnel.
    pub vip: Answer,
    /// Anything from its own address, asked through the tunnel: its decapsulation alone.
    pub inner: Answer,
    /// A reply to the longest packet that clients may send, through the tunnel.
    pub full: Answer,
    /// What its pool's check says at the VIP's address, through the tunnel.
    pub service: Option<Outcome>,
    /// It has told us that it takes no encapsulated packets.
    pub refuses_tunnel: bool,
    /// Somebody has told us that the unwrapped packet went on from the backend and found nobody.
    pub went_on: bool,
    /// It tells those who send it a protocol that it doesn't know: then its silence means that it knows this one.
    pub tells: Answer,
    /// VIP and backend are of different families, so `inner` asks another kind of decapsulation.
    pub mixed: bool,
}

/// The verdicts, the most likely first.
pub fn judge(seen: &Seen) -> Vec<Verdict> {
    match seen.vip {
        Answer::Yes => of_reached(seen),
        Answer::Unknown => vec![Verdict::NotAsked],
        Answer::No if seen.refuses_tunnel => vec![Verdict::NoDecapsulation],
        Answer::No if seen.inner == Answer::Yes || seen.went_on => vec![Verdict::VipNotBound],
        Answer::No if seen.own == Answer::No && seen.tells != Answer::Yes => vec![Verdict::NoAnswer],
        Answer::No if seen.mixed => vec![
            Verdict::NoDecapsulation,
            Verdict::VipNotBound,
            Verdict::ReversePathFilter,
        ],
        Answer::No if seen.tells == Answer::Yes => vec![Verdict::ReversePathFilter],
        Answer::No => vec![Verdict::NoDecapsulation, Verdict::ReversePathFilter],
    }
}

/// Those of a backend that takes the VIP's packets.
fn of_reached(seen: &Seen) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if seen.full == Answer::No {
        verdicts.push(Verdict::MtuTooSmall);
    }
    match &seen.service {
        Some(Outcome::Refuses(_)) => verdicts.push(Verdict::ServiceRefuses),
        Some(Outcome::Silent(how)) if how.to_ascii_lowercase().contains("refused") => {
            verdicts.push(Verdict::ServiceRefuses);
        }
        Some(Outcome::Silent(_)) => verdicts.push(Verdict::ServiceSilent),
        Some(Outcome::Good | Outcome::Unasked(_)) | None => {}
    }
    if verdicts.is_empty() {
        verdicts.push(Verdict::Healthy);
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{No, Unknown, Yes};
    use Verdict::{
        Healthy, MtuTooSmall, NoAnswer, NoDecapsulation, NotAsked, ReversePathFilter, ServiceRefuses,
        ServiceSilent, VipNotBound,
    };

    fn well() -> Seen {
        Seen {
            own: Yes,
            vip: Yes,
            inner: Yes,
            full: Yes,
            service: Some(Outcome::Good),
            refuses_tunnel: false,
            went_on: false,
            tells: Yes,
            mixed: false,
        }
    }

    fn silent() -> Seen {
        Seen {
            vip: No,
            inner: No,
            full: Unknown,
            service: Some(Outcome::Silent("no answer within 1s".into())),
            ..well()
        }
    }

    #[test]
    fn each_fault_by_what_it_looks_like() {
        let refuses = |how: &str| Some(Outcome::Refuses(how.into()));
        let quiet = |how: &str| Some(Outcome::Silent(how.into()));
        let cases: [(&str, Seen, &[Verdict]); 17] = [
            ("all well", well(), &[Healthy]),
            (
                "no check",
                Seen {
                    service: None,
                    ..well()
                },
                &[Healthy],
            ),
            (
                "own address filtered",
                Seen {
                    own: No,
                    tells: No,
                    inner: No,
                    ..well()
                },
                &[Healthy],
            ),
            (
                "echo filtered",
                Seen {
                    full: Unknown,
                    ..well()
                },
                &[Healthy],
            ),
            (
                "503",
                Seen {
                    service: refuses("HTTP status 503"),
                    ..well()
                },
                &[ServiceRefuses],
            ),
            (
                "closed",
                Seen {
                    service: quiet("Connection refused"),
                    ..well()
                },
                &[ServiceRefuses],
            ),
            (
                "hangs",
                Seen {
                    service: quiet("no answer within 1s"),
                    ..well()
                },
                &[ServiceSilent],
            ),
            ("long ones lost", Seen { full: No, ..well() }, &[MtuTooSmall]),
            (
                "two at once",
                Seen {
                    full: No,
                    service: refuses("HTTP status 503"),
                    ..well()
                },
                &[MtuTooSmall, ServiceRefuses],
            ),
            (
                "could not ask",
                Seen {
                    vip: Unknown,
                    ..well()
                },
                &[NotAsked],
            ),
            (
                "says so",
                Seen {
                    refuses_tunnel: true,
                    ..silent()
                },
                &[NoDecapsulation],
            ),
            (
                "only the VIP is missing",
                Seen {
                    inner: Yes,
                    ..silent()
                },
                &[VipNotBound],
            ),
            (
                "goes on to a router",
                Seen {
                    went_on: true,
                    ..silent()
                },
                &[VipNotBound],
            ),
            (
                "dead",
                Seen {
                    own: No,
                    tells: No,
                    ..silent()
                },
                &[NoAnswer],
            ),
            ("takes it and drops it", silent(), &[ReversePathFilter]),
            (
                "says nothing",
                Seen {
                    tells: No,
                    ..silent()
                },
                &[NoDecapsulation, ReversePathFilter],
            ),
            (
                "families differ",
                Seen {
                    mixed: true,
                    ..silent()
                },
                &[NoDecapsulation, VipNotBound, ReversePathFilter],
            ),
        ];
        for (what, seen, want) in cases {
            assert_eq!(judge(&seen), want, "{what}");
        }
    }
}
