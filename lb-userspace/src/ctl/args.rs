//! The command line of `lbctl`.

mod decap;
mod pki;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args as Group, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

pub use decap::Decap;
pub use pki::Pki;

use crate::api::dto::LONGEST_MS;
use crate::api::{DEFAULT_SOCKET, DEFAULT_STATE};
use crate::dataplane::pin::DEFAULT_ROOT;
use crate::model::{Attach, Protocol};

/// Looks inside Tandem's data plane, which works when the agent is dead, and commands the agent.
///
/// Exit codes: 0 yes or done, 1 no (nothing loaded, nothing attached; `config plan`: something would change), 2 wrong
/// usage, refused or an error.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version)]
pub struct Args {
    /// The folder of pins that lbd was started with.
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub pin_root: PathBuf,
    /// The socket that lbd listens on, for commands.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub api_socket: PathBuf,
    /// The folder of state that lbd was started with, for `events`.
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state_dir: PathBuf,
    /// Tables for people, JSON for machines.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What to show or do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document; one per line where there are many.
    Json,
}

/// What `lbctl` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Node, agent, interfaces, capacities, generation.
    Status,
    /// VIPs with their pools and counters.
    Vips,
    /// Backends with weights, shares, next hops and counters.
    Backends,
    /// Rings: each backend's share, which slots it holds, what stands in a slot, who holds a flow.
    Ring(Ring),
    /// The flow table: which flows are pinned to which backends. Works when the agent is dead.
    ///
    /// Flows are entered in tracked slots, and in all slots for VIPs with `tracking: always`. Filters that are given
    /// together all have to be met.
    ///
    /// As JSON: `flows`, each with `client`, `vip`, `protocol`, `table` (the map), `backend` (`pool/backend`, or `#7` for an
    /// index that nobody has), `state`, `origin` (`own` or `replica`), `owner` (the index of the member that announced a
    /// replica), `age_s` (seconds in this state) and `idle_s` (since a packet came); and `more`, the number of those that
    /// the limit left out. With `--count`: `tables`, each with `room`, `entries` (all), `matching` (those that meet the
    /// filters) and these by `states`.
    Flows(Flows),
    /// What the health checks say of backends, by the running agent.
    Health {
        /// Only this pool's.
        #[arg(long)]
        pool: Option<String>,
    },
    /// Whether this node may attract traffic, and how its group runs. Exit code 0 it may, 1 it may not, 2 an error.
    Ready {
        /// Waits for it for so long, such as `30s`.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Takes this node out of its group: it attracts no more traffic, hands its flows over, and its agent ends.
    ///
    /// That takes `withdraw_after` and a moment; where the last node that is ready leaves while another one joins, it waits for that, for `join_within` at most, and serves. The
    /// unit doesn't start the agent again: `systemctl start lbd` joins the group, `systemctl disable lbd` keeps it out over a reboot.
    Leave {
        /// Waits for its agent's end for so long, such as `2m`. Exit code 1 where it still runs then.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Has the group count a silent node as one that forwards nothing, so that changes wait for it no longer.
    ///
    /// Only where that is true: connections that it still forwards may break.
    Forget {
        /// Its name in `group.nodes`.
        node: String,
    },
    /// The other nodes of the group: which of them live, and what differs between them and this one. Asks the agent.
    Peers,
    /// Flow records between this node and the others: how late they are, how many, what is missing. Asks the agent.
    Sync,
    /// What becomes of a packet, stage by stage; changes nothing. Exit code 0 forwarded, 1 not forwarded, 2 an error.
    Trace(Trace),
    /// All counters: VIPs, backends, stop reasons; or their rates.
    Stats(Stats),
    /// Rates, shares and stops on the whole terminal, until `q`.
    Top {
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
    },
    /// The pinned maps, or every entry of one by name.
    Maps {
        /// Name of a map, such as `lb_vips`.
        name: Option<String>,
        /// Each slot of lb_slots by itself, where slots that hold the same are else one entry.
        #[arg(long, requires = "name")]
        all: bool,
    },
    /// Gives a backend no new flows; old ones stay.
    ///
    /// It survives restarts of the agent, and `undrain` ends it. With a deadline the backend counts as down from then
    /// on: its remaining flows are sent to others, which reset them.
    Drain {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
        /// After so long it counts as down, such as `10m` or `1h 30m`.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<Duration>,
        /// Also where the pool then has nobody left for new flows.
        #[arg(long)]
        force: bool,
    },
    /// Ends a drain: the backend's own slots come back to it.
    Undrain {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
    },
    /// Sets a backend's weight until further notice; ends a ramp.
    Weight {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
        /// 0 to 65535, or `default` for the configuration's.
        #[arg(value_parser = weight)]
        weight: NewWeight,
        /// Also where the pool then has nobody left for new flows.
        #[arg(long)]
        force: bool,
    },
    /// Lets a backend's weight grow in even steps to the configured one, for servers that start cold.
    ///
    /// The first step is taken at once, the last after the whole time. While it grows, the weights of the whole pool
    /// are shown multiplied by a power of two, so that small weights have steps too; that moves no slot.
    Ramp {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
        /// How many steps, 2 to 1000.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=1000))]
        steps: u16,
        /// From the first step to the last.
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
        over: Duration,
    },
    /// Treats a backend as dead at once: its flows are sent to others, which reset them. `up` ends it.
    Down {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
        /// Also where the pool then has nobody left for new flows.
        #[arg(long)]
        force: bool,
    },
    /// Ends `down`.
    Up {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
    },
    /// What is wrong with a backend, by which evidence, and what to do: asks it from this node, directly and through the
    /// tunnel. Takes some seconds.
    ///
    /// Exit codes: 0 healthy, 1 a fault found, 2 an error.
    Doctor {
        /// The backend, `POOL/BACKEND`.
        backend: Target,
    },
    /// The journal: every change with its cause. Works when the agent is dead.
    Events {
        /// Stay, and show what comes.
        #[arg(long, short)]
        follow: bool,
        /// Only the last so many.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        last: usize,
    },
    /// Takes the balancer off this host: traffic for the VIPs is no longer balanced here.
    Detach {
        /// Also under a live agent, which then has to be restarted.
        #[arg(long)]
        force: bool,
    },
    /// The decapsulator of a backend.
    #[command(subcommand)]
    Decap(Decap),
    /// Certificates for the nodes of a group, which talk to each other with them.
    #[command(subcommand)]
    Pki(Pki),
    /// The configuration file: is it valid, and what can stand in it?
    #[command(subcommand)]
    Config(Config),
    /// Writes a completion script to stdout, such as `lbctl completion bash > /etc/bash_completion.d/lbctl`.
    Completion {
        /// The shell that it is for.
        shell: Shell,
    },
}

/// Arguments of `lbctl ring`.
#[derive(Debug, Group)]
pub struct Ring {
    /// Name of the pool; all pools in short where none is named.
    pub pool: Option<String>,
    /// What stands in this slot, 0 to 65535.
    #[arg(long, value_name = "N", requires = "pool")]
    pub slot: Option<u16>,
    /// Which slots each backend holds, or this one alone.
    #[arg(long, value_name = "BACKEND", num_args = 0..=1, default_missing_value = "", requires = "pool",
          conflicts_with_all = ["slot", "from"])]
    pub by_backend: Option<String>,
    /// The tracked slots, what stands in them and why they still are tracked; of all pools where none is named.
    ///
    /// The slots are read from the maps, the reasons are asked of the agent. As JSON: `tracked`, slots that hold the same
    /// for the same reason; `pools`, with `tracked`, `share` (percent) and `reasons` (slots by reason, `unknown` where the
    /// agent doesn't say); `slots`, one by one as `GET /v1/tracked` tells them; `agent`, whether it answered.
    #[arg(long, conflicts_with_all = ["slot", "from", "by_backend"])]
    pub tracked: bool,
    /// The client of a flow, `ADDRESS:PORT`.
    #[arg(long, value_name = "A:P", requires_all = ["to", "pool"])]
    pub from: Option<SocketAddr>,
    /// The VIP of a flow, `ADDRESS:PORT`.
    #[arg(long, value_name = "V:Q", requires = "from")]
    pub to: Option<SocketAddr>,
    /// The protocol of a flow.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub protocol: Transport,
}

