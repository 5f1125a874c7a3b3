//! Keeps Applied equal to Desired: one path for the start, a reload and a change of the network.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tracing::{error, info, warn};

use super::change::{Changes, is_peered, leave};
use super::member::Member;
use super::report;
use crate::dataplane::attach::Attached;
use crate::dataplane::flows;
use crate::dataplane::load::Balancer;
use crate::dataplane::maps::Maps;
use crate::group;
use crate::journal::Event;
use crate::metrics::Work;
use crate::model::Model;
use crate::net::{self, Link, NextHop, Resolver};
use crate::state::contents::Contents;
use crate::state::diff::{Op, diff};
use crate::state::ids;
use crate::state::linger::{Linger, parted};
use crate::state::operator::Operator;
use crate::state::plan::{self, Plan};
use crate::state::reduce::{World, reduce, targets};
use crate::state::repoint;
use crate::state::ring::Cache;
use crate::state::standing::{Standings, merge};
use crate::state::wall::{Wall, millis};

/// Owns the state of the data plane.
pub(super) struct Controller {
    pub(super) model: Model,
    /// The same with the backends that leave.
    pub(super) effective: Model,
    pub(super) balancer: Balancer,
    resolver: Resolver,
    pub(super) applied: Contents,
    /// What the maps are to hold, when every change has been committed.
    pub(super) target: Contents,
    pub(super) changes: Changes,
    cache: Cache,
    /// What the health checks say of backends.
    standings: Standings,
    /// What the operator ordered.
    operator: Operator,
    /// What happened to next hops since it was asked for last.
    news: Vec<Event>,
    /// Interfaces that the program is attached to; `None` where nothing is to be attached.
    links: Option<Vec<Link>>,
    generation: u64,
    said: BTreeSet<String>,
    /// Where the nodes of the group talk to each other.
    pub(super) member: Option<Member>,
    /// Whether the slots are those of an earlier agent.
    pub(super) kept: bool,
    /// The last attempt to write what the maps should hold went through.
    pub(super) in_step: bool,
}

impl Controller {
    /// Takes over a loaded data plane.
    pub(super) async fn new(
        model: Model,
        balancer: Balancer,
        attach: bool,
        operator: Operator,
    ) -> Result<Self> {
        let mut balancer = balancer;
        part(&model, &mut balancer.maps)?;
        let applied = balancer.maps.contents()?;
        let changes = Changes::new(&model, &applied, &balancer.maps)?;
        let generation = balancer.maps.meta()?.generation;
        let member = is_peered(&model).then(Member::default);
        let is_kept = balancer.adopted && generation > 0;
        let resolver = Resolver::open().await?;
        let links = attach.then(Vec::new);
        let (cache, said) = (Cache::default(), BTreeSet::new());
        Ok(Self {
            effective: changes.linger.with(&model),
            model,
            balancer,
            resolver,
            target: applied.clone(),
            applied,
            changes,
            cache,
            standings: Standings::default(),
            operator,
            news: Vec::new(),
            links,
            generation,
            said,
            member,
            kept: is_kept,
            in_step: false,
        })
    }

    /// Fills the maps, then attaches.
    pub(super) async fn start(&mut self) -> Result<()> {
        // The maps may be those of an earlier agent with another file.
        let refused = repoint::refused(&self.applied, &self.model);
        ensure!(refused.is_empty(), "{}", refused.join("; "));
        Self::links_of(&self.model, self.links.is_some())
            .await?
            .complete()?;
        let hops = self.resolver.resolve(&targets(&self.effective)).await?;
        self.program(&hops)?;
        self.commit()?;
        self.attach(true).await?;
        self.warn().await;
        Ok(())
    }

    /// Replaces the model, or says why not and leaves everything as it is.
    pub(super) async fn reload(&mut self, model: Model) -> Result<()> {
        self.check_fixed(&model)?;
        Self::links_of(&model, self.links.is_some()).await?.complete()?;
        let mut applied = self.applied.clone();
        applied.backends.extend(parted(&model, &applied));
        let (linger, effective) = self.leaving(&model, &applied);
        // Asked before anything changes: a new backend's neighbour may take a moment to answer.
        let hops = self.resolver.resolve(&targets(&effective)).await?;
        part(&model, &mut self.balancer.maps)?;
        self.applied = applied;
        let before = std::mem::replace(&mut self.model, model);
        let lingered = std::mem::replace(&mut self.changes.linger, linger);
        self.effective = effective;
        if let Err(e) = self.apply(&hops).await {
            // Whatever was done is taken back by the one path that there is: to the model of before.
            self.changes.linger = lingered;
            (self.changes.linger, self.effective) = self.leaving(&before, &self.applied);
            self.model = before;
            if let Err(back) = self.restore().await {
                error!(
                    "the running configuration could not be restored, the next change of the network tries again: {back:#}"
                );
            }
            return Err(e);
        }
        self.warn().await;
        Ok(())
    }

