//! Lists for people and for programs.

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::failure::Failure;

/// Prints `line` on standard output. A reader that went away ends the command quietly.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Rows under a header, or `empty` when there are none.
pub(crate) fn rows_text(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Prints rows under a header, or `empty` when there are none.
pub(crate) fn print_rows(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> Result<(), Failure> {
    print(&rows_text(header, rows, empty))
}
