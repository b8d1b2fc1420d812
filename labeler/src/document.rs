//! A window of a document while its developer works: reported edits move it or change its text.
//!
//! Offsets of edits count in the client's encoding over the whole document; the window knows where it starts in the
//! same units, so that only the window's own text is ever converted. An edit that does not fit what stands here
//! (because something was not reported) makes the window *lost*: nothing is concluded from it any more.

use std::ops::Range;

use events::OffsetEncoding;

/// What an edit did to the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Before or after the window; it may have moved.
    Elsewhere,
    /// Inside. The range of the window's new text that the edit wrote.
    Inside {
        /// Bytes that were replaced, in the text before.
        replaced: Range<usize>,
        /// Bytes that the edit wrote, in the text after.
        written: Range<usize>,
    },
    /// The edit does not fit the window, or crosses its border.
    Lost,
}

/// An edit as the client reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedEdit<'a> {
    /// First replaced unit.
    pub start: u64,
    /// After the last replaced unit.
    pub end: u64,
    /// What was replaced.
    pub old_text: &'a str,
    /// What replaced it.
    pub new_text: &'a str,
}

/// The tracked window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedWindow {
    text: String,
    /// Length of the text, as the client counts.
    units: u64,
    start: u64,
    encoding: OffsetEncoding,
    /// Bytes of the current text that an episode watches.
    watched: Range<usize>,
    /// Places of the current text at which something may happen later.
    sites: Vec<Range<usize>>,
    lost: bool,
}

/// Length of `text` in units of `encoding`.
#[must_use]
pub fn length_in(encoding: OffsetEncoding, text: &str) -> u64 {
    let units = match encoding {
        OffsetEncoding::Utf8 => text.len(),
        // A unit for each byte that starts a character, and another one for the first of four.
        OffsetEncoding::Utf16 => {
            text.bytes().map(|byte| usize::from(byte & 0xC0 != 0x80) + usize::from(byte >= 0xF0)).sum()
        }
        OffsetEncoding::Unknown => 0,
    };
    u64::try_from(units).unwrap_or(u64::MAX)
}

/// The byte of `text` at `offset` units; none past its end or inside a character.
#[must_use]
pub fn byte_at(encoding: OffsetEncoding, text: &str, offset: u64) -> Option<usize> {
    match encoding {
        OffsetEncoding::Utf8 => usize::try_from(offset).ok().filter(|byte| text.is_char_boundary(*byte)),
        OffsetEncoding::Utf16 => {
            let mut units = 0_u64;
            for (byte, character) in text.char_indices() {
                if units == offset {
                    return Some(byte);
                }
                units += u64::try_from(character.len_utf16()).unwrap_or(2);
            }
            (units == offset).then_some(text.len())
        }
        OffsetEncoding::Unknown => None,
    }
}

/// What stands in a range of `text`; none where it ends outside or inside a character.
fn units_of(encoding: OffsetEncoding, text: &str, range: Range<u64>) -> Option<&str> {
    text.get(byte_at(encoding, text, range.start)?..byte_at(encoding, text, range.end)?)
}

impl TrackedWindow {
    /// A window whose first unit stands at `start` of the document, watched whole.
    #[must_use]
    pub fn new(text: &str, start: u64, encoding: OffsetEncoding) -> Self {
        let units = length_in(encoding, text);
        Self { text: text.to_owned(), units, start, encoding, watched: 0..text.len(), sites: Vec::new(), lost: false }
    }

    /// Watches `range` of the current text only.
    #[must_use]
    pub fn watching(mut self, range: Range<usize>) -> Self {
        self.watched = range.start.min(self.text.len())..range.end.min(self.text.len());
        self
    }

    /// Follows `sites` of the current text too.
    #[must_use]
    pub fn following(mut self, sites: Vec<Range<usize>>) -> Self {
        self.sites = sites;
        self
    }

    /// Numbers of the followed sites that a range of the current text touches.
    pub fn sites_touched<'a>(&'a self, range: &'a Range<usize>) -> impl Iterator<Item = usize> + 'a {
        let touches = |site: &Range<usize>| range.start <= site.end && site.start <= range.end;
        self.sites.iter().enumerate().filter(move |(_, site)| touches(site)).map(|(number, _)| number)
    }

