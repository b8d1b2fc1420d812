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
    let other = PretrainConfig { seed: 9, ..first };
    assert!(run(&other, architecture(&tokenizer), &tokenizer, &source, &mut |_, _| Next::Continue).is_err());
}
