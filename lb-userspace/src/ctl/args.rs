//! The command line of `lbctl`.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as Group, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::dataplane::pin::DEFAULT_ROOT;
use crate::model::{Attach, Protocol};

/// Looks inside Tandem's data plane; works when the agent is dead.
///
/// Exit codes: 0 yes or done, 1 no (nothing loaded, nothing attached), 2 wrong usage or an error.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version)]
pub struct Args {
    /// The folder of pins that lbd was started with.
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub pin_root: PathBuf,
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
    /// Takes the balancer off this host: traffic for the VIPs is no longer balanced here.
    Detach {
        /// Also under a live agent, which then has to be restarted.
        #[arg(long)]
        force: bool,
    },
    /// The decapsulator of a backend.
    #[command(subcommand)]
    Decap(Decap),
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
    /// The tracked slots and what stands in them; of all pools where none is named.
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

/// What `lbctl decap` can do.
#[derive(Debug, Subcommand)]
pub enum Decap {
    /// Attach to an interface, and allow exactly these outer sources.
    Attach {
        /// The interface that encapsulated packets come in by.
        #[arg(long)]
        interface: String,
        /// Addresses or prefixes of the nodes' outer sources, at most 1,024; repeatable.
        #[arg(long, required = true, num_args = 1.., value_name = "PREFIX", value_parser = prefix)]
        allow: Vec<IpNet>,
        /// Native or generic mode; auto falls back to generic.
        #[arg(long, value_enum, default_value_t = Mode::Auto)]
        attach: Mode,
    },
    /// Take it off an interface.
    Detach {
        /// The interface.
        #[arg(long)]
        interface: String,
    },
    /// Interfaces, allowed sources, counters.
    Status,
}

/// What `lbctl config` can do.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Reads a file as lbd would, without touching anything; exit code 0 valid, 1 not, 2 it can't be read.
    Check {
        /// The file.
        file: PathBuf,
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
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
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
