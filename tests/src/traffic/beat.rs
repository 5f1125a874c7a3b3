//! A datagram every millisecond or so from one socket: how long does nobody answer?

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::exchange::{Exchange, name_in};
use super::held::open_flow;
use super::report::Failure;
use super::tally::{Event, What};

/// At the end the datagrams of this time are not judged.
const SETTLE: Duration = Duration::from_millis(50);

/// Sends until the load is stopped. The gap that is told is the time between two answers, whatever they answer: what is
/// lost in it is a failed request.
pub(super) async fn run(
    job: usize,
    exchange: Exchange,
    every: Duration,
    events: mpsc::UnboundedSender<Event>,
    mut stop: watch::Receiver<bool>,
) {
    // The inbox lives as long as any sender.
    let tell = |what| drop(events.send(Event { job, what }));
    let request = |result| tell(What::Request { port: None, result });
    let socket = match open_flow(exchange).await {
        Ok(socket) => socket,
        Err(error) => return request(Err((Failure::Connect, error.to_string()))),
    };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sent: Vec<Option<Instant>> = Vec::new();
    let mut last = Instant::now();
    let mut answer = [0; 128];
    while !*stop.borrow() {
        tokio::select! {
            _ = ticks.tick() => {
                let text = format!("datagram {}", sent.len());
                sent.push(Some(Instant::now()));
                // An error is an answer that doesn't come.
                let _ = socket.send(text.as_bytes()).await;
            }
            received = socket.recv(&mut answer) => {
                let Ok(length) = received else { continue };
                let now = Instant::now();
                let Some((number, name)) = parse(&answer[..length]) else { continue };
                let Some(begun) = sent.get_mut(number).and_then(Option::take) else { continue };
                tell(What::Gap(now - last));
                last = now;
                request(Ok((name, now - begun)));
            }
            _ = stop.changed() => {}
        }
    }
    // The last ones may still be on their way.
    let under_way = SETTLE.as_micros() / every.as_micros().max(1);
    let settled = sent
        .len()
        .saturating_sub(usize::try_from(under_way).unwrap_or(usize::MAX));
    if settled > 0 {
        tell(What::Gap(last.elapsed()));
    }
    for number in (0..settled).filter(|n| sent[*n].is_some()) {
        request(Err((Failure::Timeout, format!("no answer to datagram {number}"))));
    }
}

fn parse(answer: &[u8]) -> Option<(usize, String)> {
    let text = String::from_utf8_lossy(answer);
    let number: usize = text.rsplit(' ').next()?.parse().ok()?;
    let name = name_in(answer, &format!("datagram {number}")).ok()?;
    Some((number, name))
}
