//! A load balancer: a namespace with the real `lbd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::Signal;

use crate::binary;
use crate::command;
use crate::error::{IoContext, LabError};
use crate::netns::Netns;
use crate::node_config::NodeConfig;
use crate::process::Process;
use crate::wait;

/// What `lbd` logs when the data plane is attached and filled.
const READY: &str = "ready";
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// One node. Its data plane outlives its agent.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: Netns,
    pin_root: PathBuf,
    config: NodeConfig,
    config_file: PathBuf,
    state_dir: PathBuf,
    api_socket: PathBuf,
    log: PathBuf,
    /// Another `lbd` than the one beside this program.
    program: Option<PathBuf>,
    agent: Option<Process>,
}

impl Node {
    /// `pin_root` is its folder in bpffs, `dir` the lab's for configs and logs.
    pub(crate) fn new(config: NodeConfig, namespace: Netns, pin_root: PathBuf, dir: &Path) -> Self {
        let name = config.node.name.clone();
        let config_file = dir.join(format!("{name}.yaml"));
        let state_dir = dir.join(format!("{name}.state"));
        let log = dir.join(format!("{name}.log"));
        let api_socket = dir.join(format!("{name}.sock"));
        Self {
            name,
            namespace,
            pin_root,
            config,
            config_file,
            state_dir,
            api_socket,
            log,
            program: None,
            agent: None,
        }
    }

    /// `lb1`, `lb2` and so on.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Its folder in bpffs.
    pub fn pin_root(&self) -> &Path {
        &self.pin_root
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// The folder of what survives its agent.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The socket of its agent.
    pub fn api_socket(&self) -> &Path {
        &self.api_socket
    }

    /// The config that it was made with, to be changed and given to [`Node::reload`].
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The agent's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::pid)
    }

    /// Writes the config file without telling the agent.
    pub fn write_config(&self, yaml: &str) -> Result<(), LabError> {
        fs::write(&self.config_file, yaml).context(|| format!("write {}", self.config_file.display()))
    }

    /// The next agent is this program; `None` for the one that was built.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Starts the agent on the present config file and returns at once.
    pub fn spawn(&mut self) -> Result<(), LabError> {
        let program = match &self.program {
            Some(path) => path.clone(),
            None => binary::find("lbd")?,
        };
        let mut command = self.namespace.command(program);
        command
            .arg("--config")
            .arg(&self.config_file)
            .arg("--pin-root")
            .arg(&self.pin_root)
            .arg("--state-dir")
            .arg(&self.state_dir)
            .arg("--api-socket")
            .arg(&self.api_socket);
        self.agent = Some(Process::spawn(&self.name, command, &self.log)?);
        Ok(())
    }

    /// Waits until the agent says that the data plane is attached and filled.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        self.running()?.wait_ready(READY, STARTS_WITHIN)
    }

    /// Whether it has said so; an agent that has ended is an error.
    pub(super) fn says_ready(&mut self) -> Result<bool, LabError> {
        self.running()?.says(READY)
    }

    /// Sends the agent a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let name = &self.name;
        self.agent
            .as_ref()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })?
            .signal(signal)
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.spawn()?;
        self.wait_ready()
    }

    /// SIGKILL: the agent has no time for anything.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        self.take()?.kill9()
    }

    /// SIGTERM, and waits for the end. The data plane stays.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.take()?.stop(STOPS_WITHIN).map(drop)
    }

    /// Waits until the agent has ended by itself.
    pub fn wait_end(&mut self, within: Duration) -> Result<ExitStatus, LabError> {
        let mut agent = self.take()?;
        let mut status = None;
        let what = format!("the end of {}", self.name);
        wait::until_ok(within, &what, || {
            status = agent.try_exit()?;
            Ok(status.is_some())
        })?;
        Ok(status.expect("the wait ends with a status"))
    }

    /// Writes the config file and sends SIGHUP. Returns a mark for [`Node::wait_log`], which tells the outcome.
    pub fn reload(&mut self, yaml: &str) -> Result<u64, LabError> {
        self.write_config(yaml)?;
        let agent = self.running()?;
        let mark = agent.log_mark();
        agent.signal(Signal::HUP)?;
        Ok(mark)
    }

    /// A mark for [`Node::wait_log`]: the log as it is now.
    pub fn log_mark(&mut self) -> Result<u64, LabError> {
        Ok(self.running()?.log_mark())
    }

    /// Waits for a line with `text` in the agent's log after `mark`.
    pub fn wait_log(&mut self, text: &str, mark: u64, within: Duration) -> Result<(), LabError> {
        self.running()?.wait_for_line(text, mark, within)
    }

    /// All that its agents have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `lbctl` on this node, whatever its exit code. Works without the agent.
    pub fn lbctl(&self, args: &[&str]) -> Result<Output, LabError> {
        command::output(self.lbctl_command()?.args(args))
    }

    /// The document that `lbctl --output json` writes; another exit code than 0 is an error.
    pub fn lbctl_json(&self, args: &[&str]) -> Result<serde_json::Value, LabError> {
        let mut command = self.lbctl_command()?;
        command.args(["--output", "json"]).args(args);
        let out = command::check(&mut command)?;
        serde_json::from_str(&out).map_err(|source| LabError::Json {
            what: command::line(&command),
            source,
        })
    }

    /// Packets that this node has sent to backends.
    pub fn packets(&self) -> Result<u64, LabError> {
        let stats = self.lbctl_json(&["stats"])?;
        let field = || LabError::Field {
            what: "lbctl stats".to_owned(),
            field: "forwarded.packets",
        };
        stats["forwarded"]["packets"].as_u64().ok_or_else(field)
    }

    /// A line to paste that shows the node's state.
    pub(crate) fn lbctl_line(&self, args: &str) -> Result<String, LabError> {
        let command = self.lbctl_command()?;
        Ok(format!("{} {args}", command::line(&command)))
    }

    pub(crate) fn release(&mut self) {
        if let Some(agent) = &mut self.agent {
            agent.release();
        }
    }

    /// `lbctl` for this node, to be run in another way than [`Node::lbctl`] does.
    pub fn lbctl_command(&self) -> Result<Command, LabError> {
        // It goes by pins and files, so it need not be inside the namespace.
        let mut command = Command::new(binary::find("lbctl")?);
        command
            .arg("--pin-root")
            .arg(&self.pin_root)
            .arg("--state-dir")
            .arg(&self.state_dir)
            .arg("--api-socket")
            .arg(&self.api_socket);
        Ok(command)
    }

    fn running(&mut self) -> Result<&mut Process, LabError> {
        let name = &self.name;
        self.agent
            .as_mut()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })
    }

    fn take(&mut self) -> Result<Process, LabError> {
        let name = &self.name;
        self.agent
            .take()
            .ok_or_else(|| LabError::NotRunning { name: name.clone() })
    }
}
