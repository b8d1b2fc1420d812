//! Fixtures of the tests of data sets, which are in files by what they test.

mod choice;
mod counting;
mod judging;
mod promises;
mod teaching;

use std::collections::{BTreeMap, BTreeSet};

use events::{
    DataKey, DivergencePoint, EditPattern, EventId, KeyId, ModelVersion, OpportunityId, PairId, PairReason,
    PersonPseudonym, Probabilities, SessionId, Sha256Digest, SuggestionId, TenantId, Timestamp,
};
use labeler::crowd::MERGED;
use model_registry::lineage::FORMULA;
use proptest::prelude::*;

use super::candidates::choose;
use super::groups::{GroupCount, SetGroups};
use super::lesson::Silence;
use super::*;
use crate::allow_list::AllowList;

const PARTED: DivergencePoint = DivergencePoint { action_index: 0, byte: 0 };
const DAY_SECONDS: i64 = 86_400;

fn uuid(number: u32) -> String {
    format!("{:032x}", u128::from(number) << 96)
}

fn person(number: u32) -> PersonPseudonym {
    format!("{number:032x}").parse().unwrap()
}

fn pair(number: u32, reason: PairReason) -> PreferencePair {
    let opportunity_id: OpportunityId = uuid(number).parse().unwrap();
    let suggestion_id: SuggestionId = uuid(number).parse().unwrap();
    let pair_id = PairId::derive(&TenantId::default(), opportunity_id, Some(suggestion_id), 0, reason.as_str(), 1);
    let key_id: KeyId = uuid(number).parse().unwrap();
    let event_id: EventId = PreferencePair::event_id_of(pair_id);
    let session_id: SessionId = uuid(number).parse().unwrap();
    PreferencePair {
        pair_id,
        tenant: TenantId::default(),
        person: person(number),
        session_id,
        opportunity_id,
        suggestion_id: Some(suggestion_id),
        action_index: 0,
        reason,
        label_policy_version: 1,
        weight: if reason == PairReason::SilenceConfirmed { 0.0 } else { 1.0 },
        // As the labeler: what stands alone parts nowhere.
        divergence: (!matches!(reason, PairReason::AcceptedKept | PairReason::SilenceConfirmed)).then_some(PARTED),
        audience: "everyone".parse().unwrap(),
        repository: "r".to_owned(),
        language: "rust".to_owned(),
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(1),
        probabilities: Probabilities {
            arm_probability: 1.0,
            p_show: 0.98,
            log_p_text: -1.0,
            gate_score: 0.9,
            threshold: 0.5,
            explored: false,
        },
        altered: false,
        off_policy: false,
        opened_at: Timestamp::from_seconds(i64::from(number)),
        labeled_at: Timestamp::from_seconds(i64::from(number) + 400),
        last_signal_at: Timestamp::from_seconds(i64::from(number) + 20),
        event_id,
        content_digest: Sha256Digest::of(&number.to_be_bytes()),
        sealed: Some(DataKey::new(key_id, [1; 32]).seal(event_id, "t", b"{}")),
    }
}

fn lesson(number: u32, reason: PairReason) -> Lesson {
    Lesson {
        correction: Sha256Digest::of(&number.to_be_bytes()),
        file: Sha256Digest::of(b"one file"),
        silence: match reason {
            PairReason::Dismissed | PairReason::SilenceConfirmed => Some(Silence::Chosen),
            PairReason::Missed => Some(Silence::Rejected),
            _ => None,
        },
        judges: true,
        shingles: (0..10).map(|gram| number * 100 + gram).collect(),
        identifiers: vec![u64::from(number % 4)],
        pattern: (reason != PairReason::Dismissed).then_some(EditPattern::Replace),
        chosen_characters: Some(number),
        rejected_characters: (reason != PairReason::AcceptedKept).then_some(20),
        fault: None,
        header: None,
    }
}

pub(super) fn candidate(number: u32, reason: PairReason) -> Candidate {
    Candidate { pair: pair(number, reason), lesson: Arc::new(lesson(number, reason)) }
}

