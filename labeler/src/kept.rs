//! How much of accepted text stands: a token alignment of three texts, what was suggested, what stood right after Tab,
//! and what stands at a look.
//!
//! Tokens are words and marks: as many texts are aligned here as there are looks, and a parser would take most of the
//! labeler's time to say the same.
//!
//! Only tokens that the suggestion *changes* count, and of them those that Tab brought into the document: an editor may
//! take a word only, or close a bracket that is there. A suggestion that rewrites one name of a line is gone when the
//! name is gone, although most characters of the line stand. And what the developer typed right at the place counts for
//! nothing, although it was there at Tab and is there now.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::rc::Rc;

use crate::alignment::{ItemHasher, common_subsequence};
use crate::lexing::{self, shared_ends};

/// Beyond this many cells of the table two alignments are joined instead of one searched. About 120 changed tokens a
/// text.
const MOST_CELLS: usize = 2_000_000;

/// What stands of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Characters that the acceptance wrote; for a mere deletion, that it removed.
    pub accepted_characters: usize,
    /// How many of them stand (are still gone).
    pub standing_characters: usize,
    /// Characters written that stand; 0 for a mere deletion.
    pub kept_characters: usize,
    /// Whether it stands whole, with nothing put in between.
    pub intact: bool,
}

impl Kept {
    /// Whether at least half of it stands. Of a change of no character that means something (the line break that ends a
    /// comment) all stands or nothing; a change of nothing but format always does.
    #[must_use]
    pub fn at_least_half(&self) -> bool {
        if self.accepted_characters == 0 {
            return self.intact;
        }
        self.standing_characters * 2 >= self.accepted_characters
    }

    /// How much of it stands, in thousandths, rounded down: 500 is at least half.
    #[must_use]
    pub fn standing_permille(&self) -> i64 {
        let permille = (self.standing_characters * 1000).checked_div(self.accepted_characters);
        let permille = permille.unwrap_or(if self.intact { 1000 } else { 0 });
        i64::try_from(permille).unwrap_or(1000)
    }
}

/// What was told over one text before. Most looks find what the one before found, and mostly all that was accepted is
/// the first action.
#[derive(Default)]
pub(crate) struct KeptBefore(RefCell<Vec<Told>>);

struct Told {
    suggested: String,
    at_accept: Vec<Rc<str>>,
    now: String,
    kept: Option<Kept>,
}

impl KeptBefore {
    /// As [`kept`] tells it; `language` and `before` are always the same.
    pub(crate) fn kept(
        &self,
        language: &str,
        before: &str,
        suggested: &str,
        at_accept: &[Rc<str>],
        now: &str,
    ) -> Option<Kept> {
        let mut all = self.0.borrow_mut();
        let is_same = |told: &&Told| told.suggested == suggested && told.at_accept == at_accept && told.now == now;
        if let Some(told) = all.iter().find(is_same) {
            return told.kept;
        }
        let kept = kept(language, before, suggested, at_accept, now);
        let (suggested, at_accept, now) = (suggested.to_owned(), at_accept.to_vec(), now.to_owned());
        all.push(Told { suggested, at_accept, now, kept });
        kept
    }
}

/// What is aligned where only a parser tells what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Item<'a> {
    /// The text of a token.
    Text(&'a str),
    /// How many blocks deeper the next token lies than the one before, where blocks are told by indentation. By so many
    /// and not at which depth: whoever puts all of it into another block changes nothing of it.
    Deeper(i64),
}

/// The tokens of a text, and between them where a block begins or ends for which no token stands.
fn items<'a>(language: &str, text: &'a str) -> Vec<Item<'a>> {
    let mut depth = 0;
    let mut items = Vec::new();
    for token in lexing::tokens(language, text) {
        let deeper = i64::from(token.depth) - depth;
        if deeper != 0 {
            items.push(Item::Deeper(deeper));
        }
        depth = i64::from(token.depth);
        items.push(Item::Text(&text[token.range]));
    }
    items
}

