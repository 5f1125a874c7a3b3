//! Operators' calls in a group: each waits until the group has decided.

use anyhow::anyhow;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Keeper;
use super::force::Done;
use crate::agent::command::{Weighed, state_of};
use crate::agent::controller::{Controller, now};
use crate::agent::desk::Desk;
use crate::api::call::{About, Ask, Text, Who};
use crate::api::dto::{Applied, History, Ordered, Past, Rollback};
use crate::api::refusal::Refusal;
use crate::charter::fsm::{Input, Why};
use crate::charter::message::{Charter, Held, Kind, Origin};
use crate::charter::text::{self, Local, Parts};
use crate::charter::{NotAgreed, written};
use crate::config;
use crate::group::Generation;
use crate::journal::Cause;
use crate::model::Model;
use crate::state::operator::Operator;
use crate::state::plan::slots_moved;

type Reply<A> = oneshot::Sender<Result<A, Refusal>>;

/// Who waits for what the group decides.
pub(super) enum Waiting {
    Config {
        who: Who,
        source: String,
        reply: Reply<Applied>,
    },
    Order {
        who: Who,
        weighed: Box<Weighed>,
        reply: Reply<Ordered>,
    },
}

impl Keeper {
    fn wait(&mut self, waiting: Waiting) -> u64 {
        self.calls += 1;
        self.waiting.insert(self.calls, waiting);
        self.calls
    }

    fn not_agreed(&self, why: Why) -> NotAgreed {
        let nodes = self.nodes.clone();
        NotAgreed { why, nodes }
    }

    fn name(&self, generation: Generation) -> String {
        written(generation, &self.nodes)
    }
}

impl Desk {
    /// Has the group decide on an order.
    pub(in crate::agent) async fn order_in_group(
        &mut self,
        controller: &mut Controller,
        who: Who,
        ask: Ask<About, Ordered>,
    ) {
        let weighed = match self.weigh(controller, &ask.what).await {
            Ok(Ok(weighed)) => weighed,
            Ok(Err(same)) => return drop(ask.reply.send(Ok(same))),
            Err(refusal) => return drop(ask.reply.send(Err(refusal))),
        };
        let shared = match self.shared(controller) {
            Ok(shared) => shared,
            Err(refusal) => return drop(ask.reply.send(Err(refusal))),
        };
        let charter = Charter {
            text: shared,
            orders: weighed.after.clone(),
            origin: origin(controller, who, Kind::Order, weighed.what()),
        };
        let waiting = Waiting::Order {
            who,
            weighed: Box::new(weighed),
            reply: ask.reply,
        };
        self.propose(controller, charter, None, waiting).await;
    }

    /// What the group shares, as it is in force here.
    fn shared(&self, controller: &Controller) -> Result<String, Refusal> {
        let committed = self.keeper.as_ref().and_then(|keeper| keeper.machine.committed());
        match committed {
            Some(held) => Ok(held.charter.text.clone()),
            None => Ok(self.running_parts(controller)?.shared),
        }
    }

    async fn propose(
        &mut self,
        controller: &mut Controller,
        charter: Charter,
        local: Option<Local>,
        waiting: Waiting,
    ) {
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.machine.pending().is_none() {
            keeper.fresh = local;
        }
        let call = keeper.wait(waiting);
        self.drive(controller, Input::Apply { call, charter }).await;
    }

    /// Has the group decide on a text.
    pub(in crate::agent) async fn apply_in_group(
        &mut self,
        controller: &mut Controller,
        who: Who,
        ask: Ask<Text, Applied>,
    ) {
        let source = ask
            .what
            .naming
            .name
            .clone()
            .unwrap_or_else(|| "(a request)".to_owned());
        match self.parts_of(controller, &ask.what).await {
            Ok((parts, orders)) => {
                let charter = Charter {
                    text: parts.shared,
                    orders,
                    origin: origin(controller, who, Kind::Config, short(&source)),
                };
                let reply = ask.reply;
                let waiting = Waiting::Config { who, source, reply };
                self.propose(controller, charter, Some(parts.local), waiting)
                    .await;
            }
            Err(refusal) => {
                self.tell_refused(controller, who, &source, &refusal);
                drop(ask.reply.send(Err(refusal)));
            }
        }
    }

