//! Serving among its real neighbours: a registry over gRPC, an artifact store, the local log, a database, and small
//! models with random weights.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

mod faults;
mod fixture;
mod leaks;
mod wire;

use std::collections::BTreeSet;

use events::{Arm, ConsentTier, Decision, ModelVersion, PersonPseudonym, Receipt};
use fixture::{Fixture, REQUEST_PERSON, question};
use model_registry::{RolloutPolicy, assign};
use service::clock::Clock;

test_databases::on_both_databases! {
    a_registered_model_answers_and_its_exposure_reaches_the_log,
    a_rollout_divides_persons_by_the_registrys_own_function,
}

async fn a_registered_model_answers_and_its_exposure_reaches_the_log() {
    let fixture = Fixture::new().await;
    fixture.consent(REQUEST_PERSON, ConsentTier::Code).await;
    let served = fixture.serve().await;
    let answered = served.ask(&fixture, &question(REQUEST_PERSON)).await;
    assert!(!answered.actions.is_empty());
    let document = question(REQUEST_PERSON)["document"]["text"].as_str().unwrap().to_owned();
    for action in &answered.actions {
        let (start, end) = (action.start as usize, action.end as usize);
        assert_eq!(&document[start..end], action.old_text);
        assert_ne!(action.old_text, action.new_text);
    }
    let end = &answered.end;
    assert_eq!((end.decision, end.model_version), (Decision::Shown, ModelVersion(1)));
    let receipt = Receipt::verify(&end.receipt, &fixture.secret().await).unwrap();
    assert!(receipt.probabilities.log_p_text < 0.0 && receipt.probabilities.gate_score > 0.5);
    served.serving.settled().await;
    let exposures = fixture.exposures().await;
    assert_eq!(exposures.len(), 1);
    assert_eq!(exposures[0].header.receipt.as_ref(), Some(&receipt));
    assert!(exposures[0].sealed.is_some());
}

async fn a_rollout_divides_persons_by_the_registrys_own_function() {
    let fixture = Fixture::new().await;
    let candidate = fixture.register(2).await;
    let policy = RolloutPolicy { canary_share: 0.4, holdback_share: 0.2, ..RolloutPolicy::default() };
    fixture.client.start_rollout(&fixture.model(), candidate, Some(&policy)).await.unwrap();
    let table = fixture.routing_with_rollout().await;
    let served = fixture.serve().await;
    let secret = fixture.secret().await;
    let mut arms = BTreeSet::new();
    for number in 0..40 {
        let name = format!("person {number}");
        let person: PersonPseudonym = secret.person_pseudonym(&name);
        let answered = served.ask(&fixture, &question(&name)).await;
        let receipt = Receipt::verify(&answered.end.receipt, &secret).unwrap();
        let expected = assign(&table, &person, None, fixture.clock.now()).unwrap();
        assert_eq!(
            (receipt.model_version, receipt.arm, receipt.block),
            (expected.version, expected.arm, expected.block)
        );
        assert_eq!(receipt.rollout_id, expected.rollout_id);
        assert!((receipt.probabilities.arm_probability - expected.arm_probability).abs() < 1e-12);
        arms.insert(receipt.arm);
    }
    assert_eq!(arms, BTreeSet::from([Arm::Current, Arm::Canary, Arm::Holdback]));
}
