//! What a build found, and trajectories as people read them.

use crate::trajectory::build::Built;
use crate::trajectory::corpus::{CorpusFile, LeftOut, LeftOutCounts};
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::{Pattern, ReplayError, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of one pattern in one language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternCount {
    /// The pattern.
    pub pattern: Pattern,
    /// The language.
    pub language: CodeLanguage,
    /// Trajectories.
    pub trajectories: u64,
    /// Their steps.
    pub steps: u64,
    /// Trajectories over several files.
    pub across_files: u64,
    /// States of which a grammar did not understand all, out of `steps` + `trajectories`.
    pub broken_states: u64,
}

/// What a build found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrajectoryReport {
    /// Source files that were used.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Used files that their grammar does not understand: nothing is concluded from them.
    pub broken_files: u64,
    /// Used files of each language.
    pub languages: BTreeMap<CodeLanguage, u64>,
    /// Used files under each licence, as it is written.
    pub licences: BTreeMap<String, u64>,
    /// Source files that were not used, and why.
    pub left_out: LeftOutCounts,
    /// By pattern and language; pairs that were not found are not listed.
    pub patterns: Vec<PatternCount>,
}

impl TrajectoryReport {
    pub(crate) fn add_file(&mut self, file: &CorpusFile, is_whole: bool) {
        self.files += 1;
        self.bytes += file.bytes;
        self.broken_files += u64::from(!is_whole);
        *self.languages.entry(file.language).or_default() += 1;
        *self.licences.entry(file.licence.to_string()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, built: &Built) {
        let trajectory = &built.trajectory;
        let key = (trajectory.pattern, trajectory.language);
        let place = match self.patterns.binary_search_by_key(&key, |count| (count.pattern, count.language)) {
            Ok(place) => place,
            Err(place) => {
                let (pattern, language) = key;
                let fresh =
                    PatternCount { pattern, language, trajectories: 0, steps: 0, across_files: 0, broken_states: 0 };
                self.patterns.insert(place, fresh);
                place
            }
        };
        if let Some(count) = self.patterns.get_mut(place) {
            let states =
                std::iter::once(trajectory.start_health).chain(trajectory.steps.iter().map(|step| step.health));
            count.trajectories += 1;
            count.steps += trajectory.steps.len() as u64;
            count.across_files += u64::from(trajectory.files.len() > 1);
            count.broken_states += states.filter(|health| !health.is_whole()).count() as u64;
        }
    }

    /// Trajectories of all patterns and languages.
    #[must_use]
    pub fn trajectories(&self) -> u64 {
        self.patterns.iter().map(|count| count.trajectories).sum()
    }

    /// How many trajectories of a pattern there are in a language.
    #[must_use]
    pub fn count(&self, pattern: Pattern, language: CodeLanguage) -> u64 {
        let found = self.patterns.iter().find(|count| (count.pattern, count.language) == (pattern, language));
        found.map_or(0, |count| count.trajectories)
    }

    /// What was left out and why, in words; empty when nothing was.
    #[must_use]
    pub fn left_out_text(&self) -> String {
        let words = self.left_out.iter().map(|(reason, count)| format!("{count} {}", reason.words()));
        words.collect::<Vec<_>>().join(", ")
    }
}

impl LeftOut {
    /// The reason in words that follow a number of files.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::LicenceUnknown => "without a known licence",
            Self::LicenceNotAllowed => "under a licence that is not allowed",
            Self::NotAsListed => "not as the manifest lists them",
            Self::Size => "too short or too long",
            Self::NotText => "not text",
            Self::Generated => "generated",
        }
    }
}

/// Lines around a change that a diff shows.
const AROUND: usize = 2;

/// A trajectory as a series of diffs, one a step, each with what it follows from.
///
/// # Errors
/// When `last` are not the last states of its files.
pub fn diffs<T: AsRef<str>>(trajectory: &Trajectory, last: &[T]) -> Result<String, ReplayError> {
    let start = trajectory.start(last)?;
    let mut before = start.clone();
    let mut text = format!(
        "{} ({}) in {}: {}\n",
        trajectory.pattern, trajectory.language, trajectory.repository, trajectory.detail
    );
    trajectory.replay(start, |number, after| {
        let Some(step) = trajectory.steps.get(number) else { return };
        let cause = step.cause.map_or_else(String::new, |cause| format!(" (follows from step {})", cause + 1));
        let health = if step.health.is_whole() {
            String::new()
        } else {
            format!(" [{} errors, {} missing tokens]", step.health.errors, step.health.missing)
        };
        let told = step.diagnostic.as_ref().map_or_else(String::new, |told| {
            let code = told.code.as_deref().unwrap_or("error");
            format!("{}:{}: {code}: {}\n", told.line, told.column, told.message)
        });
        text.push_str(&format!("step {}{cause}{health}\n{told}--- {}\n", number + 1, step.action.path));
        let place = trajectory.files.iter().position(|file| file.path == step.action.path).unwrap_or(0);
        if let (Some(old), Some(new)) = (before.get(place), after.get(place)) {
            hunk(&mut text, old, new);
        }
        before = after.to_vec();
    })?;
    Ok(text)
}

/// The one change between two texts, as a hunk of a unified diff.
fn hunk(out: &mut String, old: &str, new: &str) {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = old.iter().zip(&new).take_while(same).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).take(rest).count();
    let first = head.saturating_sub(AROUND);
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let shown = AROUND.min(tail);
    out.push_str(&format!(
        "@@ -{},{} +{},{} @@\n",
        first + 1,
        old_end + shown - first,
        first + 1,
        new_end + shown - first
    ));
    let mut lines = |mark: char, lines: &[&str]| {
        for line in lines {
            out.push(mark);
            out.push_str(line);
            out.push('\n');
        }
    };
    lines(' ', &old[first..head]);
    lines('-', &old[head..old_end]);
    lines('+', &new[head..new_end]);
    lines(' ', &old[old_end..old_end + shown]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hunk_shows_what_changed_and_two_lines_around() {
        let mut out = String::new();
        hunk(&mut out, "a\nb\nc\nd\ne\nf\n", "a\nb\nc\nD\nE\ne\nf\n");
        assert_eq!(out, "@@ -2,5 +2,6 @@\n b\n c\n-d\n+D\n+E\n e\n f\n");
    }

    proptest! {
        #[test]
        fn any_two_texts_have_a_hunk(old in "[ab\n]{0,12}", new in "[ab\n]{0,12}") {
            let mut out = String::new();
            hunk(&mut out, &old, &new);
            let of = |mark: char| out.lines().skip(1).filter(|line| line.starts_with(mark)).count();
            let lines = |text: &str| text.lines().count();
            prop_assert_eq!(lines(&old) + of('+'), lines(&new) + of('-'));
        }
    }
}