/// The same correction as `number`'s, of another person in another place.
fn again(number: u32, by: u32, repository: &str, correction: u32) -> Candidate {
    let mut candidate = candidate(number, PairReason::DismissedThenTyped);
    candidate.pair.person = person(by);
    candidate.pair.repository = repository.to_owned();
    Arc::make_mut(&mut candidate.lesson).correction = Sha256Digest::of(&correction.to_be_bytes());
    candidate
}

fn filters() -> SnapshotFilters {
    SnapshotFilters {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        audience: "everyone".parse().unwrap(),
        label_policy_version: 1,
        code_version: "test".to_owned(),
        maximum_pairs: 1000,
        gate_opportunities: 2,
        placebo_exchange_repositories: false,
        formula: FORMULA,
        policy: serde_json::Value::Null,
    }
}

fn build_with(filters: SnapshotFilters, candidates: &[Candidate]) -> Result<SnapshotPlan, DataSetError> {
    build(filters, &DataSetPolicy::default(), candidates, &Census::new())
}

fn build_all(candidates: &[Candidate]) -> SnapshotPlan {
    build_with(filters(), candidates).unwrap()
}

/// When the opportunities of a set's pairs opened, in seconds.
fn opened(plan: &SnapshotPlan, candidates: &[Candidate], purpose: Purpose) -> Vec<i64> {
    let by_id: BTreeMap<PairId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.pair.pair_id, candidate)).collect();
    let members = plan.members.iter().filter(|member| member.entry.purpose == purpose);
    let mut opened: Vec<i64> =
        members.map(|member| by_id[&member.entry.pair_id].pair.opened_at.as_micros() / 1_000_000).collect();
    opened.sort_unstable();
    opened
}

fn left_out(plan: &SnapshotPlan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for pair in &plan.left_out {
        *counts.entry(pair.reason.as_str()).or_default() += 1;
    }
    counts
}

/// A company: twelve repositories of two teams, forty persons who each work in one of them and now and then elsewhere.
fn company() -> Vec<Candidate> {
    (0..2400)
        .map(|number| {
            let by = number % 40;
            let repository = if number % 11 == 0 { (by + 1) % 12 } else { by % 12 };
            let name = format!("team{}/repository{repository}", repository % 2);
            let mut candidate = again(number, by, &name, number);
            Arc::make_mut(&mut candidate.lesson).file = Sha256Digest::of(&(number % 300).to_be_bytes());
            candidate
        })
        .collect()
}

/// Pairs by person, those that several stand behind left out, and how many there are with those.
fn voices(plan: &SnapshotPlan) -> (BTreeMap<&PersonPseudonym, usize>, usize) {
    let training = || plan.members.iter().filter(|member| member.entry.purpose == Purpose::Training);
    let mut counts = BTreeMap::new();
    for member in training().filter(|member| member.entry.support.people == 1) {
        *counts.entry(&member.person).or_default() += 1;
    }
    (counts, training().count())
}

/// Who, where, which correction, on which day, and which row of the label table.
type Told = (u32, u32, u32, u32, u8);

pub(super) fn told(index: usize, (by, repository, correction, day, reason): Told) -> Candidate {
    let number = u32::try_from(index).unwrap() + 1;
    let reason = match reason {
        0 | 1 => PairReason::Dismissed,
        2 => PairReason::Missed,
        3 => PairReason::SilenceConfirmed,
        _ => PairReason::AcceptedKept,
    };
    let mut candidate = candidate(number, reason);
    candidate.pair.person = person(by);
    candidate.pair.repository = format!("t{}/r{repository}", repository % 2);
    candidate.pair.opened_at = Timestamp::from_seconds(i64::from(day) * DAY_SECONDS + i64::from(number));
    let lesson = Arc::make_mut(&mut candidate.lesson);
    lesson.correction = Sha256Digest::of(&[correction.to_be_bytes(), [0, 0, 0, reason as u8]].concat());
    lesson.file = Sha256Digest::of(&correction.to_be_bytes());
    // Every second correction nearly equals the one before: 19 of 21 shingles are those of both.
    let first = correction / 2 * 100 + correction % 2;
    lesson.shingles = (first..first + 20).collect();
    candidate
}

pub(super) fn many() -> impl Strategy<Value = Vec<Told>> {
    prop::collection::vec((0..8_u32, 0..5_u32, 0..30_u32, 0..4_u32, 0..8_u8), 1..120)
}
