//! Scrubbing of one text, or of many texts that belong together.
//!
//! What must go is found by [`crate::rules`] and replaced by [`crate::substitute`], so lengths and shapes stay. After
//! replacing, the result is scanned again, until a scan finds nothing new: a text that does not come to rest, or that
//! is larger than the budget, is refused, never passed on.

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use events::TenantSecret;

use crate::rules::{Finding, Rules};
use crate::substitute::{Substitution, is_substitutable, strong_check};

/// Scans before a text counts as restless.
const MOST_PASSES: usize = 8;
/// Shorter findings are replaced where a rule found them, but not looked for elsewhere: they would hit ordinary words.
const SHORTEST_SHARED: usize = 8;
/// The number that stands for the substitution map where findings carry the number of a rule.
pub(crate) const BY_MAP: usize = usize::MAX;

/// Why a text was refused. The message is a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScrubError {
    /// More text than may be scanned at once.
    #[error("text_too_large")]
    TooLarge,
    /// Scanning went on finding something.
    #[error("scrub_restless")]
    Restless,
    /// A pattern could not be built or run.
    #[error("rule_failed")]
    RuleFailed,
    /// The client counts offsets in a way that this release does not know.
    #[error("unknown_offset_encoding")]
    UnknownEncoding,
}

/// What was replaced by what, for one suggestion and what followed.
#[derive(Clone, Default)]
pub(crate) struct SubstitutionMap {
    pairs: Vec<(String, String)>,
    automaton: Option<AhoCorasick>,
}

impl SubstitutionMap {
    /// A map with these pairs of original and image.
    pub(crate) fn new(pairs: Vec<(String, String)>) -> Result<Self, ScrubError> {
        let mut map = Self { pairs, automaton: None };
        map.rebuild()?;
        Ok(map)
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    fn knows(&self, original: &str) -> bool {
        self.pairs.iter().any(|(known, _)| known == original)
    }

    fn extend(&mut self, pairs: Vec<(String, String)>) -> Result<(), ScrubError> {
        if pairs.is_empty() {
            return Ok(());
        }
        self.pairs.extend(pairs);
        self.rebuild()
    }

    fn rebuild(&mut self) -> Result<(), ScrubError> {
        self.automaton = if self.pairs.is_empty() {
            None
        } else {
            let originals = self.pairs.iter().map(|(original, _)| original);
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(originals);
            Some(built.map_err(|_| ScrubError::RuleFailed)?)
        };
        Ok(())
    }

    fn find(&self, text: &str, findings: &mut Vec<Finding>) {
        let Some(automaton) = &self.automaton else { return };
        findings.extend(automaton.find_iter(text).map(|found| Finding { range: found.range(), rule: BY_MAP }));
    }
}

/// What scrubbing of a text gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// The text, as long as before in every encoding.
    pub text: String,
    /// Whether it differs.
    pub altered: bool,
}

/// Scrubs for one tenant.
#[derive(Clone)]
pub struct Scrubber {
    rules: std::sync::Arc<Rules>,
    substitution: Substitution,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Scrubber")
    }
}

impl Scrubber {
    /// The tenant's scrubber: the same text is replaced by the same text throughout the tenant, and by another
    /// elsewhere.
    #[must_use]
    pub fn new(secret: &TenantSecret, rules: std::sync::Arc<Rules>) -> Self {
        Self { rules, substitution: Substitution::new(secret.derive("scrub substitution"), strong_check) }
    }

    /// Scrubs one text alone. Idempotent: it ends only where another scan would change nothing.
    ///
    /// # Errors
    /// When the text does not come to rest.
    pub fn text(&self, text: &str) -> Result<Scrubbed, ScrubError> {
        let mut cells = CellStates::default();
        let view = cells.add_all(text);
        let mut map = SubstitutionMap::default();
        self.settle(&mut cells, &[view], &mut map, usize::MAX, true, &mut |_| ())?;
        let scrubbed: String = cells.0.iter().map(|cell| cell.current).collect();
        Ok(Scrubbed { altered: scrubbed != text, text: scrubbed })
    }

