//! What is trained on, and how it becomes groups of token sequences.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use edit_model::CodeTokenizer;
use edit_model::dialect::{Habit, encode_answer, encode_prompt_with};
use events::{ActionList, EditContext};
use serde::{Deserialize, Serialize};

use crate::engine::Group;
use crate::error::TrainerError;
use crate::objective::{Objective, TrainingSequence};

/// A context and the one right answer: what the base model learns from, and what replay keeps alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseTask {
    /// What the model sees.
    pub context: EditContext,
    /// What it should answer; empty and closed for `NO_EDIT`.
    pub wanted: ActionList,
    /// What the prompt says of habits. A base task is nobody's: it must neither learn nor disturb what a team taught.
    #[serde(default = "untaught")]
    pub habit: Habit,
}

fn untaught() -> Habit {
    Habit::Untaught
}

/// Weights of the two parts of a sequence in a likelihood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenWeights {
    /// Weight of each answer token.
    pub answer: f32,
    /// Mean weight of each prompt token. One in four carries four times this weight, which saves most of the output
    /// layer.
    pub prompt: f32,
}

/// One prompt token in this many carries loss.
const PROMPT_STRIDE: u32 = 4;

/// The likelihood group of a base task, or `None` when the dialect cannot write it. `phase` chooses the prompt tokens.
#[must_use]
pub fn base_group(tokenizer: &CodeTokenizer, task: &BaseTask, weights: TokenWeights, phase: u32) -> Option<Group> {
    let prompt = encode_prompt_with(tokenizer, &task.context, &task.habit).ok()?;
    let answer = encode_answer(tokenizer, &task.context, &task.wanted).ok()?;
    let written = tokenizer.written_size();
    (!answer.tokens.is_empty()).then(|| likelihood_group(&prompt.tokens, &answer.tokens, weights, phase, written))
}

/// The likelihood group of a prompt and an answer; tokens from `written` on are in no prompt loss.
fn likelihood_group(prompt: &[u32], answer: &[u32], weights: TokenWeights, phase: u32, written: usize) -> Group {
    let tokens: Vec<u32> = prompt.iter().chain(answer).copied().collect();
    let boundary = prompt.len().saturating_sub(1) as u32;
    let is_written = |position: u32| tokens.get(position as usize + 1).is_some_and(|token| (*token as usize) < written);
    let mut target_positions = Vec::new();
    let mut target_weights = Vec::new();
    for position in 0..tokens.len().saturating_sub(1) as u32 {
        if position >= boundary {
            target_positions.push(position);
            target_weights.push(weights.answer);
        } else if weights.prompt > 0.0 && position % PROMPT_STRIDE == phase % PROMPT_STRIDE && is_written(position) {
            target_positions.push(position);
            target_weights.push(weights.prompt * PROMPT_STRIDE as f32);
        }
    }
    Group {
        sequences: vec![TrainingSequence { tokens, target_positions }],
        objective: Objective::Likelihood { weights: target_weights },
    }
}

/// Reads base tasks from a file of JSON lines.
///
/// # Errors
/// [`TrainerError::File`] or [`TrainerError::Damaged`] with the number of the line.
pub fn read_tasks(path: &Path) -> Result<Vec<BaseTask>, TrainerError> {
    let file = std::fs::File::open(path).map_err(|source| TrainerError::file(path, source))?;
    let mut tasks = Vec::new();
    for (number, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| TrainerError::file(path, source))?;
        if line.trim().is_empty() {
            continue;
        }
        // The position is given, never the content: it may be code.
        let task = serde_json::from_str(&line)
            .map_err(|error| TrainerError::damaged(path, format!("line {}, column {}", number + 1, error.column())))?;
        tasks.push(task);
    }
    Ok(tasks)
}

/// Writes base tasks as JSON lines.
///
/// # Errors
/// [`TrainerError::File`].
pub fn write_tasks(path: &Path, tasks: &[BaseTask]) -> Result<(), TrainerError> {
    let mut bytes = Vec::new();
    for task in tasks {
        serde_json::to_writer(&mut bytes, task).map_err(|error| TrainerError::damaged(path, error.to_string()))?;
        bytes.push(b'\n');
    }
    let mut file = std::fs::File::create(path).map_err(|source| TrainerError::file(path, source))?;
    file.write_all(&bytes).map_err(|source| TrainerError::file(path, source))
}
