//! `group`: its nodes, its key, and how the nodes talk.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_yaml::Spanned;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Check, Duplicate, Trail, address, place};
use crate::config::duration;
use crate::config::error::Place;
use crate::config::key;
use crate::config::raw::{self, Field, MAX_TRACKED_MAX, MAX_TRACKED_MIN, Member};
use crate::config::source::Excerpt;
use crate::config::what::{Kind, Shape, What};
use crate::config::wrong_group::WrongGroup;
use crate::model::{Group, GroupKey, Name, Peering};

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
    let (nodes, addresses) = match &group.value.nodes {
        Some(list) => {
            let (nodes, addresses) = members(check, &group.value.nodes, place(group), trail.field("nodes"));
            if let Some(name) = name.filter(|name| !list.value.is_empty() && !nodes.contains(name)) {
                let what = What::NotInGroup(Excerpt::new(name.as_str()));
                check.report(place(list), trail.field("nodes"), what);
            }
            (Some(nodes), addresses)
        }
        None => (alone(), Vec::new()),
    };
    let peering = peering(check, &group.value, trail, path, addresses);
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
        peering,
    })
}

/// Names of the nodes, and addresses of those that have one.
fn members(
    check: &mut Check<'_>,
    list: &Field<raw::List<Member>>,
    owner: Place,
    trail: Trail<'_>,
) -> (Vec<Name>, Vec<SocketAddr>) {
    let (mut names, mut places) = (HashMap::new(), HashMap::new());
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    let items = check.items(list, owner, trail);
    let reachable =
        |item: &&Spanned<Member>| matches!(&item.value, Member::Peer(peer) if peer.address.is_some());
    let first = items.iter().find(reachable).map(|item| place(item).line);
    for (index, item) in items.iter().enumerate() {
        let trail = trail.item(index);
        let (name, field) = match &item.value {
            Member::Name(text) => (check.member(item, text, trail), None),
            Member::Plain => (check.member(item, check.plain(item), trail), None),
            Member::List => {
                let what = What::Structure {
                    expected: Shape::Mapping,
                    found: Shape::List,
                };
                check.report(place(item), trail, what);
                continue;
            }
            Member::Peer(peer) => {
                let text = check.required(&peer.name, place(item), trail.field("name"));
                let name = text.and_then(|text| check.member(text, &text.value, trail.field("name")));
                (name, peer.address.as_ref())
            }
        };
        if let Some(name) = name {
            if field.is_some() && !is_dns(&name) {
                let wrong = WrongGroup::Name(Excerpt::new(name.as_str()));
                check.report(place(item), trail.field("name"), What::Group(wrong));
            }
            let duplicate = Duplicate {
                place: place(item),
                trail,
                kind: Kind::Node,
                value: &name,
            };
            check.unique(&mut names, name.clone(), duplicate);
            nodes.push(name);
        }
        match (field, first) {
            (Some(text), _) => addresses.extend(reach(check, text, trail.field("address"), &mut places)),
            (None, Some(other)) => {
                let wrong = WrongGroup::AddressMissing { other };
                check.report(place(item), trail.field("address"), What::Group(wrong));
            }
            (None, None) => {}
        }
    }
    let first_over = items.get(Group::NODES_MAX as usize).map(place);
    check.room(first_over, trail, Kind::Node, items.len(), Group::NODES_MAX);
    (nodes, addresses)
}

/// Whether a certificate can hold the name.
fn is_dns(name: &Name) -> bool {
    ServerName::try_from(name.as_str()).is_ok_and(|name| matches!(name, ServerName::DnsName(_)))
}

/// Where a node can be reached.
fn reach(
    check: &mut Check<'_>,
    text: &Spanned<String>,
    trail: Trail<'_>,
    seen: &mut HashMap<SocketAddr, u32>,
) -> Option<SocketAddr> {
    let plain = |text: &str| {
        Some(SocketAddr::new(
            text.parse::<IpAddr>().ok()?,
            Peering::DEFAULT_PORT,
        ))
    };
    let wrong = match text.value.parse().ok().or_else(|| plain(&text.value)) {
        None => What::Group(WrongGroup::Address(Excerpt::new(&text.value))),
        Some(found) => match (address::class(found.ip()), found.port()) {
            (Some(class), _) => What::Unusable {
                address: found.ip(),
                class,
            },
            (None, 0) => What::Group(WrongGroup::Port),
            (None, _) => {
                let duplicate = Duplicate {
                    place: place(text),
                    trail,
                    kind: Kind::Address,
                    value: &found,
                };
                check.unique(seen, found, duplicate);
                return Some(found);
            }
        },
    };
    check.report(place(text), trail, wrong);
    None
}

