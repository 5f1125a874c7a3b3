//! Logs: `tracing` to stderr, aya-log bridged.

use std::io::IsTerminal;
use std::time::Duration;

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use tracing::warn;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How often records of the programs are fetched.
const EVERY: Duration = Duration::from_millis(100);

/// Logs to stderr, level `info`; `RUST_LOG` changes it (`RUST_LOG=info,lb_xdp=debug` shows every packet that stops).
pub fn init() {
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let filter: Targets = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
}

/// The level that the programs are loaded with. 0 unless their target is asked for: the verifier then removes
/// every call, so that the fast path pays nothing.
pub(super) fn program_level() -> u8 {
    // By name: `RUST_LOG=debug` is about the agent.
    let asked = std::env::var("RUST_LOG").is_ok_and(|filter| filter.contains("lb_xdp="));
    if asked && tracing::enabled!(target: "lb_xdp", tracing::Level::DEBUG) {
        Level::Debug as u8
    } else {
        0
    }
}

/// Forwards the programs' records for as long as the returned task lives.
pub(super) fn bridge(ebpf: &mut Ebpf) -> Option<tokio::task::JoinHandle<()>> {
    if program_level() == 0 {
        return None;
    }
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(e) => {
            warn!("no log of the programs: {e}");
            return None;
        }
    };
    Some(tokio::task::spawn_local(async move {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            logger.flush();
        }
    }))
}
