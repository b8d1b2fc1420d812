//! Control records: what consent changes, erasures and policy versions say to every step, in the order of the log.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

/// The control kind by which operators take a key out of the poisoned ones; the subject is the key in hexadecimal
/// digits. Its records are handled again from then on, with empty state.
pub const RELEASE_KEY: &str = "bus.release-key";

/// Largest kind or subject, in bytes.
const NAME_BYTES: usize = 4096;

/// A control record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What it is about, such as a consent change.
    pub kind: String,
    /// Whom or what it is about.
    pub subject: String,
    /// What is said; empty removes the entry.
    pub value: Bytes,
}

impl Control {
    /// A control record, when kind and subject are short enough and the kind is not empty.
    #[must_use]
    pub fn new(kind: &str, subject: &str, value: Bytes) -> Option<Self> {
        let fits = !kind.is_empty() && kind.len() <= NAME_BYTES && subject.len() <= NAME_BYTES;
        fits.then(|| Self { kind: kind.to_owned(), subject: subject.to_owned(), value })
    }

    /// The bytes in the log: two lengths (u16, big-endian), kind, subject, value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 + self.kind.len() + self.subject.len() + self.value.len());
        // `new` bounds both lengths far below 2^16.
        bytes.put_u16(u16::try_from(self.kind.len()).unwrap_or(u16::MAX));
        bytes.put_u16(u16::try_from(self.subject.len()).unwrap_or(u16::MAX));
        bytes.put_slice(self.kind.as_bytes());
        bytes.put_slice(self.subject.as_bytes());
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    /// Reads what [`Control::encode`] wrote; none for anything else.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let kind_bytes = usize::from(u16::from_be_bytes(bytes.get(0..2)?.try_into().ok()?));
        let subject_bytes = usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
        let value_start = 4 + kind_bytes + subject_bytes;
        let kind = std::str::from_utf8(bytes.get(4..4 + kind_bytes)?).ok()?;
        let subject = std::str::from_utf8(bytes.get(4 + kind_bytes..value_start)?).ok()?;
        Self::new(kind, subject, bytes.slice(value_start..))
    }
}

/// What control records said last, for one partition of one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlTable(BTreeMap<String, BTreeMap<String, Bytes>>);

impl ControlTable {
    /// What was said last about a subject.
    #[must_use]
    pub fn get(&self, kind: &str, subject: &str) -> Option<&Bytes> {
        self.0.get(kind)?.get(subject)
    }

    /// Applies a control record.
    pub fn apply(&mut self, control: Control) {
        let Control { kind, subject, value } = control;
        if value.is_empty() {
            if let Some(subjects) = self.0.get_mut(&kind) {
                subjects.remove(&subject);
            }
        } else {
            self.0.entry(kind).or_default().insert(subject, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(
            kind in ".{1,40}",
            subject in ".{0,40}",
            value in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let control = Control::new(&kind, &subject, value.into()).unwrap();
            prop_assert_eq!(Control::decode(&control.encode()), Some(control));
        }

        #[test]
        fn never_panics_on_other_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Control::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn an_empty_value_removes() {
        let mut table = ControlTable::default();
        table.apply(Control::new("consent", "p", Bytes::from_static(b"code")).unwrap());
        assert_eq!(table.get("consent", "p"), Some(&Bytes::from_static(b"code")));
        table.apply(Control::new("consent", "p", Bytes::new()).unwrap());
        assert_eq!(table.get("consent", "p"), None);
        assert_eq!(Control::new("", "p", Bytes::new()), None);
    }
}
