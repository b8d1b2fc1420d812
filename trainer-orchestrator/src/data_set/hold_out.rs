//! What judges does not train.
//!
//! *General* is of repositories and people that train nothing. Whether a repository is held out depends on its name
//! alone, so that while there is such a set, none changes sides because of what others do. People are held out with
//! them when at least half of what they did lies there. What the two cross (a person who trains, in a repository that
//! is held out, and the other way round) is in no set. Nor does judge what a pair that trains nearly equals.
//!
//! *Adapt* is later than everything that trains: the newest opportunities of which it is known what the developer
//! wanted, one pair of each, and of those only what is of a repository that trains and what no pair that trains nearly
//! equals. The time from which on pairs are held out goes back until enough of them remain, but at most to the middle.

use std::collections::HashSet;
use std::mem::replace;

use events::Sha256Digest;

use super::composition::Reason;
use super::entry::{ByNumber, Entry, LeftOut};
use super::minhash::have_near_duplicates;
use super::policy::DataSetPolicy;
use super::training;

/// The pairs of one set, and the rest.
pub(crate) struct Parted<'a> {
    pub(crate) held_out: Vec<Entry<'a>>,
    pub(crate) rest: Vec<Entry<'a>>,
}

/// *General* may cost so many times the share of repositories that is held out. Of few repositories one may hold half
/// of all pairs, which is too much to train without.
const MOST_OF_SHARE: usize = 3;

/// Parts the set *general*, of at most `most` opportunities, from the rest. `entries` are newest first. While there
/// would be too few opportunities in it, or too little or nothing left to train on, there is none, and nothing is left
/// out.
pub(crate) fn general<'a>(
    policy: &DataSetPolicy,
    most: usize,
    entries: Vec<Entry<'a>>,
    left_out: &mut LeftOut<'a>,
) -> Parted<'a> {
    let none = |rest| Parted { held_out: Vec::new(), rest };
    if policy.general_opportunities == 0 {
        return none(entries);
    }
    let repositories = unseen_repositories(policy.general_permille, &entries);
    let people = unseen_people(&repositories, &entries);
    let is_of = |entry: &Entry<'a>| (repositories.get(entry.repository), people.get(entry.person));
    let remaining = entries.iter().filter(|entry| is_of(entry) == (false, false));
    let (remain, train) = remaining.fold((0, false), |(count, trains), entry| (count + 1, trains || entry.trains()));
    let most_cost = entries.len() * policy.general_permille as usize * MOST_OF_SHARE / 1000;
    if !train || entries.len() - remain > most_cost {
        return none(entries);
    }
    let mut opportunities: ByNumber<bool> = ByNumber::default();
    let first: Vec<Entry<'a>> = entries
        .iter()
        .filter(|entry| is_of(entry) == (true, true) && entry.judges)
        .filter(|entry| !replace(opportunities.of(entry.opportunity), true))
        .copied()
        .collect();
    let training = || entries.iter().filter(|entry| is_of(entry) == (false, false) && entry.trains());
    let most = most.max(policy.general_opportunities);
    let (mut judging, mut repeating) = (HashSet::new(), HashSet::new());
    // What trains is looked through once for every part, and so parts become larger.
    let (mut waiting, mut size) = (first.as_slice(), most);
    while judging.len() < most && !waiting.is_empty() {
        let (part, older) = waiting.split_at(size.min(waiting.len()));
        let sets: Vec<&[u32]> = part.iter().map(shingles).collect();
        let repeats = have_near_duplicates(&sets, training().map(shingles), policy.near_duplicate_permille);
        for (entry, repeats) in part.iter().zip(repeats) {
            if repeats {
                repeating.insert(entry.candidate.pair.pair_id);
            } else if judging.len() < most {
                judging.insert(entry.candidate.pair.pair_id);
            }
        }
        (waiting, size) = (older, size.saturating_mul(2));
    }
    if judging.len() < policy.general_opportunities {
        return none(entries);
    }
    let (held_out, entries): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| is_of(entry) == (true, true) && judging.contains(&entry.candidate.pair.pair_id));
    let rest = left_out.retain(entries, |entry| match is_of(entry) {
        (false, false) => Ok(()),
        (true, true) if repeating.contains(&entry.candidate.pair.pair_id) => Err(Reason::NearDuplicate),
        (true, true) => Err(Reason::HeldOutWithoutJudging),
        (true, false) => Err(Reason::HeldOutRepository),
        (false, true) => Err(Reason::HeldOutPerson),
    });
    Parted { held_out, rest }
}

/// Whether a repository is one of the `permille` of all that are held out, by nothing but its name, which is the one that
/// pairs have for it.
#[must_use]
pub fn is_unseen(permille: u32, repository: &str) -> bool {
    let digest = Sha256Digest::of_parts("flywheel unseen repository", &[repository.as_bytes()]);
    let [first, second, third, fourth, ..] = *digest.as_bytes();
    // Of 2^32 numbers, spread evenly.
    u64::from(u32::from_be_bytes([first, second, third, fourth])) * 1000 < u64::from(permille) << 32
}