/// Arguments of `lbctl flows`.
#[derive(Debug, Group)]
pub struct Flows {
    /// Flows to this VIP, `ADDRESS[:PORT][/PROTOCOL]`; without a port those to every port.
    #[arg(long, value_name = "VIP")]
    pub vip: Option<VipFilter>,
    /// Flows that are pinned to backends of this pool.
    #[arg(long)]
    pub pool: Option<String>,
    /// Flows that are pinned to this backend, `POOL/BACKEND`.
    #[arg(long, conflicts_with = "pool")]
    pub backend: Option<Target>,
    /// Flows of this client, or of a prefix such as 192.0.2.0/24.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub client: Option<IpNet>,
    /// Entries in this state.
    #[arg(long, value_enum)]
    pub state: Option<EntryState>,
    /// Whose entries: this node's own, or replicas of peers'.
    #[arg(long, value_enum)]
    pub origin: Option<Origin>,
    /// At most so many, 0 for all; 1000 for a table and all for JSON where nothing is said.
    #[arg(long, value_name = "N", conflicts_with = "count")]
    pub limit: Option<usize>,
    /// Only how many there are, by table and state.
    #[arg(long)]
    pub count: bool,
    /// All about one flow: its client, `ADDRESS:PORT`.
    #[arg(long, value_name = "A:P", requires = "to",
          conflicts_with_all = ["vip", "pool", "backend", "client", "state", "origin", "limit", "count"])]
    pub from: Option<SocketAddr>,
    /// The VIP of that flow, `ADDRESS:PORT`.
    #[arg(long, value_name = "V:Q", requires = "from")]
    pub to: Option<SocketAddr>,
    /// The protocol of that flow.
    #[arg(long, value_enum, requires = "from", default_value_t = Transport::Tcp)]
    pub protocol: Transport,
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EntryState {
    /// A SYN was seen; UDP: one packet.
    Probation,
    /// The client answered.
    Confirmed,
    /// FIN or RST was seen.
    Closed,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// This node saw the flow.
    Own,
    /// A peer announced it.
    Replica,
}

