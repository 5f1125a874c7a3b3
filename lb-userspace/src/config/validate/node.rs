//! `node` and `capacity`.

use std::collections::HashMap;

use lb_common::abi::MAX_INTERFACES;

use super::{Check, Duplicate, Trail, place};
use crate::config::error::Place;
use crate::config::raw::{self, ATTACH, Field};
use crate::config::what::Kind;
use crate::model::{Attach, Capacity, Node};

pub(super) fn node(check: &mut Check<'_>, file: &raw::File) -> Option<Node> {
    let trail = Trail::Root.field("node");
    let node = check.required(&file.node, Place { line: 1, column: 1 }, trail)?;
    let owner = place(node);
    let name = check.required(&node.value.name, owner, trail.field("name"));
    let name = name.and_then(|name| check.name(name, trail.field("name")));
    let interfaces = interfaces(check, &node.value.interfaces, owner, trail.field("interfaces"));
    let attach = node
        .value
        .attach
        .as_ref()
        .map_or(Some(Attach::default()), |attach| {
            check.choice(attach, trail.field("attach"), &ATTACH)
        });
    Some(Node {
        name: name?,
        interfaces,
        attach: attach?,
    })
}

fn interfaces(
    check: &mut Check<'_>,
    list: &Field<raw::List<String>>,
    owner: Place,
    trail: Trail<'_>,
) -> Vec<String> {
    let mut seen = HashMap::new();
    let mut interfaces = Vec::new();
    let items = check.items(list, owner, trail);
    let first_over = items.get(MAX_INTERFACES as usize).map(place);
    check.room(first_over, trail, Kind::Interface, items.len(), MAX_INTERFACES);
    for (index, item) in items.iter().enumerate() {
        let trail = trail.item(index);
        let Some(interface) = check.interface(item, trail) else {
            continue;
        };
        let duplicate = Duplicate {
            place: place(item),
            trail,
            kind: Kind::Interface,
            value: &interface,
        };
        check.unique(&mut seen, interface.clone(), duplicate);
        interfaces.push(interface);
    }
    interfaces
}

pub(super) fn capacity(check: &mut Check<'_>, file: &raw::File) -> Capacity {
    let default = Capacity::default();
    let Some(capacity) = &file.capacity else {
        return default;
    };
    let trail = Trail::Root.field("capacity");
    let mut size = |field: &Field<String>, name, (min, max), default| {
        field
            .as_ref()
            .and_then(|text| check.number(text, trail.field(name), (min, max)))
            .unwrap_or(default)
    };
    let raw::Capacity {
        pools,
        vips,
        backends,
        flows,
    } = &capacity.value;
    Capacity {
        pools: size(pools, "pools", (1, Capacity::POOLS_MAX), default.pools),
        vips: size(vips, "vips", (1, Capacity::VIPS_MAX), default.vips),
        backends: size(
            backends,
            "backends",
            (1 + Capacity::BACKENDS_RESERVED, Capacity::BACKENDS_MAX),
            default.backends,
        ),
        flows: size(
            flows,
            "flows",
            (Capacity::FLOWS_MIN, Capacity::FLOWS_MAX),
            default.flows,
        ),
    }
}
