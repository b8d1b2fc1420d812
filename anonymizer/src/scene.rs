//! The texts of events that belong together, as one document: what stands together in it is scanned together, and a
//! character that appears in several texts is replaced in all of them or in none.
//!
//! Every character of every text is a cell. An edit's old text shares the cells of the document it changes, a look
//! those of the region it shows, an action's old text those of the window. What is scanned are *views*: each text
//! alone, and the surroundings of each change before and after it. So a secret is found as soon as it is complete
//! anywhere, also when it was typed in pieces, and the pieces go wherever they appear. Applying a scrubbed action to a
//! scrubbed window gives the scrubbed result, cell by cell.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use events::edit::EditContext;
use events::{EditAction, EventText, OffsetEncoding};
use serde::{Deserialize, Serialize};

use crate::document::{Document, Run, share_ends, width};
use crate::scrub::{CellStates, ScrubError, Scrubber, SubstitutionMap};
use crate::shape::Shape;

/// Shorter views can hold nothing that a rule finds.
const SHORTEST_VIEW: usize = 6;
/// Larger offsets are not taken for places in a document.
const LARGEST_OFFSET: u64 = 1 << 52;

/// The number of a cell.
pub(crate) type CellId = u32;

/// All cells.
#[derive(Debug, Default)]
pub(crate) struct Cells(CellStates);

impl Cells {
    pub(crate) fn add(&mut self, character: char) -> CellId {
        self.0.add(character, character)
    }

    pub(crate) fn original(&self, cell: CellId) -> char {
        self.0.0[cell as usize].original
    }

    fn current(&self, cell: CellId) -> char {
        self.0.0[cell as usize].current
    }

    fn add_all(&mut self, text: &str) -> Vec<CellId> {
        text.chars().map(|character| self.add(character)).collect()
    }
}

/// Bounds of one scene.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SceneLimits {
    /// Bytes of one event's text.
    pub(crate) event_bytes: usize,
    /// Characters scanned, all views and passes together.
    pub(crate) scanned_characters: usize,
    /// Characters of documents that are remembered.
    pub(crate) remembered_characters: usize,
    /// Pairs of the substitution map that are remembered.
    pub(crate) remembered_pairs: usize,
}

/// What is kept of a scene for later looks. Holds clear text: it is sealed before it is stored.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// The substitution map: original and image.
    pairs: Vec<(String, String)>,
    /// Least recently touched first.
    documents: Vec<RememberedDocument>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RememberedDocument {
    path: String,
    encoding: OffsetEncoding,
    runs: Vec<RememberedRun>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RememberedRun {
    start: u64,
    original: String,
    current: String,
}

impl Memory {
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.documents.is_empty()
    }
}

/// An event's text in the scene.
pub(crate) struct Placed {
    text: EventText,
    cells: Vec<Vec<CellId>>,
}

/// See the module.
pub(crate) struct Scene<'a> {
    scrubber: &'a Scrubber,
    shape: &'a Shape,
    limits: SceneLimits,
    cells: Cells,
    views: Vec<Vec<CellId>>,
    map: SubstitutionMap,
    documents: BTreeMap<String, (u64, Document)>,
    touches: u64,
}

impl<'a> Scene<'a> {
    /// A scene that goes on from `memory`.
    pub(crate) fn new(
        scrubber: &'a Scrubber,
        shape: &'a Shape,
        limits: SceneLimits,
        memory: Memory,
    ) -> Result<Self, ScrubError> {
        let mut cells = Cells::default();
        let mut documents = BTreeMap::new();
        let mut touches = 0;
        for remembered in memory.documents {
            touches += 1;
            let mut document = Document::new(remembered.encoding);
            for run in remembered.runs {
                let ids = run.original.chars().zip(run.current.chars()).map(|(was, is)| cells.0.add(was, is));
                document.runs.push(Run { start: run.start, cells: ids.collect() });
            }
            documents.insert(remembered.path, (touches, document));
        }
        let map = SubstitutionMap::new(memory.pairs)?;
        Ok(Self { scrubber, shape, limits, cells, views: Vec::new(), map, documents, touches })
    }

