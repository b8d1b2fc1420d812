//! Edit trajectories that end in real code: what somebody could have typed, step by step, to arrive at it.
//!
//! A pattern looks at a repository and takes something back: a parameter with the arguments for it, a name in the style
//! of its language. What is left is the start state; the steps put back what was taken, in an order in which each
//! follows from the ones before. So the last state is the repository's own code, byte for byte, and nothing in it was
//! invented; only the start is ours, and of every state it is recorded how much of it its grammar understands.
//!
//! [`corpus`] says which files may be used, [`mod@build`] makes trajectories of them, [`store`] keeps them, [`opportunities`]
//! asks what comes next in the middle of one, [`training`] draws such questions for the base model.

pub mod build;
pub mod corpus;
pub mod diagnostics;
mod draft;
pub mod language;
pub mod opportunities;
mod outline;
mod patterns;
pub mod report;
mod repository;
pub mod store;
pub mod training;

pub use build::{BuildSettings, Built, Progress, build};
pub use corpus::{CodeCorpus, CorpusFile, CorpusSettings, LeftOut};
pub use diagnostics::{Compiler, Diagnostic, FoundCompiler};
pub use language::{CodeLanguage, LANGUAGES, ParseHealth};
pub use opportunities::{PlayedTrajectory, TrajectoryTask};
pub use report::{TrajectoryReport, diffs};
pub use store::{TrajectoryManifest, TrajectoryReader, TrajectoryWriter};
pub use training::{TrajectorySources, TrajectorySplit, TrajectoryTasks};

use events::EditAction;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What a trajectory is an example of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// A function gets a parameter, or takes two in another order: then its body, and every call in every file.
    SignatureChange,
    /// A name is written as its language writes names: first where it is defined, then where it is used.
    RenameToConvention,
    /// An expression that stands in several places becomes a function, which then stands in for each of them.
    ExtractFunction,
    /// A parameter of one name in several functions gets the type that it really has, one function after the other.
    TypeRefinement,
    /// A type promises a method, and the types that keep its promises get it.
    OverrideGeneration,
    /// A name is used and then imported; where it was written in full before, it is shortened.
    AutoImport,
    /// A slip of the hand is repaired that a compiler reports. Found only where a compiler is asked.
    DiagnosticFix,
}

/// All of them.
pub const PATTERNS: [Pattern; 7] = [
    Pattern::SignatureChange,
    Pattern::RenameToConvention,
    Pattern::ExtractFunction,
    Pattern::TypeRefinement,
    Pattern::OverrideGeneration,
    Pattern::AutoImport,
    Pattern::DiagnosticFix,
];

impl Pattern {
    /// Its name in commands, files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SignatureChange => "signature-change",
            Self::RenameToConvention => "rename-to-convention",
            Self::ExtractFunction => "extract-function",
            Self::TypeRefinement => "type-refinement",
            Self::OverrideGeneration => "override-generation",
            Self::AutoImport => "auto-import",
            Self::DiagnosticFix => "diagnostic-fix",
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no pattern has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no pattern {0:?}; there are {names}", names = PATTERNS.map(Pattern::name).join(", "))]
pub struct NoSuchPattern(pub String);

impl FromStr for Pattern {
    type Err = NoSuchPattern;

    fn from_str(name: &str) -> Result<Self, NoSuchPattern> {
        PATTERNS.into_iter().find(|pattern| pattern.name() == name).ok_or_else(|| NoSuchPattern(name.to_owned()))
    }
}

/// A file of a trajectory. Its text is not here: the last state is the file as the corpus has it, and the start state
/// follows from it by taking the steps back ([`Trajectory::start`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrajectoryFile {
    /// Path inside the repository, with `/`.
    pub path: String,
    /// SHA-256 of its last state, lower-case hexadecimal.
    pub sha256: String,
    /// SHA-256 of its start state, lower-case hexadecimal.
    pub start_sha256: String,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is replaced, in the state that the steps before left.
    pub action: EditAction,
    /// The step that this one follows from: always an earlier one; none for the first.
    pub cause: Option<usize>,
    /// Parse health of all files of the trajectory together, after this step.
    pub health: ParseHealth,
    /// What a compiler says of the state before this step, and no longer of the state after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<Diagnostic>,
}

/// Edits in causal order from a start state to real code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trajectory {
    /// What it is an example of.
    pub pattern: Pattern,
    /// What changes, in words.
    pub detail: String,
    /// Language of its files.
    pub language: CodeLanguage,
    /// Where its files are from.
    pub repository: String,
    /// In the order in which steps first touch them.
    pub files: Vec<TrajectoryFile>,
    /// Parse health of all files together in the start state.
    pub start_health: ParseHealth,
    /// Two at least, of which each but the first has a cause; one, with its diagnostic, of [`Pattern::DiagnosticFix`].
    pub steps: Vec<Step>,
}

