//! Runs a plan on tokio, in the namespace in which the process already is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::beat;
use super::exchange::Exchange;
use super::held::{self, Holder};
use super::plan::{Job, Kind, Pace, Plan};
use super::report::Report;
use super::tally::{Event, Tally, What};

/// From one progress report to the next.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Steps in which a rate is kept.
const STEP: Duration = Duration::from_millis(10);
/// Requests under way at a time in a job with a rate; more than any rate of a lab needs within the timeout.
const IN_FLIGHT: usize = 4096;

/// Runs all jobs until they are done or `stop` becomes true; `progress` gets the figures so far now and then.
/// After `stop` the requests under way are waited for, so that every one is counted.
pub async fn run(plan: &Plan, stop: watch::Receiver<bool>, mut progress: impl FnMut(&Report)) -> Report {
    let (events, mut inbox) = mpsc::unbounded_channel();
    for (index, job) in plan.jobs.iter().enumerate() {
        let runner = Runner {
            index,
            exchange: Exchange {
                kind: job.kind,
                to: job.to,
                from: job.from,
                again: job.again,
                within: plan.timeout,
            },
            events: events.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(drive(runner, job.clone()));
    }
    // The inbox closes when the last job has ended.
    drop(events);
    let mut tally = Tally::new(plan);
    let mut ticks = interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            event = inbox.recv() => match event {
                Some(event) => tally.add(event),
                None => return tally.report(),
            },
            _ = ticks.tick() => progress(&tally.progress()),
        }
    }
}

async fn drive(runner: Runner, job: Job) {
    match job.pace {
        Pace::Count { requests, workers } => runner.count(requests, workers),
        Pace::Rate { per_second } => runner.rate(per_second).await,
        Pace::Ports { first, count } => runner.ports(first, count).await,
        Pace::Hold { connections, every } => runner.hold(connections, every),
        Pace::Churn {
            per_second,
            every,
            lives,
        } => runner.churn(per_second, every, lives).await,
        Pace::Beat { every } => {
            beat::run(runner.index, runner.exchange, every, runner.events, runner.stop).await;
        }
    }
}

#[derive(Clone)]
struct Runner {
    index: usize,
    exchange: Exchange,
    events: mpsc::UnboundedSender<Event>,
    stop: watch::Receiver<bool>,
}

impl Runner {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn one(&self, number: u64, port: Option<u16>) {
        let result = self.exchange.send(number, port).await;
        // The inbox lives as long as any sender.
        let _ = self.events.send(Event {
            job: self.index,
            what: What::Request { port, result },
        });
    }

    fn count(self, requests: u32, workers: u32) {
        let next = Arc::new(AtomicU32::new(0));
        for _ in 0..workers.min(requests) {
            let (runner, next) = (self.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                while !runner.stopped() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        break;
                    }
                    runner.one(number.into(), None).await;
                }
            });
        }
    }

    async fn rate(self, per_second: u32) {
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut due = Due::new(per_second);
        while !self.stopped() {
            for number in due.next().await {
                let permit = Arc::clone(&room)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                let runner = self.clone();
                tokio::spawn(async move {
                    runner.one(number, None).await;
                    drop(permit);
                });
            }
        }
    }

    async fn churn(self, per_second: u32, every: Duration, lives: Duration) {
        let mut due = Due::new(per_second);
        while !self.stopped() {
            for _ in due.next().await {
                let (events, stop) = (self.events.clone(), self.stop.clone());
                let holder = Holder::new(self.index, self.exchange, every, events, stop).living(lives);
                tokio::spawn(holder.converse(Duration::ZERO, every));
            }
        }
    }

    /// One after the other: who answers is asked, not how fast.
    async fn ports(self, first: u16, count: u16) {
        for port in (first..=u16::MAX).take(count.into()) {
            if self.stopped() {
                break;
            }
            self.one(port.into(), Some(port)).await;
        }
    }

    fn hold(self, connections: u32, every: Duration) {
        for nth in 0..connections {
            let (delay, phase) = held::phase(nth, connections, every);
            let (events, stop) = (self.events.clone(), self.stop.clone());
            let holder = Holder::new(self.index, self.exchange, every, events, stop);
            if self.exchange.kind == Kind::Udp {
                tokio::spawn(holder.flow(delay, phase));
            } else {
                tokio::spawn(holder.converse(delay, phase));
            }
        }
    }
}

