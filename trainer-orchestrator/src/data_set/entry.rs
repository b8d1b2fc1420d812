//! Candidates on their way through the stages. Every stage goes over all of them, most more than once: what stages ask
//! is taken from pairs and lessons once, as pairs lie wherever they came to lie, and fetching one from memory takes
//! longer than all that is done with it. Names are numbered, so that counting by them needs no hashing.

use std::collections::HashMap;
use std::hash::Hash;

use events::{OpportunityId, Sha256Digest, Timestamp};

use super::caps::team;
use super::composition::Reason;
use super::header::Header;
use super::lesson::Silence;
use super::{Candidate, candidates};

/// A candidate on its way through the stages. Numbers are equal where what they stand for is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) shingles: &'a [u32],
    pub(super) opened_at: Timestamp,
    /// What its label says that it counts.
    pub(super) weight: f64,
    pub(super) person: u32,
    pub(super) repository: u32,
    pub(super) team: u32,
    pub(super) file: u32,
    pub(super) correction: u32,
    pub(super) opportunity: u32,
    /// Persons who stand behind it.
    pub(super) people: u32,
    /// Repositories of theirs.
    pub(super) repositories: u32,
    /// Whether others can be judged by it.
    pub(super) judges: bool,
    pub(super) silence: Option<Silence>,
    pub(super) fault: Option<Reason>,
    pub(super) header: Option<&'a Header>,
}

impl Entry<'_> {
    /// Whether there is anything to learn from it.
    pub(super) fn trains(&self) -> bool {
        self.weight > 0.0
    }
}

/// What was left out on the way.
#[derive(Debug, Default)]
pub(crate) struct LeftOut<'a>(pub(super) Vec<(Entry<'a>, Reason)>);

impl<'a> LeftOut<'a> {
    pub(super) fn leave(&mut self, entry: Entry<'a>, reason: Reason) {
        self.0.push((entry, reason));
    }

    /// Those of `entries` that `decide` keeps, in their order; the others are left out for the reason that it gives.
    pub(super) fn retain(
        &mut self,
        mut entries: Vec<Entry<'a>>,
        mut decide: impl FnMut(&Entry<'a>) -> Result<(), Reason>,
    ) -> Vec<Entry<'a>> {
        entries.retain(|entry| match decide(entry) {
            Ok(()) => true,
            Err(reason) => {
                self.leave(*entry, reason);
                false
            }
        });
        entries
    }
}

/// What belongs to numbers: the default to those of which nothing was said.
#[derive(Debug, Default)]
pub(crate) struct ByNumber<V>(Vec<V>);

impl<V: Copy + Default> ByNumber<V> {
    /// What belongs to `number`, to be changed.
    pub(super) fn of(&mut self, number: u32) -> &mut V {
        let place = number as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, V::default());
        }
        &mut self.0[place]
    }

    pub(super) fn get(&self, number: u32) -> V {
        self.0.get(number as usize).copied().unwrap_or_default()
    }

    /// Of all numbers, of which some may belong to nothing.
    pub(super) fn values(&self) -> impl Iterator<Item = V> {
        self.0.iter().copied()
    }

    /// The same numbers with something else.
    pub(super) fn map<W>(self, other: impl FnMut(V) -> W) -> ByNumber<W> {
        ByNumber(self.0.into_iter().map(other).collect())
    }
}

impl ByNumber<bool> {
    /// How many are set.
    pub(super) fn count(&self) -> usize {
        self.values().filter(|is_set| *is_set).count()
    }
}

/// Numbers values from 0, in the order in which they come.
struct Numbers<K>(HashMap<K, u32>);

impl<K: Eq + Hash> Numbers<K> {
    fn with_room_for(values: usize) -> Self {
        Self(HashMap::with_capacity(values))
    }

    fn of(&mut self, value: K) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(value).or_insert(next)
    }
}

/// The one order in which every stage sees pairs: the newest opportunity first.
pub(crate) fn newest_first(candidates: &[Candidate]) -> Vec<Entry<'_>> {
    let entries = numbered(candidates);
    let mut order: Vec<(Timestamp, usize)> =
        entries.iter().enumerate().map(|(place, entry)| (entry.opened_at, place)).collect();
    // Nearly every opportunity opened at a time of its own, and then nothing else is looked at.
    let rest = |place: &usize| candidates::newest_first(&candidates[*place].pair);
    order.sort_unstable_by(|(one_at, one), (other_at, other)| {
        other_at.cmp(one_at).then_with(|| rest(one).cmp(&rest(other)))
    });
    order.into_iter().map(|(_, place)| entries[place]).collect()
}

