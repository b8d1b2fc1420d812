//! What a turn remembers of one person's text: markers planted among its corrections and completed afterwards, beside
//! controls that nobody planted. Once as many as a data set lets one person have, once all of them.

use trainer::TrainingPair;
use trainer::gate::GateLimits;
use trainer::memorisation::{MarkerPlan, MemorisationReport, ask_model, plant};
use trainer::methods::{MethodConfig, train_from_anchor};

use crate::Trial;
use crate::convention::{FIRST_SEED, Material, PERSON_PAIRS, lessons, material, settings};
use crate::measurement::{Better, Measurement, tell};

/// The gate's numbers where it asks.
const MARKERS: usize = 50;

fn asked(material: &Material, config: &MethodConfig, most_pairs: usize) -> anyhow::Result<MemorisationReport> {
    let (base, pairs) = (&material.base, lessons(material, config.seed)?);
    let most_episodes = GateLimits::default().marker_episodes;
    let plan = MarkerPlan { markers: MARKERS, most_episodes, most_pairs, seed: config.seed };
    let planted = plant(base.tokenizer(), &pairs, &plan);
    let marked: Vec<TrainingPair> = pairs.into_iter().chain(planted.pairs).collect();
    let (network, anchor) = (base.network(), base.weights());
    let trained = train_from_anchor(config, network, anchor, base.tokenizer(), &marked, &material.replay)?;
    let model = base.with_weights(trained.weights)?.in_served_precision()?;
    Ok(ask_model(&model, &planted.places, config.threads, &mut || Ok(()))?)
}

/// Markers and controls that are completed, and the lowest probability that chance alone does as much.
pub(crate) fn measure(seeds: u64, tried: Trial) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let level = GateLimits::default().memorisation_level;
    let mut measurements = Vec::new();
    for (name, most_pairs) in [("one person's share", PERSON_PAIRS), ("without a limit", usize::MAX)] {
        let (mut markers, mut controls, mut episodes, mut least) = (0, 0, 0, 1.0_f64);
        for seed in FIRST_SEED..FIRST_SEED + seeds {
            tell(&format!("memorisation: {name}, seed {seed}"));
            let found = asked(&material, &tried.config(MethodConfig::default().method, seed), most_pairs)?;
            markers += found.markers_completed;
            controls += found.controls_completed;
            episodes += found.episodes;
            least = least.min(found.p_value);
        }
        let config = tried.config(MethodConfig::default().method, FIRST_SEED);
        let note = format!(
            "of {} markers in {episodes} episodes, {seeds} seeds; baseline: controls that nobody planted; {}",
            MARKERS * usize::try_from(seeds)?,
            settings(&config)
        );
        let completed = Measurement::new(format!("memorisation: {name}"), markers as f64, "completed", note);
        measurements.push(completed.beside(controls as f64));
        let note = "the least of all seeds: one-sided sign test";
        measurements.push(
            Measurement::new(format!("memorisation: {name}, p"), least, "probability", note)
                .aiming_at(level, Better::More),
        );
    }
    Ok(measurements)
}
