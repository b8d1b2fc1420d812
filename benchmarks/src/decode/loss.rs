//! What matrices in 8 bits lose.

use edit_model::{DecodeOptions, EditModel};
use trainer::evaluation::{TaskSummary, answer_tasks, bits_per_byte};
use trainer::read_tasks;

use super::rates::base_directory;
use crate::measurement::Measurement;

const THREADS: usize = 2;

/// Bits per byte and exact edits of the base model, each beside the same with its weights as they are stored.
pub(super) fn measure(base: &EditModel) -> anyhow::Result<Vec<Measurement>> {
    let rounded = base.in_int8()?;
    let tasks = read_tasks(&base_directory().join("old_skills.jsonl"))?;
    let bits = |model: &EditModel| bits_per_byte(model, &tasks, THREADS);
    let exact = |model: &EditModel| -> anyhow::Result<f64> {
        let outcomes = answer_tasks(model, &tasks, &DecodeOptions::default(), THREADS)?;
        Ok(100.0 * TaskSummary::of(&outcomes).exact)
    };
    let note =
        |what: &str| format!("{what} of {} old tasks; baseline: the weights as they are stored, bf16", tasks.len());
    Ok(vec![
        Measurement::new("decode: int8, bits per byte", bits(&rounded)?, "bits/byte", note("the wanted edits"))
            .beside(bits(base)?),
        Measurement::new("decode: int8, exact edits", exact(&rounded)?, "%", note("the answers")).beside(exact(base)?),
    ])
}
