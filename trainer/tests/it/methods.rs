use std::path::Path;

use edit_model::dialect::{Habit, habit_tokens};
use edit_model::{DecodeOptions, Device, EditModel, HABIT_TOKENS};
use events::{ByteRange, EditAction};
use trainer::methods::{Method, MethodConfig, MethodData, TrainedWeights, fine_tuning_engine, train_from_anchor};
use trainer::{BaseTask, Engine, Group, Objective, OptimizerConfig, Role, TrainerError, TrainingPair, backends};

use crate::fixture::{changed_model, correction, model, silence, task};

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
    for method in Method::ALL.into_iter().filter(|method| method.compares()) {
        let trained = train(&config(method), &model, &pairs()).unwrap();
        let first = trained.history[0];
        assert!((first.preference_loss - std::f64::consts::LN_2).abs() < 1e-6, "{method:?} {first:?}");
        // Nothing has moved yet, and nothing is wrong or right.
        assert!(first.margin_at_divergence.unwrap().abs() < 1e-3 && first.kl.unwrap() < 1e-6, "{first:?}");
        assert!(trained.chosen_log_p_after > trained.chosen_log_p_before);
        assert_eq!(trained.census.preferences, 24);
    }
}

#[test]
fn methods_that_compare_the_whole_action_widen_its_margin() {
    let model = model(1);
    for method in [Method::Dpo, Method::TargetDpo, Method::Actionrl, Method::ActionrlDetach] {
        let trained = train(&config(method), &model, &pairs()).unwrap();
        let (first, last) = (trained.history[0], trained.history[11]);
        assert!(last.preference_loss < first.preference_loss, "{method:?}");
        assert!(last.margin_at_divergence > first.margin_at_divergence && last.accuracy > Some(0.5), "{last:?}");
        assert!(last.kl > first.kl && last.tokens_per_second > 0.0 && last.eta_seconds == 0.0, "{last:?}");
    }
}

#[test]
fn what_is_wanted_is_learned_without_anything_to_compare_it_with() {
    let model = model(1);
    let mut pairs = pairs();
    // A rejection without a correction teaches this method alone.
    pairs[0].chosen = None;
    pairs[1].rejected = None;
    let config = MethodConfig { lambda: 0.0, batch_replay: 0, ..config(Method::Kto) };
    let trained = train(&config, &model, &pairs).unwrap();
    let census = trained.census;
    assert_eq!((census.preferences, census.positives, census.negatives, census.without_lesson), (22, 1, 1, 0));
    let first = trained.history[0];
    assert!((first.preference_loss - 0.5).abs() < 1e-6 && first.accuracy.is_none(), "{first:?}");
    assert!(trained.history[11].preference_loss < 0.5 && trained.chosen_log_p_after > trained.chosen_log_p_before);
    let census = train(&MethodConfig { method: Method::Dpo, ..config }, &model, &pairs).unwrap().census;
    assert_eq!((census.negatives, census.without_lesson), (0, 1));
}

#[test]
fn a_threshold_alone_changes_when_the_model_speaks_and_nothing_of_what_it_says() {
    for is_tied in [true, false] {
        learns_a_threshold(&changed_model(1, |config| config.tie_word_embeddings = is_tied));
    }
}

fn learns_a_threshold(model: &EditModel) {
    let pairs: Vec<TrainingPair> = pairs().into_iter().chain((0..24).map(silence)).collect();
    let trained = train(&config(Method::ThresholdOnly), model, &pairs).unwrap();
    let row = model.network().output_row(model.tokenizer().special().no_edit);
    let changed: Vec<usize> = (trained.weights.iter().zip(model.weights()).enumerate())
        .filter(|(_, (new, old))| new != old)
        .map(|(place, _)| place)
        .collect();
    assert!(!changed.is_empty() && changed.iter().all(|place| row.contains(place)), "{changed:?}");
    let calibrated = model.with_weights(trained.weights).unwrap();
    let forced = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
    let (mut before, mut after) = (0.0, 0.0);
    for number in 0..16 {
        let context = task(number).context;
        let answer = |model: &EditModel| model.complete(&context, &forced, &|| false, &mut |_| {}).unwrap();
        let (old, new) = (answer(model), answer(&calibrated));
        assert_eq!(old.actions, new.actions);
        before += old.gate_score;
        after += new.gate_score;
    }
    // Half of the pairs are silences, and a random model speaks almost always.
    assert!(after < before, "{before} {after}");
}

