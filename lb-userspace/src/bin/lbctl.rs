//! `lbctl`, the command-line tool.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::ctl::{args::Args, cmd};

/// Wrong usage or an error.
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let format = args.output;
    let printed = cmd::run(args).and_then(|output| Ok(output.print(format)?));
    printed.unwrap_or_else(|e| {
        eprintln!("lbctl: {e:#}");
        ExitCode::from(ERROR)
    })
}
