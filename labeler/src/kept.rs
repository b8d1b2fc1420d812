//! How much of accepted text stands: a token alignment of the text right after Tab with the text at a look.
//!
//! Only tokens that the acceptance *changed* count. A suggestion that rewrites one name of a line is gone when the name
//! is gone, although most characters of the line stand.

use crate::alignment::common_subsequence;
use crate::lexing::{Token, tokens};

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
    /// Whether at least half of it stands. A change of nothing but format always does.
    #[must_use]
    pub fn at_least_half(&self) -> bool {
        self.standing_characters * 2 >= self.accepted_characters
    }
}

/// What stands in `now` of the step from `before` to `accepted`.
#[must_use]
pub fn kept(language: &str, before: &str, accepted: &str, now: &str) -> Kept {
    let (before_tokens, accepted_tokens, now_tokens) =
        (tokens(language, before), tokens(language, accepted), tokens(language, now));
    let (before_texts, accepted_texts, now_texts) =
        (texts(before, &before_tokens), texts(accepted, &accepted_tokens), texts(now, &now_tokens));
    let unchanged = common_subsequence(&before_texts, &accepted_texts);
    let written = unmatched(accepted_texts.len(), unchanged.iter().map(|pair| pair.1));
    let removed = unmatched(before_texts.len(), unchanged.iter().map(|pair| pair.0));
    if written.is_empty() {
        let back = common_subsequence(&before_texts, &now_texts);
        let still_gone = unmatched(before_texts.len(), back.iter().map(|pair| pair.0));
        let gone: Vec<usize> = removed.iter().copied().filter(|index| still_gone.contains(index)).collect();
        let accepted_characters = characters(&before_texts, &removed);
        let standing_characters = characters(&before_texts, &gone);
        return Kept {
            accepted_characters,
            standing_characters,
            kept_characters: 0,
            intact: standing_characters == accepted_characters,
        };
    }
    let standing = common_subsequence(&accepted_texts, &now_texts);
    let place = |index: usize| standing.binary_search_by_key(&index, |pair| pair.0).ok().map(|at| standing[at].1);
    let kept: Vec<usize> = written.iter().copied().filter(|index| place(*index).is_some()).collect();
    let whole = kept.len() == written.len()
        && written.windows(2).all(|pair| pair[1] != pair[0] + 1 || place(pair[0]).map(|at| at + 1) == place(pair[1]));
    let kept_characters = characters(&accepted_texts, &kept);
    Kept {
        accepted_characters: characters(&accepted_texts, &written),
        standing_characters: kept_characters,
        kept_characters,
        intact: whole,
    }
}

fn texts<'a>(text: &'a str, tokens: &[Token]) -> Vec<&'a str> {
    tokens.iter().map(|token| &text[token.range.clone()]).collect()
}

fn unmatched(length: usize, matched: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut free = vec![true; length];
    for index in matched {
        free[index] = false;
    }
    (0..length).filter(|index| free[*index]).collect()
}

fn characters(texts: &[&str], indices: &[usize]) -> usize {
    indices.iter().map(|index| texts[*index].chars().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEFORE: &str = "let x = get_name(user);\nsend(x);\n";
    const ACCEPTED: &str = "let x = get_display_name(user);\nsend(x);\n";

    #[test]
    fn untouched_and_reformatted_text_is_kept_whole() {
        for now in [ACCEPTED, "let x =\n    get_display_name( user );\nsend(x);\n"] {
            let kept = kept("rust", BEFORE, ACCEPTED, now);
            assert_eq!((kept.accepted_characters, kept.kept_characters, kept.intact), (16, 16, true), "{now}");
        }
    }

    #[test]
    fn undone_text_is_gone_although_most_of_the_line_stands() {
        let kept = kept("rust", BEFORE, ACCEPTED, BEFORE);
        assert_eq!(kept.kept_characters, 0);
        assert!(!kept.at_least_half());
    }

    #[test]
    fn half_kept_is_kept_and_something_in_between_is_a_modification() {
        let accepted = "call(alpha, beta);\n";
        let half = kept("rust", "\n", accepted, "call(alpha);\n");
        assert!(half.at_least_half() && !half.intact);
        let more = kept("rust", "\n", accepted, "call(alpha, more, beta);\n");
        assert!(more.at_least_half() && !more.intact);
        let after = kept("rust", "\n", accepted, "call(alpha, beta);\nnext();\n");
        assert!(after.intact);
    }

    #[test]
    fn a_deletion_stands_while_the_text_is_gone() {
        assert!(kept("rust", "f(a, b);", "f(a);", "f(a);").intact);
        let back = kept("rust", "f(a, b);", "f(a);", "f(a, b);");
        assert!(!back.intact && !back.at_least_half());
    }

    proptest! {
        #[test]
        fn bounds(before in "[a-c (),\n]{0,16}", accepted in "[a-c (),\n]{0,16}", now in "[a-c (),\n]{0,16}") {
            let all = kept("", &before, &accepted, &accepted);
            prop_assert!(all.intact && all.at_least_half());
            let some = kept("", &before, &accepted, &now);
            prop_assert!(some.standing_characters <= some.accepted_characters);
            prop_assert!(!some.intact || some.standing_characters == some.accepted_characters);
        }
    }
}
