//! Whether this node can run a charter, and running it; the file on disk, and where it says something else.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tracing::{error, info, warn};

use super::{RETRY, drifted, is_group};
use crate::agent::controller::{Controller, now};
use crate::agent::desk::Desk;
use crate::agent::store::Draft;
use crate::charter::message::{Charter, Held, Kind, Origin};
use crate::charter::text::{self, Local};
use crate::charter::written;
use crate::config;
use crate::group::Generation;
use crate::journal::{Cause, Event};
use crate::model::Model;
use crate::state::plan::Plan;

/// What putting a charter into force did.
#[derive(Clone, Default, Debug)]
pub(super) struct Done {
    pub(super) plan: Plan,
    /// The copy of the former file.
    pub(super) backup: Option<String>,
    /// What went wrong; it is tried again.
    pub(super) failed: Option<String>,
}

impl Desk {
    /// The local part that a charter is run with: that of the running text, or what came with this node's own proposal.
    fn local_for(&self, controller: &Controller, held: &Held) -> Result<Local> {
        let keeper = self.keeper.as_ref().context("no group")?;
        match &keeper.fresh {
            Some(fresh) if held.generation.node == keeper.me => Ok(fresh.clone()),
            _ => Ok(self.running_parts(controller)?.local),
        }
    }

    fn merged(&self, controller: &Controller, held: &Held) -> Result<(String, Model)> {
        let merged = text::merge(&held.charter.text, &self.local_for(controller, held)?)?;
        let model = config::parse(&merged, &self.config)?;
        Ok((merged, model))
    }

    /// Refuses a charter that this node can't run.
    pub(super) async fn judge(&self, controller: &Controller, held: &Held) -> Result<()> {
        if held.base.number == 0 && held.charter.origin.kind == Kind::Order {
            let mine = text::digest(&self.running_parts(controller)?.shared)?;
            ensure!(
                text::digest(&held.charter.text)? == mine,
                "the nodes' files differ and none was agreed on: `lbctl config apply FILE` first"
            );
        }
        let (_, model) = self.merged(controller, held)?;
        self.suits(controller, &model)?;
        if model == *controller.model() {
            return Ok(());
        }
        controller.check_links(&model).await?;
        let refused = controller.fixed(&model)?;
        ensure!(refused.is_empty(), "{}", refused.join("\n"));
        Ok(())
    }

    /// Refuses a model that would not be this node's, or not its group's, or an address for metrics that this node can't have.
    pub(super) fn suits(&self, controller: &Controller, model: &Model) -> Result<()> {
        let keeper = self.keeper.as_ref().context("no group")?;
        let name = &controller.model().node.name;
        if model.node.name != *name {
            bail!("`node.name` is {}, and this node is {name}", model.node.name);
        }
        if !is_group(model) {
            bail!(
                "without addresses in `group.nodes` the nodes would not talk any more: to take the group apart, stop its \
                 nodes and edit their files"
            );
        }
        let kept = keeper
            .nodes
            .iter()
            .zip(&model.group.nodes)
            .all(|(old, new)| old == new);
        if !kept {
            bail!(
                "nodes of `group.nodes` keep their places: new ones stand at the end, and only the last ones may go"
            );
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.check(model.metrics.as_ref().map(|metrics| metrics.listen))?;
        }
        Ok(())
    }

    /// Runs a committed charter; where that fails it is tried again.
    pub(super) async fn enforce(&mut self, controller: &mut Controller, held: Held) {
        let done = self.try_enforce(controller, &held).await;
        let Some(keeper) = &mut self.keeper else { return };
        let name = written(held.generation, &keeper.nodes);
        match done {
            Ok(done) => {
                keeper.runs(&held);
                keeper.nodes.clone_from(&controller.model().group.nodes);
                keeper.retry = None;
                keeper.done = Some(done);
                keeper.stale_file = false;
                keeper.shelf.note_written(held.generation);
                info!(
                    "generation {name} of the group's configuration is in force: {}",
                    held.charter.origin
                );
            }
            Err(e) => {
                keeper.retry = Some(Instant::now() + RETRY);
                keeper.done = Some(Done {
                    failed: Some(format!("{e:#}")),
                    ..Done::default()
                });
                error!(
                    "generation {name} of the group's configuration is not in force here, it is tried again: {e:#}"
                );
                self.refused(controller, &cause(&held), &name, &e);
            }
        }
        self.look_for_drift();
    }

