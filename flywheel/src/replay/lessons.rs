//! What windows teach: pairs as the labeler makes them, and of all pairs so far a data set as the orchestrator makes it,
//! with its hold-out, its merging, its caps and its balance of silence.

use std::collections::HashMap;
use std::sync::Arc;

use events::{
    ActionList, DivergencePoint, ModelVersion, OpportunityId, PairId, PairReason, PairText, PersonPseudonym,
    PreferencePair, Probabilities, SessionId, Sha256Digest, TenantId, Timestamp,
};
use model_registry::lineage::{Purpose, SnapshotFilters};
use simulator::history::judgement::Judgement;
use simulator::history::points::EditPoint;
use trainer::{TrainingPair, balance_silence};
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::data_set::composition::Census;
use trainer_orchestrator::data_set::lesson::Lesson;
use trainer_orchestrator::data_set::manifest::DataSetError;
use trainer_orchestrator::data_set::{Candidate, build};

use super::answers::Answer;
use super::plan::Plan;
use crate::cli::CODE_VERSION;
use crate::failure::Failure;

/// Version of the label table that pairs say they are made by.
const LABEL_POLICY: i32 = 1;

/// A point: the number of its window, from 1, and its own there, from 0.
pub(super) type Place = (usize, usize);

/// Who answered the points of a window, and from which gate score on it spoke.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    pub(super) window: usize,
    /// 0 is the base.
    pub(super) version: usize,
    pub(super) threshold: f32,
}

/// Everything that windows have taught so far.
#[derive(Debug)]
pub(super) struct Lessons<'a> {
    plan: &'a Plan,
    filters: SnapshotFilters,
    candidates: Vec<Candidate>,
    texts: HashMap<PairId, (PairText, Place)>,
}

/// What a version learns from, and what it is judged by.
#[derive(Debug)]
pub(super) struct DataSet {
    pub(super) digest: Sha256Digest,
    pub(super) training: Vec<TrainingPair>,
    /// Later than everything that trains.
    pub(super) gate: Vec<TrainingPair>,
    /// The points that these are of, in their order.
    pub(super) held_out: Vec<Place>,
}

impl DataSet {
    /// Pairs that train and want silence.
    pub(super) fn silences(&self) -> usize {
        let is_silence = |pair: &&TrainingPair| pair.chosen.as_ref().is_some_and(ActionList::is_no_edit);
        self.training.iter().filter(is_silence).count()
    }
}

impl<'a> Lessons<'a> {
    pub(super) fn new(plan: &'a Plan) -> Result<Self, Failure> {
        let config = OrchestratorConfig {
            gate_opportunities: plan.gate_opportunities,
            data_set: plan.data_set.clone(),
            ..OrchestratorConfig::default()
        };
        let (model, audience) = config.validate()?;
        let filters = config.filters(TenantId::default(), model, audience, LABEL_POLICY, CODE_VERSION);
        Ok(Self { plan, filters, candidates: Vec::new(), texts: HashMap::new() })
    }

    /// Adds what labels (docs/pairs.md) would say of a window: an edit that was made is a positive, one that was got wrong
    /// a correction, one that was not made a missed one, and an edit where nothing was wanted a rejection, which by the
    /// label policy wants silence. Silence where nothing was wanted judges and does not train.
    pub(super) fn add(
        &mut self,
        served: Served,
        points: &[&EditPoint],
        answers: &[Answer],
        judgements: &[Judgement],
    ) -> Result<(), Failure> {
        for (number, ((point, answer), judgement)) in points.iter().zip(answers).zip(judgements).enumerate() {
            let shown =
                || ActionList { actions: answer.actions.actions.iter().take(1).cloned().collect(), closed: false };
            let (reason, chosen, rejected) = match (point.wants_edit(), judgement.shown) {
                (true, true) if judgement.content => (PairReason::AcceptedKept, shown(), None),
                (true, true) => (PairReason::DismissedThenTyped, point.next(), Some(shown())),
                (true, false) => (PairReason::Missed, point.next(), Some(ActionList::no_edit())),
                (false, true) => (PairReason::Dismissed, ActionList::no_edit(), Some(shown())),
                (false, false) => (PairReason::SilenceConfirmed, ActionList::no_edit(), None),
            };
            let text = PairText { context: point.context.clone(), shared: Vec::new(), chosen: Some(chosen), rejected };
            let gate_score = answer.gate_score.map_or(1.0, f64::from);
            let pair = self.pair(served, number, &point.change, gate_score, reason, &text)?;
            let lesson = Arc::new(Lesson::of(&text));
            self.texts.insert(pair.pair_id, (text, (served.window, number)));
            self.candidates.push(Candidate { pair, lesson });
        }
        Ok(())
    }

