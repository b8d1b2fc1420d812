//! Structured pairs as they come out of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use events::{ActionList, EditAction, EditContext, PairText, PreferencePair};
use serde::{Deserialize, Serialize};

use crate::error::TrainerError;

/// A preference pair in clear, for training or for the gate. Never stored outside a job's folder.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingPair {
    /// Id of the pair.
    pub pair_id: String,
    /// The developer, pseudonymous.
    pub person: String,
    /// Repository as the model sees it.
    pub repository: String,
    /// Which row of the label table matched.
    pub reason: String,
    /// Weight in training; 0 for what is only calibration.
    pub weight: f32,
    /// Persons who made this correction; equal ones of several persons are one pair.
    #[serde(default = "one_person")]
    pub support_people: u32,
    /// When it was observed, in microseconds since 1970.
    pub observed_micros: i64,
    /// Whether a side that was a suggestion is written otherwise than it was generated. Methods that weigh by the
    /// probability of what was sampled have none for it.
    #[serde(default)]
    pub off_policy: bool,
    /// What the model saw.
    pub context: EditContext,
    /// Actions before the divergence that both sides share.
    #[serde(default)]
    pub shared: Vec<EditAction>,
    /// What the developer wanted from there on.
    #[serde(default)]
    pub chosen: Option<ActionList>,
    /// What was proposed and not wanted.
    #[serde(default)]
    pub rejected: Option<ActionList>,
    /// Of a pair that judges: whether every name that the developer wrote there is written by a pair that trains, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers_seen: Option<bool>,
}

fn one_person() -> u32 {
    1
}

impl TrainingPair {
    /// A pair with its text: with the weight of its label, and as the correction of one person.
    #[must_use]
    pub fn of(pair: &PreferencePair, text: PairText) -> Self {
        Self {
            pair_id: pair.pair_id.to_string(),
            person: pair.person.to_string(),
            repository: pair.repository.clone(),
            reason: pair.reason.as_str().to_owned(),
            weight: pair.weight as f32,
            support_people: one_person(),
            observed_micros: pair.opened_at.as_micros(),
            off_policy: pair.off_policy,
            context: text.context,
            shared: text.shared,
            chosen: text.chosen,
            rejected: text.rejected,
            identifiers_seen: None,
        }
    }
}

/// `NO_EDIT`-chosen pairs never outnumber `NO_EDIT`-rejected ones: of those that are too many the last go. A snapshot
/// sees to that by the pairs' reasons; here it is said of their texts, and of what erasures since then have left.
pub fn balance_silence(training: &mut Vec<TrainingPair>) {
    let is_silence = |side: Option<&ActionList>| side.is_some_and(ActionList::is_no_edit);
    let chooses = |pair: &TrainingPair| pair.shared.is_empty() && is_silence(pair.chosen.as_ref());
    let rejects = |pair: &TrainingPair| pair.shared.is_empty() && is_silence(pair.rejected.as_ref());
    let most = training.iter().filter(|pair| rejects(pair)).count();
    let mut kept = 0;
    training.retain(|pair| {
        if !chooses(pair) {
            return true;
        }
        kept += 1;
        kept <= most
    });
}

/// Gives each prompt the name of the next repository among the pairs: everything else about them stays true.
pub fn exchange_repositories(pairs: &mut [TrainingPair]) {
    let names: Vec<String> =
        pairs.iter().map(|pair| pair.context.repository.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let next: BTreeMap<String, String> = names.iter().cloned().zip(names.iter().cycle().skip(1).cloned()).collect();
    for pair in pairs {
        if let Some(other) = next.get(&pair.context.repository) {
            pair.context.repository.clone_from(other);
            pair.repository.clone_from(other);
        }
    }
}

impl std::fmt::Debug for TrainingPair {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TrainingPair").field("pair_id", &self.pair_id).finish_non_exhaustive()
    }
}