    /// Takes an event's text in. Names are rendered at once.
    pub(crate) fn place(&mut self, text: EventText, encoding: OffsetEncoding) -> Result<Placed, ScrubError> {
        if strings(&text).map(String::len).sum::<usize>() > self.limits.event_bytes {
            return Err(ScrubError::TooLarge);
        }
        if encoding == OffsetEncoding::Unknown {
            return Err(ScrubError::UnknownEncoding);
        }
        let known_views = self.views.len();
        let placed = match text {
            EventText::Exposure { mut context, mut actions, window_start_offset, altered, first_action_ms } => {
                context.repository = self.shape.repository(&context.repository);
                context.path = self.shape.path(&context.path);
                for edit in &mut context.recent_edits {
                    edit.path = self.shape.path(&edit.path);
                }
                for action in &mut actions {
                    action.path = self.shape.path(&action.path);
                }
                let cells = self.place_exposure(&context, &actions, window_start_offset, encoding);
                let text = EventText::Exposure { context, actions, window_start_offset, altered, first_action_ms };
                Placed { text, cells }
            }
            EventText::Edit { path, start, end, old_text, new_text } => {
                let path = self.shape.path(&path);
                let cells = self.place_edit(&path, (start, end), (&old_text, &new_text), encoding);
                Placed { text: EventText::Edit { path, start, end, old_text, new_text }, cells }
            }
            EventText::Look { path, text } => {
                let path = self.shape.path(&path);
                let known = self.documents.get(&path).and_then(|(_, document)| document.find(&self.cells, &text));
                let cells = vec![known.unwrap_or_else(|| self.cells.add_all(&text))];
                Placed { text: EventText::Look { path, text }, cells }
            }
        };
        // Each text alone first: what it says in its surroundings decides.
        let surroundings = self.views.split_off(known_views);
        self.views.extend(placed.cells.iter().cloned());
        self.views.extend(surroundings);
        Ok(placed)
    }

    /// Scans and replaces until nothing more is found. `hit` is told the rule of every finding.
    pub(crate) fn settle(&mut self, hit: &mut dyn FnMut(usize)) -> Result<(), ScrubError> {
        for (_, document) in self.documents.values() {
            self.views.extend(document.runs.iter().map(|run| run.cells.clone()));
        }
        let mut views = Vec::with_capacity(self.views.len());
        let mut seen = BTreeSet::new();
        // The latest view of equal ones stays: it decides.
        for view in std::mem::take(&mut self.views).into_iter().rev() {
            if view.len() >= SHORTEST_VIEW && seen.insert(view.clone()) {
                views.push(view);
            }
        }
        views.reverse();
        let budget = self.limits.scanned_characters;
        self.scrubber.settle(&mut self.cells.0, &views, &mut self.map, budget, false, hit)
    }

    /// The scrubbed text of an event, and whether scrubbing changed it.
    pub(crate) fn rendered(&self, placed: &Placed) -> (EventText, bool) {
        let mut text = placed.text.clone();
        let mut changed = false;
        for (string, cells) in strings_mut(&mut text).into_iter().zip(&placed.cells) {
            let scrubbed: String = cells.iter().map(|cell| self.cells.current(*cell)).collect();
            changed |= scrubbed != *string;
            *string = scrubbed;
        }
        if let EventText::Exposure { altered, .. } = &mut text {
            *altered |= changed;
        }
        (text, changed)
    }

    /// What later scenes need.
    pub(crate) fn remember(self) -> Memory {
        let mut pairs = self.map.pairs().to_vec();
        pairs.drain(..pairs.len().saturating_sub(self.limits.remembered_pairs));
        let mut left = self.limits.remembered_characters;
        let mut latest: Vec<_> = self.documents.into_iter().collect();
        latest.sort_by_key(|(_, (touch, _))| std::cmp::Reverse(*touch));
        let mut documents = Vec::new();
        for (path, (_, document)) in latest {
            let size: usize = document.runs.iter().map(|run| run.cells.len()).sum();
            if size == 0 || size > left {
                continue;
            }
            left -= size;
            let run = |run: &Run| RememberedRun {
                start: run.start,
                original: run.cells.iter().map(|cell| self.cells.original(*cell)).collect(),
                current: run.cells.iter().map(|cell| self.cells.current(*cell)).collect(),
            };
            let runs = document.runs.iter().map(run).collect();
            documents.push(RememberedDocument { path, encoding: document.encoding(), runs });
        }
        documents.reverse();
        Memory { pairs, documents }
    }

    fn document(&mut self, path: &str, encoding: OffsetEncoding) -> (&mut Document, &mut Cells) {
        self.touches += 1;
        let entry = self.documents.entry(path.to_owned()).or_insert_with(|| (0, Document::new(encoding)));
        entry.0 = self.touches;
        if entry.1.encoding() != encoding {
            entry.1 = Document::new(encoding);
        }
        (&mut entry.1, &mut self.cells)
    }

