//! Keyed substitution that preserves length and shape, and that knows its own work.
//!
//! A digit becomes a digit, a lower-case letter a lower-case letter, an upper-case one an upper-case one; every
//! character keeps its length in UTF-8 and in UTF-16, and whatever is neither letter nor digit stays. So every range
//! into a text still holds after substitution.
//!
//! # Why it is idempotent
//!
//! Clients send back what they were shown: names that serving rendered, text that a model learned from scrubbed code.
//! If that were substituted again, the two would no longer match. A function that leaves its own results alone must be
//! able to recognise them, so a result carries a check: its last few substitutable characters are a keyed function of
//! the others. A text whose check holds is left as it is. A foreign text passes for one of ours with the chance of
//! guessing that check (below one in ten thousand for a five-digit address, below 10^-11 for anything of 16 letters),
//! and who reads it can not tell it from a substituted one.

use events::sealing::keyed_digest;

/// How many of a text's `count` substitutable characters form the check.
pub(crate) type CheckLength = fn(count: usize) -> usize;

/// Half of the text, at least four characters where there are that many, at most twelve: for secrets and personal data.
pub(crate) fn strong_check(count: usize) -> usize {
    (count / 2).max(4).min(count.saturating_sub(1)).clamp(1, 12)
}

/// As few as will do: for names, which should stay apart from each other.
pub(crate) fn light_check(count: usize) -> usize {
    match count {
        0..=4 => 1,
        5..=7 => 2,
        _ => 3,
    }
}

/// The characters that may stand for `character`: those of its class, as first code point and count.
fn alphabet(character: char) -> Option<(u32, u32)> {
    let (first, count) = match character {
        'a'..='z' => ('a', 26),
        'A'..='Z' => ('A', 26),
        '0'..='9' => ('0', 10),
        _ if character.is_ascii() || !character.is_alphabetic() => return None,
        _ => match (character.len_utf8(), character.is_lowercase(), character.is_uppercase()) {
            (2, true, _) => ('а', 32),
            (2, _, true) => ('А', 32),
            (2, ..) => ('א', 27),
            (3, ..) => ('\u{4E00}', 20_902),
            _ => ('\u{20000}', 42_720),
        },
    };
    Some((u32::from(first), count))
}

/// Whether substitution may change this character.
pub(crate) fn is_substitutable(character: char) -> bool {
    alphabet(character).is_some()
}

/// Substitutes under one key.
#[derive(Clone)]
pub(crate) struct Substitution {
    key: [u8; 32],
    check_length: CheckLength,
}

impl Substitution {
    pub(crate) fn new(key: [u8; 32], check_length: CheckLength) -> Self {
        Self { key, check_length }
    }

    /// The same text always gives the same image; an image is its own image.
    pub(crate) fn image(&self, text: &[char]) -> Vec<char> {
        let places: Vec<usize> = (0..text.len()).filter(|place| is_substitutable(text[*place])).collect();
        if places.is_empty() || self.is_image_at(text, &places) {
            return text.to_vec();
        }
        let mut image = text.to_vec();
        let payload = &places[..places.len() - (self.check_length)(places.len()).min(places.len())];
        self.fill(b"payload", text, payload, &mut image);
        self.sign(&mut image, &places);
        image
    }

    /// Whether `text` is the image of something.
    pub(crate) fn is_image(&self, text: &[char]) -> bool {
        let places: Vec<usize> = (0..text.len()).filter(|place| is_substitutable(text[*place])).collect();
        self.is_image_at(text, &places)
    }

    fn is_image_at(&self, text: &[char], places: &[usize]) -> bool {
        let mut signed = text.to_vec();
        self.sign(&mut signed, places);
        signed == text
    }

    /// Sets the check places to what the rest of the text demands.
    fn sign(&self, text: &mut [char], places: &[usize]) {
        let checks = &places[places.len() - (self.check_length)(places.len()).min(places.len())..];
        let mut blank = text.to_vec();
        for place in checks {
            // Only the class of a check place counts, so that signing twice changes nothing.
            blank[*place] = alphabet(text[*place]).and_then(|(first, _)| char::from_u32(first)).unwrap_or(text[*place]);
        }
        self.fill(b"check", &blank, checks, text);
    }

    fn fill(&self, label: &[u8], seed: &[char], places: &[usize], target: &mut [char]) {
        let seed: String = seed.iter().collect();
        for (block, places) in places.chunks(16).enumerate() {
            let stream = keyed_digest(&self.key, &[label, seed.as_bytes(), &(block as u64).to_be_bytes()]);
            for (pair, place) in stream.chunks_exact(2).zip(places) {
                let Some((first, count)) = alphabet(target[*place]) else { continue };
                let drawn = u32::from(u16::from_be_bytes([pair[0], pair[1]])) % count;
                if let Some(character) = char::from_u32(first + drawn) {
                    target[*place] = character;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(text: &str, check_length: CheckLength) -> String {
        Substitution::new([7; 32], check_length).image(&text.chars().collect::<Vec<_>>()).into_iter().collect()
    }

    proptest! {
        #[test]
        fn keeps_length_and_class_and_knows_its_own_work(text in "\\PC{0,60}") {
            for check_length in [strong_check as CheckLength, light_check] {
                let once = image(&text, check_length);
                prop_assert_eq!(image(&once, check_length), once.clone());
                prop_assert_eq!(once.len(), text.len());
                prop_assert_eq!(once.encode_utf16().count(), text.encode_utf16().count());
                for (before, after) in text.chars().zip(once.chars()) {
                    prop_assert_eq!(alphabet(before), alphabet(after));
                    prop_assert!(is_substitutable(before) || before == after);
                }
            }
        }

        #[test]
        fn a_secret_does_not_survive(text in "[a-zA-Z0-9]{16,80}") {
            prop_assert_ne!(image(&text, strong_check), text);
        }
    }

    #[test]
    fn keys_part_tenants() {
        let text: Vec<char> = "correct-horse-battery-staple".chars().collect();
        let one = Substitution::new([1; 32], strong_check).image(&text);
        assert_ne!(one, Substitution::new([2; 32], strong_check).image(&text));
        assert!(!Substitution::new([2; 32], strong_check).is_image(&one));
        assert_eq!(one.iter().filter(|character| **character == '-').count(), 3);
    }
}
