//! Alignment of two texts by longest common subsequence of lexemes: the one difference that everything else is told by.

use std::ops::Range;

use crate::lexing::lexemes;

/// Beyond this many cells of the table the middle counts as replaced whole. About 4,000 changed lexemes a side.
const MOST_CELLS: usize = 16_000_000;

/// Pairs of equal items (left index, right index), ascending in both: a longest common subsequence; a function of its
/// input alone.
#[must_use]
pub fn common_subsequence<T: PartialEq>(left: &[T], right: &[T]) -> Vec<(usize, usize)> {
    let prefix = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let suffix = left[prefix..].iter().rev().zip(right[prefix..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut pairs: Vec<(usize, usize)> = (0..prefix).map(|index| (index, index)).collect();
    let (inner_left, inner_right) = (&left[prefix..left.len() - suffix], &right[prefix..right.len() - suffix]);
    let width = inner_right.len() + 1;
    if (inner_left.len() + 1).saturating_mul(width) <= MOST_CELLS {
        let mut longest = vec![0_u32; (inner_left.len() + 1) * width];
        for i in (0..inner_left.len()).rev() {
            for j in (0..inner_right.len()).rev() {
                longest[i * width + j] = if inner_left[i] == inner_right[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < inner_left.len() && j < inner_right.len() {
            if inner_left[i] == inner_right[j] {
                pairs.push((prefix + i, prefix + j));
                i += 1;
                j += 1;
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                i += 1;
            } else {
                j += 1;
            }
        }
    }
    let (left_end, right_end) = (left.len() - suffix, right.len() - suffix);
    pairs.extend((0..suffix).map(|index| (left_end + index, right_end + index)));
    slide(left, right, &mut pairs);
    pairs
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

/// The canonical hunks that turn `base` into `result`: maximal runs of changed lexemes, in order; runs on one line with
/// nothing but space and at most one other lexeme between them are one hunk (swapped arguments are one change, two
/// calls on a line are two). A function of the two texts, so that how an edit was cut into actions does not matter.
#[must_use]
pub fn hunks_between(base: &str, result: &str) -> Vec<Hunk> {
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
    runs.into_iter()
        .map(|(old, new)| Hunk {
            start: place(&base_parts, base.len(), old.start),
            end: place(&base_parts, base.len(), old.end),
            new_text: result
                [place(&result_parts, result.len(), new.start)..place(&result_parts, result.len(), new.end)]
                .to_owned(),
        })
        .collect()
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
    }
}
