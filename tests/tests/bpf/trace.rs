//! A trace: its stages and the copy that it runs say the same, and the program that it is a copy of sees nothing.

use std::collections::BTreeMap;

use lb_common::hash;
use lb_common::stop::Stop;
use lb_tests::model::balance::balance;
use lb_tests::model::{self, Arrival};
use lb_userspace::dataplane::flows::now;
use lb_userspace::dataplane::pin::Root;
use lb_userspace::dataplane::trace::Copy;
use lb_userspace::trace::{Tables, Verdict, trace};

use crate::differential::{CAPACITY, Run, assert_coverage, random_world, services};
use crate::fixture::{Fixture, request};
use crate::frame::{TCP, hex};
use crate::generate::Generator;
use crate::kernel::{HEADROOM, Kernel};
use crate::net;
use crate::world::GROUP_KEY;

const PACKETS: usize = 20_000;

fn same(verdict: Verdict) -> Option<model::Verdict> {
    Some(match verdict {
        Verdict::Aborted => return None,
        Verdict::Drop => model::Verdict::Drop,
        Verdict::Pass => model::Verdict::Pass,
        Verdict::Tx => model::Verdict::Tx,
        Verdict::Redirect => model::Verdict::Redirect,
    })
}

/// Random frames: stages, copy and reference model agree; the live maps stay as they are, to the last counter.
#[test]
fn stages_copy_and_model_agree_and_nothing_changes() {
    let mut rounds = Run::new("trace");
    rounds.packets = PACKETS;
    let seed = rounds.seed;
    let links = net::enter();
    let mut generator = Generator::new(seed, services());
    let world = random_world(&mut generator, links);
    let kernel = Kernel::load(&world, CAPACITY);
    let mut copy = Copy::load(&kernel.pins.0, &kernel.maps).expect("a copy is loaded");
    let tables = Tables {
        key: hash::Key::expand(&GROUP_KEY),
        contents: &world.contents,
        slot: &|pool, number| kernel.maps.slot(pool, number),
        flow: &|key| kernel.maps.known(key).expect("maps"),
        now: now(),
    };
    let reference = world.tables();
    let (counters, contents) = (kernel.counters(), kernel.maps.contents().expect("maps"));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..PACKETS {
        let frame = generator.frame();
        let ingress = generator.pick(&[links[0], links[0], links[1]]);
        let traced = trace(&frame, ingress, &tables);
        let run = copy.run(&frame, ingress, traced.known.as_ref()).expect("it runs");
        let what = || {
            format!(
                "LB_SEED={seed}, packet {number}, ingress {ingress}:\n{}",
                hex(&frame)
            )
        };
        traced.check(&run).unwrap_or_else(|e| panic!("{}\n{e}", what()));
        let arrival = Arrival {
            frame: &frame,
            ingress,
            headroom: HEADROOM,
        };
        let want = balance(&arrival, &reference);
        let stop = traced.stop.map(|(_, stop)| stop);
        assert_eq!(
            (same(traced.verdict()), stop),
            (Some(want.verdict), want.stop),
            "{}",
            what()
        );
        assert_eq!(hex(&traced.frame), hex(&want.frame), "{}", what());
        let outcome = stop.map_or(format!("{:?}", want.verdict), |stop| format!("{stop:?}"));
        *seen.entry(outcome).or_default() += 1;
    }
    // A test run always has headroom, and no slot is tracked here.
    let mut reachable = Stop::ALL.to_vec();
    reachable.retain(|s| !matches!(s, Stop::NoRoom | Stop::NoEntry));
    let forwarded = [model::Verdict::Tx, model::Verdict::Redirect];
    assert_coverage(&seen, &reachable, &forwarded, &rounds);
    kernel.counters().assert_equals(&counters, "the live program's");
    assert!(kernel.maps.contents().expect("maps") == contents);
}

/// The copy reads the maps themselves, so it sees what is written after it was loaded.
#[test]
fn a_copy_shares_what_is_read() {
    let fixture = Fixture::new();
    let kernel = &fixture.kernel;
    let mut copy = Copy::load(&kernel.pins.0, &kernel.maps).expect("a copy is loaded");
    let frame = request(false, TCP).frame();
    let run = copy.run(&frame, fixture.ingress, None).expect("it runs");
    assert_eq!((run.verdict, run.stop), (Verdict::Tx, None));
    let mut maps = lb_userspace::dataplane::maps::Maps::open(&kernel.pins.0).expect("maps");
    maps.apply(&lb_userspace::state::diff::Op::ClearPool(0))
        .expect("it is written");
    let run = copy.run(&frame, fixture.ingress, None).expect("it runs");
    assert_eq!((run.verdict, run.stop), (Verdict::Drop, Some(Stop::NoBackend)));
}

/// Pins that vanish while a copy is loaded are not made anew.
#[test]
fn a_copy_of_what_is_gone_leaves_no_pins() {
    let fixture = Fixture::new();
    let kernel = &fixture.kernel;
    let root: &Root = &kernel.pins.0;
    let pin = root.map(lb_common::abi::map::DEVICES);
    std::fs::remove_file(&pin).expect("a pin");
    assert!(Copy::load(root, &kernel.maps).is_err());
    assert!(!pin.exists());
}