    /// What this node ran before anything was agreed on can be gone back to.
    pub(super) fn remember_file(&self, controller: &Controller) {
        let keeper = self.keeper.as_ref().filter(|keeper| keeper.in_force.number == 0);
        let Some((keeper, parts)) = keeper.zip(self.running_parts(controller).ok()) else {
            return;
        };
        let generation = Generation {
            number: 0,
            node: keeper.me,
        };
        let origin = Origin {
            node: controller.model().node.name.to_string(),
            at: now(),
            kind: Kind::File,
            what: self.config.display().to_string(),
            ..Origin::default()
        };
        let charter = Charter {
            text: parts.shared,
            orders: controller.operator().settled(now()),
            origin,
        };
        keeper.shelf.remember(&Held {
            generation,
            base: generation,
            charter,
        });
    }

    async fn try_enforce(&mut self, controller: &mut Controller, held: &Held) -> Result<Done> {
        let (merged, model) = self.merged(controller, held)?;
        let done = self.run_text(controller, held, merged, model).await?;
        // Ramps that are over mean nothing, and are forgotten here and there at another time.
        let (orders, _) = held.charter.orders.settled(now()).within(controller.model());
        if orders != controller.operator().settled(now()) {
            // The charter on disk is what holds; this is for a node that leaves its group.
            self.save_or_log(&orders);
            controller.obey(orders).await?;
            let name = self
                .keeper
                .as_ref()
                .map(|keeper| written(held.generation, &keeper.nodes));
            let mut events = vec![Event::CharterOrders {
                charter: name.unwrap_or_default(),
                what: held.charter.origin.what.clone(),
            }];
            events.append(&mut controller.take_news());
            self.record(controller.generation(), &cause(held), events);
        }
        Ok(done)
    }

    /// Runs it, where it says something new, and writes the file.
    async fn run_text(
        &mut self,
        controller: &mut Controller,
        held: &Held,
        merged: String,
        model: Model,
    ) -> Result<Done> {
        let is_same = model == *controller.model();
        // An order doesn't touch the file; what was edited there meanwhile stays. But it may bring a text that this node has
        // missed.
        let is_stale = self.keeper.as_ref().is_some_and(|keeper| keeper.stale_file);
        let is_kept = is_same && held.charter.origin.kind == Kind::Order && !is_stale;
        // Nobody else has it, and the next change would write over the copy of this one.
        let on_disk = self.shared_on_disk();
        let known = [
            shared_digest(&self.in_force.text),
            text::digest(&held.charter.text).ok(),
        ];
        let (text, loses_own) = self.file_text(controller, held, &merged);
        let is_edited = !is_stale && !known.contains(&on_disk) || loses_own;
        let draft = match text.filter(|_| !is_kept) {
            Some(text) => Some(Draft::write(&self.real_config()?, text.as_bytes())?),
            None => None,
        };
        let plan = match is_same && merged == self.in_force.text {
            true => Plan::default(),
            false => self.put(controller, model, merged, &cause(held)).await?,
        };
        let backup = match draft {
            Some(draft) if is_edited => {
                let kept = draft.publish_and_keep()?;
                if let Some(kept) = &kept {
                    warn!(
                        "{} had been edited; what it said is kept as {}",
                        self.config.display(),
                        kept.display()
                    );
                }
                kept
            }
            Some(draft) => draft.publish_with_backup()?,
            None => None,
        };
        Ok(Done {
            plan,
            backup: backup.map(|path| path.display().to_string()),
            failed: None,
        })
    }

