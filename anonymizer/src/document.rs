//! Documents as far as events show them: which characters are known to stand where.
//!
//! A document is a set of runs of known characters at known offsets. Edits and windows add to it; what contradicts it
//! empties it, since then something was not reported and offsets can not be trusted any more. Offsets count in the
//! client's units.

use events::OffsetEncoding;

use crate::scene::{CellId, Cells};

/// How much text on either side of a change is scanned together with it, in characters.
const NEIGHBOURHOOD: usize = 2048;

/// Known characters at consecutive offsets.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) cells: Vec<CellId>,
}

/// A document. Runs are in order, do not overlap and do not touch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    pub(crate) runs: Vec<Run>,
    encoding: OffsetEncoding,
}

/// What a change of a document consists of.
pub(crate) struct Change {
    pub(crate) old: Vec<CellId>,
    pub(crate) new: Vec<CellId>,
    /// Texts that came to stand together, before and after the change.
    pub(crate) views: Vec<Vec<CellId>>,
}

pub(crate) fn width(character: char, encoding: OffsetEncoding) -> u64 {
    match encoding {
        OffsetEncoding::Utf8 => character.len_utf8() as u64,
        OffsetEncoding::Utf16 => character.len_utf16() as u64,
        // `Scene::place` lets no such event in.
        OffsetEncoding::Unknown => 0,
    }
}

/// The cells of `new`, sharing those of `old` where both begin and end alike: a client may report a whole line for one
/// typed character.
pub(crate) fn share_ends(cells: &mut Cells, old_text: &str, old: &[CellId], new_text: &str) -> Vec<CellId> {
    let before: Vec<char> = old_text.chars().collect();
    let after: Vec<char> = new_text.chars().collect();
    let shortest = before.len().min(after.len());
    let prefix = (0..shortest).take_while(|place| before[*place] == after[*place]).count();
    let suffix = (0..shortest - prefix)
        .take_while(|place| before[before.len() - 1 - place] == after[after.len() - 1 - place])
        .count();
    let mut shared = old[..prefix].to_vec();
    shared.extend(after[prefix..after.len() - suffix].iter().map(|character| cells.add(*character)));
    shared.extend_from_slice(&old[old.len() - suffix..]);
    shared
}

impl Document {
    pub(crate) fn new(encoding: OffsetEncoding) -> Self {
        Self { runs: Vec::new(), encoding }
    }

    pub(crate) fn encoding(&self) -> OffsetEncoding {
        self.encoding
    }

    /// The text seen to stand at `start`: known cells where they agree, new ones elsewhere.
    pub(crate) fn observe(&mut self, cells: &mut Cells, start: u64, text: &str) -> Vec<CellId> {
        let (seen, end, _) = self.recognise(cells, start, text);
        self.splice(cells, start, end, seen.clone());
        seen
    }

    /// Replaces `start..end`, where `old_text` is said to stand, by `new_text`. None when the range does not have the
    /// length of `old_text`; the document then knows nothing any more.
    pub(crate) fn change(
        &mut self,
        cells: &mut Cells,
        range: (u64, u64),
        old_text: &str,
        new_text: &str,
    ) -> Option<Change> {
        let (start, end) = range;
        let units: u64 = old_text.chars().map(|character| width(character, self.encoding)).sum();
        if end.checked_sub(start) != Some(units) {
            self.runs.clear();
            return None;
        }
        let (old, _, news) = self.recognise(cells, start, old_text);
        let new = share_ends(cells, old_text, &old, new_text);
        let mut views = Vec::new();
        if news && !old.is_empty() {
            views.push(self.with_neighbours(cells, start, end, &old));
        }
        views.push(self.with_neighbours(cells, start, end, &new));
        self.splice(cells, start, end, new.clone());
        Some(Change { old, new, views })
    }

    /// Where the whole of `text` is known to stand, if anywhere.
    pub(crate) fn find(&self, cells: &Cells, text: &str) -> Option<Vec<CellId>> {
        let count = text.chars().count();
        (count > 0).then_some(())?;
        self.runs.iter().find_map(|run| {
            let known: String = run.cells.iter().map(|cell| cells.original(*cell)).collect();
            let byte = known.find(text)?;
            let first = known[..byte].chars().count();
            run.cells.get(first..first + count).map(<[CellId]>::to_vec)
        })
    }

