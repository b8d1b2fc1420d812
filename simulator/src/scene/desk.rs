//! A document under a developer's hands: changes are made, reported, and followed by the places that matter.

use super::Reported;
use crate::behaviour::{LOOKS_S, SHOWN_AT_MS, STROKE_MS};
use crate::developer::{ClientAction, ClientActionKind};
use crate::random::Dice;
use events::ByteRange;
use events::vocabulary::Origin;
use std::ops::Range;

/// Characters that are typed between two reports: fewest and most.
const STROKE_CHARACTERS: (usize, usize) = (3, 8);
/// The largest document that is reported whole: a report, which holds it before and after, may be 64 KiB large. Of a
/// larger one the change is reported.
const WHOLE_DOCUMENT_BYTES: usize = 16 << 10;

/// See the head of this module.
pub(super) struct Desk<'d> {
    pub(super) text: String,
    /// The places of the actions, in their order.
    sites: Vec<Range<usize>>,
    window: Range<usize>,
    reported: Vec<Reported>,
    now_ms: u64,
    /// Whether the client reports each edit as one of the whole document.
    pub(super) reports_whole: bool,
    pub(super) dice: &'d mut Dice,
}

impl<'d> Desk<'d> {
    pub(super) fn new(text: &str, sites: Vec<Range<usize>>, window: Range<usize>, dice: &'d mut Dice) -> Self {
        let (text, reported) = (text.to_owned(), Vec::new());
        Self { text, sites, window, reported, now_ms: SHOWN_AT_MS, reports_whole: false, dice }
    }

    /// Where an action's place is now.
    pub(super) fn site(&self, number: usize) -> Range<usize> {
        self.sites.get(number).cloned().unwrap_or(0..0)
    }

    pub(super) fn sites(&self) -> &[Range<usize>] {
        &self.sites
    }

    pub(super) fn window(&self) -> Range<usize> {
        self.window.clone()
    }

    pub(super) fn report(&mut self, kind: ClientActionKind) {
        self.reported.push(Reported { action: ClientAction { at_ms: self.now_ms, kind }, by_another_tool: false });
    }

    pub(super) fn wait(&mut self, (shortest, longest): (usize, usize)) {
        self.now_ms += self.dice.between(shortest, longest) as u64;
    }

    /// How long the suggestion has been visible.
    pub(super) fn visible_ms(&self) -> u64 {
        self.now_ms.saturating_sub(SHOWN_AT_MS)
    }

    /// Replaces a range of the text as it is now. What is written at the border of a place belongs to it.
    pub(super) fn replace(&mut self, range: Range<usize>, new_text: &str, origin: Origin, by_another_tool: bool) {
        self.change(range, new_text, origin, by_another_tool, self.reports_whole);
    }

    /// Version control writes the file anew, with this one change in it.
    pub(super) fn check_out(&mut self, range: Range<usize>, new_text: &str) {
        self.change(range, new_text, Origin::External, false, true);
    }

    fn change(&mut self, range: Range<usize>, new_text: &str, origin: Origin, by_another_tool: bool, is_whole: bool) {
        let Some(old_text) = self.text.get(range.clone()).map(str::to_owned) else { return };
        let before = is_whole.then(|| self.text.clone()).filter(|before| before.len() <= WHOLE_DOCUMENT_BYTES);
        self.text.replace_range(range.clone(), new_text);
        for place in self.sites.iter_mut().chain(std::iter::once(&mut self.window)) {
            if place.start <= range.start && range.end <= place.end {
                place.end = place.end - old_text.len() + new_text.len();
            } else if range.end <= place.start {
                let length = place.len();
                place.start = place.start - old_text.len() + new_text.len();
                place.end = place.start + length;
            }
        }
        let kind = match before.filter(|_| self.text.len() <= WHOLE_DOCUMENT_BYTES) {
            Some(before) => {
                let range = ByteRange::new(0, before.len() as u64);
                ClientActionKind::Edited { range, old_text: before, new_text: self.text.clone(), origin }
            }
            None => {
                let range = ByteRange::new(range.start as u64, range.end as u64);
                ClientActionKind::Edited { range, old_text, new_text: new_text.to_owned(), origin }
            }
        };
        self.reported.push(Reported { action: ClientAction { at_ms: self.now_ms, kind }, by_another_tool });
    }

    /// Types over a range of the text as it is now, a few letters at a time.
    pub(super) fn types_over(&mut self, range: Range<usize>, text: &str) {
        let (mut over, mut rest) = (range, text);
        loop {
            let count = self.dice.between(STROKE_CHARACTERS.0, STROKE_CHARACTERS.1);
            let end = rest.char_indices().nth(count).map_or(rest.len(), |(place, _)| place);
            let (stroke, after) = rest.split_at(end);
            let start = over.start;
            self.replace(over, stroke, Origin::Typed, false);
            self.wait(STROKE_MS);
            if after.is_empty() {
                return;
            }
            over = start + stroke.len()..start + stroke.len();
            rest = after;
        }
    }

    /// Types over all that stands at an action's place.
    pub(super) fn types_at(&mut self, number: usize, text: &str) {
        self.types_over(self.site(number), text);
    }

    /// The looks at the window, and everything that was reported.
    pub(super) fn finish(mut self) -> Vec<Reported> {
        let text = self.text.get(self.window.clone()).unwrap_or_default().to_owned();
        for delay_s in LOOKS_S {
            self.now_ms = self.now_ms.max(u64::from(delay_s) * 1000);
            self.report(ClientActionKind::Look { delay_s, text: text.clone() });
        }
        self.reported
    }
}
