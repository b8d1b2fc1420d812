//! The anonymizer's real step and the labeler's behind it, over plain maps in this process: the reference model of the
//! bus, which says what a step means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use anyhow::bail;
use bus::testing::{Paused, ReferenceStep};
use bus::{Record, RecordKey, StepHandler};
use bytes::Bytes;
use events::topics::{PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_RAW};
use events::{
    CleanEvent, ConsentTier, DataKey, Disposition, EventText, KeyId, OpportunityOutcome, PairText, PreferencePair,
    RawEvent, TenantId, avro,
};
use labeler::LabelPolicy;
use labeler::audience::{CONTROL_KIND, subject};
use labeler::config::SessionLimits;
use labeler::keys::LoadedKeys;
use labeler::policy_record::VersionedPolicy;
use service::consent::{self, ConsentDecision};

use super::office::{AUDIENCE, Office, START};

/// Partitions of every topic, as on a laptop.
const PARTITIONS: u32 = 4;
/// How often a step may ask for keys before it is given up.
const MOST_PAUSES: usize = 10_000;
/// Longer than anything waits.
const LONG: Duration = Duration::from_secs(3 * 24 * 3600);

/// A pair with its text in clear.
pub(crate) struct OpenPair {
    pub(crate) pair: PreferencePair,
    pub(crate) text: PairText,
}

/// What came out.
pub(crate) struct Labeled {
    pub(crate) pairs: Vec<OpenPair>,
    pub(crate) outcomes: Vec<OpportunityOutcome>,
    /// Events that the anonymizer left out, by reason.
    pub(crate) filtered: BTreeMap<String, usize>,
}

/// The labeler's handler as the service makes it on a new platform.
pub(crate) fn handler(office: &Office) -> Arc<dyn StepHandler> {
    handler_of(office, LabelPolicy::default())
}

fn handler_of(office: &Office, policy: LabelPolicy) -> Arc<dyn StepHandler> {
    let keys = Arc::new(LoadedKeys::new(office.keys.clone()));
    labeler::step::handler(keys, VersionedPolicy::of(policy, true), SessionLimits::default())
}

/// A labeler's step over plain maps, with a rule for every repository.
pub(crate) fn labeler_step(handler: &Arc<dyn StepHandler>, partitions: u32) -> ReferenceStep {
    let mut step = ReferenceStep::new(labeler::step::spec(), Arc::clone(handler), partitions);
    let rule = Bytes::from_static(AUDIENCE.as_bytes());
    step.publish_control(CONTROL_KIND, &subject(&TenantId::default(), "*"), rule);
    step
}

/// Drives a step until nothing waits, loading what it names.
pub(crate) async fn settle(
    step: &mut ReferenceStep,
    handler: &Arc<dyn StepHandler>,
    drive: impl Fn(&mut ReferenceStep) -> Vec<Paused>,
) -> anyhow::Result<()> {
    for _ in 0..MOST_PAUSES {
        let paused = drive(step);
        if paused.is_empty() {
            return Ok(());
        }
        for paused in paused {
            handler.make_available(&paused.dependencies).await;
        }
    }
    bail!("a step waits for what never comes")
}

/// Everything that both steps make of records of the door, in the order in which they arrive.
pub(crate) async fn label(office: &Office, arrivals: &[RawEvent]) -> anyhow::Result<Labeled> {
    label_by(office, arrivals, LabelPolicy::default()).await
}

