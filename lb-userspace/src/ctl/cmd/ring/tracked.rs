//! `lbctl ring --tracked`: the tracked slots, and what the agent says holds each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use lb_common::slot::{SLOTS, Slot};
use serde_json::{Value, json};

use super::{RUNS, contents};
use crate::api::client::escaped;
use crate::api::tracked::{Reason, Tracked, TrackedSlot};
use crate::ctl::cmd::flows::{line, span};
use crate::ctl::cmd::look;
use crate::ctl::cmd::view::View;
use crate::ctl::flag;
use crate::ctl::out::{Output, percent, table};
use crate::ctl::slots::{Group, group};
use crate::dataplane::maps::Maps;

/// Up to so many slots that flows hold are shown one by one, each with its flow.
const EACH: usize = 100;

/// What slots of a table's row have in common: the slot, the reason, and of one that is shown by itself its number.
type Common = (Slot, Option<&'static str>, Option<u32>);

/// What the agent says, by number of the slot in one pool.
type Told<'t> = BTreeMap<u32, &'t TrackedSlot>;

/// The tracked slots of one pool or all; those that hold the same for the same reason put together.
pub(super) fn run(maps: &Maps, view: &View, only: Option<u16>, socket: &Path) -> Result<Output> {
    let answer = ask(view, only, socket);
    let pools = view
        .contents
        .pools
        .keys()
        .filter(|&&pool| only.is_none_or(|only| only == pool));
    let (mut groups, mut rows, mut counts, mut lines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for &pool in pools {
        let name = view.pool(pool);
        let told = told(answer.as_ref().ok(), name);
        let ring = maps.ring(pool);
        let tracked = ring.iter().filter(|slot| slot.is_tracked()).count();
        for group in of_ring(&ring, &told, false) {
            groups.push(document(view, pool, &group));
        }
        for group in of_ring(&ring, &told, true) {
            rows.push(row(view, pool, &group, &told));
        }
        let reasons = answer.as_ref().ok().map(|answer| reasons(answer, name, tracked));
        if tracked > 0 {
            lines.push(summary(name, tracked, reasons.as_ref()));
        }
        counts.push(json!({ "pool": name, "slots": SLOTS, "tracked": tracked,
                            "share": tracked as f64 * 100.0 / SLOTS as f64, "reasons": reasons }));
    }
    let mut text = if rows.is_empty() {
        "no slot is tracked".to_owned()
    } else {
        let columns = [
            "POOL", ">COUNT", "CURRENT", "ORIGIN", "PREVIOUS", "FLAGS", "WHY", "SLOTS",
        ];
        format!("{}\n\n{}", table(columns, rows), lines.join("\n"))
    };
    if let Err(e) = &answer
        && !lines.is_empty()
    {
        text.push_str(&format!("\nwhy they are tracked the agent alone knows: {e:#}"));
    }
    let slots = answer.as_ref().ok().map(|answer| &answer.slots);
    let more = answer.as_ref().ok().map(|answer| answer.more);
    Ok(Output::yes(
        json!({ "tracked": groups, "pools": counts, "agent": answer.is_ok(), "slots": slots, "more": more }),
        text,
    ))
}

/// Why one slot is tracked, for machines and for people.
pub(super) fn why(view: &View, pool: u16, number: u16, socket: &Path) -> (Value, String) {
    let answer = match ask(view, Some(pool), socket) {
        Ok(answer) => answer,
        Err(e) => {
            return (
                Value::Null,
                format!("why it is tracked the agent alone knows: {e:#}"),
            );
        }
    };
    let told = told(Some(&answer), view.pool(pool));
    match told.get(&u32::from(number)) {
        None => (Value::Null, "the agent doesn't say why it is tracked".to_owned()),
        Some(slot) => {
            let line = format!(
                "tracked for {}: {}",
                span(slot.tracked_s),
                sentence(&slot.why, slot.why.left())
            );
            (json!(slot.why), line)
        }
    }
}

fn ask(view: &View, only: Option<u16>, socket: &Path) -> Result<Tracked> {
    let path = match only {
        Some(pool) => format!("/v1/tracked?pool={}", escaped(view.pool(pool))),
        None => "/v1/tracked".to_owned(),
    };
    look(socket, &path)
}

fn told<'t>(answer: Option<&'t Tracked>, pool: &str) -> Told<'t> {
    let slots = answer.into_iter().flat_map(|answer| &answer.slots);
    let of_pool = slots.filter(|slot| slot.pool == pool);
    of_pool.map(|slot| (slot.slot, slot)).collect()
}

