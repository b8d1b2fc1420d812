//! Alignment of two texts: the one difference that everything else is told by.
//!
//! Whole lines are aligned first, then the lexemes of the lines that changed, as word-level differences of version
//! control do; each by a longest common subsequence. So an edit costs what its own lines cost, and one far away changes
//! nothing about it. The lines with which both texts begin or end are compared as bytes and never taken apart.
//!
//! The table of the longest common subsequence is computed 64 cells at a time: two neighbours in it differ by 0 or 1,
//! and a row of these differences follows from the row below by an addition (Crochemore, Iliopoulos, Pinzon and Reid
//! 2001, "A fast and practical bit-vector algorithm for the longest common subsequence problem"; Hyyro 2004,
//! "Bit-parallel LCS-length computation revisited"). The addition's carries are the differences between the rows, which
//! is all that tracing a subsequence back needs. So n items against m cost n * m / 64 steps, and as many words.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Range;

use memchr::{memchr, memchr_iter, memrchr};

use crate::lexing::push_lexemes;

/// Beyond this many cells of the table the middle counts as replaced whole. About 4,000 changed items a side.
const MOST_CELLS: usize = 16_000_000;

/// Pairs of equal items (left index, right index), ascending in both: a longest common subsequence; a function of its
/// input alone.
#[must_use]
pub fn common_subsequence<T: Eq + Hash>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    align(left, right, &mut Table::default(), &mut pairs, |left, right, table| {
        let mut numbers: HashMap<&T, usize, BuildHasherDefault<ItemHasher>> =
            HashMap::with_capacity_and_hasher(left.len(), BuildHasherDefault::default());
        for item in left {
            let next = numbers.len();
            table.left.push(*numbers.entry(item).or_insert(next));
        }
        table.right.extend(right.iter().map(|item| numbers.get(item).copied().unwrap_or(usize::MAX)));
    });
    pairs
}

