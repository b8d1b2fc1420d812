//! Reports for people, written as Markdown or as one HTML page: tables, notes and plots.

mod file;
mod html;
mod markdown;
mod page;

use std::path::Path;

use serde::Serialize;

pub(crate) use self::file::{check_writable, lies_in, put};
pub(crate) use self::page::{Bars, Block, Curves, Intervals, Page, Section, Table, Tone};
use crate::failure::Failure;

/// What a report becomes in a file: the same, as a page or with all its figures as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Page(Format),
    Json,
}

impl Form {
    /// What the name of a file asks for that `--report` gave.
    pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
            return Ok(Self::Json);
        }
        Format::of(path, "--report").map(Self::Page).map_err(|_| {
            let path = path.display();
            Failure::refused(format!("--report: expected FILE.md, FILE.html or FILE.json, not {path}"))
        })
    }

    pub(crate) fn written(self, page: &Page, figures: &impl Serialize) -> Result<String, Failure> {
        match self {
            Self::Page(format) => Ok(format.written(page)),
            Self::Json => Ok(serde_json::to_string_pretty(figures)? + "\n"),
        }
    }
}

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Markdown,
    Html,
}

impl Format {
    /// What the name of a file asks for; `option` is the one that gave it.
    pub(crate) fn of(path: &Path, option: &str) -> Result<Self, Failure> {
        let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("md") => Ok(Self::Markdown),
            Some("html") => Ok(Self::Html),
            _ => Err(Failure::refused(format!("{option}: expected FILE.md or FILE.html, not {}", path.display()))),
        }
    }

    pub(crate) fn written(self, page: &Page) -> String {
        match self {
            Self::Markdown => markdown::written(page),
            Self::Html => html::written(page),
        }
    }
}
