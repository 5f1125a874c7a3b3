//! What the routes ask of the agent, which alone owns the state.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::dto::{
    Applied, Backends, Drain, History, Naming, Ordered, Plain, Planned, Ramp, Rollback, Running, Weight,
};
use super::group::{Done, Readiness};
use super::refusal::Refusal;
use super::tracked::{Tracked, Wanted};
use crate::doctor::Patient;
use crate::probe::Wrap;

/// So many calls may wait; more connections wait before they are read.
const QUEUE: usize = 32;

/// Who is on the other end of the socket, by the kernel's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The user.
    pub uid: u32,
    /// The process; 0 where the kernel doesn't say.
    pub pid: i32,
}

/// A call with the way back to who made it.
#[derive(Debug)]
pub struct Call {
    /// Who made it.
    pub who: Who,
    /// What it asks.
    pub command: Command,
}

/// A question and where its answer goes.
#[derive(Debug)]
pub struct Ask<Q, A> {
    /// The question.
    pub what: Q,
    /// Takes the answer.
    pub reply: oneshot::Sender<Result<A, Refusal>>,
}

/// What can be asked.
#[derive(Debug)]
pub enum Command {
    /// An order about a backend.
    Order(Ask<About, Ordered>),
    /// The state of all backends.
    Backends(Ask<(), Backends>),
    /// The tracked slots.
    Tracked(Ask<Wanted, Tracked>),
    /// What a configuration would change.
    Plan(Ask<Text, Planned>),
    /// Put a configuration into effect.
    Apply(Ask<Text, Applied>),
    /// Go back to a text of the group's history.
    Rollback(Ask<Rollback, Applied>),
    /// The group's last generations.
    History(Ask<(), History>),
    /// The running configuration.
    Running(Ask<(), Running>),
    /// Whether this node may attract traffic.
    Ready(Ask<(), Readiness>),
    /// Leave the group, then stop.
    Leave(Ask<(), Done>),
    /// Count a silent node, by name, as one that forwards nothing.
    Forget(Ask<String, Done>),
    /// A backend that is to be examined.
    Doctor(Ask<Named, Box<Ready>>),
}

/// A backend by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
}

/// All that an examination needs.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Whom to examine.
    pub patient: Patient,
    /// The way through the tunnel.
    pub wrap: Arc<dyn Wrap>,
}

/// An order and the backend that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
    /// What to do.
    pub verb: Verb,
}

/// What to do with a backend, with durations as the caller gave them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as on the command line")]
pub enum Verb {
    Drain(Drain),
    Undrain,
    Down(Plain),
    Up,
    Weight(Weight),
    Ramp(Ramp),
}

/// A configuration's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text {
    /// Its name in messages and what it may replace.
    pub naming: Naming,
    /// The YAML.
    pub text: String,
}

/// The way to the agent.
#[derive(Clone, Debug)]
pub struct Calls(mpsc::Sender<Call>);

/// The way to the agent and its end there.
pub fn channel() -> (Calls, mpsc::Receiver<Call>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Calls(sender), receiver)
}

impl Calls {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the agent refuses; [`Refusal::NoAnswer`] where it ends.
    pub async fn ask<Q, A>(&self, who: Who, make: fn(Ask<Q, A>) -> Command, what: Q) -> Result<A, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = make(Ask { what, reply });
        let sent = self.0.send(Call { who, command }).await;
        sent.map_err(|_| Refusal::NoAnswer)?;
        answer.await.map_err(|_| Refusal::NoAnswer)?
    }
}