/// What stands in `now` of the step from `before` to `suggested`. `at_accept` is the text right after Tab; several when
/// the developer changed it between one Tab and the next. None when Tab brought nothing of the step.
#[must_use]
pub fn kept(language: &str, before: &str, suggested: &str, at_accept: &[impl AsRef<str>], now: &str) -> Option<Kept> {
    // A change of nothing but space may be one of a string or of a comment's end: only a parser tells.
    let is_space_only = before != suggested && lexing::is_as_solid(before, suggested);
    let at_accept = at_accept.iter().map(AsRef::as_ref);
    let all: Vec<&str> = [before, suggested, now].into_iter().chain(at_accept).collect();
    if is_space_only {
        let all: Vec<Vec<Item<'_>>> = all.iter().map(|text| items(language, text)).collect();
        let length = |item: &Item<'_>| match item {
            Item::Text(text) => text.chars().count(),
            Item::Deeper(_) => 0,
        };
        return kept_of(&all, length);
    }
    let all: Vec<Vec<&str>> = changed_lines(&all).into_iter().map(lexing::words).collect();
    kept_of(&all, |text| text.chars().count())
}

/// [`kept`] of what was there before, what was suggested, what is there now, and what stood there right after each Tab.
/// `length` is how many characters an item is.
fn kept_of<T: Eq + Hash>(all: &[Vec<T>], length: impl Fn(&T) -> usize) -> Option<Kept> {
    let characters = |items: &[T], indices: &[usize]| indices.iter().map(|index| length(&items[*index])).sum::<usize>();
    let [before, suggested, now, texts @ ..] = all else { return None };
    let accepted = texts.last()?;
    let unchanged = common_subsequence(before, suggested);
    let written = unmatched(suggested.len(), unchanged.iter().map(|pair| pair.1));
    if written.is_empty() {
        let removed = unmatched(before.len(), unchanged.iter().map(|pair| pair.0));
        return still_gone([before, accepted, now], &removed, characters);
    }
    let mut arrived = vec![false; suggested.len()];
    for text in texts {
        for (index, _) in common_subsequence(suggested, text) {
            arrived[index] = true;
        }
    }
    let standing = common_to_three(suggested, accepted, now);
    let place = |index: usize| standing.binary_search_by_key(&index, |found| found[0]).ok().map(|at| standing[at]);
    let taken: Vec<usize> = written.into_iter().filter(|index| arrived[*index] || place(*index).is_some()).collect();
    if taken.is_empty() {
        return None;
    }
    let kept: Vec<usize> = taken.iter().copied().filter(|index| place(*index).is_some()).collect();
    let together = |pair: &[usize]| match (place(pair[0]), place(pair[1])) {
        (Some(left), Some(right)) => {
            let was_together = right[0] == left[0] + 1 && right[1] == left[1] + 1;
            !was_together || right[2] == left[2] + 1
        }
        _ => false,
    };
    let kept_characters = characters(suggested, &kept);
    Some(Kept {
        accepted_characters: characters(suggested, &taken),
        standing_characters: kept_characters,
        kept_characters,
        intact: kept.len() == taken.len() && taken.windows(2).all(together),
    })
}

/// A mere deletion: what it removed, as far as it was gone right after Tab.
fn still_gone<T: Eq + Hash>(
    [before, accepted, now]: [&[T]; 3],
    removed: &[usize],
    characters: impl Fn(&[T], &[usize]) -> usize,
) -> Option<Kept> {
    let gone_from = |text: &[T]| {
        let mut gone = vec![true; before.len()];
        for (index, _) in common_subsequence(before, text) {
            gone[index] = false;
        }
        gone
    };
    let (gone_then, gone_now) = (gone_from(accepted), gone_from(now));
    let taken: Vec<usize> = removed.iter().copied().filter(|index| gone_then[*index]).collect();
    if taken.is_empty() && !removed.is_empty() {
        return None;
    }
    let standing: Vec<usize> = taken.iter().copied().filter(|index| gone_now[*index]).collect();
    Some(Kept {
        accepted_characters: characters(before, &taken),
        standing_characters: characters(before, &standing),
        kept_characters: 0,
        intact: standing.len() == taken.len(),
    })
}