#[test]
fn pairs_that_all_say_the_same_are_refused() {
    let model = model(1);
    let refused = |method: Method, change: fn(&mut TrainingPair)| {
        let mut pairs = pairs();
        pairs.iter_mut().for_each(change);
        train(&config(method), &model, &pairs).unwrap_err().to_string()
    };
    let of = "the data set has one class only: ";
    let sides = "needs pairs with both a chosen and a rejected side";
    for method in Method::ALL.into_iter().filter(|method| method.compares()) {
        assert_eq!(refused(method, |pair| pair.rejected = None), format!("{of}{} {sides}", method.name()));
    }
    let needs = "kto needs both what was wanted and what was not, in at least two pairs";
    assert_eq!(refused(Method::Kto, |pair| pair.rejected = None), format!("{of}{needs}"));
    assert_eq!(refused(Method::Kto, |pair| pair.chosen = None), format!("{of}{needs}"));
    let needs = "threshold-only needs both pairs that want an edit and pairs that want none";
    assert_eq!(refused(Method::ThresholdOnly, |_| {}), format!("{of}{needs}"));
    // Likelihood needs no contrast.
    let accepted: Vec<TrainingPair> = pairs().into_iter().map(|pair| TrainingPair { rejected: None, ..pair }).collect();
    train(&config(Method::Sft), &model, &accepted).unwrap();
}

#[test]
fn a_pair_that_does_not_fit_is_kept_up_to_the_end_of_its_divergence() {
    let model = model(1);
    let config = MethodConfig { batch_replay: 0, ..config(Method::Actionrl) };
    let mut short = correction(0);
    short.context.window.text.push_str("let y = 1;\n");
    let place = short.context.window.text.find("1;").unwrap() as u64;
    let mut long = short.clone();
    let tail = EditAction {
        path: "a.rs".to_owned(),
        range: ByteRange::new(place, place + 1),
        old_text: "1".to_owned(),
        new_text: "qz ".repeat(60),
    };
    long.chosen.as_mut().unwrap().actions.push(tail);
    let read = |pair: TrainingPair| {
        let data = MethodData::prepare(&config, model.network(), model.weights(), model.tokenizer(), &[pair], &[]);
        data.map(|data| data.batch(&config, 0))
    };
    assert_eq!(read(long.clone()).unwrap(), read(short.clone()).unwrap());
    // The diverging action itself is never cut.
    long.chosen.as_mut().unwrap().actions[0].new_text.push_str(&"qz ".repeat(60));
    let refused = read(long.clone()).unwrap_err().to_string();
    assert!(refused.contains("unwritable: 1"), "{refused}");
    let mut accepted = long;
    accepted.rejected = None;
    accepted.chosen = short.chosen.clone();
    accepted.chosen.as_mut().unwrap().actions.push(EditAction {
        path: "a.rs".to_owned(),
        range: ByteRange::new(place, place + 1),
        old_text: "1".to_owned(),
        new_text: "qz ".repeat(60),
    });
    let config = MethodConfig { method: Method::Sft, ..config.clone() };
    let census = train(&config, &model, &[accepted]).unwrap().census;
    assert_eq!((census.positives, census.shortened), (1, 1));
}

#[test]
fn a_step_of_any_size_has_the_gradient_of_its_groups_together() {
    let model = model(1);
    let config = MethodConfig { batch_pairs: 24, ..config(Method::Actionrl) };
    let groups = prepare(&config, &model).batch(&config, 0);
    let tokens = |groups: &[Group]| -> usize {
        groups.iter().flat_map(|group| &group.sequences).map(|sequence| sequence.tokens.len()).sum()
    };
    let gradient = |lanes: usize, groups: &[Group]| {
        let backends = backends(Device::Cpu, model.network(), lanes).unwrap();
        let weights = model.weights().to_vec();
        let mut engine = Engine::new(model.network().clone(), weights, OptimizerConfig::default(), backends);
        engine.gradient(groups, 1.0).unwrap()
    };
    // More than two passes of the CPU.
    assert!(tokens(&groups) > 1500, "{}", tokens(&groups));
    let mut one_by_one = vec![0.0_f64; model.weights().len()];
    let mut loss = 0.0;
    for group in &groups {
        let (parts, gradients) = gradient(1, std::slice::from_ref(group));
        loss += parts.total;
        for (sum, value) in one_by_one.iter_mut().zip(gradients) {
            *sum += f64::from(value);
        }
    }
    let length = one_by_one.iter().map(|value| value * value).sum::<f64>().sqrt();
    for lanes in [1, 2, 3] {
        let (parts, gradients) = gradient(lanes, &groups);
        assert!((parts.total - loss).abs() < 1e-4 * loss.abs(), "{} {loss}", parts.total);
        let squares = one_by_one.iter().zip(gradients).map(|(want, got)| (want - f64::from(got)).powi(2));
        let difference = squares.sum::<f64>().sqrt();
        assert!(difference < 1e-4 * length, "{lanes} lanes: {difference} of {length}");
    }
}

