use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use edit_model::{EditModel, ModelManifest, ServedWeights};
use trainer::gate::{GateLimits, GateVerdict};
use trainer::job::{JobFile, JobProgress, JobResult, run_job};
use trainer::methods::{Method, MethodConfig, TrainingProgress};
use trainer::{BaseTask, TrainerError, TrainingPair, write_tasks};

use crate::fixture::{correction, model, task};

pub(crate) fn lines(pairs: &[TrainingPair]) -> Vec<u8> {
    pairs.iter().flat_map(|pair| [serde_json::to_vec(pair).unwrap(), vec![b'\n']]).flatten().collect()
}

pub(crate) fn job(folder: &Path, seconds: i64) -> JobFile {
    let base = folder.join("base");
    if !base.exists() {
        model(1).save(&base, ModelManifest::new("test", "pretrain", "0")).unwrap();
        let tasks: Vec<BaseTask> = (0..30).map(task).collect();
        write_tasks(&folder.join("replay.jsonl"), &tasks).unwrap();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    JobFile {
        run_id: "run".to_owned(),
        config: MethodConfig { method: Method::Actionrl, steps: 24, batch_pairs: 8, ..MethodConfig::default() },
        training_file: folder.join("training"),
        gate_file: folder.join("gate"),
        general_file: None,
        anchor: base.clone(),
        parent: base,
        rivals: Vec::new(),
        replay_file: folder.join("replay.jsonl"),
        old_skills_file: folder.join("replay.jsonl"),
        output: folder.join("model"),
        progress_file: folder.join("progress.json"),
        steps_file: Some(folder.join("steps.jsonl")),
        heartbeat_file: folder.join("heartbeat"),
        result_file: folder.join("result.json"),
        deadline_micros: now + seconds * 1_000_000,
        snapshot_digest: "snapshot".to_owned(),
        code_version: "0.1.0+0123456789ab".to_owned(),
        gate_opportunities: 300,
        general_opportunities: 0,
        gate: GateLimits::default(),
        person_pairs: 0,
    }
}

pub(crate) fn pairs(first: u64, count: u64) -> Vec<TrainingPair> {
    (first..first + count).map(correction).collect()
}

#[test]
fn a_job_leaves_a_verified_model_and_a_result() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), 600);
    let mut seen: Vec<JobProgress> = Vec::new();
    let result = run_job(&job, &lines(&pairs(0, 24)), &lines(&pairs(100, 30)), &[], &mut |progress| {
        seen.push(progress.clone());
    })
    .unwrap();
    let read: JobResult = serde_json::from_slice(&std::fs::read(&job.result_file).unwrap()).unwrap();
    // Numbers are written with as many digits as they need, and read back to the last bit but one.
    assert_eq!(
        (read.files, read.census, read.gate.verdict),
        (result.files.clone(), result.census, result.gate.verdict)
    );
    assert_eq!(result.gate.reason(), "insufficient_opportunities");
    assert_eq!((result.gate.opportunities, result.gate.persons, result.training_pairs), (30, 7, 24));
    let (_, manifest) = EditModel::load_with_manifest(&job.output).unwrap();
    assert_eq!(manifest.digest(), result.model_digest);
    assert_eq!(manifest.snapshot_digest.as_deref(), Some("snapshot"));
    assert_eq!(manifest.code_version, job.code_version);
    assert_eq!(manifest.anchor_digest.as_deref(), Some(result.anchor_digest.as_str()));
    let progress: JobProgress = serde_json::from_slice(&std::fs::read(&job.progress_file).unwrap()).unwrap();
    assert_eq!((progress.stage.as_str(), progress.step, progress.evaluated), ("done", 24, 30));
    let read = (progress.stage.as_str(), progress.step, progress.evaluated);
    assert_eq!(seen.last().map(|seen| (seen.stage.as_str(), seen.step, seen.evaluated)), Some(read));
    let steps = std::fs::read_to_string(folder.path().join("steps.jsonl")).unwrap();
    let steps: Vec<TrainingProgress> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps.iter().map(|step| step.step).eq(1..=24), "{steps:?}");
    assert!(steps.iter().all(|step| step.margin_at_divergence.is_some() && step.kl.is_some()), "{steps:?}");
    assert!(steps[23].accuracy > Some(0.5) && steps[0].eta_seconds > 0.0, "{steps:?}");
    assert!(job.heartbeat_file.exists());
    assert!(!folder.path().join("model.checkpoint").exists());
}