    /// Who leaves with a model, and the model with them.
    fn leaving(&self, model: &Model, applied: &Contents) -> (Linger, Model) {
        let linger = leave(self.changes.linger.clone(), &self.model, model, applied);
        let effective = linger.with(model);
        (linger, effective)
    }

    /// Puts the model into effect. An interface may refuse the program, so that comes before the maps.
    async fn apply(&mut self, hops: &[NextHop]) -> Result<()> {
        self.attach(true).await?;
        self.program(hops)?;
        self.commit()
    }

    /// Makes maps and interfaces those of the model again, after one that failed.
    async fn restore(&mut self) -> Result<()> {
        let hops = self.resolver.resolve(&targets(&self.effective)).await?;
        self.program(&hops)?;
        self.attach(true).await
    }

    /// Follows the network: next hops and interfaces.
    pub(super) async fn follow(&mut self) -> Result<()> {
        let hops = self.resolver.resolve(&targets(&self.effective)).await?;
        self.program(&hops)?;
        self.attach(false).await?;
        self.warn().await;
        Ok(())
    }

    /// Takes what the health checks say now; [`Controller::follow`] puts it into effect.
    pub(super) fn health(&mut self, health: &Standings) {
        self.standings = health.clone();
    }

    /// Warns of what is right now but will drop packets.
    async fn warn(&mut self) {
        if let Ok(own) = net::addresses().await {
            report::own_vips(&self.model, &own, &mut self.said);
        }
        if let Some(links) = &self.links {
            report::unattached(links, &self.applied, &mut self.said);
            report::narrow(links, &self.applied, &mut self.said);
        }
    }

    /// Returns when the network has changed.
    pub(super) async fn changed(&mut self) -> Result<(), net::Error> {
        self.resolver.changed().await
    }

    /// Keeps neighbours alive: XDP traffic never refreshes them.
    pub(super) async fn refresh(&mut self) -> Result<(), net::Error> {
        self.resolver.refresh().await
    }

    /// Opens the netlink sockets anew after an error.
    pub(super) async fn reopen(&mut self) -> Result<(), net::Error> {
        self.resolver.reopen().await
    }

    pub(super) fn balancer(&mut self) -> &mut Balancer {
        &mut self.balancer
    }

    /// Whether packets come to the program; also where nothing is to be attached.
    pub(super) fn is_attached(&self) -> bool {
        let links = self.links.as_deref();
        links.is_none_or(|links| self.balancer.is_attached(links))
    }

    /// The running configuration.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// What was written since the start.
    pub(super) fn work(&self) -> Work {
        Work {
            rings: self.cache.builds(),
            writes: self.balancer.maps.writes(),
            slots: self.balancer.maps.slots_changed(),
            in_step: self.in_step,
        }
    }

    /// How many configurations were accepted.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What the maps are to hold, when every change has been committed.
    pub(super) fn target(&self) -> &Contents {
        &self.target
    }

    /// The running configuration with the backends that have left it and still have flows.
    pub(super) fn effective(&self) -> &Model {
        &self.effective
    }

    /// What the operator ordered.
    pub(super) fn operator(&self) -> &Operator {
        &self.operator
    }

    /// What each backend may get, all views together.
    pub(super) fn standings(&self) -> Standings {
        self.standings_under(&self.model, &self.operator, &self.changes.linger)
    }

    fn standings_under(&self, model: &Model, operator: &Operator, linger: &Linger) -> Standings {
        let operator = operator.standings(model, now());
        let standings = match &self.member {
            Some(member) => group::local(&group::agreed(&operator, &member.verdict), &self.standings),
            None => merge(&operator, &self.standings),
        };
        self.changes.with_leavers(linger, standings)
    }

    /// What the health checks say.
    pub(super) fn checked(&self) -> &Standings {
        &self.standings
    }

    /// Computes what all rings of the group are to be, and whether its members have agreed on that.
    fn lay(&mut self) {
        if let Some(member) = &mut self.member {
            let operator = self.operator.standings(&self.model, now());
            let gate = member.lay(&self.model, &operator);
            self.changes.set_gate(gate);
        }
    }