    fn pair(
        &self,
        served: Served,
        number: usize,
        change: &str,
        gate_score: f64,
        reason: PairReason,
        text: &PairText,
    ) -> Result<PreferencePair, Failure> {
        let shown = !matches!(reason, PairReason::Missed | PairReason::SilenceConfirmed);
        let SnapshotFilters { tenant, model, audience, .. } = &self.filters;
        // A change stands for a person: it is what is resampled, and what no data set may be too much of.
        let person: PersonPseudonym = hexadecimal(&[change.as_bytes()]).parse()?;
        let session_id: SessionId = hexadecimal(&[b"session", change.as_bytes()]).parse()?;
        let place = [served.window as u64, number as u64].map(u64::to_be_bytes);
        let opportunity_id: OpportunityId = hexadecimal(&[b"opportunity", &place[0], &place[1]]).parse()?;
        let action_index = if shown { 0 } else { -1 };
        let pair_id = PairId::derive(tenant, opportunity_id, None, action_index, reason.as_str(), LABEL_POLICY);
        // One after the other, as the points are met: what is newest is held out.
        let at = Timestamp::from_micros(i64::try_from(self.candidates.len()).unwrap_or(i64::MAX));
        Ok(PreferencePair {
            pair_id,
            tenant: tenant.clone(),
            person,
            session_id,
            opportunity_id,
            suggestion_id: None,
            action_index,
            reason,
            label_policy_version: LABEL_POLICY,
            weight: if reason == PairReason::SilenceConfirmed { 0.0 } else { 1.0 },
            divergence: text.rejected.as_ref().map(|_| DivergencePoint { action_index: 0, byte: 0 }),
            audience: audience.clone(),
            repository: text.context.repository.clone(),
            language: text.context.language.clone(),
            model: model.clone(),
            model_version: ModelVersion(i64::try_from(served.version).unwrap_or(i64::MAX)),
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: f64::from(u8::from(shown)),
                log_p_text: 0.0,
                gate_score,
                threshold: f64::from(served.threshold),
                explored: false,
            },
            altered: false,
            off_policy: false,
            opened_at: at,
            labeled_at: at,
            last_signal_at: at,
            event_id: PreferencePair::event_id_of(pair_id),
            content_digest: Sha256Digest::of(&serde_json::to_vec(text)?),
            sealed: None,
        })
    }

    /// The data set of everything so far. There is no set *general*: it would be all of the only repository.
    pub(super) fn data_set(&self) -> Result<DataSet, DataSetError> {
        let planned = build(self.filters.clone(), &self.plan.data_set, &self.candidates, &Census::new())?;
        let pairs: HashMap<PairId, &PreferencePair> =
            self.candidates.iter().map(|candidate| (candidate.pair.pair_id, &candidate.pair)).collect();
        let (mut training, mut gate, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
        for member in &planned.members {
            let entry = &member.entry;
            let found = pairs.get(&entry.pair_id).zip(self.texts.get(&entry.pair_id));
            let Some((pair, (text, place))) = found else { continue };
            let weight = entry.support.weight_millionths.map_or(pair.weight, |millionths| millionths as f64 / 1e6);
            let opened = TrainingPair {
                weight: weight as f32,
                support_people: entry.support.people,
                ..TrainingPair::of(pair, text.clone())
            };
            match entry.purpose {
                Purpose::Training => training.push(opened),
                Purpose::Gate => {
                    gate.push(opened);
                    held_out.push(*place);
                }
                Purpose::General => {}
            }
        }
        balance_silence(&mut training);
        Ok(DataSet { digest: planned.digest, training, gate, held_out })
    }
}

/// The first 32 digits of a digest: a pseudonym, or an id.
fn hexadecimal(parts: &[&[u8]]) -> String {
    Sha256Digest::of_parts("flywheel replay", parts).to_string().chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::answers::judged;
    use super::super::answers::tests::{answers, points};
    use super::super::plan::tests::plan;
    use super::*;

    fn taught(plan: &Plan, count: usize, answers: &[Answer]) -> DataSet {
        let points = points(count);
        let points: Vec<&EditPoint> = points.iter().collect();
        let mut lessons = Lessons::new(plan).unwrap();
        let served = Served { window: 3, version: 0, threshold: plan.threshold };
        lessons.add(served, &points, answers, &judged(&points, answers, plan.threshold)).unwrap();
        lessons.data_set().unwrap()
    }

    fn count(pairs: &[TrainingPair], reasons: &[&str]) -> Vec<usize> {
        reasons.iter().map(|reason| pairs.iter().filter(|pair| pair.reason == *reason).count()).collect()
    }

    #[test]
    fn a_window_teaches_by_what_was_said_there() {
        let plan = plan();
        let mut answers = answers(6, |number| number < 2, |number| number < 5);
        if let Some(action) = answers[0].actions.actions.first_mut() {
            action.new_text = "store".to_owned();
        }
        let set = taught(&plan, 6, &answers);
        // The newer half is held out. Of the three rejections of the older one as many train as there are missed edits.
        let reasons = ["dismissed_then_typed", "accepted_kept", "missed", "dismissed", "silence_confirmed"];
        assert_eq!(count(&set.training, &reasons), [1, 1, 1, 1, 0]);
        assert_eq!(set.silences(), 1);
        assert_eq!(count(&set.gate, &reasons), [0, 0, 3, 2, 1]);
        let mut held_out = set.held_out.clone();
        held_out.sort_unstable();
        assert_eq!(held_out, (6..12).map(|number| (3, number)).collect::<Vec<_>>());
        let correction = set.training.iter().find(|pair| pair.reason == "dismissed_then_typed").unwrap();
        let (chosen, rejected) = (correction.chosen.as_ref().unwrap(), correction.rejected.as_ref().unwrap());
        assert_eq!((chosen.actions[0].new_text.as_str(), rejected.actions[0].new_text.as_str()), ("fetch", "store"));
        assert!(!chosen.closed, "nobody knows what follows");
    }

    #[test]
    fn what_judges_is_as_much_as_the_gate_wants_and_later_than_what_trains() {
        let plan = plan();
        let set = taught(&plan, 200, &answers(200, |_| false, |_| false));
        assert_eq!((set.gate.len(), plan.gate_opportunities), (300, 300));
        assert!(set.held_out.iter().all(|(_, number)| *number >= 100));
        // Silence that was right trains nothing.
        assert_eq!((set.training.len(), set.silences()), (50, 0));
    }
}
