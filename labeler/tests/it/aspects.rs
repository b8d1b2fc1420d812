//! Outcomes in the database, told apart by what they say of the opportunity.

use std::time::Duration;

use events::avro;
use events::topics::SERVING_OUTCOMES;
use events::{Decision, EditPattern, Signal, TenantId};
use labeler::LabelPolicy;
use labeler::aspects::{Cell, Persons, Window, cells, grouped, latency_name};
use labeler::config::SinkConfig;
use labeler::policy_record::VersionedPolicy;
use labeler::tally::Tally;

use crate::kit::{Editor, START, label_with};
use crate::sinks::{Bench, bench};

test_databases::on_both_databases! {
    outcomes_are_told_apart_by_what_they_say,
}

/// Every third person refuses what the others accept; the last one's outcome does not say what it was about.
const PERSONS: u8 = 9;

async fn outcomes(bench: &Bench) -> Vec<(u8, Vec<u8>)> {
    let mut records = Vec::new();
    for seed in 1..=PERSONS {
        let mut editor = Editor::new(&bench.world.person(&format!("person {seed}")).await, seed);
        let action = editor.action("get_name", 0, "fetch_name");
        let served = editor.ask(Decision::Shown, vec![action]);
        let opened = editor.now_ms;
        editor.shown(&served, 1).wait(900);
        if seed % 3 == 0 {
            editor.dismissed(&served, 0);
        } else {
            editor.accepted(&served, 0, None);
        }
        editor.looks(&served, opened);
        let policy = VersionedPolicy::of(LabelPolicy::default(), seed != PERSONS);
        let (_, outcomes) = label_with(&bench.world, &editor, policy).await;
        records.extend(outcomes.iter().map(|outcome| (seed, avro::encode(outcome).unwrap())));
    }
    records
}

async fn outcomes_are_told_apart_by_what_they_say() {
    let bench = bench().await;
    bench.publish(SERVING_OUTCOMES, outcomes(&bench).await).await;
    bench.follow(Box::new(Tally::new(SinkConfig::default()))).await;
    let (tenant, model) = (TenantId::default(), "edit".parse().unwrap());
    let window = Window { from: START, before: START + Duration::from_secs(3600), period_seconds: 3600 };
    let told: Vec<Cell> = cells(&bench.world.pool, &tenant, &model, &window).await.unwrap();
    assert_eq!(told.len(), usize::from(PERSONS), "each did one thing");
    assert!(told.iter().all(|cell| cell.period == START));
    let refused = told.iter().filter(|cell| cell.signal == Signal::Rejected).count();
    assert_eq!(refused, 3);

    let persons = |persons: &Persons| persons.total().measures.opportunities;
    let languages = grouped(&told, |cell| cell.language.as_deref());
    let languages: Vec<_> = languages.iter().map(|(language, who)| (*language, persons(who))).collect();
    assert_eq!(languages, [(None, 1.0), (Some("rust"), 8.0)]);
    let patterns = grouped(&told, |cell| cell.pattern);
    assert_eq!(patterns.keys().copied().collect::<Vec<_>>(), [None, Some(EditPattern::Replace)]);
    let latencies = grouped(&told, |cell| cell.latency);
    let latencies: Vec<Option<String>> = latencies.keys().map(|bucket| bucket.map(latency_name)).collect();
    assert_eq!(latencies, [None, Some("100-200 ms".to_owned())]);

    let everybody = Persons::of(&told);
    let total = everybody.total();
    assert_eq!((total.measures.accepted, total.looked_at, total.standing), (6.0, 6.0, [6.0; 3]));
    assert_eq!(total.standing_share, [6.0; 3]);
    let standing = everybody.ratio(|sums| sums.standing[2], |sums| sums.looked_at).unwrap();
    assert!((standing.value - 1.0).abs() < 1e-12);
    let acceptance = everybody.ratio(|sums| sums.measures.accepted, |sums| sums.measures.shown).unwrap();
    assert!((acceptance.value - 6.0 / 9.0).abs() < 1e-12);

    let before = Window { before: START, ..window };
    assert!(cells(&bench.world.pool, &tenant, &model, &before).await.unwrap().is_empty());
}
