//! What the agent tells whoever serves its metrics, and how a configuration moves the endpoint.

use anyhow::Result;
use axum::Router;
use tokio::sync::watch;

use super::controller::Controller;
use super::desk::Desk;
use super::group::Group;
use crate::api::sync;
use crate::dataplane::pin::Root;
use crate::health::task::Reader;
use crate::metrics::{Charter, Endpoint, Meters, Next, Sources, Told};
use crate::model::Model;
use crate::peer;

/// Tells what the loop alone knows.
pub(super) struct Teller {
    told: watch::Sender<Told>,
    meters: Meters,
}

impl Teller {
    /// Starts the endpoint, which begins to serve what was bound.
    pub(super) async fn start(
        (desk, controller): (&mut Desk, &Controller),
        group: Option<&Group>,
        root: &Root,
        (health, peers, records): (Reader, peer::Reader, sync::Reader),
        bound: Next,
    ) -> Result<Self> {
        let (told, heard) = watch::channel(told(desk, controller, group));
        let meters = Meters::default();
        tokio::spawn(meters.clone().watch_loop());
        let mut endpoint = Endpoint::start(Sources {
            root: root.clone(),
            health,
            peers,
            records,
            told: heard,
            meters: meters.clone(),
        })?;
        endpoint.put(bound).await;
        desk.endpoint = Some(endpoint);
        Ok(Self { told, meters })
    }

    /// The API's routes, with every request counted.
    pub(super) fn count(&self, router: Router) -> Router {
        self.meters.count(router)
    }

    /// Tells how things are now.
    pub(super) fn tell(&mut self, desk: &Desk, controller: &Controller, group: Option<&Group>) {
        self.told.send_replace(told(desk, controller, group));
    }
}

fn told(desk: &Desk, controller: &Controller, group: Option<&Group>) -> Told {
    Told {
        node: controller.model().node.name.to_string(),
        generation: controller.generation(),
        work: controller.work(),
        loads: desk.loads,
        census: controller.census(),
        standings: controller.standings(),
        charter: desk.charter().map(|standing| Charter {
            generation: standing.committed.number,
            pending: standing.pending.is_some(),
            equal: standing.equal,
            in_force: standing.in_force,
            drift: standing.drift,
            malformed: standing.malformed,
        }),
        ready: controller.is_attached() && group.is_none_or(Group::is_ready),
        group: group.map(Group::standing),
    }
}

impl Desk {
    /// Puts a model into effect, the endpoint of metrics included, or nothing of it.
    pub(super) async fn reload_with_endpoint(
        &mut self,
        controller: &mut Controller,
        model: Model,
    ) -> Result<()> {
        let listen = model.metrics.map(|metrics| metrics.listen);
        let next = match &mut self.endpoint {
            Some(endpoint) => endpoint.prepare(listen).await?,
            None => Next::Same,
        };
        let done = controller.reload(model).await;
        if let Some(endpoint) = &mut self.endpoint {
            match done {
                Ok(()) => endpoint.put(next).await,
                Err(_) => endpoint.give_up(next),
            }
        }
        done
    }
}