    /// What the file is to say, where it says something else: the charter, with what stands there as this node's own. That may not be in force
    /// yet: nodes of the group and how they talk are read at a start, the rest by SIGHUP. And whether that can't be kept, since it is wrong.
    fn file_text(&self, controller: &Controller, held: &Held, merged: &str) -> (Option<String>, bool) {
        let Ok(on_disk) = config::text(&self.config) else {
            return (Some(merged.to_owned()), false);
        };
        let keeper = self.keeper.as_ref();
        let is_given = keeper.is_some_and(|k| k.fresh.is_some() && held.generation.node == k.me);
        let with_own = || {
            let parts = text::split(&on_disk, None).ok()?;
            let text = text::merge(&held.charter.text, &parts.local).ok()?;
            let model = config::parse(&text, &self.config).ok()?;
            let is_this = model.node.name == controller.model().node.name && is_group(&model);
            is_this.then_some(text)
        };
        let own = Some(()).filter(|()| !is_given).and_then(|()| with_own());
        let loses_own = own.is_none() && !is_given;
        let text = own.unwrap_or_else(|| merged.to_owned());
        ((text != on_disk).then_some(text), loses_own)
    }

    /// Of the file's shared part, where it can be cut.
    fn shared_on_disk(&self) -> Option<u64> {
        shared_digest(&config::text(&self.config).ok()?)
    }

    /// Looks whether the file says something else than the charter.
    pub(in crate::agent) fn look_for_drift(&mut self) {
        let file = self.shared_on_disk();
        let Some(keeper) = &mut self.keeper else { return };
        let holds = match keeper.machine.committed() {
            Some(held) => text::digest(&held.charter.text).ok(),
            None => shared_digest(&self.in_force.text),
        };
        let was = std::mem::replace(&mut keeper.drift, file != holds || holds.is_none());
        if keeper.drift && !was {
            let generation = written(keeper.machine.generation(), &keeper.nodes);
            drifted(&self.config.display().to_string(), &generation);
        }
    }

    /// SIGHUP in a group: takes the file's local part. Its shared part is not this node's to change.
    pub(in crate::agent) async fn reload_local(&mut self, controller: &mut Controller) -> Result<()> {
        let path = self.config.clone();
        let text = config::text(&path)?;
        let own = config::parse(&text, &path)?;
        let parts = text::split(&text, own.group.key.as_ref())?;
        let keeper = self.keeper.as_ref().context("no group")?;
        let shared = match keeper.machine.committed() {
            Some(held) => held.charter.text.clone(),
            None => self.running_parts(controller)?.shared,
        };
        let same = text::digest(&shared)? == text::digest(&parts.shared)?;
        let (merged, model) = if same {
            (text, own)
        } else {
            let merged = text::merge(&shared, &parts.local)?;
            let model = config::parse(&merged, &path)?;
            (merged, model)
        };
        if model.node.name != controller.model().node.name {
            bail!("`node.name` can't change while this node is in its group");
        }
        self.put(controller, model, merged, &Cause::Reload).await?;
        self.look_for_drift();
        if !same {
            let file = path.display().to_string();
            self.record(
                controller.generation(),
                &Cause::Reload,
                vec![Event::ConfigDrifted { file: file.clone() }],
            );
            warn!(
                "what is this node's own in {file} is in force; the rest differs from what the group runs, and is the group's \
                 to change: `lbctl config apply {file}`"
            );
        }
        Ok(())
    }
}

/// [`text::digest`] of what a text shares, where it can be cut.
fn shared_digest(text: &str) -> Option<u64> {
    let parts = text::split(text, None).ok()?;
    text::digest(&parts.shared).ok()
}

/// Who brought a charter about.
pub(super) fn cause(held: &Held) -> Cause {
    Cause::Group {
        node: held.charter.origin.node.clone(),
        uid: held.charter.origin.uid,
    }
}
