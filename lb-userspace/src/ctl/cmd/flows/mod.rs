//! `lbctl flows`: the entries of the flow table, listed, counted, or one flow's alone.

mod count;
pub(super) mod dump;
mod filter;
mod one;

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;

use anyhow::Result;
use lb_common::flow::{Entry, Key};
use lb_common::tick::Tick;
use serde::Serialize;
use serde_json::json;

use super::view::View;
use crate::api::tracked::{FlowName, idle, seconds, state};
use crate::ctl::args::{self, Format};
use crate::ctl::out::{Output, table};
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;
use crate::sync::ORPHAN;
use filter::Filter;

/// So many flows are in a table for people where nothing is said.
const SHOWN: usize = 1000;

pub(super) fn run(maps: &Maps, view: &View, args: &args::Flows, format: Format) -> Result<Output> {
    if let (Some(from), Some(to)) = (args.from, args.to) {
        return one::run(maps, view, from, to, args.protocol.into());
    }
    let filter = Filter::new(view, args)?;
    if args.count {
        return count::run(maps, view, &filter);
    }
    let mut found = Vec::new();
    for table in Table::ALL {
        let entries = maps.entries(table)?.into_iter();
        let taken = entries.filter(|(key, entry)| filter.takes(view, table, key, entry));
        found.extend(taken.map(|(key, entry)| Found { table, key, entry }));
    }
    found.sort_unstable_by_key(Found::place);
    // Under traffic the kernel may tell of an entry twice.
    found.dedup_by_key(|found| found.place());
    let limit = match (args.limit, format) {
        (Some(0), _) | (None, Format::Json) => usize::MAX,
        (Some(limit), _) => limit,
        (None, Format::Table) => SHOWN,
    };
    let more = found.len().saturating_sub(limit);
    found.truncate(limit);
    let list = List {
        found,
        more,
        view,
        now: now(),
    };
    match format {
        Format::Json => list.write(),
        Format::Table => Ok(Output::yes(json!({}), list.text())),
    }
}

/// An entry and where it is.
struct Found {
    table: Table,
    key: Key,
    entry: Entry,
}

impl Found {
    /// By VIP, then by client.
    fn place(&self) -> impl Ord + use<> {
        let Key {
            src,
            dst,
            sport,
            dport,
            proto,
            ..
        } = self.key;
        let (client, vip) = (IpAddr::from(src), IpAddr::from(dst));
        (vip, dport.get(), proto, client, sport.get(), self.table)
    }
}

/// One entry as it is told.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    flow: FlowName,
    table: &'static str,
    /// `pool/backend`.
    backend: Option<String>,
    state: String,
    /// `own`, `replica`.
    origin: &'static str,
    /// The member that announced a replica, by its place in `group.nodes` from 1; 0 for own ones, 255 where that member has begun anew.
    owner: u8,
    /// Seconds in this state.
    age_s: f64,
    /// Seconds since a packet came.
    idle_s: f64,
}

impl Row {
    fn new(found: &Found, view: &View, now: Tick) -> Self {
        let entry = &found.entry;
        Self {
            flow: FlowName::from(&found.key),
            table: found.table.name(),
            backend: view.full_name(entry.backend),
            state: state(entry.state),
            origin: origin(found.table),
            owner: entry.owner,
            age_s: seconds(now.since(entry.since)),
            idle_s: idle(entry, now),
        }
    }

    fn cells(self) -> [String; 6] {
        let origin = match self.owner {
            0 => self.origin.to_owned(),
            ORPHAN => format!("{} of nobody", self.origin),
            owner => format!("{} of member {owner}", self.origin),
        };
        [
            line(&self.flow),
            self.backend.unwrap_or("-".to_owned()),
            self.state,
            origin,
            span(self.age_s),
            span(self.idle_s),
        ]
    }
}

const COLUMNS: [&str; 6] = ["FLOW", "BACKEND", "STATE", "ORIGIN", ">AGE", ">IDLE"];

/// Whose entries a table has.
const fn origin(table: Table) -> &'static str {
    match table {
        Table::Replicas => "replica",
        _ => "own",
    }
}

/// `client → VIP/protocol`.
pub(super) fn line(flow: &FlowName) -> String {
    format!("{} → {}/{}", flow.client, flow.vip, flow.protocol)
}

/// Seconds as people read them.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

/// What is shown.
struct List<'v> {
    found: Vec<Found>,
    /// How many met the filter beside these.
    more: usize,
    view: &'v View,
    now: Tick,
}

impl List<'_> {
    fn rows(&self) -> impl Iterator<Item = Row> {
        self.found
            .iter()
            .map(|found| Row::new(found, self.view, self.now))
    }

    fn text(&self) -> String {
        if self.found.is_empty() {
            return "no flow is in the flow table, or none that was asked for".to_owned();
        }
        let mut text = table(COLUMNS, self.rows().map(Row::cells));
        if self.more > 0 {
            text.push_str(&format!(
                "\n\nand {} more; `--limit N` shows N, `--limit 0` all, `--count` counts them",
                self.more
            ));
        }
        text
    }

    /// Writes the one document row by row: the rows of a full table would fill the memory.
    fn write(&self) -> Result<Output> {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = serde_json::to_writer_pretty(&mut out, self).map_err(io::Error::from);
        match written.and_then(|()| writeln!(out)).and_then(|()| out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => {
                // What a reader that has left didn't take is nobody's.
                drop(out.into_parts());
                Ok(Output::written())
            }
        }
    }
}

impl Serialize for List<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'l> {
            flows: Rows<'l>,
            more: usize,
        }
        struct Rows<'l>(&'l List<'l>);
        impl Serialize for Rows<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.rows())
            }
        }
        Document {
            flows: Rows(self),
            more: self.more,
        }
        .serialize(serializer)
    }
}