    /// A text in two parts, with what this node has where the text has nothing of its own, and the orders that hold under it.
    async fn parts_of(&self, controller: &Controller, text: &Text) -> Result<(Parts, Operator), Refusal> {
        let key = controller.model().group.key.as_ref();
        let given = match text::split(&text.text, key) {
            Ok(given) => given,
            Err(why) => {
                // What is wrong with a text as a whole says where.
                self.understand(controller, text)?;
                return Err(why.into());
            }
        };
        text::check_content(&given.shared)?;
        let local = given.local.over(&self.running_parts(controller)?.local);
        let whole = Text {
            text: text::merge(&given.shared, &local)?,
            naming: text.naming.clone(),
        };
        let model = self.understand(controller, &whole)?;
        // Of another node's file this says more than what that node has and this one not.
        let suits = self.suits(controller, &model);
        suits.map_err(|e| Refusal::Fixed(vec![format!("{e:#}")]))?;
        controller.check_links(&model).await.map_err(Refusal::Host)?;
        // What the text left to this node is shared as well where all files have it. And the key may be another one, which the
        // check by the running one has not seen.
        let shared = text::split(&whole.text, model.group.key.as_ref())?.shared;
        text::check_peering(&given.shared, &shared)?;
        let parts = Parts { shared, local };
        let (orders, _) = controller.operator().settled(now()).within(&model);
        Ok((parts, orders))
    }

    /// The model that this node would have with a text, were it the group's.
    pub(in crate::agent) async fn would_be(
        &self,
        controller: &Controller,
        text: &Text,
    ) -> Result<Model, Refusal> {
        let (parts, _) = self.parts_of(controller, text).await?;
        Ok(config::parse(
            &text::merge(&parts.shared, &parts.local)?,
            &self.config,
        )?)
    }

    /// Has the group go back to a text of the history.
    pub(in crate::agent) async fn rollback(
        &mut self,
        controller: &mut Controller,
        who: Who,
        ask: Ask<Rollback, Applied>,
    ) {
        let (old, orders) = match self.old(controller, &ask.what) {
            Ok(found) => found,
            Err(refusal) => return drop(ask.reply.send(Err(refusal))),
        };
        let keeper = self.keeper.as_ref();
        let name = keeper
            .map(|keeper| keeper.name(old.generation))
            .unwrap_or_default();
        let charter = Charter {
            text: old.charter.text,
            orders,
            origin: origin(controller, who, Kind::Rollback, name.clone()),
        };
        let reply = ask.reply;
        let waiting = Waiting::Config {
            who,
            source: name,
            reply,
        };
        self.propose(controller, charter, None, waiting).await;
    }

    /// The generation that is meant, and the orders that hold under its text.
    fn old(&self, controller: &Controller, wanted: &Rollback) -> Result<(Held, Operator), Refusal> {
        let keeper = self.keeper.as_ref().ok_or(Refusal::NoGroup)?;
        let history = keeper.shelf.history()?;
        let known = || history.iter().map(|held| keeper.name(held.generation)).collect();
        let current = keeper
            .machine
            .committed()
            .ok_or(Refusal::NoSuchGeneration { known: known() })?;
        let old = match wanted.number {
            Some(number) => history.iter().find(|held| held.generation.number == number),
            None => history.iter().find(|held| {
                held.generation < current.generation && held.charter.text != current.charter.text
            }),
        };
        let old = old.cloned().ok_or_else(|| match wanted.number {
            Some(_) => Refusal::NoSuchGeneration { known: known() },
            None => Refusal::NoOtherText,
        })?;
        let local = self.running_parts(controller)?.local;
        let merged = text::merge(&old.charter.text, &local)?;
        let model = config::parse(&merged, &self.config)?;
        let (orders, _) = controller.operator().settled(now()).within(&model);
        Ok((old, orders))
    }