/// Indices of equal items in all three, ascending in each: a longest common subsequence, unless the texts differ in so
/// much that it would take long; a function of its input alone.
fn common_to_three<T: Eq + Hash>(first: &[T], second: &[T], third: &[T]) -> Vec<[usize; 3]> {
    // Usually two are the same: Tab wrote what was suggested, or it stands as it was written. Then two are aligned.
    let two = |one: &[T], other: &[T]| common_subsequence(one, other).into_iter();
    let mut found: Vec<[usize; 3]> = if first == second {
        two(first, third).map(|(index, at)| [index, index, at]).collect()
    } else if second == third {
        two(first, second).map(|(index, at)| [index, at, at]).collect()
    } else if first == third {
        two(first, second).map(|(index, at)| [index, at, index]).collect()
    } else {
        common_between_ends(first, second, third)
    };
    // As far back as each goes: what was put behind something does not part it.
    let mut next = [0; 3];
    for place in &mut found {
        for (text, side) in [first, second, third].into_iter().zip(0..3) {
            if place[side] > next[side] && text[next[side]] == text[place[side]] {
                place[side] = next[side];
            }
        }
        next = place.map(|index| index + 1);
    }
    found
}

/// What stands at both ends of all three is common; the rest is searched.
fn common_between_ends<T: Eq + Hash>(first: &[T], second: &[T], third: &[T]) -> Vec<[usize; 3]> {
    let prefix = first.iter().zip(second).zip(third).take_while(are_alike).count();
    let (a, b, c) = (&first[prefix..], &second[prefix..], &third[prefix..]);
    let suffix = a.iter().rev().zip(b.iter().rev()).zip(c.iter().rev()).take_while(are_alike).count();
    let inner = [&a[..a.len() - suffix], &b[..b.len() - suffix], &c[..c.len() - suffix]];
    let ends = [first.len() - suffix, second.len() - suffix, third.len() - suffix];
    let before = (0..prefix).map(|index| [index; 3]);
    let between = common_middle(inner).into_iter().map(|place| place.map(|index| prefix + index));
    let behind = (0..suffix).map(|index| ends.map(|end| end + index));
    before.chain(between).chain(behind).collect()
}

fn are_alike<T: Eq + Hash>(((a, b), c): &((&T, &T), &T)) -> bool {
    a == b && b == c
}

fn common_middle<T: Eq + Hash>([a, b, c]: [&[T]; 3]) -> Vec<[usize; 3]> {
    let cells = (a.len() + 1).saturating_mul(b.len() + 1).saturating_mul(c.len() + 1);
    if cells > MOST_CELLS {
        let (left, right) = (common_subsequence(a, b), common_subsequence(b, c));
        let joined =
            |(i, j): (usize, usize)| right.binary_search_by_key(&j, |pair| pair.0).ok().map(|at| [i, j, right[at].1]);
        return left.into_iter().filter_map(joined).collect();
    }
    traced_by_bits(a, b, c)
}