/// The same under another label policy.
pub(crate) async fn label_by(office: &Office, arrivals: &[RawEvent], policy: LabelPolicy) -> anyhow::Result<Labeled> {
    let scrubbing = anonymizer::step::handler(AnonymizerConfig::default(), office.keys.clone())?;
    let mut anonymizer = ReferenceStep::new(anonymizer::step_spec(), Arc::clone(&scrubbing), PARTITIONS);
    let decision = serde_json::to_vec(&ConsentDecision { tier: ConsentTier::Code, decided_at: START })?;
    let ceiling = consent::ceiling_subject(&TenantId::default());
    anonymizer.publish_control(consent::CONTROL_KIND, &ceiling, Bytes::from(decision));
    for event in arrivals {
        let key = RecordKey(office.secret.record_key(event.header.session_id));
        anonymizer.publish(Record { key, value: Bytes::from(avro::encode(event)?) });
    }
    let end = arrivals.iter().map(|event| event.header.received_at).max().unwrap_or(START) + LONG;
    settle(&mut anonymizer, &scrubbing, ReferenceStep::run).await?;
    settle(&mut anonymizer, &scrubbing, |step| step.advance_to(end)).await?;

    let labeling = handler_of(office, policy);
    let mut labeler = labeler_step(&labeling, PARTITIONS);
    let mut filtered: BTreeMap<String, usize> = BTreeMap::new();
    for record in anonymizer.take_emitted(TELEMETRY_CLEAN) {
        let event: CleanEvent = avro::decode(&record.value)?;
        if event.disposition != Disposition::Clean {
            *filtered.entry(event.reason.unwrap_or_default()).or_default() += 1;
        }
        labeler.publish(record);
    }
    settle(&mut labeler, &labeling, ReferenceStep::run).await?;
    settle(&mut labeler, &labeling, |step| step.advance_to(end + LONG)).await?;
    let failed = anonymizer.dead_letters().len() + labeler.dead_letters().len();
    if failed > 0 {
        bail!("{failed} inputs ended as dead letters");
    }
    let keys: BTreeMap<KeyId, &DataKey> = office.persons.iter().map(|person| (person.key.id(), &*person.key)).collect();
    let pairs = labeler.take_emitted(PREFERENCE_PAIRS);
    let pairs = pairs.iter().map(|record| opened(record, &keys)).collect::<anyhow::Result<Vec<_>>>()?;
    let outcomes = labeler.take_emitted(SERVING_OUTCOMES);
    let outcomes = outcomes.iter().map(|record| avro::decode(&record.value)).collect::<Result<Vec<_>, _>>()?;
    Ok(Labeled { pairs, outcomes, filtered })
}

/// The pair in a record. Everybody here lets their code be used, so one without text is a fault, and no label less.
fn opened(record: &Record, keys: &BTreeMap<KeyId, &DataKey>) -> anyhow::Result<OpenPair> {
    let pair: PreferencePair = avro::decode(&record.value)?;
    let Some(sealed) = &pair.sealed else { bail!("pair {} has no text", pair.pair_id) };
    let Some(key) = keys.get(&sealed.key_id) else { bail!("pair {} is sealed for nobody", pair.pair_id) };
    let text = serde_json::from_slice(&key.open(pair.event_id, PREFERENCE_PAIRS, sealed)?)?;
    Ok(OpenPair { pair, text })
}

/// The text of a record of the door.
pub(crate) fn text_of(event: &RawEvent, key: &DataKey) -> anyhow::Result<Option<EventText>> {
    let Some(sealed) = &event.sealed else { return Ok(None) };
    let text = key.open(event.header.event_id, TELEMETRY_RAW, sealed)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use simulator::random::Dice;
    use simulator::{Meaning, SceneMaker, SceneSettings};

    use super::super::office::Opportunity;
    use super::super::scenes::corpus;
    use super::*;

    /// The plainest meanings, from the simulator to the label.
    #[tokio::test]
    async fn what_is_played_in_an_office_is_labeled() {
        let corpus = corpus().unwrap();
        let maker = SceneMaker::new(&corpus, 0, SceneSettings::default()).unwrap();
        let office = Office::open(1, 1).await.unwrap();
        let mut session = office.session(0, 1, START).unwrap();
        let (mut meant, mut events) = (BTreeMap::new(), Vec::new());
        for meaning in [Meaning::Keeps, Meaning::MissesHelp, Meaning::Ignores] {
            let scene = maker.scene(meaning, &mut Dice::new(1, "played", &[meaning as u64])).unwrap();
            let (id, reported) = session.play(&Opportunity::of(&scene)).unwrap();
            meant.insert(id, meaning);
            events.extend(reported);
        }
        events.push(session.end().unwrap());
        let labeled = label(&office, &events).await.unwrap();
        assert_eq!(labeled.outcomes.len(), meant.len());
        assert_eq!(labeled.filtered, BTreeMap::new());
        let found: BTreeMap<_, _> =
            labeled.pairs.iter().map(|open| (open.pair.opportunity_id, Some(open.pair.reason))).collect();
        for (id, meaning) in meant {
            assert_eq!(found.get(&id).copied().flatten(), meaning.label(), "{meaning:?}");
        }

        // A pair that can not be compared is no pair that was never made.
        let pair = &labeled.pairs[0].pair;
        let record =
            |pair: &PreferencePair| Record { key: RecordKey([0; 16]), value: Bytes::from(avro::encode(pair).unwrap()) };
        let key = &office.persons[0].key;
        assert!(opened(&record(pair), &BTreeMap::from([(key.id(), &**key)])).is_ok());
        let without = PreferencePair { sealed: None, ..pair.clone() };
        let refused = [opened(&record(&without), &BTreeMap::new()), opened(&record(pair), &BTreeMap::new())];
        let said = refused.map(|refused| refused.err().unwrap().to_string());
        assert!(said[0].ends_with("has no text") && said[1].ends_with("is sealed for nobody"), "{said:?}");
    }
}
