//! Lists for people and for programs.

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use events::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::visible::{visible, visible_json};

/// Prints `line` on standard output. A reader that went away ends the command quietly.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&visible_json(&serde_json::to_string_pretty(value)?))
}

/// Rows under a header, or `empty` when there are none. A name that came with an event can neither command the terminal
/// nor begin a line.
pub(crate) fn rows_text(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell)));
    }
    // The last column is filled up with spaces, which only bother whoever copies a line.
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Rows under a header as a table of Markdown.
pub(crate) fn markdown_text(header: &[String], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.iter().map(String::as_str));
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Prints rows under a header, or `empty` when there are none.
pub(crate) fn print_rows(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> Result<(), Failure> {
    print(&rows_text(header, rows, empty))
}

/// The fields of an object as rows of name and value, whatever is inside others under a name with dots. Times are
/// written out, absent values are a dash.
pub(crate) fn fields(value: &Value) -> Vec<Vec<String>> {
    fn add(name: String, value: &Value, rows: &mut Vec<Vec<String>>) {
        let inside = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields.iter().for_each(|(part, value)| add(inside(part), value, rows));
            }
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                items.iter().zip(1..).for_each(|(item, number)| add(inside(&number.to_string()), item, rows));
            }
            _ => rows.push(vec![name.clone(), text_of(&name, value)]),
        }
    }
    let mut rows = Vec::new();
    add(String::new(), value, &mut rows);
    rows
}

fn text_of(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(|item| text_of(name, item)).collect::<Vec<_>>().join(", "),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_i64() {
            Some(micros) if name.ends_with("_at") => Timestamp::from_micros(micros).to_string(),
            _ => number.to_string(),
        },
        Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

/// Prints the fields of `value` as [`fields`] names them.
pub(crate) fn print_fields(value: &Value) -> Result<(), Failure> {
    print_rows(&["field", "value"], fields(value), "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_inside_others_have_rows_of_their_own() {
        let value = json!({
            "id": 7, "parent": null, "evaluation": {}, "started_at": 1_000_000, "shares": [0.5, 0.25],
            "policy": { "alpha": 0.05 }, "arms": [{ "name": "canary" }, { "name": "current" }],
        });
        let rows: Vec<String> = fields(&value).iter().map(|row| row.join(" = ")).collect();
        let expected = [
            "arms.1.name = canary",
            "arms.2.name = current",
            "evaluation = -",
            "id = 7",
            "parent = -",
            "policy.alpha = 0.05",
            "shares = 0.5, 0.25",
            "started_at = 1970-01-01T00:00:01.000000Z",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn lines_of_a_table_end_with_their_text() {
        let rows = vec![vec!["1".to_owned(), "short".to_owned()], vec!["2".to_owned(), "much longer".to_owned()]];
        let text = rows_text(&["id", "name"], rows, "none");
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.trim_end() == line), "{text:?}");
    }

    #[test]
    fn a_cell_stays_a_cell() {
        let text = rows_text(&["language"], vec![vec!["rust\u{1b}[2J\nforged".to_owned()]], "none");
        assert_eq!(text.lines().nth(1).map(str::trim), Some("rust\\u{1b}[2J\\nforged"), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }
}