    /// Keeps backends for their flows that are in the maps, but in no configuration.
    pub(super) fn relinger(&mut self) {
        (self.changes.linger, self.effective) = self.leaving(&self.model, &self.applied);
    }

    /// What happened to next hops since this was called last.
    pub(super) fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// What the maps would hold under another model and other orders. Nothing is changed; neighbours that are new are
    /// asked for.
    pub(super) async fn foresee(&mut self, model: &Model, operator: &Operator) -> Result<Contents> {
        let mut linger = self.changes.linger.clone();
        linger.note(&self.model, model, &self.applied, flows::now());
        // With those of the running model, which the resolver would forget otherwise.
        let mut wanted = targets(model);
        let asked = wanted.len();
        wanted.extend(targets(&self.effective));
        let hops = self.resolver.resolve(&wanted).await?;
        let ids = ids::assign(model, &self.applied);
        let world = World {
            model,
            ids: &ids,
            hops: &hops[..asked],
            standings: &self.standings_under(model, operator, &linger),
            applied: &self.applied,
            barred: &self.changes.tracker.barred(),
            waiting: &[],
        };
        Ok(reduce(&world, &mut self.cache))
    }

    /// Refuses a model that names interfaces which this host doesn't have.
    pub(super) async fn check_links(&self, model: &Model) -> Result<()> {
        Self::links_of(model, self.links.is_some()).await?.complete()
    }

    /// What a reload would change. Nothing is changed.
    pub(super) async fn plan(&mut self, model: &Model) -> Result<Plan> {
        let refused = self.fixed(model)?;
        if !refused.is_empty() {
            return Ok(Plan {
                refused,
                ..Plan::default()
            });
        }
        let operator = self.operator.clone();
        let after = self.foresee(model, &operator).await?;
        Ok(plan::plan(&self.model, model, &self.target, &after))
    }

    /// Replaces the operator's orders, or leaves everything as it is.
    pub(super) async fn obey(&mut self, operator: Operator) -> Result<()> {
        let hops = self.resolver.resolve(&targets(&self.effective)).await?;
        let before = std::mem::replace(&mut self.operator, operator);
        if let Err(e) = self.program(&hops) {
            self.operator = before;
            if let Err(back) = self.program(&hops) {
                error!("the orders of before could not be restored: {back:#}");
            }
            return Err(e);
        }
        Ok(())
    }

    /// Orders that say the same for this moment, such as without a ramp that is over: nothing is written.
    pub(super) fn tidy_orders(&mut self, operator: Operator) {
        self.operator = operator;
    }

    /// Refuses what can't change while the data plane lives.
    fn check_fixed(&self, model: &Model) -> Result<()> {
        let why = self.fixed(model)?;
        ensure!(why.is_empty(), "{}", why.join("\n"));
        Ok(())
    }

    /// What of a model can't be had while the data plane lives, and what to do instead.
    pub(super) fn fixed(&self, model: &Model) -> Result<Vec<String>> {
        const HOW: &str = "to change it, withdraw this node, stop lbd, run `lbctl detach` and start lbd";
        let mut fixed = Vec::new();
        if model.capacity != self.model.capacity {
            fixed.push(format!("`capacity` is fixed while the data plane lives; {HOW}"));
        }
        let meta = self.balancer.maps.meta()?;
        if model
            .group
            .key
            .as_ref()
            .is_some_and(|key| *key.bytes() != meta.group_key)
        {
            fixed.push(format!(
                "`group.key` can't be changed by a reload, it would move every flow; {HOW}"
            ));
        }
        let peers = |model: &Model| (model.group.nodes.clone(), model.group.peering.clone());
        if self.member.is_some() != is_peered(model)
            || self.member.is_some() && peers(model) != peers(&self.model)
        {
            fixed.push(
                "who is in the group and how its nodes talk (`group.nodes`, `group.peering`) is read at the start: \
                 write it into the file of every node and restart lbd on one after the other"
                    .to_owned(),
            );
        }
        fixed.extend(repoint::refused(&self.applied, model));
        let tracked: BTreeSet<u16> = self.changes.tracker.pools().collect();
        fixed.extend(repoint::too_early(&self.model, &self.applied, &tracked, model));
        Ok(fixed)
    }

