//! Halves of a group that are cut apart for longer than `withdraw_after`: each drops the other and goes on, and when they meet again the
//! smaller one joins the larger one. As long as nothing has changed meanwhile nobody notices.

use std::time::{Duration, Instant};

use lb_tests::host::{Node, Spread};
use lb_tests::node_config::{NodeConfig, Times};
use lb_tests::topo::Topology;
use lb_tests::traffic::{Kind, Report};
use lb_tests::wait::until_ok;
use lb_tests::{Family, Job, Lab, LabError};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use serde_json::Value;

use crate::drained::slots;
use crate::joins::{change, mark, more, of, told, wait_changed, wait_equal};
use crate::leave::{judge, lab_of, load, wait_members};

const SOON: Duration = Duration::from_secs(20);
/// Slots forget after ten seconds of silence, and all members have to say so.
const LATE: Duration = Duration::from_secs(60);

/// Who is cut off from whom; of the group that they are again the first half is the larger one.
struct Halves {
    larger: Vec<usize>,
    smaller: Vec<usize>,
}

fn names(nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|&index| Topology::node_name(index)).collect()
}

fn wait_group(lab: &Lab, nodes: &[usize]) -> Result<(), LabError> {
    let names = names(nodes);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    wait_members(lab, nodes, &names)
}

impl Halves {
    fn all(&self) -> Vec<usize> {
        let mut all = [self.larger.as_slice(), &self.smaller].concat();
        all.sort_unstable();
        all
    }

    /// Cuts them apart until each has dropped the other.
    fn part(&self, lab: &Lab) -> Result<(), LabError> {
        for (a, b) in self.pairs() {
            lab.partition(a, b)?;
        }
        wait_group(lab, &self.smaller)?;
        wait_group(lab, &self.larger)
    }

    fn meet(&self, lab: &Lab) -> Result<(), LabError> {
        self.pairs().try_for_each(|(a, b)| lab.heal(a, b))
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let of = |&a: &usize| self.smaller.iter().map(move |&b| (a, b));
        self.larger.iter().flat_map(of)
    }

    /// The coordinator of each half has told whom it dropped.
    fn assert_dropped(&self, lab: &Lab, marks: &[u64]) -> Result<(), LabError> {
        for (half, other) in [(&self.larger, &self.smaller), (&self.smaller, &self.larger)] {
            let first = half[0];
            let since = told(&lab.nodes()[first], marks[first])?;
            let gone = of(&since, "member_gone");
            let mut nodes: Vec<&str> = gone.iter().filter_map(|one| one["node"].as_str()).collect();
            nodes.sort_unstable();
            assert_eq!(nodes, names(other), "{since:?}");
            let why = "it has been silent for `withdraw_after`";
            assert!(gone.iter().all(|one| one["why"] == why), "{since:?}");
        }
        Ok(())
    }

    /// The smaller half alone has joined again, and attracted traffic all the time.
    fn assert_rejoined(&self, lab: &Lab, marks: &[u64]) -> Result<(), LabError> {
        let larger = names(&self.larger);
        for (index, node) in lab.nodes().iter().enumerate() {
            let since = told(node, marks[index])?;
            let rejoins = of(&since, "rejoins");
            let wanted = usize::from(self.smaller.contains(&index));
            assert_eq!(rejoins.len(), wanted, "{}: {since:?}", node.name());
            let is_larger = |one: &&Value| larger.iter().any(|name| one["node"] == **name);
            assert!(rejoins.iter().all(is_larger), "{}: {since:?}", node.name());
            assert_eq!(of(&since, "not_ready"), Vec::<&Value>::new(), "{}", node.name());
        }
        Ok(())
    }

    fn run(&self, name: &str) {
        let all = self.all();
        lab_of(all.len(), name, &Times::default(), |_| {})
            .spread(Spread::Resilient)
            .run(|lab| self.play(name, &all, lab))
            .expect("the lab runs");
    }