/// A longest common subsequence of three. Let L(i, j, k) be its length from `a[i]`, `b[j]` and `c[k]` on. From (0, 0,
/// 0) three equal items are taken as soon as they are met; else the next item of `a` is passed over if nothing is
/// lost by that, L(i + 1, j, k) = L(i, j, k), else the next one of `b` if nothing is lost, else that of `c`.
///
/// As in [`crate::alignment`], 64 cells are computed at a time, here those of all k. Let R(k) = L(i + 1, j + 1, k).
/// Neighbours differ by 0 or 1, so L(i + 1, j, k) is R(k) or one more, and so is L(i, j + 1, k). Where `a[i]` is not
/// `b[j]`, L(i, j, k) is the greater one of these two: it exceeds R(k) where one of them does. Where they are equal,
/// a longest subsequence may always begin with both of them or with neither: then L(i, j, .) follows from R as a row
/// does from the one below it when two texts are aligned, and the carries of the addition say where it exceeds R.
fn traced_by_bits<T: Eq + Hash>(a: &[T], b: &[T], c: &[T]) -> Vec<[usize; 3]> {
    // L(., ., k) - L(., ., k + 1) has bit c.len() - 1 - k, so that k + 1 is the bit below it; the other differences
    // at k have the bit above that one. What lies above bit c.len() means nothing, and reaches no bit that does.
    let words = c.len() / 64 + 1;
    let mut symbols: HashMap<&T, usize, BuildHasherDefault<ItemHasher>> = HashMap::default();
    let mut of_a: Vec<usize> = Vec::with_capacity(a.len());
    for item in a {
        let next = symbols.len();
        of_a.push(*symbols.entry(item).or_insert(next));
    }
    let of_b: Vec<Option<usize>> = b.iter().map(|item| symbols.get(item).copied()).collect();
    let mut is_in_b = vec![false; symbols.len()];
    for symbol in of_b.iter().flatten() {
        is_in_b[*symbol] = true;
    }
    let of_c: Vec<Option<usize>> =
        c.iter().map(|item| symbols.get(item).copied().filter(|symbol| is_in_b[*symbol])).collect();
    // Only what all have has words, so that these are no more than the table's.
    let mut places: Vec<u64> = Vec::new();
    let mut places_of: Vec<Option<usize>> = vec![None; symbols.len()];
    for (bit, symbol) in (0..c.len()).rev().zip(&of_c) {
        let Some(symbol) = *symbol else { continue };
        let at = *places_of[symbol].get_or_insert(places.len());
        if at == places.len() {
            places.resize(at + words, 0);
        }
        places[at + bit / 64] |= 1 << (bit % 64);
    }
    // What another text does not have is always passed over, and nothing is lost by it.
    let rows: Vec<(usize, usize, usize)> =
        of_a.into_iter().enumerate().filter_map(|(index, symbol)| Some((index, symbol, places_of[symbol]?))).collect();
    if rows.is_empty() {
        return Vec::new();
    }

    let wide = b.len() + 1;
    let cell = |row: usize, column: usize| (row * wide + column) * words;
    // What is lost by passing over the item of `a`, and over that of `b`: L(i, j, .) - L(i + 1, j, .) and
    // L(i, j, .) - L(i, j + 1, .).
    let (mut first_lost, mut second_lost) =
        (vec![0_u64; cell(rows.len() + 1, 0)], vec![0_u64; cell(rows.len() + 1, 0)]);
    // L(., ., k) - L(., ., k + 1), of the row below and of this one.
    let (mut below, mut steps) = (vec![0_u64; wide * words], vec![0_u64; wide * words]);
    for (row, (_, symbol, at)) in rows.iter().enumerate().rev() {
        let equal = &places[*at..at + words];
        for column in (0..b.len()).rev() {
            let (under, beside, here) = (cell(row + 1, column), cell(row, column + 1), cell(row, column));
            let is_match = of_b[column] == Some(*symbol);
            let mut carry = false;
            for (word, equal) in equal.iter().enumerate() {
                // L(i + 1, j, .) - R and L(i, j + 1, .) - R.
                let (second, first) = (second_lost[under + word], first_lost[beside + word]);
                let step = below[(column + 1) * words + word];
                let (rises, next) = if is_match {
                    let flat = !step;
                    let matched = flat & equal;
                    let (sum, over) = flat.overflowing_add(matched);
                    let (sum, over_again) = sum.overflowing_add(u64::from(carry));
                    carry = over | over_again;
                    let rises = sum ^ flat ^ matched;
                    (rises, (equal | step) & !rises)
                } else {
                    let rises = second | first;
                    let above = if word + 1 < words {
                        second_lost[under + word + 1] | first_lost[beside + word + 1]
                    } else {
                        0
                    };
                    (rises, step ^ rises ^ ((rises >> 1) | (above << 63)))
                };
                steps[column * words + word] = next;
                first_lost[here + word] = rises & !second;
                second_lost[here + word] = rises & !first;
            }
        }
        std::mem::swap(&mut below, &mut steps);
    }

    let (mut row, mut j, mut k) = (0, 0, 0);
    let mut found = Vec::new();
    while row < rows.len() && j < b.len() && k < c.len() {
        let (i, symbol, _) = rows[row];
        let (at, bit) = (cell(row, j) + (c.len() - k) / 64, (c.len() - k) % 64);
        if of_b[j] == Some(symbol) && of_c[k] == Some(symbol) {
            found.push([i, j, k]);
            (row, j, k) = (row + 1, j + 1, k + 1);
        } else if (first_lost[at] >> bit) & 1 == 0 {
            row += 1;
        } else if (second_lost[at] >> bit) & 1 == 0 {
            j += 1;
        } else {
            k += 1;
        }
    }
    found
}

