//! `lbctl completion SHELL`: a script that completes `lbctl`'s own command line.

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use serde_json::json;

use crate::ctl::args::Args;
use crate::ctl::out::Output;

pub(super) fn run(shell: Shell) -> Output {
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), "lbctl", &mut script);
    let script = String::from_utf8(script).expect("command lines are text");
    let json = json!({ "shell": shell.to_string(), "script": script });
    Output::yes(json, script)
}
