//! Successive releases of a source tree, each in a folder: for projects whose archives are public and whose commits are
//! not. They are a class of their own: a step holds everything that happened between two releases, in no known order, so
//! that only what changed within one file is taken for one change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filter::{News, is_generated, is_vendored};
use super::{Census, Change, FileChange, HistoryClass, HistoryError, HistoryLimits, HistorySummary, LeftOut, Taker};
use crate::error::SimulatorError;
use crate::source::{Language, digest_hex};

/// A file of a release.
struct Held {
    language: Language,
    text: Arc<str>,
}

/// Reads `folders`, oldest first, and hands over what changed in each file from one to the next.
///
/// # Errors
/// [`HistoryError::FewReleases`], or [`HistoryError::Source`] when a folder or file can not be read.
pub fn read(
    folders: &[PathBuf],
    limits: &HistoryLimits,
    taker: &mut Taker<'_>,
) -> Result<HistorySummary, HistoryError> {
    let [first, rest @ ..] = folders else { return Err(HistoryError::FewReleases(0)) };
    if rest.is_empty() {
        return Err(HistoryError::FewReleases(1));
    }
    let mut summary = HistorySummary {
        class: HistoryClass::Releases,
        repository: project(first),
        head: String::new(),
        found: rest.len() as u64,
        changes: 0,
        bytes: 0,
        left_out: Census::default(),
    };
    let mut news = News::default();
    let mut digests = String::new();
    let mut earlier = (name(first), files(first, limits, &mut summary)?);
    digests.push_str(&digest(&earlier.1));
    for folder in rest {
        let later = (name(folder), files(folder, limits, &mut summary)?);
        digests.push_str(&digest(&later.1));
        let gone = earlier.1.keys().filter(|path| !later.1.contains_key(*path)).count();
        summary.left_out.add(LeftOut::NewOrDeletedFile, gone as u64);
        for (path, after) in &later.1 {
            let Some(before) = earlier.1.get(path) else {
                summary.left_out.add(LeftOut::NewOrDeletedFile, 1);
                continue;
            };
            if before.text == after.text {
                continue;
            }
            if summary.bytes >= limits.bytes {
                summary.left_out.add(LeftOut::BytesLimit, 1);
                continue;
            }
            summary.bytes += (before.text.len() + after.text.len()) as u64;
            let file = FileChange {
                path: path.clone(),
                language: after.language,
                before: Arc::clone(&before.text),
                after: Arc::clone(&after.text),
            };
            let id = format!("{}..{} {path}", earlier.0, later.0);
            let change = Change { id, time_seconds: 0, files: vec![file] };
            if let Some(reason) = news.stale(&change) {
                summary.left_out.add(reason, 1);
                continue;
            }
            summary.changes += 1;
            taker(change, &mut summary.left_out);
        }
        earlier = later;
    }
    summary.head = digest_hex(digests.as_bytes());
    Ok(summary)
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The name of a release's folder, without a version at its end.
#[must_use]
pub fn project(folder: &Path) -> String {
    let name = name(folder);
    match name.rsplit_once('-') {
        Some((project, version)) if version.starts_with(|first: char| first.is_ascii_digit()) => project.to_owned(),
        _ => name,
    }
}

fn digest(files: &BTreeMap<String, Held>) -> String {
    let all: String =
        files.iter().map(|(path, held)| format!("{path}\0{}\0", digest_hex(held.text.as_bytes()))).collect();
    digest_hex(all.as_bytes())
}

/// The usable files of a release by path. Links are not followed.
fn files(
    root: &Path,
    limits: &HistoryLimits,
    summary: &mut HistorySummary,
) -> Result<BTreeMap<String, Held>, HistoryError> {
    let failed = |path: &Path, source| SimulatorError::read(path, source);
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|source| failed(&folder, source))? {
            let entry = entry.map_err(|source| failed(&folder, source))?;
            let kind = entry.file_type().map_err(|source| failed(&entry.path(), source))?;
            let Ok(name) = entry.file_name().into_string() else {
                summary.left_out.add(LeftOut::NoText, 1);
                continue;
            };
            let path = format!("{prefix}{name}");
            if kind.is_dir() {
                if is_vendored(&format!("{path}/")) {
                    summary.left_out.add(LeftOut::VendoredFile, 1);
                } else {
                    folders.push((entry.path(), format!("{path}/")));
                }
                continue;
            }
            let Some(language) = Language::of_path(Path::new(&path)).filter(|_| kind.is_file()) else {
                summary.left_out.add(LeftOut::OtherLanguage, 1);
                continue;
            };
            let bytes = entry.metadata().map_err(|source| failed(&entry.path(), source))?.len();
            if bytes > limits.file_bytes {
                summary.left_out.add(LeftOut::LargeFile, 1);
                continue;
            }
            let content = std::fs::read(entry.path()).map_err(|source| failed(&entry.path(), source))?;
            match super::git::plain_text(content) {
                None => summary.left_out.add(LeftOut::NoText, 1),
                Some(text) if is_generated(&path, &text) => summary.left_out.add(LeftOut::GeneratedFile, 1),
                Some(text) => {
                    found.insert(path, Held { language, text });
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_named_without_its_version() {
        assert_eq!(project(Path::new("a/serde-json-1.0.3")), "serde-json");
        assert_eq!(project(Path::new("a/serde-json")), "serde-json");
    }
}
