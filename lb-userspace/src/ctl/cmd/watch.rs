//! `lbctl stats --watch`: rates, interval after interval.
//!
//! Every look goes through the pins anew, so agents may end, start, reload and be replaced meanwhile; while nothing
//! is loaded an interval says so.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use crossterm::cursor::MoveTo;
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType};
use lb_common::stop::{Action, Stop};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::ctl::args::Format;
use crate::ctl::name::{self, figure};
use crate::ctl::out::{Output, table};
use crate::ctl::sample::Sample;
use crate::ctl::signal::Ended;
use crate::dataplane::Error;
use crate::dataplane::pin::Root;
use crate::rate::{Rate, Rates};

pub(super) fn run(root: &Root, every: Duration, count: Option<NonZeroU64>, format: Format) -> Result<Output> {
    let start = Instant::now();
    let first = match Sample::read(root, start) {
        Err(e @ Error::NotLoaded(_)) => return Ok(Output::not_loaded(&e)),
        sample => sample?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let written = runtime.block_on(watch(root, first, start, every, count, format));
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        // A reader that has left has seen enough.
        _ => Ok(Output::written()),
    }
}

async fn watch(
    root: &Root,
    mut last: Sample,
    start: Instant,
    every: Duration,
    count: Option<NonZeroU64>,
    format: Format,
) -> io::Result<()> {
    let mut ended = Ended::listen()?;
    let mut ticks = interval_at(tokio::time::Instant::from_std(start) + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut done = 0;
    while count.is_none_or(|count| done < count.get()) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = ended.wait() => break,
        }
        let (json, text) = match Sample::read(root, start) {
            Ok(sample) => {
                let rates = Rates::between(&last.reading, &sample.reading);
                last = sample;
                (document(&last, &rates), tables(&last, &rates))
            }
            Err(e) => {
                let error = format!("{:#}", anyhow::Error::from(e));
                let json = json!({ "at": unix_time(), "loaded": false, "error": error });
                (json, format!("+{:.1} s  {error}", start.elapsed().as_secs_f64()))
            }
        };
        write(&json, &text, format)?;
        done += 1;
    }
    Ok(())
}

/// On a terminal the new tables take the place of the old ones.
fn write(json: &Value, text: &str, format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{json}")?,
        Format::Table if out.is_terminal() => {
            execute!(out, Clear(ClearType::All), MoveTo(0, 0))?;
            writeln!(out, "{text}")?;
        }
        Format::Table => writeln!(out, "{text}\n")?,
    }
    out.flush()
}

/// Seconds since 1970.
fn unix_time() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    rounded(now.unwrap_or_default().as_secs_f64())
}

/// To thousandths: more digits are noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn document(sample: &Sample, rates: &Rates) -> Value {
    let per_second = |rate: Rate| json!({ "packets_per_second": rounded(rate.packets), "bytes_per_second": rounded(rate.bytes) });
    let row = |mut names: Value, source, rate: Rate| {
        let counter = sample.reading.counters.get(&source).copied().unwrap_or_default();
        names["packets"] = counter.packets.into();
        names["bytes"] = counter.bytes.into();
        names["packets_per_second"] = rounded(rate.packets).into();
        names["bytes_per_second"] = rounded(rate.bytes).into();
        names
    };
    let vips = sample.vips.iter().map(|vip| {
        row(
            json!({ "vip": vip.name, "pool": vip.pool }),
            vip.source,
            rates.of(vip.source),
        )
    });
    let backends = sample.backends.iter().map(|backend| {
        let names = json!({ "backend": backend.name, "pool": backend.pool });
        row(names, backend.source, rates.of(backend.source))
    });
    let stops = Stop::ALL.iter().map(|&stop| {
        let names = json!({ "reason": stop.row().name, "action": name::action(stop.action()) });
        row(names, stop.into(), rates.of(stop))
    });
    json!({
        "at": unix_time(),
        "seconds": rounded(rates.over.as_secs_f64()),
        "loaded": true,
        "renewed": rates.renewed,
        "node": sample.node,
        "agent": if sample.agent { "alive" } else { "dead" },
        "generation": sample.generation,
        "forwarded": per_second(rates.forwarded()),
        "passed": per_second(rates.stopped(Action::Pass)),
        "dropped": per_second(rates.stopped(Action::Drop)),
        "vips": vips.collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "stops": stops.collect::<Vec<_>>(),
    })
}

fn tables(sample: &Sample, rates: &Rates) -> String {
    let cells = |rate: Rate| [figure(rate.packets), figure(rate.bytes)];
    let vips = sample.vips.iter().map(|vip| {
        let [packets, bytes] = cells(rates.of(vip.source));
        [vip.name.clone(), packets, bytes]
    });
    let backends = sample.backends.iter().map(|backend| {
        let [packets, bytes] = cells(rates.of(backend.source));
        [format!("{}/{}", backend.pool, backend.name), packets, bytes]
    });
    let stopped = Stop::ALL.iter().filter(|&&stop| rates.of(stop).packets > 0.0);
    let stops = stopped.map(|&stop| {
        let [packets, bytes] = cells(rates.of(stop));
        let row = stop.row();
        [
            row.name.to_owned(),
            name::action(stop.action()).to_owned(),
            packets,
            bytes,
            row.text.to_owned(),
        ]
    });
    let renewed = if rates.renewed {
        "; the maps were made anew, so these rates are too small"
    } else {
        ""
    };
    format!(
        "+{:.1} s  {}, agent {}: {} packets/s forwarded, {} passed, {} dropped, over {:.1} s{renewed}\n\n{}\n\n{}\n\n{}",
        sample.reading.at.as_secs_f64(),
        sample.node,
        if sample.agent { "alive" } else { "dead" },
        figure(rates.forwarded().packets),
        figure(rates.stopped(Action::Pass).packets),
        figure(rates.stopped(Action::Drop).packets),
        rates.over.as_secs_f64(),
        table(["VIP", ">PACKETS/S", ">BYTES/S"], vips),
        table(["BACKEND", ">PACKETS/S", ">BYTES/S"], backends),
        table(
            ["STOP REASON", "ACTION", ">PACKETS/S", ">BYTES/S", "MEANING"],
            stops
        ),
    )
}
