//! `node`, `group` and `capacity`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use lb_common::abi::MAX_INTERFACES;

use super::{Check, Duplicate, Trail, place};
use crate::config::error::Place;
use crate::config::key;
use crate::config::raw::{self, ATTACH, Field, MAX_TRACKED_MAX, MAX_TRACKED_MIN};
use crate::config::source::Excerpt;
use crate::config::what::{Kind, What};
use crate::model::{Attach, Capacity, Group, GroupKey, Name, Node};

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

/// The group; `name` is this node's, if it is valid. Without `group` this node is alone.
pub(super) fn group(
    check: &mut Check<'_>,
    file: &raw::File,
    name: Option<&Name>,
    path: &Path,
) -> Option<Group> {
    let trail = Trail::Root.field("group");
    let alone = || name.map(|name| vec![name.clone()]);
    let Some(group) = &file.group else {
        return Some(Group {
            nodes: alone()?,
            key: None,
            max_tracked: Group::MAX_TRACKED,
            peering: None,
        });
    };
    let nodes = match &group.value.nodes {
        Some(list) => {
            let nodes = members(check, &group.value.nodes, place(group), trail.field("nodes"));
            if let Some(name) = name.filter(|name| !list.value.is_empty() && !nodes.contains(name)) {
                let what = What::NotInGroup(Excerpt::new(name.as_str()));
                check.report(place(list), trail.field("nodes"), what);
            }
            Some(nodes)
        }
        None => alone(),
    };
    let count = group.value.nodes.as_ref().map_or(1, |list| list.value.len());
    let key = group_key(check, &group.value, trail, path);
    if count > 1 && group.value.key.is_none() && group.value.key_file.is_none() {
        check.report(
            place(group),
            trail.field("key"),
            What::KeyMissing { nodes: count },
        );
    }
    let max_tracked = match &group.value.max_tracked {
        Some(text) => check
            .number(
                text,
                trail.field("max_tracked"),
                (MAX_TRACKED_MIN, MAX_TRACKED_MAX),
            )
            .map(|seconds| Duration::from_secs(seconds.into())),
        None => Some(Group::MAX_TRACKED),
    };
    Some(Group {
        nodes: nodes?,
        key,
        max_tracked: max_tracked?,
        peering: None,
    })
}

fn members(
    check: &mut Check<'_>,
    list: &Field<raw::List<String>>,
    owner: Place,
    trail: Trail<'_>,
) -> Vec<Name> {
    let mut seen = HashMap::new();
    let items = check.items(list, owner, trail).iter().enumerate();
    items
        .filter_map(|(index, item)| check.unique_name(&mut seen, item, trail.item(index), Kind::Node))
        .collect()
}

/// The key from wherever it is; `path` is the configuration's, and a relative key file lies beside it.
fn group_key(check: &mut Check<'_>, group: &raw::Group, trail: Trail<'_>, path: &Path) -> Option<GroupKey> {
    let inline = group.key.as_ref().and_then(|key| {
        let parsed = key.value.0.trim().parse();
        parsed
            .map_err(|error| check.report(place(key), trail.field("key"), What::Key(error)))
            .ok()
    });
    let Some(file) = &group.key_file else {
        return inline;
    };
    if group.key.is_some() {
        check.report(place(file), trail.field("key_file"), What::KeyTwice);
        return None;
    }
    let file_path = path.parent().unwrap_or(Path::new("")).join(&file.value);
    key::read(&file_path)
        .map_err(|error| check.report(place(file), trail.field("key_file"), What::KeyFile(error)))
        .ok()
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
