use std::path::Path;

use edit_model::dialect::{Habit, habit_tokens};
use edit_model::{EditModel, HABIT_TOKENS};
use trainer::methods::{Method, MethodConfig, MethodData, TrainedWeights, train_from_anchor};
use trainer::{BaseTask, Objective, TrainerError, TrainingPair};

use crate::fixture::{correction, model, task};

fn config(method: Method) -> MethodConfig {
    MethodConfig { method, steps: 12, batch_pairs: 8, batch_replay: 4, learning_rate: 2e-3, ..MethodConfig::default() }
}

fn pairs() -> Vec<TrainingPair> {
    (0..24).map(correction).collect()
}

fn replay() -> Vec<BaseTask> {
    (0..40).map(task).collect()
}

fn prepare(config: &MethodConfig, model: &EditModel) -> MethodData {
    MethodData::prepare(config, model.network(), model.weights(), model.tokenizer(), &pairs(), &replay()).unwrap()
}

fn train(config: &MethodConfig, model: &EditModel, pairs: &[TrainingPair]) -> Result<TrainedWeights, TrainerError> {
    train_from_anchor(config, model.network(), model.weights(), model.tokenizer(), pairs, &replay())
}

#[test]
fn the_first_preference_loss_is_the_logarithm_of_two() {
    let model = model(1);
    for method in [Method::Dpo, Method::Actionrl] {
        let trained = train(&config(method), &model, &pairs()).unwrap();
        let first = trained.history[0].preference_loss;
        assert!((first - std::f64::consts::LN_2).abs() < 1e-6, "{first}");
        assert!(trained.chosen_log_p_after > trained.chosen_log_p_before);
        assert!(trained.history[11].preference_loss < first);
        assert_eq!(trained.census.preferences, 24);
    }
}

#[test]
fn the_same_seed_and_threads_give_the_same_weights() {
    let model = model(2);
    let run = |seed| {
        let config = MethodConfig { seed, ..config(Method::Actionrl) };
        train(&config, &model, &pairs()).unwrap().weights
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn action_rl_compares_the_diverging_action_alone_and_dpo_everything() {
    let model = model(1);
    let compared = |method| {
        let config = MethodConfig { batch_replay: 0, ..config(method) };
        let data = prepare(&config, &model);
        let groups = data.batch(&config, 0);
        let Objective::Preference { chosen_compared, rejected_compared, .. } = groups[0].objective.clone() else {
            panic!("a correction is a preference");
        };
        (chosen_compared, rejected_compared)
    };
    let (chosen, rejected) = compared(Method::Dpo);
    assert!(chosen.iter().chain(&rejected).all(|compared| *compared));
    let (chosen, rejected) = compared(Method::Actionrl);
    // Marker, old text and `<to>` are shared; the rejected list is closed, and its `<stop>` lies behind the action.
    assert!(!chosen[0] && !rejected[0] && chosen.ends_with(&[true]) && rejected.ends_with(&[true, false]));
    let first = chosen.iter().position(|compared| *compared);
    assert_eq!(first, rejected.iter().position(|compared| *compared));
}

#[test]
fn a_habit_starts_from_the_spelling_that_explains_the_corrections() {
    let base = EditModel::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base")).unwrap();
    let (network, anchor, tokenizer) = (base.network(), base.weights(), base.tokenizer());
    let read = |config: &MethodConfig, pairs: &[TrainingPair]| {
        MethodData::prepare(config, network, anchor, tokenizer, pairs, &replay()).unwrap()
    };
    let data = read(&config(Method::Sft), &pairs());
    assert_eq!(data.spelled_habits(), 1);
    let spelled = Habit::Spelled { before: "fetch_".to_owned(), after: String::new() };
    let places = habit_tokens(tokenizer, "one/two", &Habit::Repository).unwrap();
    let tokens = habit_tokens(tokenizer, "one/two", &spelled).unwrap();
    let first = data.first_weights(network, anchor);
    let width = network.config().hidden_size;
    let row = |weights: &[f32], token: u32| weights[token as usize * width..][..width].to_vec();
    for (place, token) in places.into_iter().zip(tokens) {
        assert_eq!(row(&first, place), row(anchor, token));
    }
    let changed = first.iter().zip(anchor).filter(|(new, old)| new != old).count();
    assert!(changed > 0 && changed <= HABIT_TOKENS * width, "{changed}");

    // No correction says anything, or nobody asked.
    let accepted: Vec<TrainingPair> = pairs().into_iter().map(|pair| TrainingPair { rejected: None, ..pair }).collect();
    assert_eq!(read(&config(Method::Sft), &accepted).spelled_habits(), 0);
    let neutral = MethodConfig { spell_habits: false, ..config(Method::Sft) };
    assert_eq!(read(&neutral, &pairs()).first_weights(network, anchor), anchor);
}

#[test]
fn every_pair_is_seen_once_an_epoch() {
    let model = model(1);
    let config = MethodConfig { batch_replay: 0, ..config(Method::Sft) };
    let data = prepare(&config, &model);
    let tokens = |step| -> Vec<Vec<u32>> {
        data.batch(&config, step).iter().map(|group| group.sequences[0].tokens.clone()).collect()
    };
    let mut epoch: Vec<Vec<u32>> = (0..3).flat_map(tokens).collect();
    let mut next: Vec<Vec<u32>> = (3..6).flat_map(tokens).collect();
    assert_eq!(epoch.len(), 24);
    epoch.sort();
    next.sort();
    assert!(epoch == next);
}

#[test]
fn pairs_without_a_lesson_are_counted_and_not_used() {
    let model = model(1);
    let mut pairs = pairs();
    pairs[0].weight = 0.0;
    pairs[1].chosen = None;
    pairs[2].chosen = pairs[2].rejected.clone();
    pairs[3].rejected = None;
    pairs[4].context.cursor_byte = 10_000;
    let config = config(Method::Actionrl);
    let trained = train(&config, &model, &pairs).unwrap();
    let census = trained.census;
    assert_eq!((census.without_lesson, census.without_divergence, census.unwritable), (2, 1, 1));
    assert_eq!((census.preferences, census.positives), (19, 1));
    let none: Vec<TrainingPair> = pairs[..3].to_vec();
    let result = train(&config, &model, &none);
    assert!(matches!(result, Err(TrainerError::NoExamples(_))));
}

#[test]
fn a_rate_that_destroys_the_model_fails_the_health_check() {
    let model = model(1);
    let config = MethodConfig { learning_rate: 0.9, steps: 6, ..config(Method::Sft) };
    let result = train(&config, &model, &pairs());
    assert!(matches!(result, Err(TrainerError::Unhealthy(_) | TrainerError::Diverged { .. })), "{result:?}");
}
