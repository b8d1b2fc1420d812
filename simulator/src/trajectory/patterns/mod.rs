//! What can be taken back, one file a pattern.

mod extract;
mod import;
mod overriding;
mod places;
mod refine;
mod rename;
mod signature;

use crate::random::Dice;
use crate::trajectory::Pattern;
use crate::trajectory::build::BuildSettings;
use crate::trajectory::draft::Draft;
use crate::trajectory::outline::{Defined, Occurrence, Role};
use crate::trajectory::repository::Repository;
use std::cell::OnceCell;

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
    /// The typed parameters of the file's functions, once they were looked for.
    parameters: OnceCell<Vec<refine::Typed<'a>>>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(repository: &'a Repository, file: usize, settings: &BuildSettings) -> Self {
        let BuildSettings { per_file, most_steps, seed, .. } = *settings;
        Self { repository, file, per_file, most_steps, seed, parameters: OnceCell::new() }
    }
}

impl Search<'_> {
    /// What the patterns find that begins in this file: each pattern goes through the definitions (or the imports) in an
    /// order of its own, which the seed decides, until it has enough.
    pub(crate) fn drafts(&self, patterns: &[Pattern]) -> Vec<Draft> {
        let Some(file) = self.repository.files.get(self.file).filter(|file| file.is_whole) else { return Vec::new() };
        let definitions: Vec<(Occurrence, Defined)> = self.repository.definitions(self.file).collect();
        let imports = file.outline.names.iter().filter(|name| name.role == Role::Imported);
        let imports: Vec<(Occurrence, Defined)> = imports.map(|name| (*name, Defined::Other)).collect();
        let mut drafts = Vec::new();
        for pattern in patterns {
            let label = format!("{} {} {}", self.repository.name, file.file.path, pattern.name());
            let mut dice = Dice::new(self.seed, &label, &[]);
            let mut order = if *pattern == Pattern::AutoImport { imports.clone() } else { definitions.clone() };
            dice.shuffle(&mut order);
            let found = order.into_iter().filter_map(|(name, defined)| match pattern {
                Pattern::SignatureChange => signature::draft(self, name, defined, &mut dice),
                Pattern::RenameToConvention => rename::draft(self, name, defined, &mut dice),
                Pattern::ExtractFunction => extract::draft(self, name, defined),
                Pattern::TypeRefinement => refine::draft(self, name, &mut dice),
                Pattern::OverrideGeneration => overriding::draft(self, name),
                Pattern::AutoImport => import::draft(self, name),
                // A compiler says which there are.
                Pattern::DiagnosticFix => None,
            });
            drafts.extend(found.filter(|draft| draft.changes.len() <= self.most_steps).take(self.per_file));
        }
        drafts
    }
}
