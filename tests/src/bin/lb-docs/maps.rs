//! `docs/MAPS.md`: names and meanings from the doc comments, sizes from the shapes that the agent insists on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::MapType;
use lb_common::abi::{self, map};
use lb_userspace::dataplane::shape::{self, Shape};
use lb_userspace::model::Capacity;

use super::{head, table};

/// Where keys and values are named, one constant per map.
const NAMES: &str = "lb-common/src/abi.rs";

/// Where the maps stand, with what they hold.
const MAPS: [&str; 2] = ["lb-ebpf/src/lb_xdp/maps.rs", "lb-ebpf/src/lb_decap/maps.rs"];

/// Maps that both write.
const FLOW_TABLE: [&str; 7] = [
    map::FLOWS,
    map::REPLICAS,
    map::PROBATION,
    map::UDP_FLOWS,
    map::UDP_PROBATION,
    map::MISSES,
    map::USES,
];

pub(super) fn page(root: &Path) -> Result<String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("can't read {path}"));
    let keys = comments(&read(NAMES)?, name_of_constant);
    let mut meanings = BTreeMap::new();
    for path in MAPS {
        meanings.extend(comments(&read(path)?, name_of_map));
    }
    let mut page = head(
        "Maps",
        "`lb_common::abi`, the programs' `maps.rs` and `dataplane::shape`",
    );
    page.push_str(
        "Pinned as `maps/NAME` under the folder of pins; `lbctl maps` shows what is there. Sizes are bytes. An agent takes\n\
         over pinned maps only if each has this type, these sizes and its configuration's number of entries.\n",
    );
    // Of a machine with one CPU: no other number would be right for everybody.
    let default = shapes(Capacity::default(), 1);
    for (title, by, shapes) in [
        ("The balancer: `lb_xdp`", "agent", default),
        ("The decapsulator: `lb_decap`", "`lbctl decap`", shape::decap()),
    ] {
        page.push_str(&format!("\n## {title}\n\n"));
        page.push_str(&catalogue(&shapes, by, &keys)?);
        page.push('\n');
        for shape in &shapes {
            let meaning = meanings
                .get(shape.name)
                .with_context(|| format!("{} has no comment", shape.name))?;
            let meaning = meaning.trim_start_matches(&format!("`{}`: ", shape.name));
            page.push_str(&format!("- `{}`: {meaning}\n", shape.name));
        }
    }
    Ok(page)
}

fn catalogue(shapes: &[Shape], by: &str, keys: &BTreeMap<String, String>) -> Result<String> {
    let mut rows = Vec::new();
    for shape in shapes {
        let key = keys
            .get(shape.name)
            .with_context(|| format!("{} is not in {NAMES}", shape.name))?;
        let program = shape.kind == MapType::PerCpuArray || shape.kind == MapType::RingBuf;
        rows.push([
            format!("`{}`", shape.name),
            format!("{:?}", shape.kind),
            key_and_value(key),
            format!("{} → {}", shape.key, shape.value),
            entries(shape),
            shape.entries.to_string(),
            if FLOW_TABLE.contains(&shape.name) {
                "program, agent"
            } else if program {
                "program"
            } else {
                by
            }
            .to_owned(),
        ]);
    }
    Ok(table(
        [
            "map",
            "type",
            "key → value",
            "bytes",
            "entries",
            "by default",
            "written by",
        ],
        rows,
    ))
}

/// What a constant's comment says after the type of the map, with links as plain code.
fn key_and_value(comment: &str) -> String {
    let (_, rest) = comment.split_once(' ').unwrap_or_default();
    let plain = rest.replace("[`crate::", "`").replace("`]", "`");
    let plain = plain.trim_end_matches('.').trim_start_matches("of ");
    match plain.strip_prefix('→') {
        Some(value) => format!("index → {}", value.trim_start()),
        None => plain.to_owned(),
    }
}

/// The balancer's maps in a group of nodes.
fn shapes(capacity: Capacity, cpus: u32) -> Vec<Shape> {
    shape::balancer_on(capacity, abi::replicas(capacity.flows), cpus)
}