/// What lies between the lines with which all of them begin and those with which all of them end: aligning texts whole
/// would match those with each other.
fn changed_lines<'a>(texts: &[&'a str]) -> Vec<&'a str> {
    let shared = shared_ends(texts);
    let Some(first) = texts.first() else { return Vec::new() };
    let start = first[..shared.start].rfind('\n').map_or(0, |at| at + 1);
    let end = first[first.len() - shared.end..].find('\n').map_or(0, |at| shared.end - at);
    texts.iter().map(|text| &text[start..text.len() - end]).collect()
}

fn unmatched(length: usize, matched: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut free = vec![true; length];
    for index in matched {
        free[index] = false;
    }
    (0..length).filter(|index| free[*index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "let x = get_name(user);\nsend(x);\n";
    const ACCEPTED: &str = "let x = get_display_name(user);\nsend(x);\n";

    /// Tab wrote what was suggested.
    fn after(language: &str, before: &str, accepted: &str, now: &str) -> Kept {
        kept(language, before, accepted, &[accepted.to_owned()], now).unwrap()
    }

    #[test]
    fn untouched_and_reformatted_text_is_kept_whole() {
        for now in [ACCEPTED, "let x =\n    get_display_name( user );\nsend(x);\n"] {
            let kept = after("rust", BEFORE, ACCEPTED, now);
            assert_eq!((kept.accepted_characters, kept.kept_characters, kept.intact), (16, 16, true), "{now}");
        }
    }

    #[test]
    fn undone_text_is_gone_although_most_of_the_line_stands() {
        let kept = after("rust", BEFORE, ACCEPTED, BEFORE);
        assert_eq!(kept.kept_characters, 0);
        assert!(!kept.at_least_half());
    }

    #[test]
    fn a_line_break_that_ends_a_comment_is_gone_when_it_is_undone() {
        let (before, accepted) = ("// one f()\n", "// one\nf()\n");
        for (now, permille) in [(accepted, 1000), ("// one\n\n  f( )\n", 1000), (before, 0)] {
            let kept = after("rust", before, accepted, now);
            assert_eq!((kept.accepted_characters, kept.standing_permille()), (0, permille), "{now:?}");
            assert_eq!(kept.at_least_half(), permille > 0, "{now:?}");
        }
    }

    #[test]
    fn an_indentation_that_makes_another_block_is_gone_when_it_is_undone() {
        let (inside, behind) = ("if a:\n    f()\n    g(b)\nh()\n", "if a:\n    f()\ng(b)\nh()\n");
        for (before, accepted) in [(inside, behind), (behind, inside)] {
            let kept = |now: &str| {
                let kept = after("python", before, accepted, now);
                assert_eq!((kept.kept_characters, kept.accepted_characters), (0, 0), "{now:?}");
                (kept.at_least_half(), kept.standing_permille())
            };
            assert_eq!(kept(accepted), (true, 1000));
            assert_eq!(kept(&accepted.replace("    ", "  ").replace("f()", "f( )")), (true, 1000));
            let wrapped = format!("with c:\n    {}\n", accepted.trim_end().replace('\n', "\n    "));
            assert_eq!(kept(&wrapped), (true, 1000));
            assert_eq!(kept(before), (false, 0));
        }
        // What is no change of blocks stands, whatever a formatter makes of it.
        let (before, accepted) = ("f(a, b)\n", "f(\n    a, b\n)\n");
        assert!(after("python", before, accepted, before).intact);
    }

    #[test]
    fn half_kept_is_kept_and_something_in_between_is_a_modification() {
        let accepted = "call(alpha, beta);\n";
        let half = after("rust", "\n", accepted, "call(alpha);\n");
        assert!(half.at_least_half() && !half.intact);
        let more = after("rust", "\n", accepted, "call(alpha, more, beta);\n");
        assert!(more.at_least_half() && !more.intact);
        let behind = after("rust", "\n", accepted, "call(alpha, beta);\nnext();\n");
        assert!(behind.intact);
    }

    #[test]
    fn a_deletion_stands_while_the_text_is_gone() {
        assert!(after("rust", "f(a, b);", "f(a);", "f(a);").intact);
        let back = after("rust", "f(a, b);", "f(a);", "f(a, b);");
        assert!(!back.intact && !back.at_least_half());
    }

    #[test]
    fn only_what_tab_brought_counts() {
        // The editor took one word of what was suggested; all of that stands.
        let one = ["f(alpha\n".to_owned()];
        let kept_one = kept("rust", "\n", "f(alpha, beta)\n", &one, "f(alpha, gamma)\n").unwrap();
        assert_eq!((kept_one.accepted_characters, kept_one.kept_characters, kept_one.intact), (7, 7, true));
        // It closed the call itself: what it put there is neither taken nor in between.
        let closed = ["f(alpha, ())\n".to_owned()];
        let kept_closed = kept("rust", "\n", "f(alpha)\n", &closed, "f(alpha, ())\n").unwrap();
        assert!(kept_closed.intact);
        // The developer had typed the word before Tab, and typed it again elsewhere afterwards.
        let typed = ["alpha; f(x)\n".to_owned()];
        let gone = kept("rust", "f(x)\n", "f(alpha)\n", &typed, "alpha; f(x)\n");
        assert!(gone.is_none_or(|kept| kept.kept_characters == 0), "{gone:?}");
        assert_eq!(kept("rust", "\n", "f(a)\n", &["g[b]\n".to_owned()], "f(a)\n"), None);
        assert_eq!(kept("rust", "f(a, b);", "f(a);", &["f(a, b);".to_owned()], "f(a);"), None);
    }

    #[test]
    fn what_was_changed_between_two_tabs_does_not_stand() {
        let between = ["f(alpha)\n".to_owned(), "f(other)\ng(beta)\n".to_owned()];
        let found = kept("rust", "\n", "f(alpha)\ng(beta)\n", &between, "f(other)\ng(beta)\n").unwrap();
        assert_eq!((found.accepted_characters, found.kept_characters, found.intact), (15, 10, false));
    }

    #[test]
    fn what_is_asked_again_is_told_again() {
        let before = KeptBefore::default();
        let texts: [&str; 3] = [BEFORE, ACCEPTED, "let x = get_full_name(user);\n"];
        for _ in 0..2 {
            for suggested in texts {
                for (accepted, now) in texts.into_iter().flat_map(|one| texts.map(|other| (one, other))) {
                    let at_accept = [Rc::<str>::from(accepted)];
                    let told = before.kept("rust", BEFORE, suggested, &at_accept, now);
                    assert_eq!(told, kept("rust", BEFORE, suggested, &at_accept, now));
                }
            }
        }
    }

    /// Length of a longest subsequence of all three by trying everything.
    fn slow_length(a: &[u8], b: &[u8], c: &[u8]) -> usize {
        let (Some((x, a_rest)), Some((y, b_rest)), Some((z, c_rest))) =
            (a.split_first(), b.split_first(), c.split_first())
        else {
            return 0;
        };
        if x == y && y == z {
            return 1 + slow_length(a_rest, b_rest, c_rest);
        }
        slow_length(a_rest, b, c).max(slow_length(a, b_rest, c)).max(slow_length(a, b, c_rest))
    }

    /// The same subsequence from the whole table, cell by cell.
    fn traced_by_table(a: &[u8], b: &[u8], c: &[u8]) -> Vec<[usize; 3]> {
        let (wide, deep) = (b.len() + 1, c.len() + 1);
        let cell = |i: usize, j: usize, k: usize| (i * wide + j) * deep + k;
        let mut longest = vec![0_u32; (a.len() + 1) * wide * deep];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                for k in (0..c.len()).rev() {
                    longest[cell(i, j, k)] = if a[i] == b[j] && b[j] == c[k] {
                        longest[cell(i + 1, j + 1, k + 1)] + 1
                    } else {
                        longest[cell(i + 1, j, k)].max(longest[cell(i, j + 1, k)]).max(longest[cell(i, j, k + 1)])
                    };
                }
            }
        }
        let (mut i, mut j, mut k) = (0, 0, 0);
        let mut found = Vec::new();
        while i < a.len() && j < b.len() && k < c.len() {
            let here = longest[cell(i, j, k)];
            if a[i] == b[j] && b[j] == c[k] {
                found.push([i, j, k]);
                (i, j, k) = (i + 1, j + 1, k + 1);
            } else if longest[cell(i + 1, j, k)] == here {
                i += 1;
            } else if longest[cell(i, j + 1, k)] == here {
                j += 1;
            } else {
                k += 1;
            }
        }
        found
    }

    proptest! {
        #[test]
        fn bounds(before in "[a-c (),\n]{0,16}", accepted in "[a-c (),\n]{0,16}", now in "[a-c (),\n]{0,16}") {
            let all = after("", &before, &accepted, &accepted);
            prop_assert!(all.intact && all.at_least_half());
            let some = after("", &before, &accepted, &now);
            prop_assert_eq!(all.standing_permille(), 1000);
            prop_assert_eq!(some.standing_permille() >= 500, some.at_least_half());
            prop_assert!(some.standing_characters <= some.accepted_characters);
            prop_assert!(!some.intact || some.standing_characters == some.accepted_characters);
        }

        #[test]
        fn three_texts_bound_what_stands(
            before in "[a-c (),]{0,12}", suggested in "[a-c (),]{0,12}",
            accepted in "[a-c (),]{0,12}", now in "[a-c (),]{0,12}",
        ) {
            if let Some(found) = kept("", &before, &suggested, &[accepted], &now) {
                prop_assert!(found.standing_characters <= found.accepted_characters);
                prop_assert!(found.kept_characters <= found.standing_characters);
            }
        }

        #[test]
        fn bits_trace_as_the_table_does(
            (a, b, c) in (1_u8..9).prop_flat_map(|kinds| {
                let items = |most: usize| prop::collection::vec(0..kinds, 0..most);
                (items(24), items(24), items(150))
            }),
        ) {
            for (a, b, c) in [(&a, &b, &c), (&a, &c, &b), (&c, &a, &b)] {
                prop_assert_eq!(traced_by_bits(a, b, c), traced_by_table(a, b, c));
            }
        }

        #[test]
        fn no_subsequence_of_all_three_is_longer(
            a in prop::collection::vec(0_u8..3, 0..6),
            b in prop::collection::vec(0_u8..3, 0..6),
            c in prop::collection::vec(0_u8..3, 0..6),
        ) {
            let found = common_to_three(&a, &b, &c);
            prop_assert!(found.iter().all(|[i, j, k]| a[*i] == b[*j] && b[*j] == c[*k]));
            let ascends = |pair: &[[usize; 3]]| (0..3).all(|side| pair[0][side] < pair[1][side]);
            prop_assert!(found.windows(2).all(ascends));
            prop_assert_eq!(found.len(), slow_length(&a, &b, &c));
        }
    }
}