#[test]
fn both_evaluation_sets_are_judged_apart_and_known_names_from_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let job = JobFile { general_opportunities: 5, gate_opportunities: 10, ..job(folder.path(), 600) };
    let mut adapt = pairs(100, 30);
    for (number, pair) in adapt.iter_mut().enumerate() {
        pair.identifiers_seen = Some(number % 3 == 0);
    }
    let result = run_job(&job, &lines(&pairs(0, 24)), &lines(&adapt), &lines(&pairs(200, 12)), &mut |_| {}).unwrap();
    let gate = &result.gate;
    let counted = |part: Option<trainer::gate::PartReport>| part.map(|part| part.opportunities);
    let by_identifiers = (counted(gate.seen_identifiers), counted(gate.unseen_identifiers));
    assert_eq!((gate.opportunities, by_identifiers), (30, (Some(10), Some(20))));
    assert_eq!(counted(gate.general), Some(12));
    let languages: Vec<(&str, usize)> =
        gate.by_language.iter().map(|part| (part.language.as_str(), part.figures.persons)).collect();
    assert_eq!(languages, [("rust", 7)]);
    assert_eq!(gate.calibration.iter().map(|bin| bin.decisions).sum::<usize>(), 30);
    // Parent and anchor are one; the decisions and what old tasks cost are judged all the same.
    assert!(gate.rivals.is_empty() && gate.calibration_error.is_some(), "{gate:?}");
    let language = &gate.languages[0];
    assert_eq!((gate.languages.len(), language.language.as_str()), (1, "rust"));
    assert!(language.bytes > 100 && language.bits_per_byte_candidate > 0.0 && language.bits_per_byte_parent > 0.0);
    let progress: JobProgress = serde_json::from_slice(&std::fs::read(&job.progress_file).unwrap()).unwrap();
    assert_eq!((progress.evaluated, progress.to_evaluate), (42, 42));
}

#[test]
fn the_gate_judges_by_the_weights_that_serve() {
    let run = |weights: ServedWeights| {
        let folder = tempfile::tempdir().unwrap();
        let gate = GateLimits { weights, ..GateLimits::default() };
        let job = JobFile { gate, gate_opportunities: 10, ..job(folder.path(), 600) };
        let result = run_job(&job, &lines(&pairs(0, 24)), &lines(&pairs(100, 30)), &[], &mut |_| {}).unwrap();
        let language = &result.gate.languages[0];
        (result.model_digest, [language.bits_per_byte_candidate, language.bits_per_byte_parent])
    };
    let (stored, full) = run(ServedWeights::Full);
    let (stored_too, int8) = run(ServedWeights::Int8);
    // The same version, which others may serve otherwise.
    assert_eq!(stored, stored_too);
    for (full, int8) in full.into_iter().zip(int8) {
        assert!(full != int8 && (full - int8).abs() < 0.05 * full, "{full} {int8}");
    }
}

