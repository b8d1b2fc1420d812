//! `NO_EDIT` chosen never outnumbers `NO_EDIT` rejected: a model that is taught to fall silent wins acceptance and loses
//! its use.

use super::composition::Reason;
use super::entry::{Entry, LeftOut};
use super::lesson::Silence;

/// Leaves out the oldest pairs that choose `NO_EDIT` beyond those that reject it. `entries` are newest first.
pub(crate) fn balance<'a>(entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let is = |entry: &Entry<'a>, silence| entry.silence == Some(silence);
    let mut room = entries.iter().filter(|entry| is(entry, Silence::Rejected)).count();
    left_out.retain(entries, |entry| {
        if !is(entry, Silence::Chosen) {
            return Ok(());
        }
        match room.checked_sub(1) {
            Some(left) => {
                room = left;
                Ok(())
            }
            None => Err(Reason::NoEditOutnumbers),
        }
    })
}
