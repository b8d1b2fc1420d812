//! What parts say about their pairs, kept for whoever looks again and again: an object never changes, and most parts of
//! a look are those of the look before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use events::{PreferencePair, Sha256Digest};

use super::rows::LakePart;

/// Facts of parts, never of more pairs than it may keep. What does not fit is read anew each time: a look goes over all
/// parts in turn, so that letting the oldest go would keep nothing for the next one.
#[derive(Debug)]
pub(crate) struct Remembered {
    most: usize,
    held: usize,
    parts: HashMap<Sha256Digest, (LakePart, Arc<Vec<PreferencePair>>)>,
}

impl Remembered {
    /// Keeps what parts say about `most` pairs.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: 0, parts: HashMap::new() }
    }

    /// What was read of a part, if its row still says what it said then.
    pub(crate) fn get(&self, part: &LakePart) -> Option<Arc<Vec<PreferencePair>>> {
        let (known, pairs) = self.parts.get(&part.digest)?;
        (known == part).then(|| Arc::clone(pairs))
    }

    /// Keeps what was read of a part, if there is room.
    pub(crate) fn keep(&mut self, part: &LakePart, pairs: &Arc<Vec<PreferencePair>>) {
        self.forget(&part.digest);
        if self.held.saturating_add(pairs.len()) <= self.most {
            self.held += pairs.len();
            self.parts.insert(part.digest, (part.clone(), Arc::clone(pairs)));
        }
    }

    fn forget(&mut self, object: &Sha256Digest) {
        if let Some((_, pairs)) = self.parts.remove(object) {
            self.held -= pairs.len();
        }
    }

    /// Forgets the parts that are not among those that there are.
    pub(crate) fn forget_others(&mut self, there: &[LakePart]) {
        let there: HashSet<Sha256Digest> = there.iter().map(|part| part.digest).collect();
        let gone: Vec<Sha256Digest> = self.parts.keys().filter(|object| !there.contains(*object)).copied().collect();
        for object in gone {
            self.forget(&object);
        }
    }
}