/// The same into `pairs`. `number` gives the items in between what both sides begin and end with their numbers: equal
/// numbers for equal items, small ones for those of the left.
fn align<'t, T: PartialEq>(
    left: &'t [T],
    right: &'t [T],
    table: &mut Table,
    pairs: &mut Vec<(usize, usize)>,
    number: impl FnOnce(&'t [T], &'t [T], &mut Table),
) {
    pairs.clear();
    pairs.reserve(left.len().min(right.len()));
    let prefix = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let suffix = left[prefix..].iter().rev().zip(right[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (left_end, right_end) = (left.len() - suffix, right.len() - suffix);
    pairs.extend((0..prefix).map(|index| (index, index)));
    let (inner_left, inner_right) = (&left[prefix..left_end], &right[prefix..right_end]);
    let cells = (inner_left.len() + 1).saturating_mul(inner_right.len() + 1);
    match (inner_left, inner_right) {
        ([], _) | (_, []) => {}
        _ if cells > MOST_CELLS => {}
        // What a trace would take: the first one that is equal.
        ([only], _) => {
            let found = inner_right.iter().position(|item| item == only);
            pairs.extend(found.map(|at| (prefix, prefix + at)));
        }
        (_, [only]) => {
            let found = inner_left.iter().position(|item| item == only);
            pairs.extend(found.map(|at| (prefix + at, prefix)));
        }
        _ => {
            table.left.clear();
            table.right.clear();
            number(inner_left, inner_right, table);
            table.trace(|i, j| pairs.push((prefix + i, prefix + j)));
        }
    }
    pairs.extend((0..suffix).map(|index| (left_end + index, right_end + index)));
    slide(left, right, pairs);
}

/// No words of `places`.
const NOWHERE: usize = usize::MAX;

/// The numbers of the items of two sides, and what tracing their subsequence needs, kept from one trace to the next.
#[derive(Default)]
struct Table {
    left: Vec<usize>,
    right: Vec<usize>,
    /// Where in `places` the words of a number begin.
    places_of: Vec<usize>,
    places: Vec<u64>,
    row: Vec<u64>,
    carries: Vec<u64>,
}

impl Table {
    /// Tells the pairs of a longest common subsequence. Let L(i, j) be its length from `left[i]` and `right[j]` on.
    /// From (0, 0) a pair of equal items is taken as soon as it is met; else the next item of the left is passed over
    /// if nothing is lost by that, L(i + 1, j) = L(i, j), else the next one of the right.
    fn trace(&mut self, mut told: impl FnMut(usize, usize)) {
        let Self { left, right, places_of, places, row, carries } = self;
        // Column j is bit right.len() - 1 - j, so that the column to its right is the bit below it. One bit more has
        // room for the last carry.
        let words = right.len() / 64 + 1;
        let bit_of = |column: usize| right.len() - 1 - column;
        // Only what both sides have has words, so that these are no more than the table's.
        refill(places_of, left.iter().max().map_or(0, |most| most + 1), NOWHERE);
        places.clear();
        places.reserve(words * left.len().min(right.len()));
        for (column, number) in right.iter().enumerate() {
            let Some(at) = places_of.get_mut(*number) else { continue };
            if *at == NOWHERE {
                *at = places.len();
                places.resize(*at + words, 0);
            }
            places[*at + bit_of(column) / 64] |= 1 << (bit_of(column) % 64);
        }
        // Column j of `row` is L(i, j) - L(i, j + 1), first for the row behind the last item. The carry into column j
        // of row i is L(i, j + 1) - L(i + 1, j + 1).
        refill(row, words, 0);
        refill(carries, left.len() * words, 0);
        for (number, carried) in left.iter().zip(carries.chunks_exact_mut(words)).rev() {
            let at = places_of[*number];
            if at == NOWHERE {
                // The row of an item that the right does not have is the row below.
                continue;
            }
            let mut carry = false;
            for ((word, equal), into) in row.iter_mut().zip(&places[at..at + words]).zip(carried) {
                let flat = !*word;
                let matched = flat & equal;
                let (sum, first) = flat.overflowing_add(matched);
                let (sum, second) = sum.overflowing_add(u64::from(carry));
                *into = sum ^ flat ^ matched;
                *word = (equal | *word) & !*into;
                carry = first | second;
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < left.len() && j < right.len() {
            if left[i] == right[j] {
                told(i, j);
                (i, j) = (i + 1, j + 1);
            } else {
                // L(i, j) - L(i + 1, j) is carried into the bit above that of column j.
                let above = bit_of(j) + 1;
                let loses = (carries[i * words + above / 64] >> (above % 64)) & 1 == 1;
                (i, j) = if loses { (i, j + 1) } else { (i + 1, j) };
            }
        }
    }
}

fn refill<T: Clone>(items: &mut Vec<T>, length: usize, item: T) {
    items.clear();
    items.resize(length, item);
}

const MULTIPLIER: u64 = 0x517C_C1B7_2722_0A95;

/// A hash of short texts that lives for one call (as in rustc). Whoever makes texts collide makes their own alignment
/// as slow as the table is large, no slower.
#[derive(Default)]
pub(crate) struct ItemHasher(u64);

impl Hasher for ItemHasher {
    fn write(&mut self, bytes: &[u8]) {
        let Some(end) = bytes.last_chunk::<8>() else {
            return self.write_u64(packed(bytes));
        };
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        self.write_u64(u64::from_le_bytes(*end));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// Keys of texts of 8 bytes and more have this bit, and such texts with the same key may differ. A shorter text is its
/// own key.
const LONG: u64 = 1 << 63;

/// Less than 8 bytes, below their number: no other bytes are the same. Without a loop, whose end nobody can foretell.
fn packed(bytes: &[u8]) -> u64 {
    let length = (bytes.len() as u64) << 56;
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let [first, last] = [first, last].map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
        return length | first | (last << (8 * (bytes.len() - 4)));
    }
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return 0 };
    let middle = bytes[bytes.len() / 2];
    length | u64::from(*first) | (u64::from(middle) << 8) | (u64::from(*last) << 16)
}

fn key_of(bytes: &[u8]) -> u64 {
    if bytes.len() < 8 {
        return packed(bytes);
    }
    let mut hasher = ItemHasher::default();
    hasher.write(bytes);
    hasher.0 | LONG
}

/// Numbers for the texts of one alignment after the other: most have a dozen, for which a map would be made and dropped
/// each time.
#[derive(Default)]
struct Symbols<'a> {
    /// By number.
    texts: Vec<&'a str>,
    /// By key, or behind that where another key is. A slot of an earlier round is free.
    slots: Vec<Slot>,
    round: usize,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    key: u64,
    round: usize,
    number: usize,
}

impl<'a> Symbols<'a> {
    /// Numbers both sides, the left one from 0.
    fn number(&mut self, left: &[&'a str], right: &[&'a str], table: &mut Table) {
        // At least half of it stays free.
        let room = (2 * (left.len() + right.len())).next_power_of_two();
        if self.slots.len() < room {
            self.slots.resize(room, Slot::default());
        }
        self.round += 1;
        self.texts.clear();
        self.texts.reserve(left.len() + right.len());
        table.left.extend(left.iter().copied().map(|text| self.number_of(text, room)));
        table.right.extend(right.iter().copied().map(|text| self.number_of(text, room)));
    }

    fn number_of(&mut self, text: &'a str, room: usize) -> usize {
        let key = key_of(text.as_bytes());
        // The upper bits of a product depend on all bits of the key.
        let mut at = (key.wrapping_mul(MULTIPLIER) >> (64 - room.trailing_zeros())) as usize;
        loop {
            let slot = &mut self.slots[at];
            if slot.round != self.round {
                let number = self.texts.len();
                *slot = Slot { key, round: self.round, number };
                self.texts.push(text);
                return number;
            }
            if slot.key == key && (key < LONG || self.texts[slot.number] == text) {
                return slot.number;
            }
            at = (at + 1) & (room - 1);
        }
    }
}

/// Moves what was only inserted or only removed as far back as it goes: of `f(x)` and `f(x).g()`, `.g()` was inserted,
/// not `).g(`. So what stood there before is told from what came next.
fn slide<T: PartialEq>(left: &[T], right: &[T], pairs: &mut [(usize, usize)]) {
    let (mut next_left, mut next_right) = (0, 0);
    for pair in pairs {
        if pair.0 == next_left && pair.1 > next_right && right[next_right] == left[pair.0] {
            pair.1 = next_right;
        } else if pair.1 == next_right && pair.0 > next_left && left[next_left] == right[pair.1] {
            pair.0 = next_left;
        }
        (next_left, next_right) = (pair.0 + 1, pair.1 + 1);
    }
}

/// A replacement of bytes of a base text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hunk {
    /// First replaced byte of the base.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// What replaces it.
    pub new_text: String,
}

impl Hunk {
    /// Whether two hunks share a byte or touch.
    #[must_use]
    pub fn touches(&self, start: usize, end: usize) -> bool {
        self.start <= end && start <= self.end
    }
}

/// A replacement of bytes of a base text by bytes of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// First replaced byte of the base.
    pub(crate) start: usize,
    /// First byte after it.
    pub(crate) end: usize,
    /// First byte of the result that replaces it.
    pub(crate) new_start: usize,
    /// First byte after it.
    pub(crate) new_end: usize,
}

impl Change {
    /// What replaces it; `result` is the one that it was told of.
    pub(crate) fn new_text(self, result: &str) -> &str {
        &result[self.new_start..self.new_end]
    }
}

/// The canonical hunks that turn `base` into `result`: maximal runs of changed lexemes within changed lines, in order;
/// runs on one line with nothing but space and at most one other lexeme between them are one hunk (swapped arguments
/// are one change, two calls on a line are two). A function of the two texts, so that how an edit was cut into actions
/// does not matter.
#[must_use]
pub fn hunks_between(base: &str, result: &str) -> Vec<Hunk> {
    let hunk =
        |change: Change| Hunk { start: change.start, end: change.end, new_text: change.new_text(result).to_owned() };
    changes_between(base, result).into_iter().map(hunk).collect()
}

/// The [`hunks_between`], as places in both texts.
pub(crate) fn changes_between(base: &str, result: &str) -> Vec<Change> {
    let mut aligner = Aligner::default();
    let mut changes = Vec::new();
    for lines in aligner.changed_lines(base, result) {
        aligner.push_changes(base, result, lines, &mut changes);
    }
    changes
}

/// The [`changes_between`] a base and each of two results. Lines that both change alike are compared once.
pub(crate) fn changes_of_both(base: &str, one: &str, other: &str) -> (Vec<Change>, Vec<Change>) {
    let mut aligner = Aligner::default();
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    let mut known: Vec<(Change, Range<usize>)> = Vec::new();
    for lines in aligner.changed_lines(base, one) {
        let first = of_one.len();
        aligner.push_changes(base, one, lines, &mut of_one);
        known.push((lines, first..of_one.len()));
    }
    let mut known = known.into_iter().peekable();
    for lines in aligner.changed_lines(base, other) {
        while known.next_if(|(before, _)| before.start < lines.start).is_some() {}
        let same = known.next_if(|(same, _)| {
            (same.start, same.end) == (lines.start, lines.end) && same.new_text(one) == lines.new_text(other)
        });
        let Some((same, changes)) = same else {
            aligner.push_changes(base, other, lines, &mut of_other);
            continue;
        };
        let place = |place: usize| place - same.new_start + lines.new_start;
        of_other.extend(of_one[changes].iter().map(|change| Change {
            new_start: place(change.new_start),
            new_end: place(change.new_end),
            ..*change
        }));
    }
    (of_one, of_other)
}

/// What comparing texts needs, kept from one comparison to the next.
#[derive(Default)]
struct Aligner<'a> {
    old: Vec<&'a str>,
    new: Vec<&'a str>,
    pairs: Vec<(usize, usize)>,
    symbols: Symbols<'a>,
    table: Table,
}