/// The numbers of what is due, at a rate.
struct Due {
    start: Instant,
    steps: Interval,
    per_second: u32,
    sent: u64,
}

impl Due {
    fn new(per_second: u32) -> Self {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            start: Instant::now(),
            steps,
            per_second,
            sent: 0,
        }
    }

    /// After the next step.
    async fn next(&mut self) -> std::ops::Range<u64> {
        self.steps.tick().await;
        let due = self.start.elapsed().as_millis() * u128::from(self.per_second) / 1000;
        let from = self.sent;
        self.sent = u64::try_from(due).expect("a lab doesn't last for ever").max(from);
        from..self.sent
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio::time::sleep;

    use super::*;
    use crate::topo::Family;

    /// Answers as a backend does, but swallows every third datagram.
    async fn leaky_echo() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 256];
            for n in 1_u32.. {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
                if !n.is_multiple_of(3) {
                    let answer = [b"be1 ", &buffer[..length]].concat();
                    socket.send_to(&answer, from).await.expect("sent");
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn lost_answers_are_timeouts() {
        let to = leaky_echo().await;
        let plan = Plan {
            jobs: vec![Job {
                kind: Kind::Udp,
                to,
                pace: Pace::Count {
                    requests: 30,
                    workers: 5,
                },
                from: None,
                again: None,
            }],
            backends: vec!["be1".to_owned()],
            timeout: Duration::from_millis(300),
        };
        let (_stop, stopped) = watch::channel(false);
        let report = run(&plan, stopped, |_| {}).await;
        assert_eq!((report.requests(), report.answered_by("be1")), (30, 20));
        assert_eq!(report.failures().timeout, 10);
    }

    #[tokio::test]
    async fn what_is_sent_again_gets_its_answer() {
        let job = Job {
            to: leaky_echo().await,
            ..Job::udp(
                Family::V4,
                Pace::Count {
                    requests: 30,
                    workers: 5,
                },
            )
        };
        let plan = Plan {
            jobs: vec![job.again(Duration::from_millis(20))],
            backends: vec!["be1".to_owned()],
            timeout: Duration::from_secs(3),
        };
        let (_stop, stopped) = watch::channel(false);
        let report = run(&plan, stopped, |_| {}).await;
        assert_eq!((report.answered_by("be1"), report.failed()), (30, 0));
        assert!(report.jobs[0].latency.max_us >= 20_000, "{report:?}");
    }

    #[tokio::test]
    async fn a_rate_runs_until_it_is_stopped() {
        let to = leaky_echo().await;
        let plan = Plan {
            jobs: vec![Job {
                kind: Kind::Udp,
                to,
                pace: Pace::Rate { per_second: 200 },
                from: None,
                again: None,
            }],
            backends: vec!["be1".to_owned()],
            timeout: Duration::from_millis(300),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            stop.send(true).expect("the run listens");
        });
        let report = run(&plan, stopped, |_| {}).await;
        assert!((50..=120).contains(&report.requests()), "{}", report.requests());
    }

    #[tokio::test]
    async fn nobody_there_is_a_connect_failure() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("its address");
        let pace = Pace::Count {
            requests: 3,
            workers: 1,
        };
        let plan = Plan {
            jobs: vec![Job {
                kind: Kind::Http,
                to: free,
                pace,
                from: None,
                again: None,
            }],
            backends: Vec::new(),
            timeout: Duration::from_secs(2),
        };
        let (_stop, stopped) = watch::channel(false);
        assert_eq!(run(&plan, stopped, |_| {}).await.failures().connect, 3);
    }

    fn held(kind: Kind, to: SocketAddr, connections: u32) -> Plan {
        let every = Duration::from_millis(20);
        Plan {
            jobs: vec![Job {
                kind,
                to,
                pace: Pace::Hold { connections, every },
                from: None,
                again: None,
            }],
            backends: vec!["be1".to_owned(), "be2".to_owned()],
            timeout: Duration::from_millis(300),
        }
    }

    async fn run_for(plan: &Plan, time: Duration) -> super::super::Held {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            sleep(time).await;
            stop.send(true).expect("the run listens");
        });
        let report = run(plan, stopped, |_| {}).await;
        report.jobs[0].held.clone().expect("it holds")
    }

    /// Answers lines: the first two connections as one backend, after `lines` of them the first is closed and the
    /// second answered as another backend.
    async fn fickle(lines: u32) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            for nth in 0.. {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    for number in 0.. {
                        if number == lines && nth == 0 {
                            return;
                        }
                        let name = if number >= lines && nth == 1 { "be2" } else { "be1" };
                        line.clear();
                        if stream.read_line(&mut line).await.expect("a line") == 0 {
                            return;
                        }
                        let answer = format!("{name} {line}");
                        stream.get_mut().write_all(answer.as_bytes()).await.expect("sent");
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_breaks_once_moves_once_or_stands() {
        let to = fickle(3).await;
        let begun = super::super::clock::now();
        let held = run_for(&held(Kind::Lines, to, 4), Duration::from_millis(400)).await;
        assert_eq!((held.opened, held.broken, held.moved), (4, 1, 1), "{held:?}");
        let found = &held.breaks[0];
        assert_eq!(found.holder, "be1");
        // Closed between two lines: it is learned before the next one is due.
        assert_eq!(found.sent, None, "{found:?}");
        assert!(found.learned > begun && found.learned < begun + Duration::from_millis(300));
    }

    #[tokio::test]
    async fn a_flow_goes_on_after_losses_and_moves() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let to = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 256];
            for n in 0_u32.. {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
                let name: &[u8] = if (4..8).contains(&n) { b"be2 " } else { b"be1 " };
                let answer = [name, &buffer[..length]].concat();
                socket.send_to(&answer, from).await.expect("sent");
            }
        });
        let held = run_for(&held(Kind::Udp, to, 1), Duration::from_millis(500)).await;
        assert_eq!((held.opened, held.broken, held.moved), (1, 0, 2), "{held:?}");
    }

    #[tokio::test]
    async fn new_connections_live_for_a_while_and_end_well() {
        let to = fickle(u32::MAX).await;
        let pace = Pace::Churn {
            per_second: 100,
            every: Duration::from_millis(20),
            lives: Duration::from_millis(100),
        };
        let mut plan = held(Kind::Lines, to, 0);
        plan.jobs[0].pace = pace;
        plan.jobs[0].from = Some("127.0.0.1".parse().expect("an address"));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            stop.send(true).expect("the run listens");
        });
        let job = run(&plan, stopped, |_| {}).await.jobs.remove(0);
        let held = job.held.expect("it holds");
        assert!((20..=60).contains(&held.opened), "{held:?}");
        assert_eq!((held.broken, held.moved, held.unopened), (0, 0, 0), "{held:?}");
        // Five or six lines each, fewer of the last ones.
        assert!(
            job.requests > held.opened * 3 && job.requests <= held.opened * 7,
            "{}",
            job.requests
        );
    }

    #[tokio::test]
    async fn a_beat_sees_a_gap() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let to = socket.local_addr().expect("its address");
        tokio::spawn(async move {
            let mut buffer = [0; 256];
            for n in 0_u32.. {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
                // Of one in 5 ms: silent for 100 ms.
                if !(40..60).contains(&n) {
                    let answer = [b"be1 ", &buffer[..length]].concat();
                    socket.send_to(&answer, from).await.expect("sent");
                }
            }
        });
        let mut plan = held(Kind::Udp, to, 0);
        plan.jobs[0].pace = Pace::Beat {
            every: Duration::from_millis(5),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            sleep(Duration::from_millis(600)).await;
            stop.send(true).expect("the run listens");
        });
        let job = run(&plan, stopped, |_| {}).await.jobs.remove(0);
        assert!((90_000..160_000).contains(&job.gap_us), "{}", job.gap_us);
        assert!(job.failed.timeout >= 15, "{:?}", job.failed);
        assert!(job.requests > 80, "{}", job.requests);
    }

    #[tokio::test]
    async fn a_stop_breaks_nothing() {
        let to = fickle(u32::MAX).await;
        let held = run_for(&held(Kind::Lines, to, 50), Duration::from_millis(200)).await;
        assert_eq!((held.opened, held.unopened, held.broken), (50, 0, 0), "{held:?}");
    }
}
