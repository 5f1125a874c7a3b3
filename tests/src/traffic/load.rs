//! A plan that runs in a process of its own inside the client's namespace.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::engine;
use super::plan::Plan;
use super::report::Report;
use crate::binary;
use crate::command;
use crate::error::{IoContext, LabError};
use crate::limit;
use crate::netns::Netns;
use crate::wait;

/// After the last request's timeout, however busy the machine.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A line of the child's standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Progress(Report),
    Done(Report),
}

/// What the reader has seen so far.
#[derive(Debug, Default)]
struct Seen {
    latest: Report,
    done: bool,
}

/// Traffic in the background. Dropping it ends the traffic without a report.
#[derive(Debug)]
pub struct Load {
    child: Child,
    /// Its end tells the child to stop; so does the end of this process.
    stdin: Option<ChildStdin>,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
    timeout: Duration,
}

impl Load {
    /// Starts the plan's jobs in the namespace.
    pub fn start(namespace: &Netns, plan: &Plan) -> Result<Self, LabError> {
        let json = serde_json::to_string(plan).map_err(|source| LabError::Json {
            what: "plan".to_owned(),
            source,
        })?;
        let mut command = namespace.command(binary::find("lb-lab")?);
        command.args(["traffic", "--plan", &json]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0);
        let mut child = spawn(command)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is piped");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let reader = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let Ok(message) = serde_json::from_str(&line) else {
                        continue;
                    };
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match message {
                        Message::Progress(report) => seen.latest = report,
                        Message::Done(report) => {
                            *seen = Seen {
                                latest: report,
                                done: true,
                            }
                        }
                    }
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            seen,
            reader: Some(reader),
            timeout: plan.timeout,
        })
    }

    /// The figures of a moment ago (0.2 s at most).
    pub fn latest(&self) -> Report {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .latest
            .clone()
    }

    /// Whether the child has ended by itself.
    pub fn ended(&mut self) -> Result<bool, LabError> {
        Ok(self
            .child
            .try_wait()
            .context(|| "wait for the traffic".to_owned())?
            .is_some())
    }

    /// Waits until at least so many requests have ended, well or not.
    pub fn wait_requests(&mut self, requests: u64, within: Duration) -> Result<(), LabError> {
        wait::until_ok(within, &format!("{requests} requests"), || {
            let enough = self.latest().requests() >= requests;
            Ok(enough || self.ended()?)
        })
    }

    /// Waits until so many connections and flows of [`super::Pace::Hold`] have had their first answer, or failed to.
    pub fn wait_held(&mut self, connections: u64, within: Duration) -> Result<(), LabError> {
        wait::until_ok(within, &format!("{connections} open connections"), || {
            let report = self.latest();
            let held = report.jobs.iter().filter_map(|job| job.held.as_ref());
            let tried: u64 = held.map(|held| held.opened + held.unopened).sum();
            Ok(tried >= connections || self.ended()?)
        })
    }

    /// Sends nothing new. Where several loads are to end at the same time, each hears of it before one is waited for.
    pub fn end(&mut self) {
        self.stdin = None;
    }

    /// Sends nothing new, waits for the requests under way and returns all figures.
    pub fn stop(mut self) -> Result<Report, LabError> {
        self.end();
        let timeout = self.timeout;
        self.finish(timeout + ENDS_WITHIN)
    }

    /// Waits until all jobs are done (they must be of a kind that ends) and returns all figures.
    pub fn join(mut self, within: Duration) -> Result<Report, LabError> {
        self.finish(within)
    }

    fn finish(&mut self, within: Duration) -> Result<Report, LabError> {
        wait::until_ok(within, "the end of the traffic", || self.ended())?;
        let status = self.child.wait().context(|| "wait for the traffic".to_owned())?;
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.done {
            return Ok(seen.latest.clone());
        }
        let log = "no final report (its errors are above)".to_owned();
        Err(LabError::Exited {
            name: "the traffic".to_owned(),
            status,
            log,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn spawn(mut command: Command) -> Result<Child, LabError> {
    command.spawn().map_err(|source| LabError::Spawn {
        command: command::line(&command),
        source,
    })
}

/// The child's side (`lb-lab traffic --plan JSON`): runs the plan until it is done or standard input ends,
/// and writes a message per line.
pub fn child(plan: &str) -> Result<(), LabError> {
    let plan: Plan = serde_json::from_str(plan).map_err(|source| LabError::Json {
        what: "--plan".to_owned(),
        source,
    })?;
    limit::raise_open_files()?;
    let (stop, stopped) = watch::channel(false);
    // A thread, not a task: a read that never returns must not hold up the end of the runtime.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = stop.send(true);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "start tokio".to_owned())?;
    // Without a reader there is nobody to tell; the end of standard input ends the run.
    let report = runtime.block_on(engine::run(&plan, stopped, |report| {
        let _ = tell(&Message::Progress(report.clone()));
    }));
    tell(&Message::Done(report)).context(|| "write the report".to_owned())
}

fn tell(message: &Message) -> std::io::Result<()> {
    let line = serde_json::to_string(message)? + "\n";
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}
