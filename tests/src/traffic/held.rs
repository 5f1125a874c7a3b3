//! What stays open: TCP connections that exchange numbered lines, and UDP flows that keep their socket.
//!
//! A TCP connection is *broken* when it ends or errs before the load is stopped, and then it is at its end; it has
//! *moved* when another backend answers on it. A UDP flow can't break: a datagram without an answer is a failed
//! request, and an answer of another backend than the last one's is a move, after which it goes on.

use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::clock;
use super::exchange::{Answer, Exchange, Lines, any, late, name_in};
use super::report::{Break, Failure};
use super::tally::{Event, What};

/// Connections opened a second: what the slowest backend accepts with room to spare.
const OPENED_PER_SECOND: u32 = 2500;

/// When the `nth` of all begins to open, and from then to its second line: the first lines come in the order of
/// opening, the later ones spread evenly over the period.
pub(super) fn phase(nth: u32, of: u32, every: Duration) -> (Duration, Duration) {
    let opening = every.min(Duration::from_secs(1) * of / OPENED_PER_SECOND);
    (opening * nth / of, every * (of - nth) / of)
}

/// One of the connections or flows of a job.
pub(super) struct Holder {
    pub(super) job: usize,
    pub(super) exchange: Exchange,
    pub(super) every: Duration,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) stop: watch::Receiver<bool>,
    /// When the client is done with it, by itself.
    lives: Option<Duration>,
    /// The backend that answered last.
    holder: Option<String>,
}

impl Holder {
    pub(super) fn new(
        job: usize,
        exchange: Exchange,
        every: Duration,
        events: mpsc::UnboundedSender<Event>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            job,
            exchange,
            every,
            events,
            stop,
            lives: None,
            holder: None,
        }
    }

    /// One that ends by itself after a while.
    pub(super) fn living(mut self, lives: Duration) -> Self {
        self.lives = Some(lives);
        self
    }

    fn tell(&self, what: What) {
        // The inbox lives as long as any sender.
        let _ = self.events.send(Event { job: self.job, what });
    }

    fn tell_request(&self, result: Answer) {
        self.tell(What::Request { port: None, result });
    }

    /// Waits until `end`; false when the load was stopped before.
    async fn pause(&mut self, end: Instant) -> bool {
        tokio::select! {
            () = sleep_until(end) => !*self.stop.borrow(),
            // A stop, or the end of whoever could say so.
            _ = self.stop.changed() => false,
        }
    }

    /// A TCP connection, after `delay`; its second line is due `phase` after the first.
    pub(super) async fn converse(mut self, delay: Duration, phase: Duration) {
        if !self.pause(Instant::now() + delay).await {
            return;
        }
        let within = self.exchange.within;
        let end = self.lives.map(|lives| Instant::now() + lives);
        let open = Lines::open(self.exchange.to, self.exchange.source(None));
        let opened = timeout(within, open).await;
        let mut lines = match opened.unwrap_or_else(|_| Err(late(within))) {
            Ok(lines) => lines,
            Err(failure) => {
                self.tell_request(Err(failure));
                return self.tell(What::Unopened);
            }
        };
        let mut next = Instant::now() + phase;
        for number in 0_u64.. {
            let sent = (Instant::now(), clock::now());
            let answer = timeout(within, lines.exchange(number))
                .await
                .unwrap_or_else(|_| Err(late(within)));
            match answer {
                Ok(name) => {
                    if !self.same(&name, sent.0) {
                        return;
                    }
                }
                Err(failure) => return self.end(Some(sent.1), failure),
            }
            if end.is_some_and(|end| next > end) {
                return;
            }
            tokio::select! {
                failure = lines.silence() => return self.end(None, failure),
                go_on = self.pause(next) => if !go_on { return },
            }
            // From the line, not from its due time: after a long answer no burst makes up for it.
            next = Instant::now() + self.every;
        }
    }

    /// Tells of a right answer; false if it is of another backend than the connection's.
    fn same(&mut self, name: &str, sent: Instant) -> bool {
        let first = self.holder.get_or_insert_with(|| {
            let _ = self.events.send(Event {
                job: self.job,
                what: What::Opened(name.to_owned()),
            });
            name.to_owned()
        });
        if first == name {
            self.tell_request(Ok((name.to_owned(), sent.elapsed())));
            return true;
        }
        let words = format!("{name} answers on a connection with {first}");
        self.tell_request(Err((Failure::Wrong, words)));
        self.tell(What::Moved);
        false
    }

    fn end(mut self, sent: Option<Duration>, (cause, words): (Failure, String)) {
        let learned = clock::now();
        self.tell_request(Err((cause, words.clone())));
        let Some(holder) = self.holder.take() else {
            return self.tell(What::Unopened);
        };
        self.tell(What::Broken(Break {
            holder,
            cause,
            words,
            sent,
            learned,
        }));
    }

    /// A UDP flow, after `delay`; its second datagram is due `phase` after the first.
    pub(super) async fn flow(mut self, delay: Duration, phase: Duration) {
        if !self.pause(Instant::now() + delay).await {
            return;
        }
        let socket = match open_flow(self.exchange).await {
            Ok(socket) => socket,
            Err(error) => {
                self.tell_request(Err((Failure::Connect, error.to_string())));
                return self.tell(What::Unopened);
            }
        };
        let mut next = Instant::now() + phase;
        for number in 0_u64.. {
            let start = Instant::now();
            let answer = timeout_at(start + self.exchange.within, ask(&socket, number))
                .await
                .unwrap_or_else(|_| Err(late(self.exchange.within)));
            if let Ok(name) = &answer {
                match self.holder.replace(name.clone()) {
                    None => self.tell(What::Opened(name.clone())),
                    Some(from) if from != *name => self.tell(What::Moved),
                    Some(_) => {}
                }
            }
            self.tell_request(answer.map(|name| (name, start.elapsed())));
            if !self.pause(next).await {
                return;
            }
            next = Instant::now() + self.every;
        }
    }
}

pub(super) async fn open_flow(exchange: Exchange) -> io::Result<UdpSocket> {
    let source = exchange.source(None);
    let socket = UdpSocket::bind(source.unwrap_or_else(|| any(exchange.to, 0))).await?;
    socket.connect(exchange.to).await?;
    Ok(socket)
}

/// Sends datagram `number` and waits for its answer; late ones of earlier datagrams are passed over.
async fn ask(socket: &UdpSocket, number: u64) -> Result<String, (Failure, String)> {
    // An ICMP error shows up at the next call.
    let refused = |e: io::Error| (Failure::Connect, e.to_string());
    let text = format!("datagram {number}");
    socket.send(text.as_bytes()).await.map_err(refused)?;
    let mut answer = [0; 128];
    loop {
        let length = socket.recv(&mut answer).await.map_err(refused)?;
        let name = name_in(&answer[..length], &text);
        let earlier = |n: u64| name_in(&answer[..length], &format!("datagram {n}")).is_ok();
        if name.is_ok() || !(number.saturating_sub(3)..number).any(earlier) {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_spread_over_the_period_however_fast_they_opened() {
        let every = Duration::from_secs(20);
        let (first, last) = (phase(0, 10_000, every), phase(9_999, 10_000, every));
        assert_eq!(first, (Duration::ZERO, every));
        assert!(
            last.0 < Duration::from_secs(4) && last.1 < Duration::from_millis(10),
            "{last:?}"
        );
        // A period shorter than the opening bounds it.
        assert!(phase(9_999, 10_000, Duration::from_secs(1)).0 < Duration::from_secs(1));
    }
}
