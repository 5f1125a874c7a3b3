//! The agent is killed, restarted, upgraded and told to reload again and again, while slots are tracked: connections
//! that depend on an entry live on.

use std::time::{Duration, Instant};

use aya::programs::ProgramInfo;
use lb_common::slot::Slot;
use lb_tests::host::Node;
use lb_tests::scenario::{Fleet, Step, Traffic, Work, share};
use lb_tests::{Lab, LabError};
use lb_userspace::dataplane::flows::Table;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;

use crate::changed_agent;
use crate::steady::{self, SOON, WORK, assert_unbroken, lines, sleep_until};

const PAUSE: Duration = Duration::from_secs(2);

fn maps(node: &Node) -> Maps {
    Maps::open(&Root::new(node.pin_root())).expect("its maps")
}

/// All slots of all pools, with their flags.
fn slots(node: &Node) -> Vec<u64> {
    let maps = maps(node);
    let pools = maps.pools().expect("the pools");
    pools
        .keys()
        .flat_map(|pool| maps.ring(*pool))
        .map(|slot| slot.0)
        .collect()
}

fn flows(node: &Node) -> usize {
    maps(node).entries(Table::Flows).expect("the entries").len()
}

/// The kernel's name of the running program: a hash of its instructions.
fn tag(node: &Node) -> u64 {
    let path = Root::new(node.pin_root()).program();
    ProgramInfo::from_pin(path).expect("a pinned program").tag()
}

/// Connections of which a quarter sit in slots that went elsewhere, so that they live by the flow table and `origin`:
/// half of them began before be2's drain, the others after it.
fn depend_on_tracking(lab: &mut Lab, fleet: &mut Fleet) -> Result<[Traffic; 2], LabError> {
    let half = Work {
        connections: WORK.connections / 2,
        new_per_second: WORK.new_per_second / 2,
        ..WORK
    };
    let before = half.start(lab)?;
    fleet.make(lab, &Step::Drain("be2".to_owned()))?;
    sleep_until(Instant::now(), PAUSE);
    let after = half.start(lab)?;
    // be1 gets other slots: those of the second half who sit there depend on their entries.
    fleet.make(lab, &Step::Reweigh(vec![("be1".to_owned(), 4)]))?;
    sleep_until(Instant::now(), PAUSE);
    Ok([before, after])
}

/// Ends the traffic; nothing may have broken.
fn end_unbroken(traffic: [Traffic; 2]) -> Result<(), LabError> {
    for half in traffic {
        assert_unbroken(&half.stop()?, WORK.connections / 2);
    }
    Ok(())
}

#[test]
fn kills_restarts_and_upgrades_lose_nothing_while_slots_are_tracked() {
    let (builder, mut fleet) = steady::lab("restart-tracked", "on-change", |_| {});
    builder
        .run(|lab| {
            let traffic = depend_on_tracking(lab, &mut fleet)?;
            let percent = share(lab.node(0))?;
            assert!(percent > 5.0, "{percent} % of the slots are tracked");
            let entries = flows(lab.node(0));
            assert!(entries > 100, "{entries} entries");

            let (before, program) = (slots(lab.node(0)), tag(lab.node(0)));
            lab.node(0).kill9()?;
            assert_eq!(slots(lab.node(0)), before);
            sleep_until(Instant::now(), PAUSE);
            lab.node(0).start()?;
            only_retired(&before, &slots(lab.node(0)));
            assert_eq!(tag(lab.node(0)), program);
            sleep_until(Instant::now(), PAUSE);

            // Upgrade: SIGTERM, then another binary with another program; and back again without notice.
            let dir = tempfile::tempdir().expect("a folder");
            let other = changed_agent::write(dir.path());
            lab.node(0).stop()?;
            lab.node(0).set_program(Some(other));
            lab.node(0).start()?;
            assert_ne!(tag(lab.node(0)), program, "another program runs");
            only_retired(&before, &slots(lab.node(0)));
            sleep_until(Instant::now(), PAUSE);
            lab.node(0).kill9()?;
            lab.node(0).set_program(None);
            lab.node(0).start()?;
            assert_eq!(tag(lab.node(0)), program);
            sleep_until(Instant::now(), PAUSE);
            end_unbroken(traffic)
        })
        .expect("the lab runs");
}

/// A restart moves no slot. What may happen meanwhile is that a tracked one retires.
fn only_retired(before: &[u64], after: &[u64]) {
    assert_eq!(before.len(), after.len());
    for (number, (before, after)) in before.iter().zip(after).enumerate() {
        let (before, after) = (Slot(*before), Slot(*after));
        let fine = before == after || before.is_tracked() && before.current() == after.current();
        assert!(fine, "slot {number}: {before:?} → {after:?}");
    }
}

#[test]
fn control_an_agent_that_starts_from_nothing_breaks() {
    let (builder, mut fleet) = steady::lab("restart-control", "on-change", |_| {});
    builder
        .run(|lab| {
            let traffic = depend_on_tracking(lab, &mut fleet)?;
            lab.node(0).kill9()?;
            let out = lab.node(0).lbctl(&["detach"])?;
            assert!(out.status.success(), "{out:?}");
            lab.node(0).start()?;
            sleep_until(Instant::now(), PAUSE);
            let [before, _] = traffic;
            let held = lines(&before.stop()?.0);
            // Those of be2, which is still drained: a quarter of all.
            assert!(held.broken > 100, "{held:?}");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// A reload every 100 ms that adds or takes away a VIP, each tenth with other weights too.
pub(crate) fn reload_again_and_again(name: &str, connections: u32, time: Duration) {
    let (builder, fleet) = steady::lab(name, "on-change", |_| {});
    let work = Work {
        connections,
        every: Duration::from_secs(u64::from(connections).div_ceil(1500)),
        ..WORK
    };
    builder
        .run(|lab| {
            let traffic = work.start(lab)?;
            let (base, begun) = (fleet.config(0), Instant::now());
            let mut mark = 0;
            let mut reloads = 0;
            while begun.elapsed() < time {
                let mut config = base.clone();
                if reloads % 2 == 0 {
                    let mut further = config.vips[0].clone();
                    further.port = 8080;
                    config.vips.push(further);
                }
                let heavy = u16::from(reloads / 10 % 2 == 0) * 2 + 1;
                config
                    .pools
                    .iter_mut()
                    .for_each(|pool| pool.backends[0].weight = heavy);
                mark = lab.node(0).reload(&config.to_yaml()?)?;
                reloads += 1;
                sleep_until(begun, Duration::from_millis(100) * reloads);
            }
            lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
            eprintln!(
                "{reloads} reloads, {} % of the slots tracked",
                share(lab.node(0))?
            );
            sleep_until(Instant::now(), work.every + Duration::from_secs(1));
            let reports = traffic.stop()?;
            assert_unbroken(&reports, connections);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn reloads_every_tenth_of_a_second_lose_nothing() {
    reload_again_and_again("reloads", WORK.connections, Duration::from_secs(10));
}
