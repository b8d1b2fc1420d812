//! What it costs to take from a text what it has to say.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use events::topics::PREFERENCE_PAIRS;
use events::{DataKey, KeyId, PairText};
use labeler::lake::content_digest;
use trainer_orchestrator::data_set::lesson::Lesson;

use super::pool::Pool;
use crate::measurement::{Measurement, median};

const ROUNDS: usize = 5;

/// The lessons of the pool's pairs, and how many of them are taken a second: beside opening the same texts, which comes
/// before.
pub(super) fn measure(pool: &Pool) -> anyhow::Result<(Vec<Lesson>, Measurement)> {
    let persons = &pool.office.persons;
    let keys: BTreeMap<KeyId, &DataKey> = persons.iter().map(|person| (person.key.id(), &*person.key)).collect();
    let (mut taken, mut opened, mut lessons) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        lessons = pool.pairs.iter().map(|open| Lesson::of(std::hint::black_box(&open.text))).collect();
        taken.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for open in &pool.pairs {
            let sealed = open.pair.sealed.as_ref().context("a pair has no text")?;
            let key = keys.get(&sealed.key_id).context("a pair is sealed for nobody")?;
            let text = key.open(open.pair.event_id, PREFERENCE_PAIRS, sealed)?;
            let digest = content_digest(&pool.office.secret, &text);
            ensure!(digest == open.pair.content_digest, "a text is not what its digest says");
            std::hint::black_box(serde_json::from_slice::<PairText>(&text)?);
        }
        opened.push(started.elapsed().as_secs_f64());
    }
    let pairs = pool.pairs.len();
    let bytes: usize = pool.pairs.iter().map(|open| open.text.context.window.text.len()).sum();
    let shingles: usize = lessons.iter().map(|lesson| lesson.shingles.len()).sum();
    let (bytes, shingles) = (bytes / pairs.max(1), shingles / pairs.max(1));
    let faults = lessons.iter().filter(|lesson| lesson.fault.is_some()).count();
    let note = format!(
        "one thread, median of {ROUNDS}; {pairs} texts of real code in windows of {bytes} bytes, parsed for faults \
         (found {faults}), {shingles} shingles each; baseline: unsealing, verifying and decoding the same texts"
    );
    let rate = |seconds: Vec<f64>| pairs as f64 / median(seconds);
    let measurement = Measurement::new("data-set: lessons taken from text", rate(taken), "texts/s", note);
    Ok((lessons, measurement.beside(rate(opened))))
}