impl<'a> Aligner<'a> {
    /// The runs of changed lines.
    fn changed_lines(&mut self, base: &'a str, result: &'a str) -> Vec<Change> {
        let mut changed: Vec<Change> = Vec::new();
        if base == result {
            return changed;
        }
        let start = common_first_lines(base, result);
        let behind = common_last_lines(&base[start..], &result[start..]);
        let (base_end, result_end) = (base.len() - behind, result.len() - behind);
        let Self { old, new, pairs, symbols, table } = self;
        push_lines(&base[start..base_end], old);
        push_lines(&result[start..result_end], new);
        align(old.as_slice(), new.as_slice(), table, pairs, |old, new, table| symbols.number(old, new, table));
        each_change(old, new, pairs, (start, start), |_, change| changed.push(change));
        // What was only inserted or only removed before the last lines slides into them as it does elsewhere, by as
        // many lines as they begin alike.
        if let Some(last) = changed.last_mut().filter(|last| (last.end, last.new_end) == (base_end, result_end)) {
            let shift = if last.start == last.end {
                common_first_lines(&result[last.new_start..], &result[last.new_end..])
            } else if last.new_start == last.new_end {
                common_first_lines(&base[last.start..], &base[last.end..])
            } else {
                0
            };
            last.start += shift;
            last.end += shift;
            last.new_start += shift;
            last.new_end += shift;
        }
        changed
    }

