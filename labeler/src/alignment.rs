//! Alignment of two texts: the one difference that everything else is told by.
//!
//! Whole lines are aligned first, then the lexemes of the lines that changed, as word-level differences of version
//! control do; each by a longest common subsequence. So an edit costs what its own lines cost, and one far away changes
//! nothing about it.
//!
//! The table of the longest common subsequence is computed 64 cells at a time: two neighbours in it differ by 0 or 1,
//! and a row of these differences follows from the row below by an addition (Crochemore, Iliopoulos, Pinzon and Reid
//! 2001, "A fast and practical bit-vector algorithm for the longest common subsequence problem"; Hyyro 2004,
//! "Bit-parallel LCS-length computation revisited"). The addition's carries are the differences between the rows, which
//! is all that tracing a subsequence back needs. So n items against m cost n * m / 64 steps, and as many words.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Range;

use crate::lexing::lexemes;

/// Beyond this many cells of the table the middle counts as replaced whole. About 4,000 changed items a side.
const MOST_CELLS: usize = 16_000_000;

/// Pairs of equal items (left index, right index), ascending in both: a longest common subsequence; a function of its
/// input alone.
#[must_use]
pub fn common_subsequence<T: Eq + Hash>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
    let prefix = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let suffix = left[prefix..].iter().rev().zip(right[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (left_end, right_end) = (left.len() - suffix, right.len() - suffix);
    let mut pairs: Vec<(usize, usize)> = Vec::with_capacity(left.len().min(right.len()));
    pairs.extend((0..prefix).map(|index| (index, index)));
    let (inner_left, inner_right) = (&left[prefix..left_end], &right[prefix..right_end]);
    if (inner_left.len() + 1).saturating_mul(inner_right.len() + 1) <= MOST_CELLS {
        trace(inner_left, inner_right, |i, j| pairs.push((prefix + i, prefix + j)));
    }
    pairs.extend((0..suffix).map(|index| (left_end + index, right_end + index)));
    slide(left, right, &mut pairs);
    pairs
}

/// Tells the pairs of a longest common subsequence. Let L(i, j) be its length from `left[i]` and `right[j]` on. From
/// (0, 0) a pair of equal items is taken as soon as it is met; else the next item of the left is passed over if nothing
/// is lost by that, L(i + 1, j) = L(i, j), else the next one of the right.
fn trace<T: Eq + Hash>(left: &[T], right: &[T], mut told: impl FnMut(usize, usize)) {
    if left.is_empty() || right.is_empty() {
        return;
    }
    // Column j is bit right.len() - 1 - j, so that the column to its right is the bit below it. One bit more has room
    // for the last carry.
    let words = right.len() / 64 + 1;
    let bit_of = |column: usize| right.len() - 1 - column;
    let mut symbols: HashMap<&T, usize, BuildHasherDefault<ItemHasher>> = HashMap::default();
    let mut places: Vec<u64> = Vec::new();
    for (column, item) in right.iter().enumerate() {
        let next = symbols.len();
        let symbol = *symbols.entry(item).or_insert(next);
        if symbol == next {
            places.resize((next + 1) * words, 0);
        }
        places[symbol * words + bit_of(column) / 64] |= 1 << (bit_of(column) % 64);
    }
    // Column j of `row` is L(i, j) - L(i, j + 1), first for the row behind the last item. The carry into column j of
    // row i is L(i, j + 1) - L(i + 1, j + 1).
    let mut row = vec![0_u64; words];
    let mut carries: Vec<u64> = Vec::new();
    let mut carries_of: Vec<Option<usize>> = vec![None; left.len()];
    for (index, item) in left.iter().enumerate().rev() {
        // The row of an item that the right does not have is the row below.
        let Some(symbol) = symbols.get(item) else { continue };
        carries_of[index] = Some(carries.len());
        let mut carry = false;
        for (word, equal) in row.iter_mut().zip(&places[symbol * words..(symbol + 1) * words]) {
            let flat = !*word;
            let matched = flat & equal;
            let (sum, first) = flat.overflowing_add(matched);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            let into = sum ^ flat ^ matched;
            *word = (equal | *word) & !into;
            carry = first | second;
            carries.push(into);
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        let Some(at) = carries_of[i] else {
            i += 1;
            continue;
        };
        if left[i] == right[j] {
            told(i, j);
            (i, j) = (i + 1, j + 1);
        } else {
            // L(i, j) - L(i + 1, j) is carried into the bit above that of column j.
            let above = bit_of(j) + 1;
            let loses = (carries[at + above / 64] >> (above % 64)) & 1 == 1;
            (i, j) = if loses { (i, j + 1) } else { (i + 1, j) };
        }
    }
}

/// A hash of short texts that lives for one call (as in rustc). Whoever makes texts collide makes their own alignment
/// as slow as the table is large, no slower.
#[derive(Default)]
struct ItemHasher(u64);

impl Hasher for ItemHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
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

/// The canonical hunks that turn `base` into `result`: maximal runs of changed lexemes within changed lines, in order;
/// runs on one line with nothing but space and at most one other lexeme between them are one hunk (swapped arguments
/// are one change, two calls on a line are two). A function of the two texts, so that how an edit was cut into actions
/// does not matter.
#[must_use]
pub fn hunks_between(base: &str, result: &str) -> Vec<Hunk> {
    let base_lines: Vec<&str> = base.split_inclusive('\n').collect();
    let result_lines: Vec<&str> = result.split_inclusive('\n').collect();
    let mut pairs = common_subsequence(&base_lines, &result_lines);
    pairs.push((base_lines.len(), result_lines.len()));
    let bytes = |lines: &[&str]| lines.iter().map(|line| line.len()).sum::<usize>();
    let mut hunks = Vec::new();
    let (mut base_line, mut result_line) = (0, 0);
    let (mut base_byte, mut result_byte) = (0, 0);
    for (base_next, result_next) in pairs {
        let base_end = base_byte + bytes(&base_lines[base_line..base_next]);
        let result_end = result_byte + bytes(&result_lines[result_line..result_next]);
        if base_end > base_byte || result_end > result_byte {
            push_hunks(base_byte, &base[base_byte..base_end], &result[result_byte..result_end], &mut hunks);
        }
        let equal = base_lines.get(base_next).map_or(0, |line| line.len());
        (base_line, result_line) = (base_next + 1, result_next + 1);
        (base_byte, result_byte) = (base_end + equal, result_end + equal);
    }
    hunks
}

/// The hunks of changed lines that stand at byte `offset` of the base.
fn push_hunks(offset: usize, base: &str, result: &str, hunks: &mut Vec<Hunk>) {
    let (base_parts, result_parts) = (lexemes(base), lexemes(result));
    let base_texts: Vec<&str> = base_parts.iter().map(|range| &base[range.clone()]).collect();
    let result_texts: Vec<&str> = result_parts.iter().map(|range| &result[range.clone()]).collect();
    let mut pairs = common_subsequence(&base_texts, &result_texts);
    pairs.push((base_parts.len(), result_parts.len()));
    let mut runs: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let (mut base_at, mut result_at) = (0, 0);
    for (base_index, result_index) in pairs {
        if base_index > base_at || result_index > result_at {
            let gap_start = runs.last().map_or(0, |(last, _)| last.end);
            let joins = !runs.is_empty() && is_small_gap(&base_texts[gap_start..base_at]);
            match runs.last_mut() {
                Some((old, new)) if joins => {
                    old.end = base_index;
                    new.end = result_index;
                }
                _ => runs.push((base_at..base_index, result_at..result_index)),
            }
        }
        (base_at, result_at) = (base_index + 1, result_index + 1);
    }
    let place =
        |parts: &[Range<usize>], length: usize, index: usize| parts.get(index).map_or(length, |range| range.start);
    hunks.extend(runs.into_iter().map(|(old, new)| {
        let new_start = place(&result_parts, result.len(), new.start);
        let new_end = place(&result_parts, result.len(), new.end);
        Hunk {
            start: offset + place(&base_parts, base.len(), old.start),
            end: offset + place(&base_parts, base.len(), old.end),
            new_text: result[new_start..new_end].to_owned(),
        }
    }));
}

fn is_small_gap(gap: &[&str]) -> bool {
    let solid = gap.iter().filter(|lexeme| !lexeme.trim().is_empty()).count();
    solid <= 1 && !gap.iter().any(|lexeme| lexeme.contains(['\n', '\r']))
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
    use proptest::prelude::*;

    /// The same subsequence from the whole table, cell by cell.
    fn by_table(left: &[u8], right: &[u8]) -> Vec<(usize, usize)> {
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
            let mut traced = Vec::new();
            trace(&left, &right, |i, j| traced.push((i, j)));
            prop_assert_eq!(traced, by_table(&left, &right));
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
