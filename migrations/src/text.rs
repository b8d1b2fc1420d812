//! Text from outside on its way into a column.

use std::borrow::Cow;

/// `text` as both databases store it. PostgreSQL refuses the character NUL, and with it the whole transaction: a sink
/// that met one would stand still for ever. It is replaced on SQLite, too, so that both tell the same.
#[must_use]
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_character_is_replaced() {
        assert_eq!(storable("a\0b\0"), "a\u{fffd}b\u{fffd}");
        assert!(matches!(storable("ä\u{1}\n"), Cow::Borrowed("ä\u{1}\n")));
    }
}
