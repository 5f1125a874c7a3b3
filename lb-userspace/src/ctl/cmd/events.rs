//! `lbctl events`: the journal, from its files.

use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::ctl::args::Format;
use crate::ctl::out::{Output, table};
use crate::journal::{Record, mark, read_after, read_last};

/// How often a follower looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(dir: &Path, format: Format, follow: bool, last: usize) -> Result<Output> {
    let records = read_last(dir, last)?;
    if follow {
        return self::follow(dir, format, &records);
    }
    if records.is_empty() {
        let text = format!("no events in {}", dir.display());
        return Ok(Output::yes(json!({ "events": [] }), text));
    }
    let row = |record: &Record| {
        [
            record.seq.to_string(),
            record.time.text(),
            record.generation.to_string(),
            record.cause.to_string(),
            one_line(record),
        ]
    };
    let text = table([">#", "TIME", ">GEN", "CAUSE", "WHAT"], records.iter().map(row));
    Ok(Output::yes(json!({ "events": records }), text))
}

/// The event's text; a refused configuration has several lines, and the first says it.
fn one_line(record: &Record) -> String {
    let text = record.event.to_string();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(_) => format!("{first} …"),
        None => first.to_owned(),
    }
}

/// Writes record by record, one JSON document each where asked for, until the reader leaves.
fn follow(dir: &Path, format: Format, first: &[Record]) -> Result<Output> {
    let mut seen = first.last().map_or(0, |record| record.seq);
    let mut shown = write(format, first)?;
    let mut looked = None;
    while shown {
        let now = mark(dir);
        if now == looked {
            sleep(LOOK_EVERY);
            continue;
        }
        looked = now;
        let new = read_after(dir, seen)?;
        seen = new.last().map_or(seen, |record| record.seq);
        shown = write(format, &new)?;
    }
    Ok(Output::yes(json!({}), ""))
}

/// Whether there is still a reader.
fn write(format: Format, records: &[Record]) -> Result<bool> {
    let mut out = io::stdout().lock();
    for record in records {
        let line = match format {
            Format::Json => serde_json::to_string(record)?,
            Format::Table => format!(
                "{}  gen {}  {}: {}",
                record.time.text(),
                record.generation,
                record.cause,
                one_line(record)
            ),
        };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            written => written?,
        }
    }
    Ok(true)
}
