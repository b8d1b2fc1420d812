//! The log on Apache Kafka. What there is to know about it is known in `bus`.

use std::sync::Arc;

use bus::kafka::{KafkaConfig, KafkaUse};
use service::finding::Finding;

use super::Patient;
use super::doors::certificate;
use crate::foundation::{PUBLISHED, steps, topics_of};
use crate::settings::Settings;

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let config = config(&patient.settings);
    let mut findings = bus::kafka::look(&config, &usage(&patient.settings), patient.patience).await;
    if let Some(path) = config.tls.certificate_file.as_ref().filter(|_| config.tls.enabled) {
        findings.extend(certificate("kafka.certificate", path).await);
    }
    findings
}

/// How to reach the brokers, with the prefix that every kind of log has.
pub(super) fn config(settings: &Settings) -> KafkaConfig {
    KafkaConfig { prefix: settings.bus.prefix.clone(), ..settings.bus.kafka.clone() }
}

/// What a platform does there.
pub(super) fn usage(settings: &Settings) -> KafkaUse {
    KafkaUse { topics: topics_of(settings), steps: steps().into(), published: PUBLISHED.map(str::to_owned).into() }
}
