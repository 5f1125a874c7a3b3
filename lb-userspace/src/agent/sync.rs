//! Stand-in.
use super::controller::Controller;
use crate::dataplane::maps::Maps;
pub(super) use crate::sync::Status;
use lb_common::flow;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
pub(super) enum Command {
    Names(Arc<Names>),
    Deleted(Vec<(flow::Key, flow::Entry)>),
    Fence(u64),
    Live(BTreeSet<u8>),
    Joining(bool),
    HandOver,
}
pub(super) enum Notice {
    Fenced { peer: u8, id: u64 },
    Synced { peer: u8, session: u64 },
    Held,
    HandedOver,
    Lost { peer: u8 },
}
#[derive(PartialEq)]
pub(super) struct Names {}
impl Names {
    pub(super) fn of(_: &Controller, _: u8) -> Self {
        Self {}
    }
}
pub(super) async fn run(
    _m: Maps,
    mut _l: crate::peer::Links,
    _c: mpsc::UnboundedReceiver<Command>,
    _n: mpsc::UnboundedSender<Notice>,
    _s: watch::Sender<Arc<Vec<Status>>>,
) {
}