    /// Cells of `text` at `start`, the unit after it, and whether any of them is new. Empties a document that
    /// disagrees.
    fn recognise(&mut self, cells: &mut Cells, start: u64, text: &str) -> (Vec<CellId>, u64, bool) {
        let mut end = start;
        let mut places = Vec::new();
        for character in text.chars() {
            places.push((end, character));
            end += width(character, self.encoding);
        }
        let mut known: Vec<Option<CellId>> = vec![None; places.len()];
        let mut agrees = true;
        for run in &self.runs {
            let mut unit = run.start;
            for cell in &run.cells {
                if unit >= end {
                    break;
                }
                let next = unit + width(cells.original(*cell), self.encoding);
                if next > start {
                    match places.binary_search_by_key(&unit, |(place, _)| *place) {
                        Ok(place) if places[place].1 == cells.original(*cell) => known[place] = Some(*cell),
                        _ => agrees = false,
                    }
                }
                unit = next;
            }
        }
        if !agrees {
            self.runs.clear();
            known.fill(None);
        }
        let news = known.iter().any(Option::is_none);
        let recognised =
            known.iter().zip(&places).map(|(cell, (_, character))| cell.unwrap_or_else(|| cells.add(*character)));
        (recognised.collect(), end, news)
    }

    /// `middle` with the known characters directly before `start` and after `end`.
    fn with_neighbours(&self, cells: &Cells, start: u64, end: u64, middle: &[CellId]) -> Vec<CellId> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for run in &self.runs {
            let (left, right, touches_left, touches_right) = self.cut(cells, run, start, end);
            if touches_left {
                before = left[left.len().saturating_sub(NEIGHBOURHOOD)..].to_vec();
            }
            if touches_right {
                after = right[..right.len().min(NEIGHBOURHOOD)].to_vec();
            }
        }
        before.extend_from_slice(middle);
        before.extend_from_slice(&after);
        before
    }

    /// The parts of a run before `start` and from `end` on, and whether they reach exactly there.
    fn cut<'a>(&self, cells: &Cells, run: &'a Run, start: u64, end: u64) -> (&'a [CellId], &'a [CellId], bool, bool) {
        let mut unit = run.start;
        let (mut left, mut right) = (0, run.cells.len());
        let (mut left_end, mut right_start) = (None, None);
        for (place, cell) in run.cells.iter().enumerate() {
            if unit >= end {
                (right, right_start) = (place, Some(unit));
                break;
            }
            unit += width(cells.original(*cell), self.encoding);
            if unit <= start {
                (left, left_end) = (place + 1, Some(unit));
            }
        }
        (&run.cells[..left], &run.cells[right..], left_end == Some(start), right_start == Some(end))
    }

    fn splice(&mut self, cells: &Cells, start: u64, end: u64, middle: Vec<CellId>) {
        let middle_units: u64 = middle.iter().map(|cell| width(cells.original(*cell), self.encoding)).sum();
        let mut joined = Run { start, cells: middle };
        let mut runs = Vec::new();
        let mut after = Vec::new();
        for run in std::mem::take(&mut self.runs) {
            let (left, right, touches_left, touches_right) = self.cut(cells, &run, start, end);
            let right_units: u64 = right.iter().map(|cell| width(cells.original(*cell), self.encoding)).sum();
            let run_units: u64 = run.cells.iter().map(|cell| width(cells.original(*cell), self.encoding)).sum();
            if touches_left {
                joined.start = run.start;
                joined.cells.splice(..0, left.iter().copied());
            } else if !left.is_empty() {
                runs.push(Run { start: run.start, cells: left.to_vec() });
            }
            if touches_right {
                joined.cells.extend_from_slice(right);
            } else if !right.is_empty() {
                let right_start = run.start + run_units - right_units;
                after.push(Run { start: right_start - end + start + middle_units, cells: right.to_vec() });
            }
        }
        if !joined.cells.is_empty() {
            runs.push(joined);
        }
        runs.extend(after);
        self.runs = runs;
    }
}
