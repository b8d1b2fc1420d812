//! Real edit histories as tasks: what people changed, commit after commit, and what of it a model could have proposed.
//!
//! A history is read once, oldest first ([`git`] reads commits, [`releases`] successive versions of a source tree). Each
//! [`Change`] becomes [`hunks`], and these become [`points`]: places in time and text at which a suggestion may be shown.
//! [`judgement`] says whether what was shown is one of the changes that were still to come.
//!
//! **What a point may know.** Text before the change, and of the change the hunks that this point's order has revealed.
//! Nothing else of the change and nothing later: a property test rebuilds every context from these two.
//!
//! **What counts as right.** Nobody knows in which order people edited, so any hunk that remains counts as next, and the
//! points of a change are drawn from several sampled orders.

pub mod filter;
pub mod git;
pub mod hunks;
pub mod judgement;
pub mod points;
pub mod releases;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::source::Language;

/// A file before and after a change; both are text without carriage returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Path inside the repository, with `/`.
    pub path: String,
    /// Its language.
    pub language: Language,
    /// Text before.
    pub before: Arc<str>,
    /// Text after.
    pub after: Arc<str>,
}

/// What people changed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name: the id of a commit; of releases the two versions and the file.
    pub id: String,
    /// Seconds since 1970 when it was committed; 0 where nobody says.
    pub time_seconds: i64,
    /// Files that it changed, sorted by path.
    pub files: Vec<FileChange>,
}

/// Where a history comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryClass {
    /// Commits: what belongs together was edited together.
    Commits,
    /// Successive releases: what happened between two is one step, in which each changed file counts by itself.
    Releases,
}

/// Why something of a history is in no point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// A commit with several parents.
    Merge,
    /// A commit older than the newest that are read.
    OlderCommit,
    /// A commit or step that takes back an earlier one.
    Revert,
    /// A commit that changes the same text in the same way as an earlier one.
    Repeated,
    /// A commit that changes more files than one person edits by hand.
    ManyFiles,
    /// A commit or step in which no usable file changed.
    NoUsableFile,
    /// A file in a language that tasks can not be made in.
    OtherLanguage,
    /// A file that came or went: writing a new file is no next edit.
    NewOrDeletedFile,
    /// A file that moved and did not change.
    MovedFile,
    /// A file under a folder of other people's code.
    VendoredFile,
    /// A file that a program wrote.
    GeneratedFile,
    /// A file above the limit of bytes.
    LargeFile,
    /// A file that is no UTF-8 text with plain line ends, or whose name is no UTF-8.
    NoText,
    /// A change after the limit of all bytes was reached.
    BytesLimit,
    /// A hunk that only moves lines within its change.
    MovedLines,
    /// A hunk that changes nothing but space.
    SpaceOnly,
    /// A hunk of more lines than a suggestion has.
    LargeHunk,
    /// A step of an order at which no place was left where nothing is to be edited.
    NoQuietPlace,
}

impl LeftOut {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Merge => "merge commits",
            Self::OlderCommit => "commits older than the newest that are read",
            Self::Revert => "changes that take back earlier ones",
            Self::Repeated => "commits that repeat an earlier change",
            Self::ManyFiles => "commits of too many files",
            Self::NoUsableFile => "changes without a usable file",
            Self::OtherLanguage => "files in other languages",
            Self::NewOrDeletedFile => "files that came or went",
            Self::MovedFile => "files that only moved",
            Self::VendoredFile => "vendored files",
            Self::GeneratedFile => "generated files",
            Self::LargeFile => "files that are too large",
            Self::NoText => "files that are no plain text",
            Self::BytesLimit => "changes after the limit of bytes",
            Self::MovedLines => "hunks that only move lines",
            Self::SpaceOnly => "hunks of space alone",
            Self::LargeHunk => "hunks of too many lines",
            Self::NoQuietPlace => "steps without a place where nothing is to be edited",
        }
    }
}

/// How often each reason applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Census(BTreeMap<LeftOut, u64>);

impl Census {
    /// Counts `count` more.
    pub fn add(&mut self, reason: LeftOut, count: u64) {
        if count > 0 {
            *self.0.entry(reason).or_default() += count;
        }
    }

    /// How often each reason applied that did.
    pub fn counts(&self) -> impl Iterator<Item = (LeftOut, u64)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}

/// How much of a history is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLimits {
    /// Most commits; the newest count.
    pub commits: u64,
    /// Most files of a commit.
    pub files: usize,
    /// Most bytes of a file, before or after.
    pub file_bytes: u64,
    /// Most bytes of all files together, before and after. What was read counts, also of files that are left out then.
    /// Changes are read oldest first, so the newest are left out.
    pub bytes: u64,
}

impl Default for HistoryLimits {
    /// A file as large as those that the base learned from; a commit as large as a careful person makes by hand.
    fn default() -> Self {
        Self { commits: 2_000, files: 60, file_bytes: 120_000, bytes: 512 * 1024 * 1024 }
    }
}

/// What was read, beside the changes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySummary {
    /// Where it comes from.
    pub class: HistoryClass,
    /// Name of the repository: of its folder, as the prompt shows it.
    pub repository: String,
    /// The commit that the history ends with, or the digest of all releases.
    pub head: String,
    /// Commits without merges that the history has, or steps between releases.
    pub found: u64,
    /// Changes that were handed over.
    pub changes: u64,
    /// Bytes of text that were read.
    pub bytes: u64,
    /// What was left out.
    pub left_out: Census,
}

/// Why a history can not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The program `git` does not start.
    #[error("git can not be started ({0}); it reads histories, so install it")]
    NoGit(std::io::Error),
    /// The folder belongs to no repository, or git may not read it.
    #[error("{path} is no git repository that can be read: {reason}")]
    NotARepository {
        /// The folder.
        path: PathBuf,
        /// What git says.
        reason: String,
    },
    /// The repository has no commit.
    #[error("{0} has no commit to read")]
    Empty(PathBuf),
    /// The history was cut off.
    #[error(
        "{0} is a shallow clone: its first commit looks as if it had written everything; get the whole history with \
         `git fetch --unshallow`"
    )]
    Shallow(PathBuf),
    /// Some of the repository's objects are elsewhere.
    #[error(
        "{0} is a partial clone: what is read of its history is not all here, and nothing is fetched; get everything \
         with `git fetch --refetch --no-filter`"
    )]
    Partial(PathBuf),
    /// Git stopped in the middle.
    #[error("git {command} failed: {reason}")]
    Git {
        /// Which of its commands.
        command: &'static str,
        /// What it says, or what could not be understood.
        reason: String,
    },
    /// Too few releases.
    #[error("at least two releases are needed, oldest first; {0} are given")]
    FewReleases(usize),
    /// A folder or file of a release can not be read.
    #[error(transparent)]
    Source(#[from] crate::error::SimulatorError),
}

/// Takes what was read, one change after another, oldest first.
pub type Taker<'a> = dyn FnMut(Change, &mut Census) + 'a;
