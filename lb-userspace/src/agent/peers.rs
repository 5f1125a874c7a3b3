//! The way to the other nodes, where there is one.

use anyhow::Result;

use crate::model::Model;
use crate::peer::{self, Event, Facts, Phase, Reader};

/// Talks to the other nodes, or to nobody.
pub(super) struct Peers(Option<peer::Peers>);

impl Peers {
    /// Begins to talk where the group has addresses.
    pub(super) fn start(model: &Model) -> Result<Self> {
        let own = model.group.nodes.iter().position(|name| *name == model.node.name);
        let talks = own.filter(|_| model.group.peering.is_some());
        let peers = talks.map(|own| peer::start(&model.group, own, peer::no_streams()));
        Ok(Self(peers.transpose()?))
    }

    /// What the others hear.
    pub(super) fn tell(&self) {
        if let Some(peers) = &self.0 {
            peers.update(Facts {
                phase: Phase::Ready,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Facts::default()
            });
        }
    }

    /// What has happened; never, where nobody talks.
    pub(super) async fn event(&mut self) -> Event {
        match &mut self.0 {
            Some(peers) => peers.event().await,
            None => std::future::pending().await,
        }
    }

    /// Looks at the certificates again.
    pub(super) fn reload(&self) {
        if let Some(peers) = &self.0 {
            peers.reload();
        }
    }

    pub(super) fn reader(&self) -> Reader {
        self.0.as_ref().map_or_else(Reader::nobody, peer::Peers::reader)
    }
}