/// How the number of entries follows from `capacity`: it is linear, so differences tell.
fn entries(shape: &Shape) -> String {
    let default = Capacity::default();
    let of = |capacity, cpus| {
        let shapes = shapes(capacity, cpus);
        let same = shapes.iter().find(|other| other.name == shape.name);
        i64::from(same.map_or(shape.entries, |other| other.entries))
    };
    let flows = default.flows;
    let twice = Capacity {
        flows: 2 * flows,
        ..default
    };
    let by_flows = of(twice, 1) - of(default, 1);
    if by_flows != 0 {
        let by_cpus = of(default, 2) - of(default, 1);
        let cpus = if by_cpus == 0 {
            String::new()
        } else if of(twice, 2) - of(default, 2) == by_flows {
            format!(" + {by_cpus} × possible CPUs")
        } else {
            " × possible CPUs".to_owned()
        };
        return format!("{}{cpus}", share(by_flows, flows.into()));
    }
    let more = [
        (
            "pools",
            default.pools,
            Capacity {
                pools: default.pools + 1,
                ..default
            },
        ),
        (
            "vips",
            default.vips,
            Capacity {
                vips: default.vips + 1,
                ..default
            },
        ),
        (
            "backends",
            default.backends,
            Capacity {
                backends: default.backends + 1,
                ..default
            },
        ),
    ];
    let mut constant = of(default, 1);
    let mut terms = Vec::new();
    for (name, now, capacity) in more {
        let factor = of(capacity, 1) - of(default, 1);
        constant -= factor * i64::from(now);
        match factor {
            0 => {}
            1 => terms.push(format!("`{name}`")),
            factor => terms.push(format!("{factor} × `{name}`")),
        }
    }
    let text = terms.join(" + ");
    match constant {
        constant if terms.is_empty() => constant.to_string(),
        0 => text,
        constant if constant < 0 => format!("{text} − {}", -constant),
        constant => format!("{text} + {constant}"),
    }
}

/// A number of entries as a multiple or a part of `flows`.
fn share(entries: i64, flows: i64) -> String {
    match (entries / flows, flows / entries) {
        (1, _) => "`flows`".to_owned(),
        (0, part) => format!("`flows` / {part}"),
        (times, _) => format!("{times} × `flows`"),
    }
}

/// Doc comments by the name that the line after them gives, as one line each. Attributes may stand between.
fn comments(text: &str, name: fn(&str) -> Option<&str>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut comment = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(line) = line.strip_prefix("///") {
            comment.push(line.trim());
        } else {
            if let Some(name) = name(line) {
                found.insert(name.to_owned(), comment.join(" "));
            }
            comment.clear();
        }
    }
    found
}

/// `lb_vips` of `pub const VIPS: &str = "lb_vips";`.
fn name_of_constant(line: &str) -> Option<&str> {
    line.strip_prefix("pub const ")?
        .split_once(": &str = \"")?
        .1
        .strip_suffix("\";")
}

/// `lb_vips` of `#[map(name = "lb_vips")]`.
fn name_of_map(line: &str) -> Option<&str> {
    line.strip_prefix("#[map(name = \"")?.strip_suffix("\")]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_the_next_name() {
        let text = "/// Lost.\n\n/// HASH [`crate::a::B`]\n/// → [`crate::c::D`].\npub const A: &str = \"lb_a\";\n\
                    pub const B: &str = \"lb_b\";\n";
        let found = comments(text, name_of_constant);
        assert_eq!(key_and_value(&found["lb_a"]), "`a::B` → `c::D`");
        assert_eq!(found["lb_b"], "");
        assert_eq!(key_and_value("ARRAY of one [`crate::a::B`]."), "one `a::B`");
        assert_eq!(key_and_value("ARRAY → [`crate::a::B`]."), "index → `a::B`");
        let map = "/// `lb_a`: all.\n#[map(name = \"lb_a\")]\nstatic A: X = X;";
        assert_eq!(comments(map, name_of_map)["lb_a"], "`lb_a`: all.");
    }

    #[test]
    fn entries_follow_the_capacities() {
        let shapes = shapes(Capacity::default(), 1);
        let of = |name: &str| entries(shapes.iter().find(|shape| shape.name == name).unwrap());
        assert_eq!(of("lb_slots"), "65536 × `pools`");
        assert_eq!(of("lb_backends"), "2 × `backends` − 1");
        assert_eq!(of("lb_vip_stats"), "`vips`");
        assert_eq!(of("lb_meta"), "1");
        assert_eq!(of("lb_flows"), "`flows`");
        assert_eq!(of("lb_replicas"), "2 × `flows`");
        assert_eq!(of("lb_probation"), "`flows` / 16 × possible CPUs");
        assert_eq!(of("lb_misses"), "`flows` / 4 + 256 × possible CPUs");
    }
}