    /// The last generations.
    pub(in crate::agent) fn history(&self) -> Result<History, Refusal> {
        let keeper = self.keeper.as_ref().ok_or(Refusal::NoGroup)?;
        let history = keeper.shelf.history()?;
        let texts = history.iter().map(|held| &held.charter.text);
        let before = texts.skip(1).map(Some).chain([None]);
        let past = history.iter().zip(before).map(|(held, before)| {
            let origin = &held.charter.origin;
            Past {
                generation: keeper.name(held.generation),
                number: held.generation.number,
                node: origin.node.clone(),
                uid: origin.uid,
                at: origin.at.0,
                what: origin.to_string(),
                new_text: before != Some(&held.charter.text),
                in_force: held.generation == keeper.in_force,
            }
        });
        Ok(History {
            generations: past.collect(),
        })
    }

    /// Tells who waits what the group has decided.
    pub(super) fn answer(&mut self, controller: &mut Controller, call: u64, answer: Result<Generation, Why>) {
        let Some(keeper) = &mut self.keeper else { return };
        let Some(waiting) = keeper.waiting.remove(&call) else {
            return;
        };
        let was_proposed = !matches!(answer, Err(Why::Busy(_)));
        if was_proposed {
            keeper.fresh = None;
        }
        let done = keeper.done.take().filter(|_| answer.is_ok()).unwrap_or_default();
        let name = answer
            .as_ref()
            .map(|generation| keeper.name(*generation))
            .unwrap_or_default();
        let answer = answer.map_err(|why| Refusal::NotAgreed(keeper.not_agreed(why)));
        match waiting {
            Waiting::Config { who, source, reply } => {
                let answer = answer.and_then(|generation| self.applied(generation.number, name, done));
                match &answer {
                    Ok(applied) => info!(
                        uid = who.uid,
                        pid = who.pid,
                        "configuration of {source} applied as {}",
                        applied.group.as_deref().unwrap_or_default()
                    ),
                    Err(refusal) => self.tell_refused(controller, who, &source, refusal),
                }
                drop(reply.send(answer));
            }
            Waiting::Order { who, weighed, reply } => {
                let answer = answer.and_then(|_| match done.failed {
                    Some(why) => Err(Refusal::NotInForce {
                        generation: name,
                        why,
                    }),
                    None => Ok(self.ordered(controller, &weighed)),
                });
                match &answer {
                    Ok(_) => info!(uid = who.uid, pid = who.pid, "{}", weighed.what()),
                    Err(refusal) => warn!(uid = who.uid, pid = who.pid, "{}: {refusal}", weighed.what()),
                }
                drop(reply.send(answer));
            }
        }
    }

    fn applied(&self, generation: u64, name: String, done: Done) -> Result<Applied, Refusal> {
        if let Some(why) = done.failed {
            return Err(Refusal::NotInForce {
                generation: name,
                why,
            });
        }
        Ok(Applied {
            generation,
            plan: done.plan,
            file: self.config.display().to_string(),
            backup: done.backup,
            group: Some(name),
            without: self.no_members(),
        })
    }

    fn ordered(&self, controller: &Controller, weighed: &Weighed) -> Ordered {
        Ordered {
            changed: true,
            slots_moved: slots_moved(&weighed.pool, &weighed.held, controller.target()),
            backend: state_of(controller, &weighed.pool, weighed.id),
            without: self.no_members(),
        }
    }

    /// Names of the group's nodes that are no members now.
    fn no_members(&self) -> Vec<String> {
        let Some(keeper) = &self.keeper else {
            return Vec::new();
        };
        let nodes = (0u8..).zip(&keeper.nodes);
        let absent = nodes.filter(|(place, _)| !keeper.machine.members().contains(place));
        absent.map(|(_, name)| name.to_string()).collect()
    }

    fn tell_refused(&mut self, controller: &Controller, who: Who, source: &str, refusal: &Refusal) {
        warn!(
            uid = who.uid,
            pid = who.pid,
            "configuration of {source} refused, the running one stays:\n{refusal}"
        );
        let cause = Cause::Operator {
            uid: who.uid,
            pid: who.pid,
        };
        self.refused(controller, &cause, source, &anyhow!("{refusal}"));
    }
}

fn origin(controller: &Controller, who: Who, kind: Kind, what: String) -> Origin {
    Origin {
        node: controller.model().node.name.to_string(),
        uid: who.uid,
        at: now(),
        kind,
        what,
    }
}

/// A file's name as messages to peers may have it.
fn short(source: &str) -> String {
    source.chars().take(256).collect()
}