    /// The changes within a run of changed lines.
    fn push_changes(&mut self, base: &'a str, result: &'a str, lines: Change, changes: &mut Vec<Change>) {
        let (base, result) = (&base[lines.start..lines.end], lines.new_text(result));
        if base.is_empty() || result.is_empty() {
            changes.push(lines);
            return;
        }
        let Self { old, new, pairs, symbols, table } = self;
        old.clear();
        new.clear();
        push_lexemes(base, old);
        push_lexemes(result, new);
        align(old.as_slice(), new.as_slice(), table, pairs, |old, new, table| symbols.number(old, new, table));
        let mut last_end: Option<usize> = None;
        each_change(old, new, pairs, (lines.start, lines.new_start), |items, change| {
            let joins = last_end.is_some_and(|end| is_small_gap(&old[end..items.start]));
            last_end = Some(items.end);
            match changes.last_mut() {
                Some(last) if joins => (last.end, last.new_end) = (change.end, change.new_end),
                _ => changes.push(change),
            }
        });
    }
}

/// Tells the gaps between `pairs` of two texts in parts that begin at bytes (`start`, `new_start`): the old parts, and
/// the change.
fn each_change(
    old: &[&str],
    new: &[&str],
    pairs: &[(usize, usize)],
    (mut start, mut new_start): (usize, usize),
    mut tell: impl FnMut(Range<usize>, Change),
) {
    let bytes = |parts: &[&str]| parts.iter().map(|part| part.len()).sum::<usize>();
    let (mut old_at, mut new_at) = (0, 0);
    for (old_next, new_next) in pairs.iter().copied().chain([(old.len(), new.len())]) {
        let end = start + bytes(&old[old_at..old_next]);
        let new_end = new_start + bytes(&new[new_at..new_next]);
        if old_next > old_at || new_next > new_at {
            tell(old_at..old_next, Change { start, end, new_start, new_end });
        }
        let equal = old.get(old_next).map_or(0, |part| part.len());
        (start, new_start) = (end + equal, new_end + equal);
        (old_at, new_at) = (old_next + 1, new_next + 1);
    }
}

