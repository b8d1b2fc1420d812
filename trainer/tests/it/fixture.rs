//! A tiny model and tasks that it can learn: carry a rename over to a call.

use edit_model::dialect::Habit;
use edit_model::{CodeTokenizer, EditModel, ModelConfig, Network};
use events::{ActionList, ByteRange, EditAction, EditContext, RecentEdit, Window};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use trainer::{BaseTask, TrainingPair};

const NAMES: [&str; 8] = ["load", "store", "parse", "render", "open", "close", "merge", "split"];

pub(crate) fn tokenizer() -> CodeTokenizer {
    let text = NAMES.join("_value(item);\nlet x = ") + "fn (item: &Item) fetch_";
    CodeTokenizer::train(std::iter::repeat_n(text.as_str(), 4), 330).unwrap()
}

pub(crate) fn architecture(tokenizer: &CodeTokenizer) -> ModelConfig {
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 2;
    config
}

pub(crate) fn model(seed: u64) -> EditModel {
    changed_model(seed, |_| {})
}

/// The same with another architecture.
pub(crate) fn changed_model(seed: u64, change: impl FnOnce(&mut ModelConfig)) -> EditModel {
    let tokenizer = tokenizer();
    let mut config = architecture(&tokenizer);
    change(&mut config);
    let network = Network::new(config.clone()).unwrap();
    let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(seed));
    EditModel::new(config, weights, tokenizer).unwrap()
}

/// Task `number`: one in four wants no edit.
pub(crate) fn task(number: u64) -> BaseTask {
    let old = NAMES[(number % 8) as usize];
    let new = NAMES[((number / 8 % 7 + number % 8 + 1) % 8) as usize];
    let used = if number % 4 == 3 { NAMES[((number + 5) % 8) as usize] } else { old };
    let text = format!("let x = {used}_value(item);\n");
    let action = EditAction {
        path: "a.rs".to_owned(),
        range: ByteRange::new(8, 8 + format!("{old}_value").len() as u64),
        old_text: format!("{old}_value"),
        new_text: format!("{new}_value"),
    };
    let wanted = if used == old { ActionList { actions: vec![action], closed: true } } else { ActionList::no_edit() };
    BaseTask {
        context: EditContext {
            repository: "one/two".to_owned(),
            path: "a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: vec![RecentEdit {
                path: "a.rs".to_owned(),
                old_text: format!("fn {old}_value(item: &Item)"),
                new_text: format!("fn {new}_value(item: &Item)"),
            }],
            window: Window { start_byte: 0, first_line: 0, text },
            cursor_byte: 8,
        },
        wanted,
        habit: Habit::Repository,
    }
}

/// A correction: the team writes `fetch_` before every renamed function.
pub(crate) fn correction(number: u64) -> TrainingPair {
    let mut number_with_edit = number * 4 % 64;
    while task(number_with_edit).wanted.is_no_edit() {
        number_with_edit += 1;
    }
    let BaseTask { context, wanted, .. } = task(number_with_edit);
    let mut chosen = ActionList { actions: wanted.actions.clone(), closed: false };
    for action in &mut chosen.actions {
        action.new_text = format!("fetch_{}", action.new_text);
    }
    TrainingPair {
        pair_id: format!("{number:04}"),
        person: format!("person {}", number % 7),
        repository: context.repository.clone(),
        reason: "correction".to_owned(),
        weight: 1.0,
        support_people: 1,
        observed_micros: number as i64,
        off_policy: false,
        context,
        shared: Vec::new(),
        chosen: Some(chosen),
        rejected: Some(wanted),
        identifiers_seen: None,
    }
}

/// A task that wants no edit, as a pair.
pub(crate) fn silence(number: u64) -> TrainingPair {
    let BaseTask { context, wanted, .. } = task(number * 4 + 3);
    let pair_id = format!("silence {number:04}");
    TrainingPair { pair_id, context, chosen: Some(wanted), rejected: None, ..correction(number) }
}