/// VIPs by address, port and protocol; what is not said is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipFilter {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
    /// The protocol.
    pub protocol: Option<Protocol>,
}

impl FromStr for VipFilter {
    type Err = NotAVip;

    fn from_str(text: &str) -> Result<Self, NotAVip> {
        let (end, protocol) = match text.rsplit_once('/') {
            None => (text, None),
            Some((end, "tcp")) => (end, Some(Protocol::Tcp)),
            Some((end, "udp")) => (end, Some(Protocol::Udp)),
            Some(_) => return Err(NotAVip),
        };
        if let Ok(end) = end.parse::<SocketAddr>() {
            let port = Some(end.port()).filter(|port| *port != 0);
            return Ok(Self {
                address: end.ip().to_canonical(),
                port,
                protocol,
            });
        }
        let address = end.strip_suffix(":any").unwrap_or(end);
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address: IpAddr = bare.unwrap_or(address).parse().map_err(|_| NotAVip)?;
        Ok(Self {
            address: address.to_canonical(),
            port: None,
            protocol,
        })
    }
}

/// Not of the form `ADDRESS[:PORT][/PROTOCOL]`.
#[derive(Debug, thiserror::Error)]
#[error("ADDRESS[:PORT][/PROTOCOL] is needed, such as 192.0.2.1, 192.0.2.1:80 or [2001:db8::1]:53/udp")]
pub struct NotAVip;

/// Arguments of `lbctl trace`.
///
/// The packet is built from a flow, read from a capture file, or written in hexadecimal digits.
#[derive(Debug, Group)]
#[command(group(ArgGroup::new("source").required(true).args(["from", "file", "hex"])))]
pub struct Trace {
    /// The client of a flow, `ADDRESS:PORT`.
    #[arg(long, value_name = "A:P", requires = "to")]
    pub from: Option<SocketAddr>,
    /// The VIP of a flow, `ADDRESS:PORT`.
    #[arg(long, value_name = "V:Q", requires = "from")]
    pub to: Option<SocketAddr>,
    /// The protocol of a flow.
    #[arg(long, value_enum, conflicts_with_all = ["file", "hex"], default_value_t = Transport::Tcp)]
    pub protocol: Transport,
    /// The flow's first packet: TCP with SYN alone, else with ACK alone.
    #[arg(long, conflicts_with_all = ["file", "hex"])]
    pub syn: bool,
    /// Bytes of payload in the flow's packet.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["file", "hex"], default_value_t = 0)]
    pub payload: usize,
    /// A capture file, pcap or pcapng, of Ethernet frames.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Which packet of the file, from 1 on.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "hex"], default_value_t = 1)]
    pub packet: usize,
    /// An Ethernet frame in hexadecimal digits.
    #[arg(long, value_name = "BYTES")]
    pub hex: Option<String>,
    /// The interface that the packet comes in by; the first one that lb_xdp is attached to, if none is named.
    #[arg(long)]
    pub interface: Option<String>,
}

