//! Two nodes are asked for different configurations at the same moment.

use std::process::Output;
use std::time::Duration;

use lb_tests::{Lab, LabError};
use serde_json::json;

use super::{ALL, agreed, agreed_on, ask, refused, wait_runs, was_applied, with_group};

const ROUNDS: usize = 8;
/// In each round the second one is asked by so much later than in that before: an agreement takes some of these.
const LATER: Duration = Duration::from_millis(20);

/// What two nodes said who were asked at once.
struct Round {
    /// Name of the files.
    name: String,
    /// Generations with the nodes that were asked, in order.
    won: Vec<(String, usize)>,
    /// What was said instead, with the nodes.
    lost: Vec<(String, usize)>,
}

/// Of all rounds each node asks for another one.
fn weighs(round: usize, index: usize) -> u64 {
    u64::try_from(100 + round * ALL.len() + index).expect("few rounds")
}

fn number(generation: &str) -> u64 {
    let (number, _) = generation.split_once('/').expect("a generation");
    number.parse().expect("a number")
}

fn ask_two(lab: &Lab, round: usize) -> Result<Round, LabError> {
    let name = format!("round{round}");
    let asked = [ALL[round % 3], ALL[(round + 1) % 3]];
    let one = |index: usize| ask(&lab.nodes()[index], &name, weighs(round, index));
    let first = one(asked[0])?;
    std::thread::sleep(LATER * u32::try_from(round).expect("few rounds"));
    let running = [first, one(asked[1])?];
    let (mut won, mut lost) = (Vec::new(), Vec::new());
    for (index, child) in asked.into_iter().zip(running) {
        let out: Output = child.wait_with_output().expect("it ends");
        match out.status.success() {
            true => won.push((agreed(&out), index)),
            false => lost.push((refused(&out), index)),
        }
    }
    won.sort_by_key(|(generation, _)| number(generation));
    Ok(Round { name, won, lost })
}

#[test]
fn each_is_told_what_became_of_it() {
    with_group("charter-at-once", |lab| {
        let mut lost = 0;
        for at in 0..ROUNDS {
            let round = ask_two(lab, at)?;
            let (newest, by) = round.won.last().expect("one of them wins");
            wait_runs(lab, &ALL, newest, weighs(at, *by))?;
            let applied = |index: &usize| was_applied(&lab.nodes()[*index], &round.name);
            for node in lab.nodes() {
                let remembered = agreed_on(node)?;
                assert_eq!(remembered, agreed_on(&lab.nodes()[0])?, "{}", node.name());
                for (generation, index) in &round.won {
                    let row = json!([generation, applied(index), true, generation == newest]);
                    assert!(remembered.contains(&row), "{row}: {remembered:?}");
                }
                let of_round = format!(".{},", round.name);
                let rows = remembered
                    .iter()
                    .filter(|row| row.to_string().contains(&of_round));
                assert_eq!(rows.count(), round.won.len(), "{remembered:?}");
            }
            for (why, index) in &round.lost {
                println!("charter-at-once: lb{} was told: {}", index + 1, why.trim());
                // It names who won.
                let mut won = round.won.iter();
                assert!(
                    won.any(|(won, _)| why.contains(&format!("generation {won} "))),
                    "{why}"
                );
            }
            lost += round.lost.len();
        }
        assert!(lost > 1, "they hardly met: {lost} lost");
        Ok(())
    });
}
