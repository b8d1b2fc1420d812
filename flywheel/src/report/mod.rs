//! Reports for people, written as Markdown or as one HTML page: tables, notes and plots.

mod file;
mod html;
mod markdown;
mod page;

use std::path::Path;

pub(crate) use self::file::{check_writable, lies_in, put};
pub(crate) use self::page::{Bars, Block, Curves, Intervals, Page, Section, Table, Tone};
use crate::failure::Failure;

/// How a report is written.
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
