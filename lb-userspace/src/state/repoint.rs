//! VIPs that would change their pool: another pool is another ring, and nearly every flow would change its backend.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::info::untext;
use lb_common::vip;

use super::contents::Contents;
use super::ids::vip_key;
use crate::model::{self, Model, Tracking};

/// Why a model is refused by what the maps hold: one text for each VIP whose flows would meet another ring. Not where
/// the model says that they needn't be kept: `tracking: off`.
///
/// A VIP for one port takes flows from the VIP for every port of its address when it comes, and gives them back when it
/// goes, so those count too.
pub fn refused(applied: &Contents, model: &Model) -> Vec<String> {
    let new: BTreeMap<vip::Key, &model::Vip> = model.vips.iter().map(|vip| (vip_key(vip), vip)).collect();
    let served = applied.vips.iter().filter(|(_, value)| value.is_served());
    let old: BTreeMap<vip::Key, vip::Value> = served.map(|(key, value)| (*key, *value)).collect();
    let keys: BTreeSet<vip::Key> = old.keys().chain(new.keys()).copied().collect();
    let texts = keys.iter().filter_map(|key| {
        let before = serving(&old, key)?;
        let after = serving(&new, key)?;
        let from = untext(&applied.pools.get(&before.pool)?.name);
        let to = model.pools.get(after.pool)?.name.as_str();
        let is_refused = from != to && after.tracking != Tracking::Off;
        is_refused.then(|| text(*key, after, from, to))
    });
    texts.collect()
}

/// Why a model is refused that has flows of a VIP tracked which were not: where slots of its pool are tracked already, its flows
/// have no entries and would be looked for where the slots' old flows are. `tracked`: pools with such slots, by index.
pub fn too_early(old: &Model, applied: &Contents, tracked: &BTreeSet<u16>, model: &Model) -> Vec<String> {
    let was_off = |vip: &&model::Vip| {
        let mut before = old.vips.iter().filter(|before| vip_key(before) == vip_key(vip));
        before.any(|before| before.tracking == Tracking::Off)
    };
    let on = model.vips.iter().filter(|vip| vip.tracking != Tracking::Off);
    let early = on.filter(was_off).filter_map(|vip| {
        let pool = applied.vips.get(&vip_key(vip))?.pool;
        let name = model.pools.get(vip.pool)?.name.as_str();
        tracked.contains(&pool).then(|| {
            format!(
                "VIP {vip}: its flows can't be tracked from now on, since slots of pool {name} have changed lately and its flows \
                 have no entries; try again when `lbctl ring {name} --tracked` shows none"
            )
        })
    });
    early.collect()
}

/// What serves a key: its own VIP, else that for every port.
fn serving<'v, V>(vips: &'v BTreeMap<vip::Key, V>, key: &vip::Key) -> Option<&'v V> {
    vips.get(key).or_else(|| vips.get(&key.any_port()))
}

fn text(key: vip::Key, after: &model::Vip, from: &str, to: &str) -> String {
    let what = if vip_key(after) == key {
        format!("VIP {after}")
    } else {
        // Its own VIP goes, and that for every port takes over.
        let gone = model::Vip {
            port: key.port.get(),
            ..after.clone()
        };
        format!("VIP {gone}, served by {after} from then on,")
    };
    format!(
        "{what} can't change from pool {from} to pool {to} while flows are kept: nearly all of its flows would move to \
         other backends and break. Keep pool {from} for it, add the new backends there and then remove the old ones; \
         or serve pool {to} by a second VIP and send new clients there. Where its flows may break, set \
         `tracking: off` for {after} in the same change, and set it back in a later one"
    )
}
