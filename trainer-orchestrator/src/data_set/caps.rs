//! What one person, team, repository or file may be of a data set.
//!
//! Each may have the larger of a share of all pairs and three times the mean. Leaving pairs out makes the whole smaller
//! and so the limit, so that limits are applied until all of them hold. They never reach zero: a limit is at least
//! three, because every group has a pair. They are applied to what enters the hold-outs and again to what trains.

use super::composition::Reason;
use super::entry::{ByNumber, Entry, LeftOut};
use super::policy::DataSetPolicy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dimension {
    Person,
    Team,
    Repository,
    File,
}

impl Dimension {
    pub(crate) const ALL: [Self; 4] = [Self::Person, Self::Team, Self::Repository, Self::File];

    /// Whose an entry is.
    fn number(self, entry: &Entry<'_>) -> Option<u32> {
        match self {
            // What several persons did is no single voice.
            Self::Person => (entry.people == 1).then_some(entry.person),
            Self::Team => Some(entry.team),
            Self::Repository => Some(entry.repository),
            Self::File => Some(entry.file),
        }
    }

    pub(crate) fn permille(self, policy: &DataSetPolicy) -> usize {
        let permille = match self {
            Self::Person => policy.most_of_person_permille,
            Self::Team => policy.most_of_team_permille,
            Self::Repository => policy.most_of_repository_permille,
            Self::File => policy.most_of_file_permille,
        };
        permille as usize
    }

    const fn reason(self) -> Reason {
        match self {
            Self::Person => Reason::BeyondPerson,
            Self::Team => Reason::BeyondTeam,
            Self::Repository => Reason::BeyondRepository,
            Self::File => Reason::BeyondFile,
        }
    }
}

/// Whose a repository is: what its name has before the first `/` (the rendering of names keeps it), or all of it.
pub(crate) fn team(repository: &str) -> &str {
    repository.split_once('/').map_or(repository, |(owner, _)| owner)
}

/// Leaves out the oldest pairs of whoever has too many, until nobody has. `entries` are newest first.
pub(crate) fn apply<'a>(
    policy: &DataSetPolicy,
    mut entries: Vec<Entry<'a>>,
    left_out: &mut LeftOut<'a>,
) -> Vec<Entry<'a>> {
    loop {
        let before = entries.len();
        for dimension in Dimension::ALL {
            entries = cap(dimension, dimension.permille(policy), entries, left_out);
        }
        if entries.len() == before {
            return entries;
        }
    }
}

fn cap<'a>(
    dimension: Dimension,
    permille: usize,
    entries: Vec<Entry<'a>>,
    left_out: &mut LeftOut<'a>,
) -> Vec<Entry<'a>> {
    let mut counts: ByNumber<usize> = ByNumber::default();
    let mut nobodys = 0;
    for entry in &entries {
        match dimension.number(entry) {
            Some(number) => *counts.of(number) += 1,
            None => nobodys += 1,
        }
    }
    let sizes: Vec<usize> = counts.values().filter(|size| *size > 0).collect();
    let most = limit(&sizes, nobodys, permille);
    if sizes.iter().all(|size| *size <= most) {
        return entries;
    }
    let mut taken: ByNumber<usize> = ByNumber::default();
    left_out.retain(entries, |entry| {
        let Some(number) = dimension.number(entry) else { return Ok(()) };
        let taken = taken.of(number);
        *taken += 1;
        if *taken <= most { Ok(()) } else { Err(dimension.reason()) }
    })
}

/// What one of so many groups may have of `total`: the larger of `permille` of it and three times the mean.
pub(crate) fn share(total: usize, groups: usize, permille: usize) -> usize {
    (total.saturating_mul(permille) / 1000).max(total.saturating_mul(3) / groups.max(1))
}

/// The largest number that is at most `permille` of what remains, or three times its mean, when no group of `sizes` has
/// more; `nobodys` pairs belong to no group.
pub(crate) fn limit(sizes: &[usize], nobodys: usize, permille: usize) -> usize {
    if sizes.is_empty() {
        return usize::MAX;
    }
    let mut total = nobodys + sizes.iter().sum::<usize>();
    loop {
        let limit = share(total, sizes.len(), permille);
        let kept = nobodys + sizes.iter().map(|size| (*size).min(limit)).sum::<usize>();
        if kept == total {
            return limit;
        }
        total = kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_owner_of_a_repository_is_its_team() {
        assert_eq!((team("acme/shop"), team("acme/a/b"), team("shop"), team("")), ("acme", "acme", "shop", ""));
    }

    #[test]
    fn one_loud_person_among_many_is_brought_down() {
        let mut sizes = vec![1_000_000];
        sizes.extend([1; 99]);
        assert_eq!(limit(&sizes, 0, 10), 3);
        assert_eq!(limit(&[10, 10], 0, 10), 30);
        assert_eq!(limit(&[], 5, 10), usize::MAX);
    }

    proptest! {
        #[test]
        fn a_limit_holds_for_what_remains(
            sizes in prop::collection::vec(1..500_usize, 1..60),
            nobodys in 0..200_usize,
            permille in 0..=1000_usize,
        ) {
            let limit = limit(&sizes, nobodys, permille);
            let total = nobodys + sizes.iter().map(|size| (*size).min(limit)).sum::<usize>();
            prop_assert!(limit >= 3);
            prop_assert_eq!(limit, (total * permille / 1000).max(3 * total / sizes.len()));
            // And it is the largest one: everything that any limit keeps, this one keeps, too.
            for larger in (limit + 1)..=sizes.iter().copied().max().unwrap_or(0) {
                let total = nobodys + sizes.iter().map(|size| (*size).min(larger)).sum::<usize>();
                prop_assert!(larger > (total * permille / 1000).max(3 * total / sizes.len()));
            }
        }
    }
}