    /// How offsets of the client count.
    #[must_use]
    pub fn encoding(&self) -> OffsetEncoding {
        self.encoding
    }

    /// The text as it stands.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an edit did not fit: the text is not known any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The watched bytes of the current text.
    #[must_use]
    pub fn watched(&self) -> Range<usize> {
        self.watched.clone()
    }

    /// Whether a range of the current text touches what is watched.
    #[must_use]
    pub fn is_watched(&self, range: &Range<usize>) -> bool {
        range.start <= self.watched.end && self.watched.start <= range.end
    }

    /// Whether an edit reaches into the window from outside, or out of it, and replaces what is known to stand there.
    #[must_use]
    pub fn is_crossed_by(&self, edit: &ReportedEdit<'_>) -> bool {
        let window_end = self.start.saturating_add(self.units);
        let reaches_in = edit.start < window_end && self.start < edit.end;
        let reaches_out = edit.start < self.start || window_end < edit.end;
        if self.lost || !reaches_in || !reaches_out || !is_as_long_as_it_says(self.encoding, edit) {
            return false;
        }
        let (from, to) = (edit.start.max(self.start), edit.end.min(window_end));
        let known = units_of(self.encoding, &self.text, from - self.start..to - self.start);
        known.is_some() && known == units_of(self.encoding, edit.old_text, from - edit.start..to - edit.start)
    }

    /// Follows one edit of the same file.
    pub fn apply(&mut self, edit: &ReportedEdit<'_>) -> Applied {
        if self.lost {
            return Applied::Lost;
        }
        let window_end = self.start.saturating_add(self.units);
        let is_empty_window = self.text.is_empty();
        if !is_as_long_as_it_says(self.encoding, edit) {
            return self.lose();
        }
        // What is written at the very border of whole lines belongs to the line above or below it, not to the window,
        // except at the end of a text without a last line break.
        let open_end = !self.text.ends_with('\n');
        let is_above =
            edit.end < self.start || (edit.end == self.start && (edit.start < self.start || ends_line(edit)));
        if is_above && !(is_empty_window && edit.start == self.start) {
            let new_end = edit.start.saturating_add(length_in(self.encoding, edit.new_text));
            let shift_from = edit.end;
            self.start = (self.start - shift_from).saturating_add(new_end);
            return Applied::Elsewhere;
        }
        if edit.start > window_end || (edit.start == window_end && !open_end && !is_empty_window) {
            return Applied::Elsewhere;
        }
        if edit.start < self.start || edit.end > window_end {
            return self.lose();
        }
        let bytes = self.byte_at(edit.start - self.start).zip(self.byte_at(edit.end - self.start));
        let Some((start, end)) = bytes else { return self.lose() };
        if self.text[start..end] != *edit.old_text {
            return self.lose();
        }
        self.replace(start..end, edit.new_text)
    }

    /// Replaces bytes of the current text.
    pub fn replace(&mut self, range: Range<usize>, new_text: &str) -> Applied {
        let Some(old_text) = self.text.get(range.clone()) else { return self.lose() };
        self.units = self.units - length_in(self.encoding, old_text) + length_in(self.encoding, new_text);
        self.text.replace_range(range.clone(), new_text);
        let written = range.start..range.start + new_text.len();
        for place in std::iter::once(&mut self.watched).chain(&mut self.sites) {
            *place = followed(place, &range, new_text.len());
        }
        Applied::Inside { replaced: range, written }
    }

    /// The byte of the text at `offset` units from its start.
    fn byte_at(&self, offset: u64) -> Option<usize> {
        // Only of ASCII there are as many UTF-16 units as bytes.
        let is_ascii = self.encoding == OffsetEncoding::Utf16 && usize::try_from(self.units) == Ok(self.text.len());
        byte_at(if is_ascii { OffsetEncoding::Utf8 } else { self.encoding }, &self.text, offset)
    }

    /// The text is not known any more.
    pub fn lose(&mut self) -> Applied {
        self.lost = true;
        Applied::Lost
    }
}