/// Arguments of `lbctl stats`.
#[derive(Debug, Group)]
pub struct Stats {
    /// Rates instead of totals, every so many seconds, until Ctrl-C; with `--output json` one document per line.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// Ends after so many intervals.
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<NonZeroU64>,
}

/// A protocol on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

/// A backend by its pool's name and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
}

impl FromStr for Target {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Self, NotATarget> {
        let split = text
            .split_once('/')
            .filter(|(pool, name)| !pool.is_empty() && !name.is_empty());
        let (pool, backend) = split.ok_or(NotATarget)?;
        Ok(Self {
            pool: pool.to_owned(),
            backend: backend.to_owned(),
        })
    }
}

/// Not of the form `POOL/BACKEND`.
#[derive(Debug, thiserror::Error)]
#[error("POOL/BACKEND is needed, such as web/be1; `lbctl backends` names them")]
pub struct NotATarget;

/// A weight, or the configuration's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewWeight(pub Option<u16>);

fn weight(text: &str) -> Result<NewWeight, NotAWeight> {
    match text {
        "default" => Ok(NewWeight(None)),
        number => number.parse().map(|n| NewWeight(Some(n))).map_err(|_| NotAWeight),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a number from 0 to 65535 or `default` is needed")]
struct NotAWeight;

/// A time span of 1 ms to 31 days.
fn duration(text: &str) -> Result<Duration, NotADuration> {
    let parsed = humantime::parse_duration(text).map_err(|_| NotADuration)?;
    let range = Duration::from_millis(1)..=Duration::from_millis(LONGEST_MS);
    range.contains(&parsed).then_some(parsed).ok_or(NotADuration)
}

#[derive(Debug, thiserror::Error)]
#[error("a time from 1ms to 31days is needed, such as 30s, 10m or 1h 30m")]
struct NotADuration;

/// A generation's number; who proposed it may stand behind it.
fn generation(text: &str) -> Result<u64, NotAGeneration> {
    let number = text.split_once('/').map_or(text, |(number, _)| number);
    number.parse().map_err(|_| NotAGeneration)
}

#[derive(Debug, thiserror::Error)]
#[error("a generation is needed, such as 12 or 12/lb2: `lbctl config history` lists them")]
struct NotAGeneration;

/// What `lbctl config` can do.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Reads a file as lbd would, without touching anything; exit code 0 valid, 1 not, 2 it can't be read.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// What a file would change, by the running agent, without touching anything; exit code 0 nothing, 1 something, 2 it
    /// would be refused.
    ///
    /// A backend that is new is looked for in the network meanwhile.
    Plan {
        /// The file; `-` reads stdin.
        file: PathBuf,
    },
    /// Puts a file into effect as a whole, and writes it over the agent's own, of which a copy is kept; or refuses it
    /// as a whole.
    Apply {
        /// The file; `-` reads stdin.
        file: PathBuf,
        /// Only where the running configuration has this generation, as `plan` and `show` say it; in a group `12` or `12/lb2`.
        #[arg(long, value_parser = generation)]
        generation: Option<u64>,
    },
    /// The running configuration as YAML, with the group's key masked.
    Show,
    /// The last configurations of the group, by generation.
    History,
    /// Has the group go back to a text of its history, as a new generation. Drains, weights and ramps stay as they are.
    Rollback {
        /// The generation, such as `12` or `12/lb2`; the last one with another text than the running where absent.
        #[arg(value_name = "GENERATION", value_parser = generation)]
        number: Option<u64>,
    },
    /// Writes the JSON Schema of the file to stdout, for editors.
    Schema,
    /// What a field means, its type, default and values; all fields where none is named.
    Explain {
        /// The way to the field, such as `pools.backends.weight`.
        field: Option<String>,
    },
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Native, else generic.
    Auto,
    /// Native or nothing.
    Native,
    /// Generic.
    Generic,
}

impl From<Mode> for Attach {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

/// A prefix, or an address as the prefix of itself.
fn prefix(text: &str) -> Result<IpNet, NotAPrefix> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| NotAPrefix)
}

#[derive(Debug, thiserror::Error)]
#[error("an address or a prefix such as 192.0.2.0/28 is needed")]
struct NotAPrefix;

/// Seconds from one look to the next.
fn seconds(text: &str) -> Result<Duration, NotAnInterval> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds
        .filter(|s| (SHORTEST..=LONGEST).contains(s))
        .ok_or(NotAnInterval)
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Debug, thiserror::Error)]
#[error("a number of seconds from 0.1 to 86400 is needed")]
struct NotAnInterval;

#[cfg(test)]
mod tests;
