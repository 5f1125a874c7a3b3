//! `lbd`, the agent.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::agent;
use lb_userspace::charter::text;

fn main() -> ExitCode {
    let args = agent::args::Args::parse();
    if args.check {
        return match text::load(&args.config) {
            Ok(_) => {
                eprintln!("{}: valid", args.config.display());
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    agent::init_log();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("lbd: {e}");
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    match local.block_on(&runtime, agent::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("lbd: {e:#}");
            ExitCode::FAILURE
        }
    }
}
