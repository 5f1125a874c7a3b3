//! Asking through the tunnel: a VIP's address, of one backend.
//!
//! The question's packets carry a mark that names the backend, and `lb_probe` wraps them where they leave this host.
//! Whatever answers a question of which no packet was wrapped is not that backend.

use std::fmt::Debug;
use std::net::IpAddr;

use super::{Outcome, Prober, Way};
use crate::net;

/// What wraps the packets of a question towards one backend.
pub trait Wrap: Send + Sync + Debug {
    /// The mark of packets to a backend, by its stable identity.
    ///
    /// # Errors
    /// Why none can be wrapped.
    fn mark(&self, backend: u64) -> Result<u32, NoWay>;

    /// Packets with this mark that were wrapped so far; `None` where that can't be told.
    fn wrapped(&self, mark: u32) -> Option<u64>;
}

/// Why nothing can be wrapped towards a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// Nothing is attached yet, or it was refused.
    #[error("lb_probe is not attached: {0}")]
    NotAttached(String),
    /// The data plane doesn't have the backend yet.
    #[error("the data plane doesn't have the backend yet")]
    Unknown,
    /// Nobody knows where its packets should go.
    #[error("the backend has no next hop: {0}")]
    NoNextHop(String),
}

/// Nothing is attached, and why.
#[derive(Clone, Debug)]
pub struct Closed(pub String);

impl Wrap for Closed {
    fn mark(&self, _: u64) -> Result<u32, NoWay> {
        Err(NoWay::NotAttached(self.0.clone()))
    }

    fn wrapped(&self, _: u32) -> Option<u64> {
        None
    }
}

impl Prober {
    /// Asks a backend, by its stable identity, at `vip`; takes at most the check's timeout.
    pub async fn ask_through(&self, wrap: &dyn Wrap, backend: u64, vip: IpAddr) -> Outcome {
        let mark = match wrap.mark(backend) {
            Ok(mark) => mark,
            Err(why) => return Outcome::Unasked(why.to_string()),
        };
        let way = Way {
            mark: Some(mark),
            ..self.way.clone()
        };
        let before = wrap.wrapped(mark);
        let outcome = self.ask_by(&way, vip).await;
        if wrap.wrapped(mark) != before {
            return outcome;
        }
        Outcome::Unasked(astray(vip, &outcome).await)
    }
}

/// Why no packet of a question to `vip` was wrapped.
pub async fn astray(vip: IpAddr, outcome: &Outcome) -> String {
    let own = net::addresses().await;
    if own.is_ok_and(|own| own.contains(&vip)) {
        return format!(
            "{vip} is an address of this node, so nothing leaves for it: take it off here (ip addr del)"
        );
    }
    let why = outcome.reason().unwrap_or("something else answered");
    format!(
        "nothing was wrapped on its way to {vip} ({why}): this node needs a route to it (ip route get {vip}) whose next hop \
         answers, by an interface with lb_probe"
    )
}