fn push_lines<'a>(text: &'a str, into: &mut Vec<&'a str>) {
    into.clear();
    let mut start = 0;
    for at in memchr_iter(b'\n', text.as_bytes()) {
        into.push(&text[start..=at]);
        start = at + 1;
    }
    if start < text.len() {
        into.push(&text[start..]);
    }
}

/// Bytes of the whole lines with which two texts begin that are not equal. A last line without a break equals no line
/// that has one.
fn common_first_lines(left: &str, right: &str) -> usize {
    let common = common_prefix(left.as_bytes(), right.as_bytes());
    memrchr(b'\n', &left.as_bytes()[..common]).map_or(0, |at| at + 1)
}

/// Bytes of the whole lines with which two texts end that are not equal and begin with no equal line.
fn common_last_lines(left: &str, right: &str) -> usize {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let common = common_suffix(left, right);
    let starts_line = |text: &[u8]| text[..text.len() - common].last().is_none_or(|byte| *byte == b'\n');
    if starts_line(left) && starts_line(right) {
        return common;
    }
    memchr(b'\n', &left[left.len() - common..]).map_or(0, |at| common - at - 1)
}

/// Bytes that are compared at once.
const STEP: usize = 32;

/// How many bytes two texts begin with alike.
pub(crate) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let (left_steps, _) = left.as_chunks::<STEP>();
    let (right_steps, _) = right.as_chunks::<STEP>();
    let whole = STEP * left_steps.iter().zip(right_steps).take_while(|(a, b)| a == b).count();
    whole + left[whole..].iter().zip(&right[whole..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes two texts end with alike.
pub(crate) fn common_suffix(left: &[u8], right: &[u8]) -> usize {
    let (_, left_steps) = left.as_rchunks::<STEP>();
    let (_, right_steps) = right.as_rchunks::<STEP>();
    let whole = STEP * left_steps.iter().rev().zip(right_steps.iter().rev()).take_while(|(a, b)| a == b).count();
    let (left, right) = (&left[..left.len() - whole], &right[..right.len() - whole]);
    whole + left.iter().rev().zip(right.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// Whether nothing but space and at most one other lexeme stands there, and no break.
fn is_small_gap(gap: &[&str]) -> bool {
    let mut solid = 0;
    gap.iter().all(|lexeme| {
        solid += usize::from(!lexeme.starts_with(char::is_whitespace));
        solid <= 1 && !lexeme.starts_with(['\n', '\r'])
    })
}

/// Applies hunks (ordered, not overlapping) to the text that they are about; none when they do not fit it.
#[must_use]
pub fn apply_hunks(base: &str, hunks: &[Hunk]) -> Option<String> {
    let mut result = String::with_capacity(base.len() + 32);
    let mut position = 0;
    for hunk in hunks {
        if hunk.start < position || hunk.end < hunk.start {
            return None;
        }
        result.push_str(base.get(position..hunk.start)?);
        base.get(hunk.start..hunk.end)?;
        result.push_str(&hunk.new_text);
        position = hunk.end;
    }
    result.push_str(base.get(position..)?);
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexing::lexemes;
    use proptest::prelude::*;

    /// The same subsequence from the whole table, cell by cell.
    fn by_table<T: PartialEq>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
        let mut longest = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
        for i in (0..left.len()).rev() {
            for j in (0..right.len()).rev() {
                longest[i][j] = if left[i] == right[j] {
                    longest[i + 1][j + 1] + 1
                } else {
                    longest[i + 1][j].max(longest[i][j + 1])
                };
            }
        }
        let (mut pairs, mut i, mut j) = (Vec::new(), 0, 0);
        while i < left.len() && j < right.len() {
            if left[i] == right[j] {
                pairs.push((i, j));
                (i, j) = (i + 1, j + 1);
            } else if longest[i + 1][j] >= longest[i][j + 1] {
                i += 1;
            } else {
                j += 1;
            }
        }
        pairs
    }

    /// The same subsequence with the items that both begin and end with, as far back as it goes.
    fn aligned_by_table<T: PartialEq>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
        let prefix = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let behind = |text: &[T], end: usize| text.len() - end;
        let mut suffix = 0;
        while suffix < left.len().min(right.len()) - prefix
            && left[behind(left, suffix + 1)] == right[behind(right, suffix + 1)]
        {
            suffix += 1;
        }
        let inner = by_table(&left[prefix..behind(left, suffix)], &right[prefix..behind(right, suffix)]);
        let mut pairs: Vec<(usize, usize)> = (0..prefix).map(|index| (index, index)).collect();
        pairs.extend(inner.into_iter().map(|(i, j)| (prefix + i, prefix + j)));
        pairs.extend((0..suffix).map(|index| (behind(left, suffix) + index, behind(right, suffix) + index)));
        slide(left, right, &mut pairs);
        pairs
    }

    /// Ranges of parts that `pairs` leave out: those of the left and those of the right.
    fn gaps(pairs: &[(usize, usize)], ends: (usize, usize)) -> Vec<(Range<usize>, Range<usize>)> {
        let starts = [(0, 0)].into_iter().chain(pairs.iter().map(|(i, j)| (i + 1, j + 1)));
        let gaps = starts.zip(pairs.iter().copied().chain([ends])).map(|(from, to)| (from.0..to.0, from.1..to.1));
        gaps.filter(|(left, right)| !left.is_empty() || !right.is_empty()).collect()
    }

    /// As the definition reads: all lines are taken apart, and nothing is known from before.
    fn hunks_by_table(base: &str, result: &str) -> Vec<Hunk> {
        let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<String>>();
        let parts = |text: &str| lexemes(text).into_iter().map(|range| text[range].to_owned()).collect::<Vec<String>>();
        let (base_lines, result_lines) = (lines(base), lines(result));
        let pairs = aligned_by_table(&base_lines, &result_lines);
        let mut hunks = Vec::new();
        for (old, new) in gaps(&pairs, (base_lines.len(), result_lines.len())) {
            let offset = base_lines[..old.start].concat().len();
            let (old, new) = (parts(&base_lines[old].concat()), parts(&result_lines[new].concat()));
            let pairs = aligned_by_table(&old, &new);
            let mut runs: Vec<(Range<usize>, Range<usize>)> = Vec::new();
            for (removed, written) in gaps(&pairs, (old.len(), new.len())) {
                let is_joined = runs.last().is_some_and(|(last, _)| {
                    let gap = &old[last.end..removed.start];
                    let solid = gap.iter().filter(|lexeme| !lexeme.trim().is_empty()).count();
                    solid <= 1 && !gap.iter().any(|lexeme| lexeme.contains(['\n', '\r']))
                });
                match runs.last_mut() {
                    Some((old, new)) if is_joined => (old.end, new.end) = (removed.end, written.end),
                    _ => runs.push((removed, written)),
                }
            }
            hunks.extend(runs.into_iter().map(|(removed, written)| Hunk {
                start: offset + old[..removed.start].concat().len(),
                end: offset + old[..removed.end].concat().len(),
                new_text: new[written].concat(),
            }));
        }
        hunks
    }

    /// A base and what was made of it. Few different lines, so that they repeat, move and slide; enough to be compared
    /// in steps.
    fn edited() -> impl Strategy<Value = (String, String, String)> {
        let line = || {
            let lines = ["a\n", "b\n", "\n", "a b, f(a)\n", "  f(b, a);\n", "é è\r\n", "name_of_it(other_name)\n"];
            prop::sample::select(lines.to_vec())
        };
        let text = move |most: usize| {
            (prop::collection::vec(line(), 0..most), "[ab ]{0,2}").prop_map(|(lines, end)| lines.concat() + &end)
        };
        (text(30), text(4), text(4), text(4), text(30), text(40)).prop_map(
            |(start, old, new, other, end, unrelated)| {
                let whole = |middle: &str| format!("{start}{middle}{end}");
                (whole(&old), whole(&new), if other.starts_with('a') { whole(&other) } else { unrelated })
            },
        )
    }

    /// Length of a longest common subsequence by trying everything.
    fn slow_length(left: &[u8], right: &[u8]) -> usize {
        match (left.split_first(), right.split_first()) {
            (Some((a, left_rest)), Some((b, right_rest))) => {
                let skip = slow_length(left_rest, right).max(slow_length(left, right_rest));
                if a == b { skip.max(1 + slow_length(left_rest, right_rest)) } else { skip }
            }
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn no_common_subsequence_is_longer(
            left in prop::collection::vec(0_u8..3, 0..8),
            right in prop::collection::vec(0_u8..3, 0..8),
        ) {
            let pairs = common_subsequence(&left, &right);
            prop_assert!(pairs.iter().all(|(i, j)| left[*i] == right[*j]));
            prop_assert!(pairs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
            prop_assert_eq!(pairs.len(), slow_length(&left, &right));
        }

        /// Sizes around one and two words of 64 cells, alphabets from nearly equal to nearly nothing in common.
        #[test]
        fn words_of_cells_say_what_the_table_says(
            (left, right) in (1_u8..40).prop_flat_map(|letters| {
                let items = || prop::collection::vec(0..letters, 0..150);
                (items(), items())
            }),
        ) {
            let numbers = |items: &[u8]| items.iter().map(|item| usize::from(*item)).collect::<Vec<usize>>();
            let mut table = Table { left: numbers(&left), right: numbers(&right), ..Table::default() };
            for _ in 0..2 {
                let mut traced = Vec::new();
                table.trace(|i, j| traced.push((i, j)));
                prop_assert_eq!(traced, by_table(&left, &right));
            }
            prop_assert_eq!(common_subsequence(&left, &right), aligned_by_table(&left, &right));
        }

        /// An edit of other lines changes nothing about the hunks of this one.
        #[test]
        fn lines_far_away_do_not_matter(
            base in "[ab (),]{1,12}", result in "[ab (),]{1,12}", old in "[ab (),]{1,12}", new in "[ab (),]{1,12}",
        ) {
            let between = "between one;\nand the other;\n";
            let alone = hunks_between(&format!("{base}\n{between}{old}\n"), &format!("{result}\n{between}{old}\n"));
            let both = hunks_between(&format!("{base}\n{between}{old}\n"), &format!("{result}\n{between}{new}\n"));
            prop_assert_eq!(&both[..alone.len()], &alone[..]);
            prop_assert!(both[alone.len()..].iter().all(|hunk| hunk.start > base.len() + between.len()));
        }

        /// Equal texts have equal numbers and no others have, in one round after the other.
        #[test]
        fn texts_have_their_numbers(
            rounds in prop::collection::vec(
                prop::collection::vec("[ab]{1,3}|[abé]{1,5}|[ab]{7,9}|long_[ab]{10,13}", 2..40),
                1..4,
            ),
        ) {
            let mut symbols = Symbols::default();
            for texts in &rounds {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let (left, right) = texts.split_at(texts.len() / 2);
                let mut table = Table::default();
                symbols.number(left, right, &mut table);
                let numbers = [table.left, table.right].concat();
                let first_of = |text: &str| texts.iter().position(|other| *other == text).unwrap();
                let mut firsts: Vec<usize> = texts.iter().map(|text| first_of(text)).collect();
                firsts.sort_unstable();
                firsts.dedup();
                let expected: Vec<usize> =
                    texts.iter().map(|text| firsts.binary_search(&first_of(text)).unwrap()).collect();
                prop_assert_eq!(numbers, expected);
            }
        }

        #[test]
        fn bytes_are_alike_as_far_as_they_are(
            (start, left, right, end) in ("[ab\n]{0,80}", "[ab\n]{0,40}", "[ab\n]{0,40}", "[ab\n]{0,80}"),
        ) {
            let (left, right) = (format!("{start}{left}{end}").into_bytes(), format!("{start}{right}{end}").into_bytes());
            let prefix = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            let suffix = left.iter().rev().zip(right.iter().rev()).take_while(|(a, b)| a == b).count();
            prop_assert_eq!((common_prefix(&left, &right), common_suffix(&left, &right)), (prefix, suffix));
        }

        #[test]
        fn hunks_are_those_of_the_whole_table((base, one, other) in edited()) {
            let expected = (hunks_by_table(&base, &one), hunks_by_table(&base, &other));
            prop_assert_eq!(&(hunks_between(&base, &one), hunks_between(&base, &other)), &expected);
            let hunks = |changes: Vec<Change>, result: &str| -> Vec<Hunk> {
                let hunk = |change: Change| {
                    Hunk { start: change.start, end: change.end, new_text: change.new_text(result).to_owned() }
                };
                changes.into_iter().map(hunk).collect()
            };
            let (of_one, of_other) = changes_of_both(&base, &one, &other);
            prop_assert_eq!((hunks(of_one, &one), hunks(of_other, &other)), expected);
        }

        /// Texts that are nothing but repetition and ends.
        #[test]
        fn hunks_of_few_bytes_are_those_of_the_whole_table(base in "[a\n ]{0,12}", result in "[a\n ]{0,12}") {
            prop_assert_eq!(hunks_between(&base, &result), hunks_by_table(&base, &result));
        }

        #[test]
        fn hunks_rebuild_the_result(base in "[ab_é (),\n]{0,30}", result in "[ab_é (),\n]{0,30}") {
            let hunks = hunks_between(&base, &result);
            let rebuilt = apply_hunks(&base, &hunks);
            prop_assert_eq!(rebuilt.as_deref(), Some(result.as_str()));
            prop_assert_eq!(hunks.is_empty(), base == result);
            prop_assert!(hunks.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }

    fn changes(base: &str, result: &str) -> Vec<(String, String)> {
        hunks_between(base, result)
            .into_iter()
            .map(|hunk| (base[hunk.start..hunk.end].to_owned(), hunk.new_text))
            .collect()
    }

    #[test]
    fn a_rename_is_one_hunk_and_two_calls_are_two() {
        let old = "let x = get_name(user);";
        assert_eq!(changes(old, "let x = get_display_name(user);"), [("get_name".into(), "get_display_name".into())]);
        assert_eq!(
            changes("f(a) + f(b)", "g(a) + g(b)"),
            [("f".to_owned(), "g".to_owned()), ("f".to_owned(), "g".to_owned())]
        );
        assert_eq!(changes("f(a, b)", "f(b, a)"), [("a, b".to_owned(), "b, a".to_owned())]);
        assert_eq!(changes("f(x);", "f(x).g();"), [(String::new(), ".g()".to_owned())]);
        assert_eq!(changes("f(x).g();", "f(x);"), [(".g()".to_owned(), String::new())]);
        assert_eq!(changes("a\nb\n", "a\nc\nb\n"), [(String::new(), "c\n".to_owned())]);
        assert_eq!(changes("  a;\n  b;\n", "  a;\n  c;\n  b;\n"), [(String::new(), "  c;\n".to_owned())]);
    }

    #[test]
    fn a_large_document_is_no_reason_to_replace_what_stands_between_two_edits() {
        let document: String = (0..3_000).map(|number| format!("let name_{number} = {number};\n")).collect();
        let edited = document.replacen("name_1 ", "first ", 1).replacen("name_2999 ", "last ", 1);
        assert_eq!(
            changes(&document, &edited),
            [("name_1".to_owned(), "first".to_owned()), ("name_2999".to_owned(), "last".to_owned())]
        );
    }
}
