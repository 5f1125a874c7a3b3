//! The repository as the rules see it: every file, Rust ones parsed.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// All files.
pub(super) struct Tree {
    /// In the order of their paths.
    pub(super) files: Vec<File>,
    /// Rust files that could not be parsed.
    pub(super) broken: Vec<Finding>,
    paths: BTreeSet<String>,
}

/// One file.
pub(super) struct File {
    /// From the root, with `/`.
    pub(super) path: String,
    /// Its text; of a binary file what reads as text.
    pub(super) text: String,
    /// Its syntax, if it is Rust.
    pub(super) rust: Option<syn::File>,
}

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The file, from the root.
    pub(super) path: String,
    /// From 1; 0 for the file as a whole.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

impl Tree {
    /// Reads the repository at `root`.
    ///
    /// # Errors
    /// When a folder or a file can't be read.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        Ok(Self::new(files))
    }

    /// A tree of the given paths and texts.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Self::new(files.iter().map(own).collect())
    }

    fn new(mut texts: Vec<(String, String)>) -> Self {
        texts.sort();
        let (mut files, mut broken, mut paths) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (path, text) in texts {
            let ends = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            paths.extend(ends);
            paths.insert(path.clone());
            let mut rust = None;
            if path.ends_with(".rs") {
                match syn::parse_file(&text) {
                    Ok(syntax) => rust = Some(syntax),
                    Err(error) => broken.push(Finding {
                        path: path.clone(),
                        line: error.span().start().line,
                        what: format!("not Rust: {error}"),
                    }),
                }
            }
            files.push(File { path, text, rust });
        }
        Self { files, broken, paths }
    }

    /// Rust files with their syntax.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&File, &syn::File)> {
        self.files
            .iter()
            .filter_map(|file| file.rust.as_ref().map(|syntax| (file, syntax)))
    }

    /// Whether there is such a file or folder; a `/` at the end is left aside.
    pub(super) fn has(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// Whether the path of a file or folder is `path`, or ends with all of its parts.
    pub(super) fn has_end(&self, path: &str) -> bool {
        let end = format!("/{}", path.trim_end_matches('/'));
        self.has(path) || self.paths.iter().any(|known| known.ends_with(&end))
    }
}

impl File {
    /// A place in this file.
    pub(super) fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<(String, String)>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if SKIPPED.contains(&name.as_str()) || kind.is_symlink() {
            continue;
        }
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let bytes = fs::read(entry.path()).with_context(|| format!("can't read {path}"))?;
            files.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(())
}
