//! Which parts are written again: a pure function of their rows.
//!
//! While a day goes on, `parts` small parts of its audience and language are merged, and only with parts that are not
//! much larger: what is written again ends up in a part of at least one and a half times the size, or was tiny. So a
//! pair is written again a number of times that grows with the logarithm of a part's size, however many small parts
//! come. When the day is over, any two small parts are merged, until at most one is left.

use std::collections::{BTreeMap, BTreeSet};

use events::Timestamp;

use crate::config::CompactionConfig;
use crate::lake::LakePart;
use crate::lake::group::PartGroup;

/// Why parts are written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// They are small, and of one day, audience and language.
    Merge,
    /// They hold pairs of several.
    Split,
    /// Data keys have been destroyed since it was last made sure that nothing in them is sealed under one.
    Erase,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Split => "split",
            Self::Erase => "erase",
        }
    }
}

/// Parts that are written again together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) reason: Reason,
    pub(crate) parts: Vec<LakePart>,
}

/// What is to be done about the parts of a tenant; each part is in at most one job. `erasures`: how many data keys of
/// the tenant were destroyed. `left_alone`: ids of parts that cannot be written again now. `now`: by the clock that
/// labels are of.
pub(crate) fn choose(
    parts: &[LakePart],
    config: &CompactionConfig,
    erasures: u64,
    left_alone: &BTreeSet<String>,
    now: Timestamp,
) -> Vec<Job> {
    let usable: Vec<&LakePart> = parts.iter().filter(|part| !left_alone.contains(&part.part_id)).collect();
    // By the labels: nothing is labeled in the day before any more once something is in the next one, but for partitions
    // that are behind; theirs is merged when it comes. Where nobody works any more no such label comes: a day is over,
    // too, when the whole of the next one is.
    let Some(labeled) = parts.iter().map(|part| part.max_labeled_at.day()).max() else { return Vec::new() };
    let today = labeled.max(now.day() - 1);
    let mut groups: BTreeMap<(&str, Option<&PartGroup>), Vec<&LakePart>> = BTreeMap::new();
    for &part in &usable {
        groups.entry((part.topic.as_str(), part.group.as_ref())).or_default().push(part);
    }
    let mut jobs = Vec::new();
    let mut taken = BTreeSet::new();
    for ((_, group), mut members) in groups {
        let job = match group {
            None => {
                members.sort_by(|one, other| (one.generation, &one.part_id).cmp(&(other.generation, &other.part_id)));
                let is_over = members.iter().any(|part| part.max_labeled_at.day() < today);
                let is_due = is_over || members.len() >= config.parts.max(1);
                is_due.then(|| Job { reason: Reason::Split, parts: first_of(&members, config) })
            }
            Some(group) => {
                members.retain(|part| part.bytes < config.part_bytes / 2 && part.pairs < config.part_pairs / 2);
                members.sort_by(|one, other| (one.bytes, &one.part_id).cmp(&(other.bytes, &other.part_id)));
                let merged = mergeable(&members, config, group.day < today);
                (merged.len() > 1).then(|| Job { reason: Reason::Merge, parts: owned(merged) })
            }
        };
        if let Some(job) = job {
            taken.extend(job.parts.iter().map(|part| part.part_id.clone()));
            jobs.push(job);
        }
    }
    // What is small and new is written again soon anyway.
    let is_settled = |part: &&&LakePart| part.generation > 0 || part.max_labeled_at.day() < today;
    let stale = usable.iter().filter(|part| part.erasures < erasures && !taken.contains(&part.part_id));
    jobs.extend(stale.filter(is_settled).map(|part| Job { reason: Reason::Erase, parts: owned(&[*part]) }));
    jobs
}

fn owned(parts: &[&LakePart]) -> Vec<LakePart> {
    parts.iter().map(|part| (*part).clone()).collect()
}

/// As many of the parts as one that is made may hold, and one in any case.
fn first_of(parts: &[&LakePart], config: &CompactionConfig) -> Vec<LakePart> {
    owned(&parts[..fitting(parts, config)])
}

fn fitting(parts: &[&LakePart], config: &CompactionConfig) -> usize {
    let (mut bytes, mut pairs) = (0_u64, 0_u64);
    let fits = |part: &&&LakePart| {
        bytes = bytes.saturating_add(part.bytes);
        pairs = pairs.saturating_add(part.pairs);
        bytes <= config.part_bytes && pairs <= config.part_pairs
    };
    parts.iter().take_while(fits).count().max(1).min(parts.len())
}

/// The parts to merge among small ones of a group, which are sorted by size; none: not yet. `is_over`: nothing comes to
/// the group any more.
fn mergeable<'a, 'b>(parts: &'b [&'a LakePart], config: &CompactionConfig, is_over: bool) -> &'b [&'a LakePart] {
    let least = if is_over { 2 } else { config.parts.max(2) };
    let tiny = config.part_bytes / 64;
    for start in 0..parts.len() {
        let rest = &parts[start..];
        let mut run = &rest[..fitting(rest, config)];
        if !is_over {
            let mut before = 0_u64;
            let joins = |part: &&&LakePart| {
                let joins = before == 0 || part.bytes <= tiny || part.bytes <= before.saturating_mul(2);
                before = before.saturating_add(part.bytes);
                joins
            };
            run = &run[..run.iter().take_while(joins).count()];
        }
        if run.len() >= least {
            return run;
        }
    }
    &[]
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