    /// Scans all views until nothing new is found. `budget` is the number of characters that may be scanned.
    ///
    /// A character that several views share is replaced once, by the longest finding that covers it: a secret that was
    /// typed or deleted in steps gets the image of the whole. `strict` goes on until every finding of every view is an
    /// image as a whole, which only views that share no characters can reach.
    pub(crate) fn settle(
        &self,
        cells: &mut CellStates,
        views: &[Vec<u32>],
        map: &mut SubstitutionMap,
        mut budget: usize,
        strict: bool,
        hit: &mut dyn FnMut(usize),
    ) -> Result<(), ScrubError> {
        let mut text = String::new();
        let mut starts = Vec::new();
        let mut findings = Vec::new();
        for _ in 0..MOST_PASSES {
            let mut replacements: HashMap<u32, (usize, char)> = HashMap::new();
            let mut learned: Vec<(String, String)> = Vec::new();
            let mut done: Vec<u32> = Vec::new();
            for view in views {
                budget = budget.checked_sub(view.len()).ok_or(ScrubError::TooLarge)?;
                text.clear();
                starts.clear();
                for cell in view {
                    starts.push(text.len());
                    text.push(cells.0[*cell as usize].current);
                }
                findings.clear();
                self.rules.find(&text, &mut findings);
                map.find(&text, &mut findings);
                for (range, everywhere) in merge(&mut findings, hit) {
                    let first = starts.partition_point(|start| *start < range.start);
                    let last = starts.partition_point(|start| *start < range.end);
                    let found = &view[first..last];
                    if !strict && found.iter().all(|cell| cells.0[*cell as usize].is_done()) {
                        continue;
                    }
                    let before: Vec<char> = text[range.clone()].chars().collect();
                    if self.substitution.is_image(&before) {
                        done.extend_from_slice(found);
                        continue;
                    }
                    let image = self.substitution.image(&before);
                    if everywhere
                        && before.iter().filter(|character| is_substitutable(**character)).count() >= SHORTEST_SHARED
                    {
                        let original = text[range].to_owned();
                        if !map.knows(&original) && learned.iter().all(|(known, _)| *known != original) {
                            learned.push((original, image.iter().collect()));
                        }
                    }
                    for (cell, image) in found.iter().zip(image) {
                        let replacement = replacements.entry(*cell).or_insert((0, image));
                        if replacement.0 <= found.len() {
                            *replacement = (found.len(), image);
                        }
                    }
                }
            }
            for cell in done {
                cells.0[cell as usize].done = true;
            }
            if replacements.is_empty() {
                return Ok(());
            }
            for (cell, (_, image)) in replacements {
                let cell = &mut cells.0[cell as usize];
                (cell.current, cell.done) = (image, true);
            }
            map.extend(learned)?;
        }
        Err(ScrubError::Restless)
    }
}

/// Joins findings that overlap. Each joined one says whether it must go everywhere.
fn merge(findings: &mut [Finding], hit: &mut dyn FnMut(usize)) -> Vec<(Range<usize>, bool)> {
    findings.sort_by_key(|finding| (finding.range.start, finding.range.end));
    let mut merged: Vec<(Range<usize>, bool)> = Vec::new();
    for finding in findings {
        if finding.range.is_empty() {
            continue;
        }
        hit(finding.rule);
        let everywhere = Rules::everywhere(finding.rule);
        match merged.last_mut() {
            Some((last, last_everywhere)) if finding.range.start < last.end => {
                last.end = last.end.max(finding.range.end);
                *last_everywhere |= everywhere;
            }
            _ => merged.push((finding.range.clone(), everywhere)),
        }
    }
    merged
}

/// One character of some text, where it first appeared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CellState {
    pub(crate) original: char,
    pub(crate) current: char,
    done: bool,
}

impl CellState {
    fn is_done(self) -> bool {
        self.done || !is_substitutable(self.current)
    }
}

/// All characters of a scrubbing, by number.
#[derive(Debug, Default)]
pub(crate) struct CellStates(pub(crate) Vec<CellState>);

impl CellStates {
    pub(crate) fn add(&mut self, original: char, current: char) -> u32 {
        let number = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(CellState { original, current, done: original != current });
        number
    }

    fn add_all(&mut self, text: &str) -> Vec<u32> {
        text.chars().map(|character| self.add(character, character)).collect()
    }
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