/// How the nodes talk; nothing where they don't, or where there is nobody to talk to.
fn peering(
    check: &mut Check<'_>,
    group: &raw::Group,
    trail: Trail<'_>,
    path: &Path,
    addresses: Vec<SocketAddr>,
) -> Option<Peering> {
    let trail = trail.field("peering");
    let items = group.nodes.as_ref().map_or(&[][..], |list| &list.value);
    let talks = items
        .iter()
        .any(|item| matches!(&item.value, Member::Peer(peer) if peer.address.is_some()));
    if let (Some(section), false) = (&group.peering, talks) {
        check.report(place(section), trail, What::Group(WrongGroup::NobodyTalks));
    }
    let times = times(check, group.peering.as_ref(), trail)?;
    if addresses.len() < 2 {
        return None;
    }
    let pki = group
        .peering
        .as_ref()
        .and_then(|section| section.value.pki.as_ref());
    let pki = pki.map_or(Peering::DEFAULT_PKI, |text| &text.value);
    let [heartbeat, dead_after, withdraw_after, join_within] = times;
    Some(Peering {
        addresses,
        pki: path.parent().unwrap_or(Path::new("")).join(pki),
        heartbeat,
        dead_after,
        withdraw_after,
        join_within,
    })
}

/// `heartbeat`, `dead_after`, `withdraw_after` and `join_within`.
fn times(
    check: &mut Check<'_>,
    section: Option<&Spanned<raw::Peering>>,
    trail: Trail<'_>,
) -> Option<[Duration; 4]> {
    const LONG: (Duration, Duration) = (Peering::LONG_MIN, Peering::LONG_MAX);
    let Some(section) = section else {
        return Some([
            Peering::HEARTBEAT,
            Peering::DEAD_AFTER,
            Peering::WITHDRAW_AFTER,
            Peering::JOIN_WITHIN,
        ]);
    };
    let raw = &section.value;
    let beats = (Peering::HEARTBEAT_MIN, Peering::HEARTBEAT_MAX);
    let deaths = (Peering::DEAD_AFTER_MIN, Peering::DEAD_AFTER_MAX);
    let heartbeat = check.duration(
        &raw.heartbeat,
        trail.field("heartbeat"),
        beats,
        Peering::HEARTBEAT,
    );
    let dead_after = check.duration(
        &raw.dead_after,
        trail.field("dead_after"),
        deaths,
        Peering::DEAD_AFTER,
    );
    let withdraw_after = check.duration(
        &raw.withdraw_after,
        trail.field("withdraw_after"),
        LONG,
        Peering::WITHDRAW_AFTER,
    );
    let join_within = check.duration(
        &raw.join_within,
        trail.field("join_within"),
        LONG,
        Peering::JOIN_WITHIN,
    );
    let (heartbeat, dead_after, withdraw_after) = (heartbeat?, dead_after?, withdraw_after?);
    if dead_after < heartbeat * Peering::HEARTBEATS_MIN {
        let wrong = WrongGroup::Hasty {
            dead_after: duration::text(dead_after),
            heartbeat: duration::text(heartbeat),
        };
        let at = raw.dead_after.as_ref().map_or(place(section), place);
        check.report(at, trail.field("dead_after"), What::Group(wrong));
    }
    if withdraw_after < dead_after {
        let wrong = WrongGroup::WithdrawnAlive {
            withdraw_after: duration::text(withdraw_after),
            dead_after: duration::text(dead_after),
        };
        let at = raw.withdraw_after.as_ref().map_or(place(section), place);
        check.report(at, trail.field("withdraw_after"), What::Group(wrong));
    }
    Some([heartbeat, dead_after, withdraw_after, join_within?])
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

impl<'t> Check<'t> {
    /// The text of a value that stands in the file as it is, without quotes or brackets.
    fn plain<T>(&self, value: &Spanned<T>) -> &'t str {
        let offset = value.defined.span().byte_offset();
        let start = offset.and_then(|offset| usize::try_from(offset).ok());
        let rest = start.and_then(|start| self.text.get(start..)).unwrap_or_default();
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}'));
        &rest[..end.unwrap_or(rest.len())]
    }

    /// The name of a node, which stands at `at`.
    fn member<T>(&mut self, at: &Spanned<T>, text: &str, trail: Trail<'_>) -> Option<Name> {
        let name = text.parse();
        name.map_err(|error| self.report(place(at), trail, What::Name(error)))
            .ok()
    }
}