#[test]
fn a_step_that_is_no_number_names_its_pairs() {
    let model = model(1);
    let config = config(Method::Sft);
    let mut anchor = model.weights().to_vec();
    // The last norm.
    *anchor.last_mut().unwrap() = f32::NAN;
    let result = train_from_anchor(&config, model.network(), &anchor, model.tokenizer(), &pairs(), &replay());
    let Err(TrainerError::Diverged { step, reason, batch }) = result else { panic!("{result:?}") };
    assert_eq!((step, reason.as_str()), (1, "the loss is NaN"));
    let data = prepare(&config, &model);
    assert_eq!(batch, format!("pairs {}", data.batch_ids(&config, 0).join(", ")));
    assert_eq!(data.batch_ids(&config, 0).len(), 8);
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
    let roles = |method| {
        let config = MethodConfig { batch_replay: 0, ..config(method) };
        let data = prepare(&config, &model);
        let groups = data.batch(&config, 0);
        let Objective::Preference { chosen, rejected, .. } = groups[0].objective.clone() else {
            panic!("a correction is a preference");
        };
        (chosen.roles, rejected.roles)
    };
    let (chosen, rejected) = roles(Method::Dpo);
    assert!(chosen.iter().chain(&rejected).all(|role| *role == Role::Compared));
    let (chosen, rejected) = roles(Method::Actionrl);
    // Marker, old text and `<to>` are shared; the rejected list is closed, and its `<stop>` lies behind the action.
    assert_eq!((chosen[0], rejected[0]), (Role::Outside, Role::Outside));
    assert!(chosen.ends_with(&[Role::Compared]) && rejected.ends_with(&[Role::Compared, Role::Outside]));
    let first = chosen.iter().position(|role| *role == Role::Compared);
    assert_eq!(first, rejected.iter().position(|role| *role == Role::Compared));
    assert!(roles(Method::ActionrlDetach).1.ends_with(&[Role::Compared, Role::Detached]));
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

    // What is learned is counted from there, and so is what is lost.
    let still = MethodConfig { steps: 1, learning_rate: 1e-7, habit_rate: 1e-7, ..config(Method::Sft) };
    let before = |config: &MethodConfig, weights: &[f32]| {
        train_from_anchor(config, network, weights, tokenizer, &pairs(), &replay()).unwrap().chosen_log_p_before
    };
    let unspelled = MethodConfig { spell_habits: false, ..still.clone() };
    assert_eq!(before(&still, anchor), before(&unspelled, &first));
    assert!(before(&still, anchor) > before(&unspelled, anchor));

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

#[test]
fn a_model_that_has_got_worse_is_given_up_before_the_end() {
    let model = model(1);
    let (network, tokenizer) = (model.network(), model.tokenizer());
    let anchor = train(&config(Method::Sft), &model, &pairs()).unwrap().weights;
    // An epoch is a step, and none of them makes up for what a run lost that goes on from before the anchor.
    let config = MethodConfig {
        steps: 3,
        batch_pairs: 24,
        batch_replay: 0,
        learning_rate: 1e-7,
        habit_rate: 1e-7,
        ..config(Method::Sft)
    };
    let data = MethodData::prepare(&config, network, &anchor, tokenizer, &pairs(), &[]).unwrap();
    let engine = fine_tuning_engine(&config, &data, network, tokenizer, model.weights().to_vec(), None).unwrap();
    let result = trainer::methods::train(&config, &data, engine, 0, &anchor, &mut |_, _| Ok(()));
    let Err(TrainerError::Unhealthy(reason)) = result else { panic!("{result:?}") };
    assert!(reason.starts_with("mean log p of the chosen side fell") && reason.ends_with("at step 1"), "{reason}");
}
