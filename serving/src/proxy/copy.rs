//! Copies of what passes, within bounds.
//!
//! What passes is never held up by its copy: a copy that would grow beyond its limit, or for which all copies together
//! leave no room, is given up, and the reason is told. Lengths are what is counted; a growing copy may have reserved as
//! much again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for all copies.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    fn take(&self, bytes: usize) -> bool {
        let held = self.held.fetch_add(bytes, Ordering::AcqRel);
        let has_room = held.saturating_add(bytes) <= self.limit;
        if !has_room {
            self.give_back(bytes);
        }
        has_room
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }
}

/// Why there is no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// It is longer than what is recorded.
    TooLarge,
    /// There is no room beside the other copies.
    Memory,
    /// It broke off.
    Unfinished,
}

/// A whole copy. Its room is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Copied {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
}

impl Copied {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes.len());
    }
}

/// A copy that grows.
#[derive(Debug)]
pub(crate) struct Copying {
    copied: Result<Copied, Missed>,
    limit: usize,
}

impl Copying {
    pub(crate) fn new(budget: &Arc<Budget>, limit: usize) -> Self {
        Self { copied: Ok(Copied { bytes: Vec::new(), budget: Arc::clone(budget) }), limit }
    }

    /// Copies what passes next.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let Ok(copied) = &mut self.copied else { return };
        if copied.bytes.len().saturating_add(data.len()) > self.limit {
            self.copied = Err(Missed::TooLarge);
        } else if copied.budget.take(data.len()) {
            copied.bytes.extend_from_slice(data);
        } else {
            self.copied = Err(Missed::Memory);
        }
    }

    pub(crate) fn finish(self) -> Result<Copied, Missed> {
        self.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_within_their_limit_and_give_their_room_back() {
        let budget = Budget::new(10);
        let copy = |pieces: &[&[u8]], limit| {
            let mut copying = Copying::new(&budget, limit);
            pieces.iter().for_each(|piece| copying.push(piece));
            copying.finish()
        };
        let first = copy(&[b"abc", b"", b"def"], 6).unwrap();
        assert_eq!((first.bytes(), budget.held()), (&b"abcdef"[..], 6));
        assert_eq!(copy(&[b"abc", b"d"], 3).err(), Some(Missed::TooLarge));
        assert_eq!(copy(&[b"ab", b"cde"], 6).err(), Some(Missed::Memory));
        assert_eq!(budget.held(), 6);
        drop(first);
        assert_eq!(budget.held(), 0);
        assert_eq!(copy(&[b"0123456789"], 10).unwrap().bytes().len(), 10);
    }
}
