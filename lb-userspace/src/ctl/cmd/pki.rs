//! `lbctl pki`: certificates of a group.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use crate::ctl::args::Pki;
use crate::ctl::out::{Output, table};
use crate::peer;
use crate::peer::pki::{self, CA, CA_KEY, Error, NODE, Named};
use crate::state::wall::{Wall, millis};

pub(super) fn run(command: &Pki) -> Result<Output> {
    let (dir, file, named) = match command {
        Pki::Init { dir, group, force } => (dir, CA, pki::init(dir, group, *force)?),
        Pki::Issue {
            dir,
            node,
            out,
            days,
            force,
        } => (out, NODE, pki::issue(dir, node, out, *days, *force)?),
        Pki::Renew { dir, out, days } => (out, NODE, pki::renew(dir, out, *days)?),
        Pki::Show { dir } => return show(dir),
    };
    let path = dir.join(file);
    let text = format!(
        "{}: {}, good until {}",
        path.display(),
        whose(&named),
        until(&named)
    );
    Ok(Output::yes(row(file, &named), text))
}

fn now() -> Wall {
    Wall(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis))
}

fn until(named: &Named) -> String {
    Wall(named.until.max(0).unsigned_abs().saturating_mul(1000)).text()
}

/// Whole days until it ends; negative once it has.
pub(super) fn days(until_seconds: i64) -> i64 {
    let now = i64::try_from(now().0 / 1000).unwrap_or(i64::MAX);
    (until_seconds - now).div_euclid(86_400)
}

fn whose(named: &Named) -> String {
    match &named.node {
        Some(node) => format!("node {node} of group {}", named.group),
        None => format!("authority of group {}", named.group),
    }
}

fn row(file: &str, named: &Named) -> Value {
    json!({ "file": file, "group": named.group, "node": named.node, "from": named.from * 1000,
            "until": named.until * 1000, "days_left": days(named.until) })
}

fn show(dir: &Path) -> Result<Output> {
    let mut found = Vec::new();
    for file in [CA, NODE] {
        match pki::look_all(&dir.join(file)) {
            Ok(all) => found.extend(all.into_iter().map(|named| (file, named))),
            // An authority's folder has no node.
            Err(Error::Read { why, .. }) if file == NODE && why.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    let rows_json: Vec<Value> = found.iter().map(|(file, named)| row(file, named)).collect();
    let rows = found.iter().map(|(file, named)| {
        let left = days(named.until);
        let left = if left < 0 {
            "expired".to_owned()
        } else {
            left.to_string()
        };
        [(*file).to_owned(), whose(named), until(named), left]
    });
    let mut text = table(["FILE", "WHOSE", "GOOD UNTIL", ">DAYS LEFT"], rows);
    let is_node = found.iter().any(|(file, _)| *file == NODE);
    let whole = if is_node {
        peer::check_folder(dir)
    } else if dir.join(CA_KEY).exists() {
        pki::check_authority(dir)
    } else {
        Ok(())
    };
    let problem = whole.err().map(|e| e.to_string());
    if let Some(problem) = &problem {
        text.push_str(&format!("\n{problem}"));
    }
    let json = json!({ "certificates": rows_json, "problem": problem });
    let good = problem.is_none() && found.iter().all(|(_, named)| named.is_good());
    Ok(if good {
        Output::yes(json, text)
    } else {
        Output::no(json, text)
    })
}