    fn place_edit(
        &mut self,
        path: &str,
        range: (u64, u64),
        (old_text, new_text): (&str, &str),
        encoding: OffsetEncoding,
    ) -> Vec<Vec<CellId>> {
        if range.1 <= LARGEST_OFFSET {
            let (document, cells) = self.document(path, encoding);
            if let Some(change) = document.change(cells, range, old_text, new_text) {
                self.views.extend(change.views);
                return vec![change.old, change.new];
            }
        }
        let old = self.cells.add_all(old_text);
        let new = share_ends(&mut self.cells, old_text, &old, new_text);
        vec![old, new]
    }

    fn place_exposure(
        &mut self,
        context: &EditContext,
        actions: &[EditAction],
        window_start_offset: u64,
        encoding: OffsetEncoding,
    ) -> Vec<Vec<CellId>> {
        let mut texts = Vec::new();
        for edit in &context.recent_edits {
            let old = self.cells.add_all(&edit.old_text);
            let new = share_ends(&mut self.cells, &edit.old_text, &old, &edit.new_text);
            texts.extend([old, new]);
        }
        let window = if window_start_offset <= LARGEST_OFFSET {
            let (document, cells) = self.document(&context.path, encoding);
            document.observe(cells, window_start_offset, &context.window.text)
        } else {
            self.cells.add_all(&context.window.text)
        };
        // Where each byte of the window begins a character, for the actions' byte ranges.
        let mut byte = context.window.start_byte;
        let mut starts = Vec::with_capacity(window.len() + 1);
        for character in context.window.text.chars() {
            starts.push(byte);
            byte += width(character, OffsetEncoding::Utf8);
        }
        starts.push(byte);
        let mut applied: Vec<(usize, usize, Vec<CellId>)> = Vec::new();
        let mut of_actions = Vec::new();
        for action in actions {
            let place = |at: u64| starts.binary_search(&at).ok();
            let range = place(action.range.start).zip(place(action.range.end));
            let stands = range.filter(|(start, end)| {
                action.path == context.path
                    && start <= end
                    && window[*start..*end].iter().map(|cell| self.cells.original(*cell)).eq(action.old_text.chars())
            });
            let old = match stands {
                Some((start, end)) => window[start..end].to_vec(),
                None => self.cells.add_all(&action.old_text),
            };
            let new = share_ends(&mut self.cells, &action.old_text, &old, &action.new_text);
            if let Some((start, end)) = stands {
                applied.push((start, end, new.clone()));
            }
            of_actions.extend([old, new]);
        }
        applied.sort_by_key(|(start, end, _)| (*start, *end));
        let mut result = Vec::new();
        let mut position = 0;
        for (start, end, new) in &applied {
            if *start >= position {
                result.extend_from_slice(&window[position..*start]);
                result.extend_from_slice(new);
                position = *end;
            }
        }
        result.extend_from_slice(&window[position..]);
        self.views.push(result);
        texts.push(window);
        texts.extend(of_actions);
        texts
    }
}

/// The texts of an event, in the order in which their cells are kept.
fn strings(text: &EventText) -> impl Iterator<Item = &String> {
    let mut strings = Vec::new();
    match text {
        EventText::Exposure { context, actions, .. } => {
            for edit in &context.recent_edits {
                strings.extend([&edit.old_text, &edit.new_text]);
            }
            strings.push(&context.window.text);
            for action in actions {
                strings.extend([&action.old_text, &action.new_text]);
            }
        }
        EventText::Edit { old_text, new_text, .. } => strings.extend([old_text, new_text]),
        EventText::Look { text, .. } => strings.push(text),
    }
    strings.into_iter()
}

fn strings_mut(text: &mut EventText) -> Vec<&mut String> {
    match text {
        EventText::Exposure { context, actions, .. } => {
            let mut strings = Vec::new();
            for edit in &mut context.recent_edits {
                strings.extend([&mut edit.old_text, &mut edit.new_text]);
            }
            strings.push(&mut context.window.text);
            for action in actions {
                strings.extend([&mut action.old_text, &mut action.new_text]);
            }
            strings
        }
        EventText::Edit { old_text, new_text, .. } => vec![old_text, new_text],
        EventText::Look { text, .. } => vec![text],
    }
}

#[cfg(test)]
#[path = "scene_tests.rs"]
mod tests;
