//! Prints tasks, to look at what a model is trained on and what developers meet:
//! `cargo run -p simulator --example show_tasks -- base 20` or `... -- demo 20 SEED`.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use simulator::{
    BaseCorpus, BaseManifest, BaseTaskGenerator, Corpus, DemoPlan, EditTask, PlanSettings, Split, default_source_cache,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).map_or(Ok(10), |text| text.parse::<u64>());
    if arguments.first().is_some_and(|text| text == "demo") { demo(number(1)?, number(2)?) } else { base(number(1)?) }
}

fn show(task: &EditTask) {
    println!("\n=== {:?} {:?} {} {}", task.kind, task.symbol, task.context.repository, task.context.path);
    for edit in &task.context.recent_edits {
        println!("- {}\n+ {}\n{}", edit.old_text, edit.new_text, task.context.window.text);
    }
    for action in &task.wanted.actions {
        println!("    {} -> {}", action.old_text, action.new_text);
    }
}

fn demo(count: u64, seed: u64) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let corpus = Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"))?;
    println!("corpus in {:?}: {:?}", start.elapsed(), corpus.census());
    let start = Instant::now();
    let plan = DemoPlan::new(seed, Arc::new(corpus), PlanSettings::default())?;
    println!("plan in {:?}", start.elapsed());
    for convention in plan.conventions() {
        println!("{}: {}", convention.repository, convention.rule.describe());
    }
    let start = Instant::now();
    for number in 0..600 {
        plan.task(number % 60, number / 60)?;
    }
    println!("{:.0} tasks a second", 600.0 / start.elapsed().as_secs_f64());
    for number in 0..count as usize {
        let planned = plan.task(number % 2, number / 2)?;
        show(&planned.task);
        println!("    unseen: {}", planned.is_unseen);
    }
    Ok(())
}

fn base(count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let manifest = BaseManifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base/sources.json"))?;
    let cache = default_source_cache().ok_or("HOME is not set")?;
    let start = Instant::now();
    let files = manifest.load(&cache, 200_000)?;
    println!(
        "{} files, {} bytes, read in {:?}",
        files.len(),
        files.iter().map(|file| file.text.len()).sum::<usize>(),
        start.elapsed()
    );
    for split in [Split::HeldOut, Split::Train] {
        let start = Instant::now();
        let corpus = Arc::new(BaseCorpus::index(files.clone(), split)?);
        let (count_files, places, words) = (corpus.files().len(), corpus.place_count(), corpus.words().len());
        println!("{split:?}: {count_files} files, {places} places, {words} words, in {:?}", start.elapsed());
        let generator = BaseTaskGenerator::new(corpus, 1);
        let start = Instant::now();
        let made = (0..2000).filter_map(|index| generator.task_at(index)).count();
        println!("{:.0} tasks a second", made as f64 / start.elapsed().as_secs_f64());
        (0..count).filter_map(|index| generator.task_at(index)).for_each(|task| show(&task));
    }
    Ok(())
}