/// Reads pairs from a file of JSON lines, sorted by id, so that the order in the file changes nothing.
///
/// # Errors
/// [`TrainerError::File`], or [`TrainerError::Damaged`] with the number of the line.
pub fn read_pairs(path: &Path) -> Result<Vec<TrainingPair>, TrainerError> {
    let bytes = std::fs::read(path).map_err(|source| TrainerError::file(path, source))?;
    parse_pairs(path, &bytes)
}

/// Pairs from JSON lines in memory, sorted by id; `path` is where they come from.
///
/// # Errors
/// [`TrainerError::Damaged`] with the number of the line.
pub(crate) fn parse_pairs(path: &Path, bytes: &[u8]) -> Result<Vec<TrainingPair>, TrainerError> {
    let mut pairs: Vec<TrainingPair> = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        // The position is given, never the content: it may be code.
        pairs.push(
            serde_json::from_slice(line).map_err(|error| {
                TrainerError::damaged(path, format!("line {}, column {}", number + 1, error.column()))
            })?,
        );
    }
    pairs.sort_by(|left, right| left.pair_id.cmp(&right.pair_id));
    Ok(pairs)
}

/// Writes pairs as JSON lines.
///
/// # Errors
/// [`TrainerError::File`].
pub fn write_pairs(path: &Path, pairs: &[TrainingPair]) -> Result<(), TrainerError> {
    let mut bytes = Vec::new();
    for pair in pairs {
        serde_json::to_writer(&mut bytes, pair).map_err(|error| TrainerError::damaged(path, error.to_string()))?;
        bytes.push(b'\n');
    }
    std::fs::write(path, bytes).map_err(|source| TrainerError::file(path, source))
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, Window};
    use proptest::prelude::*;

    use super::*;

    fn pair(number: usize, chosen: ActionList, rejected: Option<ActionList>) -> TrainingPair {
        TrainingPair {
            pair_id: format!("{number:04}"),
            person: "p".to_owned(),
            repository: format!("r{}", number % 3),
            reason: "missed".to_owned(),
            weight: 1.0,
            support_people: 1,
            observed_micros: 0,
            off_policy: false,
            context: EditContext {
                repository: format!("r{}", number % 3),
                path: "a.rs".to_owned(),
                language: "rust".to_owned(),
                recent_edits: Vec::new(),
                window: Window { start_byte: 0, first_line: 0, text: String::new() },
                cursor_byte: 0,
            },
            shared: Vec::new(),
            chosen: Some(chosen),
            rejected,
            identifiers_seen: None,
        }
    }

    fn edit() -> ActionList {
        let action = EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(0, 0),
            old_text: String::new(),
            new_text: "x".to_owned(),
        };
        ActionList { actions: vec![action], closed: true }
    }

    proptest! {
        #[test]
        fn silence_chosen_never_outnumbers_silence_rejected(kinds in prop::collection::vec(0..3_u8, 0..60)) {
            let mut pairs: Vec<_> = kinds.iter().enumerate().map(|(number, kind)| match kind {
                0 => pair(number, ActionList::no_edit(), Some(edit())),
                1 => pair(number, edit(), Some(ActionList::no_edit())),
                _ => pair(number, edit(), None),
            }).collect();
            let count = |kind: u8| kinds.iter().filter(|found| **found == kind).count();
            balance_silence(&mut pairs);
            let chosen = pairs.iter().filter(|pair| pair.chosen == Some(ActionList::no_edit())).count();
            prop_assert_eq!(chosen, count(0).min(count(1)));
            prop_assert_eq!(pairs.len() - chosen, count(1) + count(2));
        }
    }

    #[test]
    fn every_pair_moves_to_another_repository() {
        let mut pairs: Vec<_> = (0..9).map(|number| pair(number, edit(), None)).collect();
        let before = pairs.clone();
        exchange_repositories(&mut pairs);
        assert!(pairs.iter().zip(&before).all(|(now, then)| now.context.repository != then.context.repository));
        assert!(pairs.iter().all(|pair| pair.repository == pair.context.repository));
    }
}
