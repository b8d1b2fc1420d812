//! Topics as they are, beside what a platform would make them.

use std::collections::BTreeMap;

use rdkafka::metadata::MetadataTopic;
use service::finding::Finding;

use super::TOPICS;
use crate::kafka::config::KafkaConfig;
use crate::kafka::rights::KafkaUse;
use crate::kafka::topics::{self, changelog_of};

/// A topic as a platform makes it.
pub(super) struct Wanted {
    pub(super) stored: String,
    pub(super) partitions: u32,
    pub(super) settings: BTreeMap<&'static str, String>,
    is_changelog: bool,
}

/// The topics of a platform, and the changelogs of its steps.
pub(super) fn wanted(config: &KafkaConfig, usage: &KafkaUse) -> Vec<Wanted> {
    let records = usage.topics.iter().map(|topic| Wanted {
        stored: config.stored_name(&topic.name),
        partitions: topic.partitions,
        settings: topics::Wanted::records(config, topic).settings,
        is_changelog: false,
    });
    let changelogs = usage.steps.iter().filter_map(|step| {
        let input = usage.topics.iter().find(|topic| topic.name == step.input)?;
        let (name, bytes) = (changelog_of(&step.name), step.limits.state_value_bytes);
        let topics::Wanted { stored, settings, .. } = topics::Wanted::changelog(config, &name, input.partitions, bytes);
        Some(Wanted { stored, partitions: input.partitions, settings, is_changelog: true })
    });
    records.chain(changelogs).collect()
}

/// Partitions, their copies and leaders.
pub(super) fn shape(config: &KafkaConfig, wanted: &Wanted, found: &MetadataTopic) -> Vec<Finding> {
    let (stored, partitions) = (&wanted.stored, found.partitions());
    let mut findings = Vec::new();
    if partitions.len() != wanted.partitions as usize {
        let says =
            format!("topic {stored} has {} partitions, and {} are expected", partitions.len(), wanted.partitions);
        let advice = if wanted.is_changelog {
            "give the topic that its step reads the same number again, or begin anew with another `bus.prefix`"
        } else {
            "let `bus.partitions` be what the topics have: a topic whose number changes loses the order of its keys"
        };
        findings.push(Finding::failed(TOPICS, says, advice));
    }
    let leaderless = partitions.iter().filter(|partition| partition.leader() < 0).count();
    if leaderless > 0 {
        let says = format!("{leaderless} partitions of topic {stored} have no leader: nothing can be read or written");
        findings.push(Finding::failed(TOPICS, says, "bring their brokers back"));
    }
    let fewest = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
    let copies = usize::from(config.replication);
    if fewest < copies {
        let says =
            format!("topic {stored} has partitions with {fewest} copies, and `bus.kafka.replication` = {copies}");
        let advice = "reassign its partitions to more brokers, or let `bus.kafka.replication` ask for fewer";
        findings.push(Finding::failed(TOPICS, says, advice));
    }
    let behind = partitions.iter().filter(|partition| partition.isr().len() < partition.replicas().len()).count();
    if behind > 0 && leaderless == 0 {
        let says = format!("{behind} partitions of topic {stored} have copies that are behind");
        findings.push(Finding::warning(TOPICS, says, "look which broker is away or slow"));
    }
    findings
}

/// The settings of a topic beside those that it should have.
pub(super) fn compare(wanted: &Wanted, found: &BTreeMap<&str, &str>) -> Vec<Finding> {
    let stored = &wanted.stored;
    let policy = found.get("cleanup.policy").copied().unwrap_or_default();
    if !wanted.is_changelog && policy.contains("compact") {
        let says = format!("topic {stored} is compacted, and loses every record of a key but the last");
        return vec![Finding::failed(TOPICS, says, "set its cleanup.policy to delete")];
    }
    if wanted.is_changelog && policy != "compact" {
        let says = format!("topic {stored} has cleanup.policy = {policy}, and loses state by its age");
        let advice = "set it to compact; if records are lost already, begin anew with another `bus.prefix`";
        return vec![Finding::failed(TOPICS, says, advice)];
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let mut differs = Vec::new();
    for (name, ours) in &wanted.settings {
        let Some(theirs) = found.get(name) else { continue };
        let fits = match *name {
            "max.message.bytes" | "delete.retention.ms" | "min.insync.replicas" => number(theirs) >= number(ours),
            // How a log is cut into files is nobody's business but the disk's.
            "segment.ms" => true,
            _ => *theirs == ours.as_str(),
        };
        if !fits {
            differs.push(format!("{name} = {theirs}, not {ours}"));
        }
    }
    if differs.is_empty() {
        return Vec::new();
    }
    let says = format!("topic {stored} has {}", differs.join(" and "));
    let advice = "start a service: it changes this where our user may alter the topic; or change it by hand";
    vec![Finding::warning(TOPICS, says, advice)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use service::finding::Verdict;

    use super::*;
    use crate::record::{Retention, TopicSpec};
    use crate::step::StepSpec;

    fn wanted_two() -> Vec<Wanted> {
        let usage = KafkaUse {
            topics: vec![TopicSpec::new("in", 2, Retention::age(Duration::from_secs(60)))],
            steps: vec![StepSpec::new("s", "in", ["out"], "dead")],
            published: Vec::new(),
        };
        wanted(&KafkaConfig::default(), &usage)
    }

    /// What is said of settings that are as they should be but for one.
    fn said(wanted: &Wanted, name: &'static str, value: &str) -> Option<(Verdict, String)> {
        let mut found: BTreeMap<&str, &str> =
            wanted.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        found.insert(name, value);
        let mut findings = compare(wanted, &found);
        assert!(findings.len() < 2);
        findings.pop().map(|finding| (finding.verdict, finding.says))
    }

    #[test]
    fn settings_are_compared_with_those_that_a_start_would_give() {
        let [records, changelog] = &wanted_two()[..] else { panic!("a topic and a changelog") };
        assert_eq!(said(records, "segment.ms", "1"), None);
        assert_eq!(said(records, "max.message.bytes", "99999999"), None);
        let differs = "topic in has retention.ms = 1, not 60000".to_owned();
        assert_eq!(said(records, "retention.ms", "1"), Some((Verdict::Warning, differs)));
        let less = "topic in has min.insync.replicas = 1, not 2".to_owned();
        assert_eq!(said(records, "min.insync.replicas", "1"), Some((Verdict::Warning, less)));
        let (verdict, sentence) = said(records, "cleanup.policy", "compact,delete").unwrap();
        assert!(verdict == Verdict::Failed && sentence.contains("is compacted"), "{sentence}");
        let (verdict, sentence) = said(changelog, "cleanup.policy", "delete").unwrap();
        assert!(verdict == Verdict::Failed && sentence.contains("s.changelog.v1 has cleanup.policy = delete"));
        assert_eq!(said(changelog, "cleanup.policy", "compact"), None);
    }
}