    fn play(&self, name: &str, all: &[usize], lab: &mut Lab) -> Result<(), LabError> {
        wait_group(lab, all)?;
        let mut load = load(lab)?;
        let marks: Vec<u64> = lab.nodes().iter().map(mark).collect::<Result<_, _>>()?;
        let packets: Vec<u64> = lab.nodes().iter().map(Node::packets).collect::<Result<_, _>>()?;
        self.part(lab)?;
        self.assert_dropped(lab, &marks)?;
        // Both go on.
        more(&mut load)?;
        for (node, before) in lab.nodes().iter().zip(packets) {
            assert!(node.lbctl(&["ready"])?.status.success(), "{}", node.name());
            assert!(node.packets()? > before + 100, "{} has traffic", node.name());
        }
        self.meet(lab)?;
        let met = Instant::now();
        wait_group(lab, all)?;
        wait_equal(lab)?;
        println!("{name}: one group {:?} after the partition", met.elapsed());
        more(&mut load)?;
        // Whatever the nodes didn't do alike would break now.
        lab.router_mut().cross()?;
        more(&mut load)?;
        judge(name, load)?;
        self.assert_rejoined(lab, &marks)?;

        // Once more, and the larger half changes something: that holds for all.
        self.part(lab)?;
        change(lab, self.larger[0])?;
        wait_changed(lab, &self.larger)?;
        for index in &self.smaller {
            let kept = slots(&lab.nodes()[*index], "be2")?;
            assert!(kept > 20_000, "it has heard of it: {kept} slots");
        }
        self.meet(lab)?;
        wait_changed(lab, all)?;
        wait_group(lab, all)?;
        wait_equal(lab)
    }
}

#[test]
fn a_coordinator_that_was_cut_off_joins_the_two_others_again() {
    let halves = Halves {
        larger: vec![1, 2],
        smaller: vec![0],
    };
    halves.run("halves-coordinator");
}

/// It has taken office after the coordinator of the two others.
#[test]
fn a_node_that_was_cut_off_joins_the_two_others_again() {
    let halves = Halves {
        larger: vec![0, 1],
        smaller: vec![2],
    };
    halves.run("halves-member");
}

/// How many slots of all pools are tracked.
fn tracked(node: &Node) -> usize {
    let maps = Maps::open(&Root::new(node.pin_root())).expect("its maps");
    let pools = maps.pools().expect("the pools");
    let slots = pools.keys().flat_map(|&pool| maps.ring(pool));
    slots.filter(|slot| slot.is_tracked()).count()
}

/// Without a second chance, and for longer than slots take to forget a flow: the connections that a cut-off node serves are none of
/// the others'. `is_forgotten`: they were told that it forwards nothing.
fn adrift(name: &str, is_forgotten: bool) -> Report {
    let halves = Halves {
        larger: vec![0, 1],
        smaller: vec![2],
    };
    let with = |config: &mut NodeConfig| {
        config.track("on-change", 10);
        for pool in &mut config.pools {
            (pool.encap, pool.second_chance) = (None, None);
        }
    };
    lab_of(3, name, &Times::default(), with)
        .spread(Spread::Resilient)
        .run(|lab| {
            let all = halves.all();
            wait_group(lab, &all)?;
            let held = Family::BOTH.map(|family| Job::lines(family, 300, Duration::from_millis(500)));
            let mut load = lab.client().load(held.into())?;
            load.wait_held(600, SOON)?;
            halves.part(lab)?;
            change(lab, 0)?;
            wait_changed(lab, &halves.larger)?;
            let changed = tracked(&lab.nodes()[0]);
            assert!(changed > 20_000, "{changed} slots are tracked");
            let ready = lab.nodes()[1].lbctl(&["ready"])?;
            let said = String::from_utf8_lossy(&ready.stdout).into_owned();
            assert!(ready.status.success() && said.contains("adrift: lb3"), "{said}");
            let few = |lab: &Lab| Ok(tracked(&lab.nodes()[0]) < changed / 20);
            if is_forgotten {
                let done = lab.nodes()[0].lbctl(&["forget", "lb3"])?;
                assert!(done.status.success(), "{done:?}");
                until_ok(LATE, "slots retire without lb3", || few(lab))?;
            } else {
                // They would have by now: see the control.
                std::thread::sleep(Duration::from_secs(40));
                assert!(
                    tracked(&lab.nodes()[0]) > 20_000,
                    "{name}: slots retire without lb3"
                );
            }
            halves.meet(lab)?;
            wait_group(lab, &all)?;
            until_ok(LATE, "slots retire", || few(lab))?;
            more(&mut load)?;
            load.stop()
        })
        .expect("the lab runs")
}

#[test]
fn a_node_that_was_adrift_keeps_its_connections() {
    let report = adrift("adrift", false);
    let held = report.held(Kind::Lines);
    println!("adrift: {held:?}");
    assert_eq!(
        (held.opened, held.broken, held.moved),
        (600, 0, 0),
        "{:?}",
        report.errors()
    );
}

/// The control.
#[test]
fn a_node_that_was_forgotten_while_it_served_breaks_connections() {
    let held = adrift("adrift-forgotten", true).held(Kind::Lines);
    println!("adrift-forgotten: {} of {} broke", held.broken, held.opened);
    assert!(held.broken > 0, "{held:?}");
}
