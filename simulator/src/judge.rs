//! Whether two documents say the same: token by token, blind to who made them.
//!
//! Tokens are words (letters, digits, underscores) and single other characters; space between tokens is no token, so
//! that a formatter changes nothing.

use crate::text::is_word_byte;

/// The tokens of a text.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let length = if first.is_ascii() && is_word_byte(first as u8) {
            rest.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        Some(token)
    })
}

/// Whether two documents have the same tokens in the same order.
#[must_use]
pub fn same(left: &str, right: &str) -> bool {
    left == right || tokens(left).eq(tokens(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn space_is_no_token_but_words_are_whole() {
        assert!(same("a( b,c )", "a(b, c)\n"));
        assert!(!same("a b", "ab"));
        assert!(!same("title(x)", "fetch_title(x)"));
        assert_eq!(tokens("x_1 += é;").collect::<Vec<_>>(), ["x_1", "+", "=", "é", ";"]);
    }

    proptest! {
        #[test]
        fn the_judge_is_symmetric_and_reflexive(left in "[a-c_ (),.]{0,12}", right in "[a-c_ (),.]{0,12}") {
            prop_assert_eq!(same(&left, &right), same(&right, &left));
            prop_assert!(same(&left, &left));
        }
    }
}