/// The tracked slots of a ring; few that flows hold one by one where `each` is set.
fn of_ring(ring: &[Slot], told: &Told<'_>, each: bool) -> Vec<Group<Common>> {
    let by_flows = |slot: &&TrackedSlot| matches!(slot.why, Reason::Elsewhere { .. });
    let each = each && told.values().copied().filter(by_flows).count() <= EACH;
    let common = |(number, slot): (u32, &Slot)| {
        let told = told.get(&number).copied();
        let itself = told.filter(|told| each && by_flows(told)).map(|_| number);
        (*slot, told.map(|told| told.why.name()), itself)
    };
    let groups = group((0u32..).zip(ring).map(common));
    groups
        .into_iter()
        .filter(|group| group.held.0.is_tracked())
        .collect()
}

/// How many slots each reason holds, as the agent counts; those that it doesn't know of are `unknown`.
fn reasons(answer: &Tracked, pool: &str, tracked: usize) -> BTreeMap<String, u32> {
    let told = answer.pools.iter().find(|counted| counted.pool == pool);
    let mut reasons = told.map(|counted| counted.reasons.clone()).unwrap_or_default();
    let known: u32 = reasons.values().sum();
    let unknown = u32::try_from(tracked).unwrap_or(u32::MAX).saturating_sub(known);
    if unknown > 0 {
        reasons.insert("unknown".to_owned(), unknown);
    }
    reasons
}

fn document(view: &View, pool: u16, group: &Group<Common>) -> Value {
    let (slot, why, _) = group.held;
    let mut entry = contents(view, slot);
    entry["pool"] = view.pool(pool).into();
    entry["slots"] = group.count.into();
    entry["ranges"] = group.slots().into();
    entry["why"] = why.into();
    entry
}

fn row(view: &View, pool: u16, group: &Group<Common>, told: &Told<'_>) -> [String; 8] {
    let (slot, ..) = group.held;
    let holder = |index| view.holder(index).unwrap_or("-".to_owned());
    let slots = group.runs.iter().flat_map(|&(first, last)| first..=last);
    let numbers = slots.filter_map(|slot| u32::try_from(slot).ok());
    let members: Vec<&TrackedSlot> = numbers.filter_map(|n| told.get(&n).copied()).collect();
    let left = members.iter().filter_map(|slot| slot.why.left());
    let left = left.reduce(f64::max);
    let why = members
        .first()
        .map_or("-".to_owned(), |one| sentence(&one.why, left));
    [
        view.pool(pool).to_owned(),
        group.count.to_string(),
        holder(slot.current()),
        holder(slot.origin()),
        holder(slot.previous()),
        flag::of_slot(slot).join(", "),
        why,
        group.first_slots(RUNS),
    ]
}

/// A reason in words, with the time that is left.
fn sentence(why: &Reason, left: Option<f64>) -> String {
    let left = left.map_or(String::new(), |left| format!(", {} left", span(left)));
    let what = match why {
        Reason::Prepared => "prepared, about to change",
        Reason::Unswept => "not looked at since its change",
        Reason::Closing => "nothing: retires after the next sweep",
        Reason::Ready => "nothing here: retires when all members agree and nobody is adrift",
        Reason::Learning => "UDP flows are being learned",
        Reason::OtherCurrent => "its new flows go elsewhere for now",
        Reason::Changed { .. } => "changed lately",
        Reason::Seen { .. } => "somebody used origin",
        Reason::Stamped { .. } => "a living flow used origin",
        Reason::Elsewhere { entries, example } => return elsewhere(*entries, example.as_ref()),
    };
    format!("{what}{left}")
}

fn elsewhere(entries: u32, example: Option<&crate::api::tracked::Example>) -> String {
    let flows = if entries == 1 {
        "1 flow".to_owned()
    } else {
        format!("{entries} flows")
    };
    let Some(example) = example else {
        return format!("{flows} elsewhere than at current");
    };
    format!(
        "{flows} elsewhere: {} at {}, {}, idle {}",
        line(&example.flow),
        example.backend.as_deref().unwrap_or("-"),
        example.state,
        span(example.idle_s)
    )
}

