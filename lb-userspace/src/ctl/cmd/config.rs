//! `lbctl config`: the configuration file, alone or with the agent.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::plan;
use crate::api::client::Client;
use crate::api::dto::{History, Past};
use crate::charter::text::{self, FileError};
use crate::config::{self, Error, Field, Problem, What};
use crate::ctl::args::Config;
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, table};
use crate::state::wall::Wall;

pub(super) fn run(socket: &Path, command: &Config) -> Result<Output> {
    match command {
        Config::Plan { file } => plan::plan(socket, file),
        Config::Apply { file, generation } => plan::apply(socket, file, *generation),
        Config::Show => plan::show(socket),
        Config::History => history(socket),
        Config::Rollback { number } => plan::rollback(socket, *number),
        Config::Check { file } => check(file),
        Config::Schema => schema(),
        Config::Explain { field: Some(field) } => explain(field),
        Config::Explain { field: None } => Ok(all()),
    }
}

fn history(socket: &Path) -> Result<Output> {
    let history: History = wait(Client::new(socket).get("/v1/config/history"))??;
    let row = |past: &Past| {
        let text = if past.new_text { "new" } else { "as before" };
        [
            format!("{}{}", past.generation, if past.in_force { " *" } else { "" }),
            Wall(past.at).text(),
            text.to_owned(),
            past.what.clone(),
        ]
    };
    let text = match history.generations.as_slice() {
        [] => "nothing was agreed on yet: every node has its own file".to_owned(),
        some => table(["GENERATION", "ASKED AT", "TEXT", "WHAT"], some.iter().map(row)),
    };
    Ok(Output::yes(serde_json::to_value(&history)?, text))
}

fn check(file: &Path) -> Result<Output> {
    match text::load(file) {
        Ok((_, model)) => {
            let json = json!({ "file": file, "valid": true, "node": model.node.name.as_str(),
                               "pools": model.pools.len(), "vips": model.vips.len() });
            Ok(Output::yes(json, format!("{}: valid", file.display())))
        }
        Err(FileError::Config(error)) if is_unreadable(&error) => bail!("{error}"),
        Err(error @ FileError::Uncut { .. }) => {
            let problem = json!({ "what": error.to_string() });
            let json = json!({ "file": file, "valid": false, "problems": [problem] });
            Ok(Output::no(json, error.to_string()))
        }
        Err(FileError::Config(error)) => {
            let problems: Vec<Value> = error.problems.iter().map(problem).collect();
            let json = json!({ "file": file, "valid": false, "problems": problems });
            Ok(Output::no(json, error.to_string()))
        }
    }
}

/// Whether it is not known what the file says.
fn is_unreadable(error: &Error) -> bool {
    let of_file = |problem: &Problem| matches!(problem.what, What::Unreadable(_) | What::Directory);
    error.problems.iter().any(of_file)
}

fn problem(problem: &Problem) -> Value {
    json!({ "line": problem.line, "column": problem.column, "field": problem.path,
            "what": problem.what.to_string(), "hint": problem.hint })
}

fn schema() -> Result<Output> {
    let schema = config::schema();
    let text = serde_json::to_string_pretty(&schema)?;
    Ok(Output::yes(schema, text))
}

fn explain(name: &str) -> Result<Output> {
    let field = config::explain(name)?;
    let fields = config::fields();
    let inner: Vec<&str> = fields
        .iter()
        .filter_map(|other| other.path.strip_prefix(&field.path)?.strip_prefix('.'))
        .filter(|rest| !rest.contains('.'))
        .collect();
    let rows = [
        ("type", Some(field.kind.clone())),
        ("default", default(&field)),
        ("values", field.range.clone()),
        ("fields", (!inner.is_empty()).then(|| inner.join(", "))),
    ];
    let mut text = format!("{}\n  {}\n", field.path, field.meaning);
    for (name, value) in rows {
        text.extend(value.map(|value| format!("\n  {name:<8} {value}")));
    }
    let mut json = serde_json::to_value(&field)?;
    if !inner.is_empty() {
        json["fields"] = json!(inner);
    }
    Ok(Output::yes(json, text))
}

fn default(field: &Field) -> Option<String> {
    if field.required {
        Some("none, it is required".to_owned())
    } else {
        field.default.clone()
    }
}

fn all() -> Output {
    let fields = config::fields();
    let row = |field: &Field| {
        [
            field.path.clone(),
            field.kind.clone(),
            if field.required {
                "(required)".to_owned()
            } else {
                field.default.clone().unwrap_or_default()
            },
            field.range.clone().unwrap_or_default(),
        ]
    };
    let text = table(["FIELD", "TYPE", "DEFAULT", "VALUES"], fields.iter().map(row));
    Output::yes(json!({ "fields": fields }), text)
}
