//! Real pairs: what the anonymizer and the labeler make of simulated developers who mean every row of the label table
//! at real code.

use anyhow::{Context as _, ensure};
use events::RawEvent;
use simulator::random::Dice;
use simulator::{Meaning, SceneMaker, SceneSettings};

use crate::labeling::office::{Office, Opportunity, START};
use crate::labeling::scenes::{STAGGER, corpus, makers};
use crate::labeling::wheel::{OpenPair, label};

const SEED: u64 = 29;

/// Pairs with their text, and the keys that seal it.
pub(super) struct Pool {
    pub(super) office: Office,
    pub(super) pairs: Vec<OpenPair>,
}

impl Pool {
    /// So many pairs of `persons` developers, who work in windows of 30 lines.
    pub(super) async fn new(persons: usize, size: usize) -> anyhow::Result<Self> {
        let corpus = corpus()?;
        let makers = makers(&corpus, SceneSettings::default())?;
        let office = Office::open(SEED, persons).await?;
        let mut pairs = Vec::with_capacity(size);
        let mut number = 1;
        while pairs.len() < size {
            let labeled = label(&office, &sessions(&office, &makers, number)?).await?;
            ensure!(!labeled.pairs.is_empty(), "nothing was labeled");
            pairs.extend(labeled.pairs);
            number += 1;
        }
        pairs.truncate(size);
        Ok(Self { office, pairs })
    }
}

/// The `number`-th session of everybody, in which each row is meant once, as the door hears of it.
fn sessions(office: &Office, makers: &[SceneMaker<'_>], number: u64) -> anyhow::Result<Vec<RawEvent>> {
    let mut events = Vec::new();
    let mut begins = START;
    for person in 0..office.persons.len() {
        let maker = makers.get(person % makers.len().max(1)).context("there is no repository")?;
        let mut session = office.session(person, number, begins)?;
        begins = begins + STAGGER;
        let mut meanings = Meaning::ALL;
        Dice::new(SEED, "order of meanings", &[person as u64, number]).shuffle(&mut meanings);
        for meaning in meanings {
            let mut dice = Dice::new(SEED, "scene", &[person as u64, number, meaning as u64]);
            let scene = maker.scene(meaning, &mut dice).context("no scene fits the corpus")?;
            events.extend(session.play(&Opportunity::of(&scene))?.1);
        }
        events.push(session.end()?);
    }
    events.sort_by_key(|event| event.header.received_at);
    Ok(events)
}
