use edit_model::{EditModel, Family, ModelManifest};
use trainer::pretrain::{Next, PretrainConfig, run};

use crate::fixture::{architecture, task, tokenizer};

fn config(steps: usize) -> PretrainConfig {
    PretrainConfig { steps, batch_tasks: 8, warmup_steps: 5, threads: 2, ..PretrainConfig::default() }
}

#[test]
fn the_loss_falls_and_a_resumed_run_is_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let architecture = architecture(&tokenizer);
    let source = |index| Some(task(index));
    let mut losses = Vec::new();
    let whole = run(&config(40), architecture.clone(), &tokenizer, &source, &mut |progress, _| {
        losses.push(progress.loss);
        Next::Continue
    })
    .unwrap();
    assert!(losses[39] < 0.8 * losses[0], "{} {}", losses[0], losses[39]);

    let resumable = PretrainConfig { checkpoint: Some(folder.path().join("checkpoint")), ..config(40) };
    let stop_at = |step| {
        move |progress: &trainer::pretrain::Progress, _: &trainer::Engine| {
            if progress.step == step { Next::Stop } else { Next::Continue }
        }
    };
    run(&resumable, architecture.clone(), &tokenizer, &source, &mut stop_at(17)).unwrap();
    let resumed = run(&resumable, architecture, &tokenizer, &source, &mut stop_at(1000)).unwrap();
    assert_eq!(resumed.weights(), whole.weights());
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let source = |index| Some(task(index));
    let first = PretrainConfig { checkpoint: Some(folder.path().join("checkpoint")), ..config(2) };
    run(&first, architecture(&tokenizer), &tokenizer, &source, &mut |_, _| Next::Continue).unwrap();
    let refused = |other: PretrainConfig| {
        run(&other, architecture(&tokenizer), &tokenizer, &source, &mut |_, _| Next::Continue).is_err()
    };
    assert!(refused(PretrainConfig { seed: 9, ..first.clone() }));
    assert!(refused(PretrainConfig { source: "other tasks".to_owned(), ..first.clone() }));
    assert!(!refused(first));
}

#[test]
fn every_family_learns_and_reads_back_as_it_was_learned() {
    let tokenizer = tokenizer();
    let source = |index| Some(task(index));
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        let mut architecture = architecture(&tokenizer).of_family(family);
        // Two heads of queries for each of keys, wider than the stream divided by them.
        architecture.num_attention_heads = 4;
        architecture.head_dim = Some(12);
        architecture.tie_word_embeddings = family != Family::Llama;
        let mut losses = Vec::new();
        let model = run(&config(40), architecture, &tokenizer, &source, &mut |progress, _| {
            losses.push(progress.loss);
            Next::Continue
        })
        .unwrap();
        assert!(losses[39] < 0.9 * losses[0], "{family:?}: {} {}", losses[0], losses[39]);
        let model = model.in_served_precision().unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
        let again = EditModel::load(folder.path()).unwrap();
        assert_eq!(again.weights(), model.weights());
        assert_eq!(again.network().config(), &model.network().config().as_written());
    }
}
