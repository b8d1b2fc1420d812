//! What can be taken back, one file a pattern.

mod rename;
mod signature;

use crate::random::Dice;
use crate::trajectory::Pattern;
use crate::trajectory::draft::Draft;
use crate::trajectory::outline::{Defined, Occurrence};
use crate::trajectory::repository::Repository;

/// What a pattern works with.
pub(crate) struct Search<'a> {
    pub(crate) repository: &'a Repository,
    /// Number of the file whose definitions are looked at.
    pub(crate) file: usize,
    /// Most trajectories of one pattern that begin in one file.
    pub(crate) per_file: usize,
    /// Most steps of a trajectory.
    pub(crate) most_steps: usize,
    pub(crate) seed: u64,
}

impl Search<'_> {
    /// What the patterns find that begins in this file: each pattern goes through the definitions in an order of its
    /// own, which the seed decides, until it has enough.
    pub(crate) fn drafts(&self, patterns: &[Pattern]) -> Vec<Draft> {
        let Some(file) = self.repository.files.get(self.file).filter(|file| file.is_whole) else { return Vec::new() };
        let definitions: Vec<(Occurrence, Defined)> = self.repository.definitions(self.file).collect();
        let mut drafts = Vec::new();
        for pattern in patterns {
            let label = format!("{} {} {}", self.repository.name, file.file.path, pattern.name());
            let mut dice = Dice::new(self.seed, &label, &[]);
            let mut order = definitions.clone();
            dice.shuffle(&mut order);
            let found = order.into_iter().filter_map(|(name, defined)| match pattern {
                Pattern::SignatureChange => signature::draft(self, name, defined, &mut dice),
                Pattern::RenameToConvention => rename::draft(self, name, defined, &mut dice),
            });
            drafts.extend(found.filter(|draft| draft.changes.len() <= self.most_steps).take(self.per_file));
        }
        drafts
    }
}