#[test]
fn every_judge_of_the_gate_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), 600);
    let parent = folder.path().join("parent");
    model(2).save(&parent, ModelManifest::new("test", "sft", "0")).unwrap();
    // No candidate keeps these: a share can not fall below itself by more than all of it.
    let gate = GateLimits {
        least_persons: 5,
        least_lower_bound: 1.0,
        general_tolerance: -2.0,
        old_skills_tolerance: -2.0,
        bits_per_byte_tolerance: -1.0,
        parse_error_tolerance: -2.0,
        calibration_tolerance: -1.0,
        ..GateLimits::default()
    };
    let job = JobFile { parent, gate, gate_opportunities: 10, general_opportunities: 5, ..job };
    let (adapt, general) = (pairs(100, 30), pairs(200, 12));
    let report = run_job(&job, &lines(&pairs(0, 24)), &lines(&adapt), &lines(&general), &mut |_| {}).unwrap().gate;
    // These say what the candidate did, which is not the point here.
    let figures = ["utility_not_better", "shown_rate_changed", "utility_not_better_than_rival"];
    let reasons: Vec<&str> =
        report.reasons.iter().map(String::as_str).filter(|reason| !figures.contains(reason)).collect();
    let expected = [
        "utility_uncertain",
        "old_skills_lost",
        "general_loss_possible",
        "utility_uncertain_beside_rival",
        "bits_per_byte_rose_rust",
        "parse_errors_rose",
        "calibration_off",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(report.verdict, GateVerdict::Held);
    // Each by its own figures.
    assert_eq!(report.reasons.contains(&figures[0].to_owned()), report.estimate <= 0.0);
    let worst = report.rivals.iter().map(|rival| rival.figures.estimate).fold(f64::INFINITY, f64::min);
    assert_eq!(report.reasons.contains(&figures[2].to_owned()), worst <= 0.0);
    let (candidate, parent) = (report.shown_rate_candidate, report.shown_rate_parent);
    assert_eq!(report.reasons.contains(&figures[1].to_owned()), (candidate - parent).abs() > 0.1 * parent);

    // Fewer of either decide nothing.
    let few = JobFile { gate_opportunities: 31, ..job.clone() };
    let judged = |job: &JobFile, general: &[TrainingPair]| {
        run_job(job, &lines(&pairs(0, 24)), &lines(&adapt), &lines(general), &mut |_| {}).unwrap().gate
    };
    let report = judged(&few, &general);
    assert_eq!(report.verdict, GateVerdict::Insufficient);
    let report = judged(&job, &general[..3]);
    assert!(report.reasons.contains(&"insufficient_general_opportunities".to_owned()), "{:?}", report.reasons);
    assert_eq!(report.verdict, GateVerdict::Insufficient);
}

#[test]
fn the_order_of_pairs_does_not_matter_and_the_model_repeats() {
    let digest = |reverse: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut pairs = pairs(0, 24);
        if reverse {
            pairs.reverse();
        }
        run_job(&job(folder.path(), 600), &lines(&pairs), &[], &[], &mut |_| {}).unwrap().model_digest
    };
    assert_eq!(digest(false), digest(true));
}

#[test]
fn the_deadline_is_absolute() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), -1);
    let result = run_job(&job, &lines(&pairs(0, 24)), &[], &[], &mut |_| {});
    assert!(matches!(result, Err(TrainerError::Deadline { .. })));
    assert!(!job.result_file.exists());
}

#[test]
fn bad_input_is_refused_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 600);
    let error = run_job(&job, b"{\"pair_id\": \"secret code\"}\n", &[], &[], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
    job.config.steps = 0;
    assert!(matches!(run_job(&job, &[], &[], &[], &mut |_| {}), Err(TrainerError::Job(_))));
    job.config.steps = 24;
    assert!(matches!(run_job(&job, &[], &[], &[], &mut |_| {}), Err(TrainerError::NoExamples(_))));
    let weights = job.anchor.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 7]).unwrap();
    let error = run_job(&job, &lines(&pairs(0, 24)), &[], &[], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
}

#[test]
fn a_candidate_is_judged_beside_the_base_and_other_rivals_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path(), 600);
    let saved = |name: &str, seed: u64| {
        let directory = folder.path().join(name);
        let manifest = model(seed).save(&directory, ModelManifest::new("test", "sft", "0")).unwrap();
        (directory, manifest.digest())
    };
    let ((parent, _), (other, other_digest)) = (saved("parent", 2), saved("other", 3));
    job.rivals = vec![parent.clone(), other.clone(), other, job.anchor.clone()];
    job.parent = parent;
    let result =
        run_job(&job, &lines(&pairs(0, 24)), &lines(&pairs(100, 30)), &lines(&pairs(200, 12)), &mut |_| {}).unwrap();
    let gate = &result.gate;
    let digests: Vec<&str> = gate.rivals.iter().map(|rival| rival.model_digest.as_str()).collect();
    assert_eq!(digests, [result.anchor_digest.as_str(), other_digest.as_str()]);
    for rival in &gate.rivals {
        let figures = rival.figures;
        assert_eq!((figures.opportunities, figures.persons), (30, 7));
        assert!((figures.utility_candidate - gate.utility_candidate).abs() < 1e-12, "{figures:?}");
    }
}
