//! Writes what the docs repeat from the code (`cargo xtask docs`), and the man pages (`cargo xtask man`).

mod config;
mod man;
mod maps;
mod metrics;
mod stops;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Writes the generated docs and the man pages.
#[derive(Parser)]
enum Args {
    /// Writes the generated docs.
    Write,
    /// Fails where a generated doc differs from the code.
    Check,
    /// Writes the man pages of all programs.
    Man {
        /// The folder for them; made where it is missing.
        folder: PathBuf,
    },
}

/// One generated file.
struct Doc {
    /// From the root.
    path: &'static str,
    text: String,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-docs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    match args {
        Args::Write => write(root(), &docs(root())?),
        Args::Check => check(root(), &docs(root())?),
        Args::Man { folder } => man::write(&folder),
    }
}

fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package is a folder of the repository")
}

fn docs(root: &Path) -> Result<Vec<Doc>> {
    Ok(vec![
        Doc {
            path: "docs/STOP-REASONS.md",
            text: stops::page(),
        },
        Doc {
            path: "docs/MAPS.md",
            text: maps::page(root)?,
        },
        Doc {
            path: "docs/METRICS.md",
            text: metrics::page(),
        },
        Doc {
            path: "docs/CONFIG.md",
            text: config::page(),
        },
        Doc {
            path: "docs/config.schema.json",
            text: config::schema()?,
        },
        Doc {
            path: "docs/openapi.json",
            text: serde_json::to_string_pretty(&lb_userspace::api::routes::openapi())? + "\n",
        },
    ])
}

fn write(root: &Path, docs: &[Doc]) -> Result<()> {
    for doc in docs {
        fs::write(root.join(doc.path), &doc.text).with_context(|| format!("can't write {}", doc.path))?;
    }
    Ok(())
}

fn check(root: &Path, docs: &[Doc]) -> Result<()> {
    let is_stale = |doc: &&Doc| fs::read_to_string(root.join(doc.path)).ok().as_ref() != Some(&doc.text);
    let stale: Vec<&str> = docs.iter().filter(is_stale).map(|doc| doc.path).collect();
    if !stale.is_empty() {
        bail!("not current: {}; run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}

/// The lines that every generated page begins with.
fn head(title: &str, source: &str) -> String {
    format!("# {title}\n\nMade from {source} by `cargo xtask docs`: change that, not this page.\n\n")
}

/// A table in Markdown.
fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line =
        |cells: [String; N]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let mut text = line(columns.map(str::to_owned));
    text.push_str(&format!("|{}\n", "---|".repeat(N)));
    text.extend(rows.into_iter().map(line));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_docs_are_current() {
        check(root(), &docs(root()).unwrap()).unwrap();
    }

    #[test]
    fn stale_and_missing_docs_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let docs = ["a.md", "b.md"].map(|path| Doc {
            path,
            text: "new\n".to_owned(),
        });
        let message = check(folder.path(), &docs).unwrap_err().to_string();
        assert!(message.contains("a.md, b.md"), "{message}");
        write(folder.path(), &docs).unwrap();
        check(folder.path(), &docs).unwrap();
        fs::write(folder.path().join("b.md"), "old\n").unwrap();
        let message = check(folder.path(), &docs).unwrap_err().to_string();
        assert!(message.contains("b.md") && !message.contains("a.md"), "{message}");
    }

    #[test]
    fn tables() {
        let rows = [["1".to_owned(), "x|y".to_owned()]];
        assert_eq!(table(["a", "b"], rows), "| a | b |\n|---|---|\n| 1 | x\\|y |\n");
    }
}
