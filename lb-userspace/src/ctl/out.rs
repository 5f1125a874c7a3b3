//! Results: a table for people or one JSON document, never both.

use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::args::Format;

/// The result of a command.
#[derive(Debug)]
pub struct Output {
    /// For machines.
    pub json: Value,
    /// For people.
    pub text: String,
    /// Exit with 0 (yes, done) or 1 (no).
    pub yes: bool,
    /// It was written while it came about; nothing is left to write.
    pub written: bool,
}

impl Output {
    /// A positive result.
    pub fn yes(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            yes: true,
            written: false,
        }
    }

    /// A negative one.
    pub fn no(json: Value, text: impl Into<String>) -> Self {
        Self {
            json,
            text: text.into(),
            yes: false,
            written: false,
        }
    }

    /// A positive result that was written while it came about.
    pub fn written() -> Self {
        Self {
            written: true,
            ..Self::yes(Value::Null, "")
        }
    }

    /// No data plane, as `error` says.
    pub fn not_loaded(error: &dyn std::error::Error) -> Self {
        let text = error.to_string();
        Self::no(json!({ "loaded": false, "error": text }), text)
    }

    /// Writes it to stdout. A reader that has left is no error.
    pub fn print(self, format: Format) -> io::Result<ExitCode> {
        if self.written {
            return Ok(ExitCode::SUCCESS);
        }
        let text = match format {
            Format::Table => self.text,
            Format::Json => serde_json::to_string_pretty(&self.json)?,
        };
        match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
            _ => {}
        }
        Ok(if self.yes {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A table; columns that begin with `>` stand to the right.
pub fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    columns_of(&columns, rows.into_iter().map(Vec::from))
}

/// The same where the number of columns is known at run time alone.
pub(super) fn columns_of(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|c| c.trim_start_matches('>').to_owned()));
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n").trim_start_matches('\n').to_owned()
}

/// A share of a whole, in percent.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 {
        format!("{:.2} %", 100.0 * part / whole)
    } else {
        "-".to_owned()
    }
}