/// The candidates in their own order.
fn numbered(candidates: &[Candidate]) -> Vec<Entry<'_>> {
    let mut persons: Numbers<&str> = Numbers::with_room_for(0);
    let mut repositories: Numbers<&str> = Numbers::with_room_for(0);
    let mut teams: Numbers<&str> = Numbers::with_room_for(0);
    let mut teams_of: Vec<u32> = Vec::new();
    let mut files: Numbers<&Sha256Digest> = Numbers::with_room_for(0);
    let mut corrections: Numbers<&Sha256Digest> = Numbers::with_room_for(candidates.len());
    let mut opportunities: Numbers<OpportunityId> = Numbers::with_room_for(candidates.len());
    let mut entries = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let (pair, lesson) = (&candidate.pair, &candidate.lesson);
        let repository = repositories.of(&pair.repository);
        if repository as usize == teams_of.len() {
            teams_of.push(teams.of(team(&pair.repository)));
        }
        entries.push(Entry {
            candidate,
            shingles: &lesson.shingles,
            opened_at: pair.opened_at,
            weight: pair.weight,
            person: persons.of(pair.person.as_str()),
            repository,
            team: teams_of[repository as usize],
            file: files.of(&lesson.file),
            correction: corrections.of(&lesson.correction),
            opportunity: opportunities.of(pair.opportunity_id),
            people: 1,
            repositories: 1,
            judges: candidate.judges(),
            silence: lesson.silence,
            fault: lesson.fault,
            header: lesson.header.as_deref(),
        });
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{many, told};
    use super::*;

    #[test]
    fn nothing_belongs_to_a_number_of_which_nothing_was_said() {
        let mut counts: ByNumber<usize> = ByNumber::default();
        *counts.of(3) += 2;
        assert_eq!((counts.get(3), counts.get(0), counts.get(9)), (2, 0, 0));
        assert_eq!(counts.values().collect::<Vec<_>>(), [0, 0, 0, 2]);
        assert_eq!(counts.map(|count| count > 0).count(), 1);
    }

    proptest! {
        #[test]
        fn entries_say_what_their_pairs_say_newest_first(pairs in many(), second in 0..3_i64) {
            let mut candidates: Vec<_> = pairs.into_iter().enumerate().map(|(index, pair)| told(index, pair)).collect();
            // Many open at the same time, and some are of one opportunity.
            let opportunity_id = candidates[0].pair.opportunity_id;
            for (index, candidate) in candidates.iter_mut().enumerate() {
                candidate.pair.opened_at = Timestamp::from_seconds(i64::try_from(index).unwrap() % (second + 2));
                if index % 5 == 1 {
                    candidate.pair.opportunity_id = opportunity_id;
                }
            }
            let entries = newest_first(&candidates);
            let mut sorted: Vec<&Candidate> = candidates.iter().collect();
            sorted.sort_by_key(|candidate| candidates::newest_first(&candidate.pair));
            let ids = |of: &Candidate| of.pair.pair_id;
            prop_assert_eq!(
                entries.iter().map(|entry| ids(entry.candidate)).collect::<Vec<_>>(),
                sorted.into_iter().map(ids).collect::<Vec<_>>()
            );
            for one in &entries {
                let (pair, lesson) = (&one.candidate.pair, &one.candidate.lesson);
                prop_assert_eq!((one.opened_at, one.weight), (pair.opened_at, pair.weight));
                prop_assert_eq!(one.shingles, &lesson.shingles[..]);
                prop_assert_eq!((one.silence, one.fault), (lesson.silence, lesson.fault));
                prop_assert_eq!((one.judges, one.people, one.repositories), (one.candidate.judges(), 1, 1));
                for other in &entries {
                    let (others, other_lesson) = (&other.candidate.pair, &other.candidate.lesson);
                    prop_assert_eq!(one.person == other.person, pair.person == others.person);
                    prop_assert_eq!(one.repository == other.repository, pair.repository == others.repository);
                    prop_assert_eq!(one.team == other.team, team(&pair.repository) == team(&others.repository));
                    prop_assert_eq!(one.file == other.file, lesson.file == other_lesson.file);
                    prop_assert_eq!(one.correction == other.correction, lesson.correction == other_lesson.correction);
                    prop_assert_eq!(one.opportunity == other.opportunity, pair.opportunity_id == others.opportunity_id);
                }
            }
        }
    }
}
