//! Nodes that lose their power at a key and get it back at the next.

use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::lab::Lab;

/// A router's BFD of 3 × 10 ms.
const DETECTION: Duration = Duration::from_millis(30);

/// A node as the router sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Serves,
    Dead,
    /// It has power again and gets traffic once it is ready.
    Joins,
}

/// All nodes.
pub(super) struct Power {
    states: Vec<State>,
    /// The last thing that happened.
    pub(super) news: String,
}

/// Why a node that joins isn't ready.
fn why(lab: &Lab, index: usize) -> String {
    let said = lab.nodes()[index].lbctl(&["ready"]);
    let text = said.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let line = text.ok().and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "its agent doesn't answer yet".to_owned())
}

impl Power {
    /// All of them serve.
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            states: vec![State::Serves; nodes],
            news: String::new(),
        }
    }

    fn serving(&self) -> Vec<usize> {
        let states = self.states.iter().enumerate();
        let serving = states.filter(|(_, state)| **state == State::Serves);
        serving.map(|(index, _)| index).collect()
    }

    /// `1` is the first node: takes its power or gives it back. Any other key does nothing.
    pub(super) fn press(&mut self, lab: &mut Lab, key: char) -> Result<(), LabError> {
        let Some(index) = key
            .to_digit(10)
            .and_then(|n| usize::try_from(n).ok()?.checked_sub(1))
        else {
            return Ok(());
        };
        let Some(state) = self.states.get(index).copied() else {
            return Ok(());
        };
        let name = lab.nodes()[index].name().to_owned();
        let rest: Vec<usize> = self.serving().into_iter().filter(|n| *n != index).collect();
        match state {
            State::Serves if rest.is_empty() => {
                self.news = format!("{name} is the last one: it stays");
            }
            State::Serves => {
                let loss = lab.power_loss(index, Instant::now(), DETECTION, &rest)?;
                self.states[index] = State::Dead;
                let ms = loss.moved.as_millis();
                self.news =
                    format!("{name} has lost its power; the router had moved its traffic after {ms} ms");
            }
            State::Dead => {
                lab.power_on(index)?;
                self.states[index] = State::Joins;
                self.news = format!("{name} has power again and joins");
            }
            State::Joins => self.news = format!("{name} has power and isn't ready yet: {}", why(lab, index)),
        }
        Ok(())
    }

    /// Sends traffic to whoever has become ready.
    pub(super) fn look(&mut self, lab: &mut Lab) -> Result<(), LabError> {
        for index in 0..self.states.len() {
            if self.states[index] == State::Joins && lab.node(index).is_ready()? {
                self.states[index] = State::Serves;
                lab.router().route_to(&self.serving())?;
                self.news = format!("{} is ready and gets traffic", lab.nodes()[index].name());
            }
        }
        Ok(())
    }
}
