//! Offsets as clients count them: bytes of UTF-8, or UTF-16 code units as LSP does.

use events::OffsetEncoding;

/// Why an offset names no place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// Past the end.
    #[error("the offset is outside the text")]
    Outside,
    /// Inside a character.
    #[error("the offset is inside a character")]
    InsideCharacter,
}

/// The byte of `text` that lies `units` after its start.
///
/// # Errors
/// When the offset is past the end or inside a character.
pub fn byte_at(text: &str, encoding: OffsetEncoding, units: u64) -> Result<usize, OffsetError> {
    match encoding {
        OffsetEncoding::Utf8 => {
            let byte = usize::try_from(units).map_err(|_| OffsetError::Outside)?;
            if byte > text.len() {
                return Err(OffsetError::Outside);
            }
            if text.is_char_boundary(byte) { Ok(byte) } else { Err(OffsetError::InsideCharacter) }
        }
        OffsetEncoding::Utf16 => {
            let mut counted = 0_u64;
            for (byte, character) in text.char_indices() {
                if counted == units {
                    return Ok(byte);
                }
                counted += character.len_utf16() as u64;
                if counted > units {
                    return Err(OffsetError::InsideCharacter);
                }
            }
            if counted == units { Ok(text.len()) } else { Err(OffsetError::Outside) }
        }
        OffsetEncoding::Unknown => Err(OffsetError::Outside),
    }
}

/// How many units `text` has.
#[must_use]
pub fn units(text: &str, encoding: OffsetEncoding) -> u64 {
    match encoding {
        OffsetEncoding::Utf8 => text.len() as u64,
        OffsetEncoding::Utf16 => text.chars().map(|character| character.len_utf16() as u64).sum(),
        OffsetEncoding::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn surrogate_pairs_count_twice_and_cannot_be_cut() {
        let text = "a😀b";
        assert_eq!(byte_at(text, OffsetEncoding::Utf16, 1), Ok(1));
        assert_eq!(byte_at(text, OffsetEncoding::Utf16, 2), Err(OffsetError::InsideCharacter));
        assert_eq!(byte_at(text, OffsetEncoding::Utf16, 3), Ok(5));
        assert_eq!(byte_at(text, OffsetEncoding::Utf16, 4), Ok(6));
        assert_eq!(byte_at(text, OffsetEncoding::Utf16, 5), Err(OffsetError::Outside));
        assert_eq!(byte_at(text, OffsetEncoding::Utf8, 3), Err(OffsetError::InsideCharacter));
        assert_eq!(byte_at(text, OffsetEncoding::Utf8, u64::MAX), Err(OffsetError::Outside));
        assert_eq!(byte_at("", OffsetEncoding::Utf16, 0), Ok(0));
    }

    proptest! {
        #[test]
        fn every_place_has_one_offset_and_comes_back(
            text in "[a-z\u{e4}\u{4e2d}\u{1f600}\r\n]{0,40}",
            utf16 in any::<bool>(),
        ) {
            let encoding = if utf16 { OffsetEncoding::Utf16 } else { OffsetEncoding::Utf8 };
            for byte in (0..=text.len()).filter(|byte| text.is_char_boundary(*byte)) {
                prop_assert_eq!(byte_at(&text, encoding, units(&text[..byte], encoding)), Ok(byte));
            }
            let utf16_length = text.encode_utf16().count() as u64;
            prop_assert_eq!(units(&text, OffsetEncoding::Utf16), utf16_length);
        }
    }
}
