//! How often the log is asked how much of it is unread, however many editors come at once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{Running, batch, edit};

/// So many clients at once, each with an event. Returns how they were answered.
fn crowd(door: &Running, clients: u64) -> JoinSet<u16> {
    let client = |number: u64| {
        let body = batch("jane", json!([edit(number, "a")]));
        let request = door.http.post(&door.url).bearer_auth(&door.key).header("content-type", "application/json");
        async move { request.body(body).send().await.unwrap().status().as_u16() }
    };
    (1..=clients).map(client).collect()
}

/// Waits until the log is asked.
async fn is_asked(door: &Running) {
    let begun = Instant::now();
    while door.switch.questions.open.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody asks the log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_asks_the_log_one_question_at_a_time() {
    // An answer is fresh for longer than the test takes.
    let door = Running::with(|config| config.backlog_staleness_ms = 600_000).await;
    let questions = &door.switch.questions;
    questions.held_back.send_replace(true);
    let waiting = crowd(&door, 30);
    is_asked(&door).await;
    questions.held_back.send_replace(false);
    assert_eq!(waiting.join_all().await, [200; 30]);
    assert_eq!((questions.most.load(Ordering::SeqCst), questions.all.load(Ordering::SeqCst)), (1, 1));
    door.stop().await;

    // None is fresh: somebody asks again and again, and nobody beside him.
    let door = Running::start().await;
    for _ in 0..3 {
        assert_eq!(crowd(&door, 30).join_all().await, [200; 30]);
    }
    let questions = &door.switch.questions;
    let all = questions.all.load(Ordering::SeqCst);
    assert!(questions.most.load(Ordering::SeqCst) == 1 && all <= 90, "{all}");
    door.stop().await;
}
