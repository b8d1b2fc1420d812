//! A company of any size, made of real pairs: many persons who each work mostly in one repository, some of whom do far
//! more than others, and who now and then make the same correction, or nearly the same.
//!
//! There are up to a hundred times fewer real texts than pairs. So that what is not the same does not look the same,
//! half of a text's shingles are exchanged, as if some of its words were others; what is the same exchanges them alike,
//! and what is nearly the same exchanges a few more. Sizes, silences, names, faults and rows of the label table are
//! those of the real text.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use events::{
    OpportunityId, PairId, PersonPseudonym, PreferencePair, SessionId, Sha256Digest, SuggestionId, Timestamp, uuid_v7,
};
use simulator::random::Dice;
use trainer_orchestrator::data_set::Candidate;
use trainer_orchestrator::data_set::lesson::Lesson;

use super::pool::Pool;
use crate::labeling::office::START;

const SEED: u64 = 31;
/// Pairs of a person and of a repository, in the mean. Companies with more pairs are larger, not busier.
const PAIRS_OF_PERSON: usize = 200;
const PAIRS_OF_REPOSITORY: usize = 1_000;
const LEAST_PERSONS: usize = 20;
const LEAST_REPOSITORIES: usize = 10;
const REPOSITORIES_OF_TEAM: usize = 5;
/// How often somebody works in another repository than their own.
const ABROAD: f64 = 0.15;
/// How often somebody makes a correction again at once.
const AGAIN: f64 = 0.03;
/// How often a correction is one that many make, and nearly such a one.
const COMMON: f64 = 0.10;
const NEARLY_COMMON: f64 = 0.05;
/// Pairs for each of the corrections that many make: five of them, and two or three nearly so.
const PAIRS_OF_COMMON: usize = 50;
/// Every second shingle of a text is another one in different corrections, every sixteenth in nearly equal ones.
const DIFFERENT: usize = 2;
const NEARLY_EQUAL: usize = 16;

/// Everything that its pairs share.
pub(super) struct Company<'p> {
    /// Without their sealed text.
    pairs: Vec<PreferencePair>,
    lessons: &'p [Lesson],
    persons: Vec<PersonPseudonym>,
    repositories: Vec<String>,
    common: usize,
    seconds: usize,
}

/// What is told of a correction.
struct Told {
    /// Whose pair and lesson it is, in the pool.
    source: usize,
    /// Which of the corrections of that source.
    salt: u64,
    /// What it is nearly, and not quite.
    own: Option<u64>,
    person: usize,
    repository: usize,
    at: Timestamp,
}

impl<'p> Company<'p> {
    /// A company of so many pairs, made in so many days. `lessons` are those of the pool's pairs.
    pub(super) fn new(pool: &Pool, lessons: &'p [Lesson], size: usize, days: usize) -> Self {
        let persons = (size / PAIRS_OF_PERSON).max(LEAST_PERSONS);
        let repositories = (size / PAIRS_OF_REPOSITORY).max(LEAST_REPOSITORIES);
        let secret = &pool.office.secret;
        Self {
            pairs: pool.pairs.iter().map(|open| PreferencePair { sealed: None, ..open.pair.clone() }).collect(),
            lessons,
            persons: (0..persons).map(|number| secret.person_pseudonym(&format!("employee-{number}"))).collect(),
            repositories: (0..repositories)
                .map(|number| format!("team-{}/repository-{number}", number / REPOSITORIES_OF_TEAM))
                .collect(),
            common: (size / PAIRS_OF_COMMON).max(1),
            seconds: days * 24 * 3600,
        }
    }