fn unseen_repositories(permille: u32, entries: &[Entry<'_>]) -> ByNumber<bool> {
    let [mut known, mut unseen]: [ByNumber<bool>; 2] = Default::default();
    for entry in entries {
        if !replace(known.of(entry.repository), true) {
            *unseen.of(entry.repository) = is_unseen(permille, &entry.candidate.pair.repository);
        }
    }
    unseen
}

/// Persons at least half of whose pairs are of `repositories`.
fn unseen_people(repositories: &ByNumber<bool>, entries: &[Entry<'_>]) -> ByNumber<bool> {
    let mut counts: ByNumber<(usize, usize)> = ByNumber::default();
    for entry in entries {
        let (inside, all) = counts.of(entry.person);
        *inside += usize::from(repositories.get(entry.repository));
        *all += 1;
    }
    counts.map(|(inside, all)| inside * 2 >= all)
}

/// Parts the set *adapt*, of at most `wanted` opportunities, from what trains, which is all of the rest. `entries` are
/// newest first.
pub(crate) fn adapt<'a>(
    policy: &DataSetPolicy,
    wanted: usize,
    entries: &[Entry<'a>],
    left_out: &mut LeftOut<'a>,
) -> Parted<'a> {
    let mut judgeable: ByNumber<bool> = ByNumber::default();
    for entry in entries.iter().filter(|entry| entry.judges) {
        *judgeable.of(entry.opportunity) = true;
    }
    let judgeable = judgeable.count();
    // While nothing would be left to train on, half of them train all the same: the gate then says that it can not
    // judge, with its figures.
    let wanted = if judgeable > wanted { wanted } else { judgeable / 2 };
    let most = wanted.max(judgeable / 2);
    let mut count = wanted;
    let mut found = Split::at(policy, entries, count);
    while found.fit().count() < wanted && count < most {
        count = further(count, wanted, found.fit().count()).min(most);
        found = Split::at(policy, entries, count);
    }
    // It may have gone back further than it had to.
    if let Some(last) = wanted.checked_sub(1).and_then(|last| found.fit().nth(last)) {
        let nearer = Split::at(policy, entries, last + 1);
        if nearer.fit().count() >= wanted {
            found = nearer;
        }
    }
    for entry in found.aside {
        left_out.leave(entry, Reason::HeldOutWithoutJudging);
    }
    let mut held_out = Vec::with_capacity(wanted);
    for (entry, unfit) in found.held.into_iter().zip(found.unfit) {
        match unfit {
            Some(reason) => left_out.leave(entry, reason),
            None if held_out.len() < wanted => held_out.push(entry),
            None => left_out.leave(entry, Reason::HeldOutWithoutJudging),
        }
    }
    left_out.0.append(&mut found.older.0);
    Parted { held_out, rest: found.training }
}

/// How many to look at next, where of `count` too few are fit: as many as should do, and at least twice as many, so
/// that there are few looks however the fit ones lie.
fn further(count: usize, wanted: usize, fit: usize) -> usize {
    count.saturating_mul(wanted).div_ceil(fit.max(1)).max(count.saturating_mul(2))
}

/// Pairs by whether they are older than the newest so many opportunities that can judge.
struct Split<'a> {
    /// One pair of each of those opportunities.
    held: Vec<Entry<'a>>,
    /// Why those of them that do not judge do not: nothing of their repository trains, or nearly the same does.
    unfit: Vec<Option<Reason>>,
    /// As new as they are, or of the same opportunities.
    aside: Vec<Entry<'a>>,
    /// Of what is older, what trains.
    training: Vec<Entry<'a>>,
    /// And what does not.
    older: LeftOut<'a>,
}

impl<'a> Split<'a> {
    fn at(policy: &DataSetPolicy, entries: &[Entry<'a>], count: usize) -> Self {
        let (mut held, mut aside, mut rest) = (Vec::with_capacity(count), Vec::new(), Vec::new());
        let mut opportunities: ByNumber<bool> = ByNumber::default();
        for entry in entries {
            if held.len() < count {
                let is_first = entry.judges && !replace(opportunities.of(entry.opportunity), true);
                if is_first {
                    held.push(*entry);
                } else {
                    aside.push(*entry);
                }
            } else if opportunities.get(entry.opportunity) {
                aside.push(*entry);
            } else {
                rest.push(*entry);
            }
        }
        let judging: Vec<&[u32]> = held.iter().map(shingles).collect();
        let mut older = LeftOut::default();
        let training = training(policy, rest, &mut older);
        let repeats = have_near_duplicates(&judging, training.iter().map(shingles), policy.near_duplicate_permille);
        let mut repositories: ByNumber<bool> = ByNumber::default();
        for entry in &training {
            *repositories.of(entry.repository) = true;
        }
        let unfit = |(entry, repeats): (&Entry<'a>, bool)| {
            if repositories.get(entry.repository) {
                repeats.then_some(Reason::NearDuplicate)
            } else {
                Some(Reason::HeldOutWithoutJudging)
            }
        };
        let unfit = held.iter().zip(repeats).map(unfit).collect();
        Self { held, unfit, aside, training, older }
    }

    /// Places in `held` of what judges.
    fn fit(&self) -> impl Iterator<Item = usize> {
        self.unfit.iter().enumerate().filter(|(_, unfit)| unfit.is_none()).map(|(place, _)| place)
    }
}

fn shingles<'a>(entry: &Entry<'a>) -> &'a [u32] {
    entry.shingles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_further_takes_few_looks() {
        // All but one of the wanted are fit: in proportion that would be one or two more at a time.
        assert_eq!(further(300, 300, 299), 600);
        assert_eq!(further(300, 300, 100), 900);
        assert_eq!(further(300, 300, 0), 90_000);
    }
}
