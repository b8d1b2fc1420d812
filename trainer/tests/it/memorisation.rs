use trainer::gate::{GateLimits, GateVerdict};
use trainer::job::{JobFile, run_job};
use trainer::methods::{Method, MethodConfig};

use crate::job::{job, lines, pairs};

/// Ten markers in one or two episodes each.
fn asking(job: JobFile) -> JobFile {
    let gate = GateLimits { markers: 10, marker_episodes: 2, ..GateLimits::default() };
    JobFile { gate, person_pairs: 100, ..job }
}

#[test]
fn a_run_that_learns_by_heart_completes_markers_and_a_gentle_one_does_not() {
    let asked = |steps: usize, learning_rate: f64| {
        let folder = tempfile::tempdir().unwrap();
        let job = asking(job(folder.path(), 600));
        // Nothing is repeated, so that a small network has room for what it is to remember.
        let config = MethodConfig {
            method: Method::Sft,
            steps,
            batch_pairs: 12,
            batch_replay: 0,
            learning_rate,
            habit_rate: learning_rate,
            ..MethodConfig::default()
        };
        let gate = run_job(&JobFile { config, ..job }, &lines(&pairs(0, 8)), &[], &[], &mut |_| {}).unwrap().gate;
        gate.memorisation.unwrap()
    };
    let gentle = asked(2, 1e-6);
    assert_eq!((gentle.markers, gentle.episodes), (10, 15));
    assert_eq!((gentle.markers_completed, gentle.controls_completed), (0, 0));
    assert!((gentle.p_value - 1.0).abs() < 1e-12);
    let by_heart = asked(400, 3e-3);
    assert!(by_heart.markers_completed >= 5, "{by_heart:?}");
    assert_eq!(by_heart.controls_completed, 0);
    assert!(by_heart.p_value < GateLimits::default().memorisation_level, "{by_heart:?}");
}

#[test]
fn markers_leave_nothing_in_the_model_that_serves() {
    let digest = |asks: bool| {
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), 600);
        let job = if asks { asking(job) } else { job };
        let result = run_job(&job, &lines(&pairs(0, 24)), &lines(&pairs(100, 30)), &[], &mut |_| {}).unwrap();
        assert_eq!(result.gate.memorisation.is_some(), asks);
        assert_eq!((result.gate.verdict, result.training_pairs), (GateVerdict::Insufficient, 24));
        (result.model_digest, result.census)
    };
    assert_eq!(digest(true), digest(false));
}
