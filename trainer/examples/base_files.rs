//! Writes `replay.jsonl` and `old_skills.jsonl` beside a base model: `base_files DIRECTORY`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use simulator::{BaseCorpus, BaseManifest, BaseTaskGenerator, Split, TaskKind};
use trainer::{BaseTask, InventedTeams, write_tasks};

fn main() -> anyhow::Result<()> {
    let output = PathBuf::from(std::env::args().nth(1).context("which directory?")?);
    let manifest = BaseManifest::read(Path::new("edit-model/base/sources.json"))?;
    let cache = simulator::default_source_cache().context("no cache folder")?;
    let files = manifest.load(&cache, 200_000)?;
    let train = Arc::new(BaseCorpus::index(files.clone(), Split::Train)?);
    let held_out = Arc::new(BaseCorpus::index(files, Split::HeldOut)?);
    let known: Vec<String> =
        simulator::convention::RULES.iter().map(|rule| format!("{rule:?}").to_lowercase()).collect();
    let mut dice = simulator::random::Dice::new(1, "invented teams", &[]);
    let words: Vec<String> = (0..600)
        .map(|_| train.words().word(&mut dice).to_owned())
        .filter(|word| word.len() <= 9 && known.iter().all(|rule| !rule.contains(word.as_str())))
        .collect();
    let teams = InventedTeams::new(1, edit_model::INVENTED_SLOTS, &words);
    let generator = BaseTaskGenerator::new(train, 2);
    let replay: Vec<BaseTask> = (0..1500)
        .filter_map(|index| {
            let task = generator.task_at(index)?;
            let renames_function = task.kind == TaskKind::Plain
                && task.symbol.is_function()
                && task.wanted.actions.iter().all(|action| {
                    action.new_text.chars().all(|character| character == '_' || character.is_ascii_alphanumeric())
                });
            Some(teams.apply(BaseTask { context: task.context, wanted: task.wanted }, index, renames_function))
        })
        .collect();
    write_tasks(&output.join("replay.jsonl"), &replay)?;
    let generator = BaseTaskGenerator::new(held_out, 3);
    let mut left = (200, 80);
    let old_skills: Vec<BaseTask> = (0..)
        .map_while(|index| generator.task_at(index))
        .filter(|task| {
            let kind = if task.wanted.is_no_edit() { &mut left.1 } else { &mut left.0 };
            let wanted = *kind > 0;
            *kind -= i32::from(wanted);
            wanted
        })
        .take(280)
        .map(|task| BaseTask { context: task.context, wanted: task.wanted })
        .collect();
    write_tasks(&output.join("old_skills.jsonl"), &old_skills)?;
    Ok(())
}