/// Texts and steps that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Not as many texts as files.
    #[error("{given} texts were given for {files} files")]
    Files {
        /// How many were given.
        given: usize,
        /// How many files there are.
        files: usize,
    },
    /// A step names a file that the trajectory does not have.
    #[error("step {step} is in {path}, which is no file of the trajectory")]
    NoSuchFile {
        /// The step, from 0.
        step: usize,
        /// The path that it names.
        path: String,
    },
    /// A step replaces a text that does not stand there.
    #[error("step {step} replaces a text of {path} that does not stand there")]
    OtherText {
        /// The step, from 0.
        step: usize,
        /// The file.
        path: String,
    },
    /// A text is not the one that the trajectory was made of.
    #[error("{path} is not the text that the trajectory was made of")]
    Digest {
        /// The file.
        path: String,
    },
}

impl Trajectory {
    /// The start state: `last`, the files' last states in order, with all steps taken back. Digests are verified.
    ///
    /// # Errors
    /// When the texts are not those that the trajectory was made of.
    pub fn start<T: AsRef<str>>(&self, last: &[T]) -> Result<Vec<String>, ReplayError> {
        self.verify(last, |file| &file.sha256)?;
        let texts = self.before(last, 0)?;
        self.verify(&texts, |file| &file.start_sha256)?;
        Ok(texts)
    }

    /// The state before step `number`, behind the last step the last state. Digests are not verified: for whoever asks
    /// often of what was verified once.
    ///
    /// # Errors
    /// When a step can not be taken back in these texts.
    pub fn before<T: AsRef<str>>(&self, last: &[T], number: usize) -> Result<Vec<String>, ReplayError> {
        let mut texts: Vec<String> = last.iter().map(|text| text.as_ref().to_owned()).collect();
        for (number, step) in self.steps.iter().enumerate().skip(number).rev() {
            let EditAction { range, old_text, new_text, .. } = &step.action;
            let text = self.text_of(&mut texts, number, step)?;
            replace(text, range.start, new_text, old_text).ok_or_else(|| other_text(number, step))?;
        }
        Ok(texts)
    }

    /// Plays all steps from the start state, in order. `look` sees the texts after each step. Returns the last state,
    /// whose digests are verified.
    ///
    /// # Errors
    /// When the texts are not the start state.
    pub fn replay(
        &self,
        start: Vec<String>,
        mut look: impl FnMut(usize, &[String]),
    ) -> Result<Vec<String>, ReplayError> {
        let mut texts = start;
        self.verify(&texts, |file| &file.start_sha256)?;
        for (number, step) in self.steps.iter().enumerate() {
            let EditAction { range, old_text, new_text, .. } = &step.action;
            let text = self.text_of(&mut texts, number, step)?;
            replace(text, range.start, old_text, new_text).ok_or_else(|| other_text(number, step))?;
            look(number, &texts);
        }
        self.verify(&texts, |file| &file.sha256)?;
        Ok(texts)
    }

    fn text_of<'a>(&self, texts: &'a mut [String], number: usize, step: &Step) -> Result<&'a mut String, ReplayError> {
        let path = &step.action.path;
        let missing = || ReplayError::NoSuchFile { step: number, path: path.clone() };
        let place = self.files.iter().position(|file| file.path == *path).ok_or_else(missing)?;
        texts.get_mut(place).ok_or_else(missing)
    }

    fn verify<T: AsRef<str>>(
        &self,
        texts: &[T],
        digest: impl Fn(&TrajectoryFile) -> &String,
    ) -> Result<(), ReplayError> {
        if texts.len() != self.files.len() {
            return Err(ReplayError::Files { given: texts.len(), files: self.files.len() });
        }
        for (file, text) in self.files.iter().zip(texts) {
            if crate::source::digest_hex(text.as_ref().as_bytes()) != *digest(file) {
                return Err(ReplayError::Digest { path: file.path.clone() });
            }
        }
        Ok(())
    }
}

fn other_text(number: usize, step: &Step) -> ReplayError {
    ReplayError::OtherText { step: number, path: step.action.path.clone() }
}

/// Replaces `old`, which has to stand at `start`.
fn replace(text: &mut String, start: u64, old: &str, new: &str) -> Option<()> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(old.len())?;
    if text.get(start..end)? != old {
        return None;
    }
    text.replace_range(start..end, new);
    Some(())
}