/// Where `place` is once `replaced` has become `length` bytes. Where they touch it grows with what is written there.
fn followed(place: &Range<usize>, replaced: &Range<usize>, length: usize) -> Range<usize> {
    let moved = |at: usize| if at >= replaced.end { at - replaced.len() + length } else { at };
    if replaced.start <= place.end && place.start <= replaced.end {
        let written_end = replaced.start + length;
        let end = if place.end <= replaced.end { written_end } else { moved(place.end) };
        return place.start.min(replaced.start)..end.max(written_end);
    }
    if replaced.end <= place.start { moved(place.start)..moved(place.end) } else { place.clone() }
}

/// Whether the replaced text is as long as the range.
fn is_as_long_as_it_says(encoding: OffsetEncoding, edit: &ReportedEdit<'_>) -> bool {
    edit.end.checked_sub(edit.start) == Some(length_in(encoding, edit.old_text))
}

/// Whole lines inserted just above the window do not become part of it.
fn ends_line(edit: &ReportedEdit<'_>) -> bool {
    edit.new_text.ends_with('\n')
}

/// The bytes of the lines that `range` lies in, and `more` lines each way.
#[must_use]
pub fn lines_around(text: &str, range: Range<usize>, more: usize) -> Range<usize> {
    let mut start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    // A range that ends just after a line break lies in the line before.
    let last = if range.end > range.start && text[..range.end].ends_with('\n') { range.end - 1 } else { range.end };
    let mut end = text[last..].find('\n').map_or(text.len(), |at| last + at + 1);
    for _ in 0..more {
        if start > 0 {
            start = text[..start - 1].rfind('\n').map_or(0, |at| at + 1);
        }
        if end < text.len() {
            end = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
        }
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit<'a>(start: u64, old_text: &'a str, new_text: &'a str) -> ReportedEdit<'a> {
        ReportedEdit { start, end: start + length_in(OffsetEncoding::Utf16, old_text), old_text, new_text }
    }

    #[test]
    fn utf16_offsets_fall_on_characters_only() {
        let text = "a😀é";
        assert_eq!(byte_at(OffsetEncoding::Utf16, text, 1), Some(1));
        assert_eq!(byte_at(OffsetEncoding::Utf16, text, 2), None);
        assert_eq!(byte_at(OffsetEncoding::Utf16, text, 3), Some(5));
        assert_eq!(byte_at(OffsetEncoding::Utf16, text, 4), Some(7));
        assert_eq!(byte_at(OffsetEncoding::Utf16, text, 5), None);
        assert_eq!(byte_at(OffsetEncoding::Utf8, text, 2), None);
    }

    #[test]
    fn lines_above_move_the_window_and_lines_below_do_not() {
        let mut window = TrackedWindow::new("b\nc\n", 2, OffsetEncoding::Utf16);
        assert_eq!(window.apply(&edit(0, "a", "😀x")), Applied::Elsewhere);
        assert_eq!(window.apply(&edit(4, "", "new line\n")), Applied::Elsewhere);
        assert_eq!(window.apply(&edit(17, "", "below\n")), Applied::Elsewhere);
        assert_eq!(window.apply(&edit(13, "b", "é")), Applied::Inside { replaced: 0..1, written: 0..2 });
        assert_eq!(window.text(), "é\nc\n");
        assert!(!window.is_lost());
    }

    #[test]
    fn sites_move_with_the_text_and_tell_who_touches_them() {
        let text = "f(a);\ng(b);\n";
        let mut window = TrackedWindow::new(text, 0, OffsetEncoding::Utf8).following(vec![2..3, 8..9]);
        assert_eq!(window.sites_touched(&(0..1)).count(), 0);
        window.replace(0..1, "fetch");
        assert_eq!(window.sites_touched(&(6..7)).collect::<Vec<_>>(), [0]);
        window.replace(6..7, "xyz");
        assert_eq!(&window.text()[14..15], "b");
        assert_eq!(window.sites_touched(&(14..14)).collect::<Vec<_>>(), [1]);
        assert_eq!(window.sites_touched(&(0..14)).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn an_edit_that_does_not_fit_loses_the_window() {
        for wrong in
            [edit(2, "x", "y"), edit(1, "ab", ""), edit(5, "\nd", ""), ReportedEdit { end: 9, ..edit(3, "", "") }]
        {
            let mut window = TrackedWindow::new("b\nc\n", 2, OffsetEncoding::Utf16);
            assert_eq!(window.apply(&wrong), Applied::Lost, "{wrong:?}");
            assert_eq!(window.apply(&edit(2, "b", "")), Applied::Lost);
        }
    }

    #[test]
    fn an_edit_crosses_a_border_only_where_it_says_what_stands_there() {
        let window = TrackedWindow::new("b😀\nc\n", 2, OffsetEncoding::Utf16);
        for crossing in
            [edit(0, "a\nb😀\nc\nd", ""), edit(1, "\nb", "x"), edit(6, "c\nd", ""), edit(0, "a\nb😀\nc\n", "")]
        {
            assert!(window.is_crossed_by(&crossing), "{crossing:?}");
        }
        let too_long = ReportedEdit { end: 90, ..edit(0, "a\nb", "") };
        let others = [
            edit(0, "a\n", ""),
            edit(8, "d", ""),
            edit(2, "b😀\nc\n", ""),
            edit(0, "a\nx😀\nc\nd", ""),
            // Its end would split a surrogate pair.
            edit(1, "\nbx", ""),
            too_long,
        ];
        for other in others {
            assert!(!window.is_crossed_by(&other), "{other:?}");
        }
    }

    #[test]
    fn lines_around_a_range() {
        let text = "a\nb\nc\nd";
        assert_eq!(&text[lines_around(text, 2..3, 0)], "b\n");
        assert_eq!(&text[lines_around(text, 2..3, 1)], "a\nb\nc\n");
        assert_eq!(&text[lines_around(text, 2..4, 0)], "b\n");
        assert_eq!(&text[lines_around(text, 6..7, 5)], text);
        assert_eq!(&text[lines_around(text, 4..4, 0)], "c\n");
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_the_characters(
            text in "\\PC{0,20}|[a\u{7F}\u{80}é\u{7FF}\u{800}\u{FFFF}😀\u{10FFFF}]{0,20}",
        ) {
            let units: usize = text.chars().map(char::len_utf16).sum();
            prop_assert_eq!(length_in(OffsetEncoding::Utf16, &text), u64::try_from(units).unwrap());
        }

        /// The window follows the document: cutting the edited document at the same lines gives the tracked text.
        #[test]
        fn follows_a_document(
            above in "[a😀\n]{0,8}", inside in "[bé\n]{0,8}", below in "[c\n]{0,8}",
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..4, "[xé😀]{0,3}"), 0..8),
            utf16 in any::<bool>(),
        ) {
            let encoding = if utf16 { OffsetEncoding::Utf16 } else { OffsetEncoding::Utf8 };
            let (mut above, mut inside, mut below) = (above + "\n", inside + "x\n", below);
            let mut window = TrackedWindow::new(&inside, length_in(encoding, &above), encoding);
            for (place, length, new_text) in edits {
                let document = format!("{above}{inside}{below}");
                let characters: Vec<(usize, char)> = document.char_indices().collect();
                let from = place.index(characters.len());
                let start = characters[from].0;
                let end = characters.get(from + length).map_or(document.len(), |(byte, _)| *byte);
                let behind = above.len() + inside.len();
                let part = if end < above.len() {
                    0
                } else if start >= above.len() && end < behind {
                    1
                } else if start >= behind {
                    2
                } else {
                    continue;
                };
                let reported = ReportedEdit {
                    start: length_in(encoding, &document[..start]),
                    end: length_in(encoding, &document[..end]),
                    old_text: &document[start..end],
                    new_text: &new_text,
                };
                window.apply(&reported);
                match part {
                    0 => above.replace_range(start..end, &new_text),
                    1 => inside.replace_range(start - above.len()..end - above.len(), &new_text),
                    _ => below.replace_range(start - behind..end - behind, &new_text),
                }
                prop_assert!(!window.is_lost());
                prop_assert_eq!(window.text(), inside.as_str());
                prop_assert_eq!(window.units, length_in(encoding, &inside));
                for offset in 0..window.units + 2 {
                    prop_assert_eq!(window.byte_at(offset), byte_at(encoding, &inside, offset));
                }
            }
        }
    }
}
