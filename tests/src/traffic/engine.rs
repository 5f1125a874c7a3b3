//! Runs a plan on tokio, in the namespace in which the process already is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::exchange::{Exchange, Lines, late};
use super::plan::{Job, Pace, Plan};
use super::report::{Failure, Report};
use super::tally::{Outcome, Tally};

/// From one progress report to the next.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Steps in which a rate is kept.
const STEP: Duration = Duration::from_millis(10);
/// Requests under way at a time in a job with a rate; more than any rate of a lab needs within the timeout.
const IN_FLIGHT: usize = 4096;

/// Runs all jobs until they are done or `stop` becomes true; `progress` gets the figures so far now and then.
/// After `stop` the requests under way are waited for, so that every one is counted.
pub async fn run(plan: &Plan, stop: watch::Receiver<bool>, mut progress: impl FnMut(&Report)) -> Report {
    let (outcomes, mut inbox) = mpsc::unbounded_channel();
    for (index, job) in plan.jobs.iter().enumerate() {
        let runner = Runner {
            index,
            exchange: Exchange {
                kind: job.kind,
                to: job.to,
                within: plan.timeout,
            },
            outcomes: outcomes.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(drive(runner, job.clone()));
    }
    // The inbox closes when the last job has ended.
    drop(outcomes);
    let mut tally = Tally::new(plan);
    let mut ticks = interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            outcome = inbox.recv() => match outcome {
                Some(outcome) => tally.add(outcome),
                None => return tally.report(),
            },
            _ = ticks.tick() => progress(&tally.report()),
        }
    }
}

async fn drive(runner: Runner, job: Job) {
    match job.pace {
        Pace::Count { requests, workers } => runner.count(requests, workers),
        Pace::Rate { per_second } => runner.rate(per_second).await,
        Pace::Ports { first, count } => runner.ports(first, count).await,
        Pace::Hold { connections, every } => runner.hold(connections, every),
    }
}

#[derive(Clone)]
struct Runner {
    index: usize,
    exchange: Exchange,
    outcomes: mpsc::UnboundedSender<Outcome>,
    stop: watch::Receiver<bool>,
}

impl Runner {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn one(&self, number: u64, port: Option<u16>) {
        let result = self.exchange.send(number, port).await;
        self.tell(result, port);
    }

    fn tell(&self, result: super::exchange::Answer, port: Option<u16>) {
        // The inbox lives as long as any sender.
        let _ = self.outcomes.send(Outcome {
            job: self.index,
            port,
            result,
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
        let start = Instant::now();
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = 0_u64;
        while !self.stopped() {
            steps.tick().await;
            let due = start.elapsed().as_millis() * u128::from(per_second) / 1000;
            while u128::from(sent) < due {
                let permit = Arc::clone(&room)
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                let (runner, number) = (self.clone(), sent);
                tokio::spawn(async move {
                    runner.one(number, None).await;
                    drop(permit);
                });
                sent += 1;
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
            // Spread over one period, so that the lines are too.
            let delay = every * nth / connections;
            tokio::spawn(self.clone().converse(delay, every));
        }
    }

    /// One connection. Ends at its first failure: a broken connection is broken once.
    async fn converse(mut self, delay: Duration, every: Duration) {
        sleep(delay).await;
        let within = self.exchange.within;
        let mut lines = match timeout(within, Lines::open(self.exchange.to, None)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(failure)) => return self.tell(Err(failure), None),
            Err(_) => return self.tell(Err(late(within)), None),
        };
        let mut holder: Option<String> = None;
        for number in 0_u64.. {
            let start = Instant::now();
            let answer = timeout(within, lines.exchange(number))
                .await
                .unwrap_or_else(|_| Err(late(within)));
            let result = answer.and_then(|name| match holder.get_or_insert_with(|| name.clone()) {
                first if *first == name => Ok((name, start.elapsed())),
                first => Err((
                    Failure::Wrong,
                    format!("{name} answers on a connection with {first}"),
                )),
            });
            let broken = result.is_err();
            self.tell(result, None);
            if broken || self.stopped() {
                return;
            }
            tokio::select! {
                () = sleep(every) => {}
                // A stop, or the end of whoever could say so.
                _ = self.stop.changed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::super::plan::Kind;
    use super::*;

    /// Answers as a backend does, but swallows every third datagram.
    async fn leaky_echo() -> std::net::SocketAddr {
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
    async fn a_rate_runs_until_it_is_stopped() {
        let to = leaky_echo().await;
        let plan = Plan {
            jobs: vec![Job {
                kind: Kind::Udp,
                to,
                pace: Pace::Rate { per_second: 200 },
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
            }],
            backends: Vec::new(),
            timeout: Duration::from_secs(2),
        };
        let (_stop, stopped) = watch::channel(false);
        assert_eq!(run(&plan, stopped, |_| {}).await.failures().connect, 3);
    }
}
