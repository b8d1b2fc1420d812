//! Whole words in text.

/// Whether a byte can be part of an identifier.
pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Start positions of `word` in `text` as a whole word.
pub(crate) fn word_positions<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    text.match_indices(word).map(|(position, _)| position).filter(move |position| {
        let before = position.checked_sub(1).and_then(|index| bytes.get(index));
        let after = bytes.get(position + word.len());
        !before.is_some_and(|byte| is_word_byte(*byte)) && !after.is_some_and(|byte| is_word_byte(*byte))
    })
}

/// Whether `word` stands in `text` as a whole word.
pub(crate) fn contains_word(text: &str, word: &str) -> bool {
    word_positions(text, word).next().is_some()
}

/// `text` with every whole word `from` replaced.
pub(crate) fn replace_word(text: &str, from: &str, to: &str) -> String {
    if from == to {
        return text.to_owned();
    }
    let mut result = String::with_capacity(text.len() + 16);
    let mut done = 0;
    for position in word_positions(text, from) {
        result.push_str(&text[done..position]);
        result.push_str(to);
        done = position + from.len();
    }
    result.push_str(&text[done..]);
    result
}

/// The words (letters, digits, underscores) and the other characters of a text, without space.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let length = if first.is_ascii() && is_word_byte(first as u8) {
            rest.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

/// The identifiers of a text in order, with repetitions.
pub(crate) fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
        .filter(|word| !word.is_empty() && !word.as_bytes()[0].is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert_eq!(replace_word("name rename name_of (name)", "name", "title"), "title rename name_of (title)");
        assert!(!contains_word("rename", "name"));
        assert_eq!(pieces("x_1 += é;").collect::<Vec<_>>(), ["x_1", "+", "=", "é", ";"]);
        assert_eq!(words_of("let a1 = foo(2b, _c);").collect::<Vec<_>>(), ["let", "a1", "foo", "_c"]);
    }
}