    fn told(&self, number: u64) -> Told {
        let mut dice = Dice::new(SEED, "told", &[number]);
        let share = dice.unit();
        // The first of a hundred does a tenth of everything.
        let person = ((share * share * self.persons.len() as f64) as usize).min(self.persons.len().saturating_sub(1));
        let abroad = dice.chance(ABROAD);
        let elsewhere = dice.below(self.repositories.len());
        let repository = if abroad { elsewhere } else { person % self.repositories.len().max(1) };
        let at = START + Duration::from_secs(dice.below(self.seconds) as u64);
        let kind = dice.unit();
        let bits = dice.bits();
        if kind < COMMON + NEARLY_COMMON {
            let common = dice.below(self.common);
            let salt = Dice::new(SEED, "common correction", &[common as u64]).bits();
            let own = (kind >= COMMON).then_some(bits);
            Told { source: common % self.pairs.len().max(1), salt, own, person, repository, at }
        } else {
            Told { source: dice.below(self.pairs.len()), salt: bits, own: None, person, repository, at }
        }
    }

    /// The `number`-th pair of the company, without text.
    pub(super) fn candidate(&self, number: usize) -> anyhow::Result<Candidate> {
        let number = number as u64;
        let is_again = number > 0 && Dice::new(SEED, "again", &[number]).chance(AGAIN);
        let first = if is_again { number - 1 } else { number };
        let told = self.told(first);
        let opened_at = told.at + Duration::from_secs(number - first);
        let pair = self.pairs.get(told.source).context("the pool is empty")?;
        let lesson = self.lessons.get(told.source).context("a pair of the pool has no lesson")?;
        let person = self.persons.get(told.person).context("nobody works here")?;
        let repository = self.repositories.get(told.repository).context("there is no repository")?;
        let id = |kind: u8| uuid_v7(opened_at, unique(number, kind));
        let opportunity_id = OpportunityId::from_uuid(id(0));
        let suggestion_id = pair.suggestion_id.map(|_| SuggestionId::from_uuid(id(1)));
        let (reason, policy) = (pair.reason.as_str(), pair.label_policy_version);
        let pair_id = PairId::derive(&pair.tenant, opportunity_id, suggestion_id, pair.action_index, reason, policy);
        Ok(Candidate {
            pair: PreferencePair {
                pair_id,
                person: person.clone(),
                session_id: SessionId::from_uuid(id(2)),
                opportunity_id,
                suggestion_id,
                repository: repository.clone(),
                opened_at,
                labeled_at: opened_at + pair.labeled_at.since(pair.opened_at),
                last_signal_at: opened_at + pair.last_signal_at.since(pair.opened_at),
                event_id: PreferencePair::event_id_of(pair_id),
                content_digest: Sha256Digest::of(&number.to_be_bytes()),
                ..pair.clone()
            },
            lesson: Arc::new(exchanged(lesson, &told, repository)),
        })
    }

    /// The first `count` pairs.
    pub(super) fn candidates(&self, count: usize) -> anyhow::Result<Vec<Candidate>> {
        (0..count).map(|number| self.candidate(number)).collect()
    }
}

/// A lesson of the pool as that of what is told.
fn exchanged(lesson: &Lesson, told: &Told, repository: &str) -> Lesson {
    let mut shingles = lesson.shingles.clone();
    for (every, salt) in [(DIFFERENT, Some(told.salt)), (NEARLY_EQUAL, told.own)] {
        let Some(salt) = salt else { continue };
        for shingle in shingles.iter_mut().step_by(every) {
            *shingle ^= salt as u32;
        }
    }
    shingles.sort_unstable();
    shingles.dedup();
    let own = told.own.map_or([0; 8], u64::to_be_bytes);
    let correction: [&[u8]; 3] = [lesson.correction.as_bytes(), &told.salt.to_be_bytes(), &own];
    Lesson {
        correction: Sha256Digest::of_parts("benchmark correction", &correction),
        file: Sha256Digest::of_parts("benchmark file", &[repository.as_bytes(), lesson.file.as_bytes()]),
        shingles,
        ..lesson.clone()
    }
}

/// Ten bytes that nothing else of the company has.
fn unique(number: u64, kind: u8) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[9] = kind;
    bytes
}