fn summary(pool: &str, tracked: usize, reasons: Option<&BTreeMap<String, u32>>) -> String {
    let share = percent(tracked as f64, SLOTS as f64);
    let reasons = reasons.into_iter().flatten();
    let reasons: Vec<String> = reasons
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let why = if reasons.is_empty() {
        String::new()
    } else {
        format!(": {}", reasons.join(", "))
    };
    format!("{pool}: {tracked} of {SLOTS} slots are tracked ({share}){why}")
}

#[cfg(test)]
mod tests {
    use lb_common::slot::TRACKED;

    use super::*;
    use crate::api::tracked::{Example, FlowName, PoolTracked};

    fn slot(number: u32, why: Reason) -> TrackedSlot {
        TrackedSlot {
            pool: "web".to_owned(),
            slot: number,
            current: None,
            origin: None,
            previous: None,
            flags: Vec::new(),
            tracked_s: 1.0,
            why,
        }
    }

    fn by_flows(entries: u32) -> Reason {
        let flow = FlowName {
            client: "192.0.2.1:4000".to_owned(),
            vip: "203.0.113.1:80".to_owned(),
            protocol: "tcp".to_owned(),
        };
        let example = Example {
            flow,
            backend: Some("web/be1".to_owned()),
            state: "confirmed".to_owned(),
            idle_s: 2.5,
        };
        Reason::Elsewhere {
            entries,
            example: Some(example),
        }
    }

    /// Slots 2 to 9 are tracked alike.
    fn ring() -> Vec<Slot> {
        let tracked = |number| (2..10).contains(&number);
        let slot = |number| Slot::new(8, 7, 0, if tracked(number) { TRACKED } else { 0 });
        (0..20).map(slot).collect()
    }

    #[test]
    fn slots_are_grouped_by_reason_and_flows_are_named_each() {
        let answer = Tracked {
            slots: vec![
                slot(2, Reason::Changed { left_s: 3.0 }),
                slot(3, Reason::Changed { left_s: 4.0 }),
                slot(4, Reason::Closing),
                slot(5, by_flows(1)),
                slot(6, by_flows(2)),
                // It retired while the answer was on its way.
                slot(15, Reason::Closing),
            ],
            ..Tracked::default()
        };
        let told = told(Some(&answer), "web");
        let shown = |each| -> Vec<(String, Option<&str>)> {
            let groups = of_ring(&ring(), &told, each);
            groups.iter().map(|group| (group.slots(), group.held.1)).collect()
        };
        let row = |slots: &str, why| (slots.to_owned(), why);
        let (changed, rest) = (row("2-3", Some("changed")), row("7-9", None));
        let closing = row("4", Some("closing"));
        let elsewhere = |slots| row(slots, Some("elsewhere"));
        assert_eq!(
            shown(false),
            [rest.clone(), changed.clone(), elsewhere("5-6"), closing.clone()]
        );
        assert_eq!(
            shown(true),
            [rest, changed, closing, elsewhere("5"), elsewhere("6")]
        );
        assert!(super::told(Some(&answer), "api").is_empty());
    }

    #[test]
    fn reasons_in_words() {
        for (why, want) in [
            (Reason::Changed { left_s: 3.0 }, "changed lately, 3.0 s left"),
            (
                Reason::Stamped { left_s: 130.2 },
                "a living flow used origin, 130 s left",
            ),
            (Reason::Closing, "nothing: retires after the next sweep"),
            (
                by_flows(1),
                "1 flow elsewhere: 192.0.2.1:4000 → 203.0.113.1:80/tcp at web/be1, confirmed, idle 2.5 s",
            ),
            (
                Reason::Elsewhere {
                    entries: 3,
                    example: None,
                },
                "3 flows elsewhere than at current",
            ),
        ] {
            assert_eq!(sentence(&why, why.left()), want);
        }
    }

    #[test]
    fn what_the_agent_does_not_know_is_unknown() {
        let counted = PoolTracked {
            pool: "web".to_owned(),
            tracked: 5,
            share: 0.0,
            reasons: BTreeMap::from([("changed".to_owned(), 5)]),
        };
        let answer = Tracked {
            pools: vec![counted],
            ..Tracked::default()
        };
        let of = |tracked| reasons(&answer, "web", tracked);
        assert_eq!(
            summary("web", 655, Some(&of(655))),
            "web: 655 of 65536 slots are tracked (1.00 %): 5 changed, 650 unknown"
        );
        assert_eq!(of(4), BTreeMap::from([("changed".to_owned(), 5)]));
        assert_eq!(
            summary("web", 655, None),
            "web: 655 of 65536 slots are tracked (1.00 %)"
        );
    }
}