    /// Computes Desired and writes what differs.
    fn program(&mut self, hops: &[NextHop]) -> Result<()> {
        self.in_step = false;
        let ids = ids::assign(&self.effective, &self.applied);
        self.lay();
        let standings = self.standings();
        let barred = self.changes.verdicts(&self.effective, &ids, &standings);
        let world = World {
            model: &self.effective,
            ids: &ids,
            hops,
            standings: &standings,
            applied: &self.applied,
            barred: &barred,
            waiting: &self.changes.linger.homeless(&ids),
        };
        let desired = reduce(&world, &mut self.cache);
        self.changes.prepare(&self.effective, &ids, &desired, &standings);
        let ops = diff(&self.applied, &desired);
        let mut slots = 0;
        for op in &ops {
            match self.changes.write(&mut self.balancer.maps, &self.applied, op) {
                Ok(changed) => slots += changed,
                Err(e) => {
                    // What is in the maps now is the truth; the next pass starts from there.
                    self.balancer.maps.settle();
                    self.applied = self.balancer.maps.contents()?;
                    return Err(e).context("writing the maps");
                }
            }
        }
        slots += self.changes.advance(&self.balancer.maps, &desired);
        self.balancer.maps.settle();
        self.news.extend(report::next_hops(&self.applied, &desired));
        self.applied = Contents {
            rings: self.changes.rings(&self.balancer.maps, &desired),
            ..desired.clone()
        };
        self.target = desired;
        self.changes.find_by(&self.effective, &self.applied);
        self.limit()?;
        if !ops.is_empty() {
            info!(writes = ops.len(), slots, "data plane updated");
        }
        self.in_step = true;
        Ok(())
    }

    /// Counts an accepted configuration.
    fn commit(&mut self) -> Result<()> {
        self.generation += 1;
        self.balancer
            .maps
            .commit(self.generation, now().0 / 1000, &self.model.node.name)?;
        Ok(())
    }

    /// Attaches to the configured interfaces; `must` = a missing one is an error and not only a warning.
    async fn attach(&mut self, must: bool) -> Result<()> {
        let Some(present) = &self.links else { return Ok(()) };
        let wanted = Self::links_of(&self.model, true).await?;
        if must {
            wanted.complete()?;
        }
        let indexes = |links: &[Link]| {
            links
                .iter()
                .map(|l| (l.name.clone(), l.ifindex))
                .collect::<Vec<_>>()
        };
        if !must && indexes(present) == indexes(&wanted.found) {
            // Their MTU may have changed.
            self.links = Some(wanted.found);
            return Ok(());
        }
        if !wanted.missing.is_empty() {
            let missing = wanted.missing.join(", ");
            warn!("interface gone: {missing}; it is attached again when it comes back");
        }
        let attached = self.balancer.attach(&wanted.found, self.model.node.attach)?;
        for (link, done) in wanted.found.iter().zip(attached) {
            log_attached(link, done);
        }
        self.links = Some(wanted.found);
        Ok(())
    }

    async fn links_of(model: &Model, attach: bool) -> Result<Wanted> {
        let mut wanted = Wanted {
            found: Vec::new(),
            missing: Vec::new(),
        };
        if !attach {
            return Ok(wanted);
        }
        let all = net::links().await?;
        for name in &model.node.interfaces {
            match all.get(name) {
                Some(link) => wanted.found.push(link.clone()),
                None => wanted.missing.push(name.clone()),
            }
        }
        Ok(wanted)
    }
}

/// Gives backends that get another address in a model another identity in the maps, by which their flows stay where they are.
fn part(model: &Model, maps: &mut Maps) -> Result<()> {
    for (index, backend) in parted(model, &maps.contents()?) {
        let op = Op::SetBackend {
            index,
            backend: Box::new(backend),
            new: false,
        };
        maps.apply(&op)?;
    }
    Ok(())
}

/// The time on the wall.
pub(super) fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Wall(since.map_or(0, millis))
}

/// The configured interfaces, as they are on this host.
struct Wanted {
    found: Vec<Link>,
    missing: Vec<String>,
}

impl Wanted {
    fn complete(&self) -> Result<()> {
        ensure!(
            self.missing.is_empty(),
            "no such interface: {} (`node.interfaces`)",
            self.missing.join(", ")
        );
        Ok(())
    }
}

fn log_attached(link: &Link, done: Attached) {
    use lb_common::info::mode::GENERIC;
    match done {
        Attached::Replaced { mode } => {
            info!(
                interface = link.name,
                mode = lb_common::info::mode::name(mode),
                "program replaced, no packet missed it"
            );
        }
        Attached::New { mode: GENERIC } => {
            warn!(
                interface = link.name,
                "attached in generic mode: slower, and only right with offloads off (ethtool -K {} gro off lro off)",
                link.name
            );
        }
        Attached::New { mode } => info!(
            interface = link.name,
            mode = lb_common::info::mode::name(mode),
            "attached"
        ),
    }
}
