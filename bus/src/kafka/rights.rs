//! What our user must be allowed at the brokers, by the names that the rest of this room gives to things.
//!
//! | what we do | needs |
//! |---|---|
//! | make a topic, look at its settings, bring them up to date | `Create`, `DescribeConfigs`, `AlterConfigs` on it |
//! | publish | `Write` on the topic; an idempotent producer needs no right of its own since Kafka 2.8 |
//! | read | `Read` on the topic |
//! | commit positions, ask for them | `Read` on the group and on the topic |
//! | a transaction | `Write` on its id |
//!
//! `Read` and `Write` include `Describe`. Consumers that only ask or look belong to no group that commits anything; the
//! client asks for the coordinator of their group all the same, which needs `Describe` on it.

use std::collections::BTreeSet;

use super::client::GROUPS_WITHOUT_POSITIONS;
use super::config::KafkaConfig;
use super::publish::CONTROL_IDS;
use super::slot::transactions_of;
use super::status::step_group;
use super::tail::reader_group;
use super::topics::changelog_of;
use crate::record::TopicSpec;
use crate::step::StepSpec;

/// What a platform does at the brokers.
#[derive(Debug, Clone, Default)]
pub struct KafkaUse {
    /// The topics, with those who read them.
    pub topics: Vec<TopicSpec>,
    /// The steps.
    pub steps: Vec<StepSpec>,
    /// Topics that somebody publishes to beside the steps.
    pub published: Vec<String>,
}

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// The id of transactions.
    TransactionalId,
}

/// What a right allows, as Kafka calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// To read it; of a group, to commit its positions.
    Read,
    /// To write to it.
    Write,
    /// To make it.
    Create,
    /// To know that it is there.
    Describe,
    /// To see its settings.
    DescribeConfigs,
    /// To change its settings.
    AlterConfigs,
}

impl Operation {
    /// As Kafka's tools write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
            Self::AlterConfigs => "AlterConfigs",
        }
    }
}

/// A right that our user needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// On what kind of thing.
    pub resource: Resource,
    /// Its name at the brokers.
    pub name: String,
    /// Whether it is about everything whose name begins so.
    pub is_prefix: bool,
    /// What is needed.
    pub operations: BTreeSet<Operation>,
}

/// The rights that a platform needs at the brokers.
#[must_use]
pub fn rights(config: &KafkaConfig, usage: &KafkaUse) -> Vec<Right> {
    use Operation::{AlterConfigs, Create, Describe, DescribeConfigs, Read, Write};
    let right = |resource, name: &str, is_prefix, operations: &[Operation]| Right {
        resource,
        name: config.stored_name(name),
        is_prefix,
        operations: operations.iter().copied().collect(),
    };
    let mut rights = Vec::new();
    for topic in &usage.topics {
        let mut of_topic = right(Resource::Topic, &topic.name, false, &[Create, DescribeConfigs, AlterConfigs]);
        let is_read = !topic.steps.is_empty() || !topic.readers.is_empty();
        let is_written = usage.published.contains(&topic.name)
            || usage.steps.iter().any(|step| step.outputs.contains(&topic.name) || step.dead_letters == topic.name);
        of_topic.operations.extend(is_read.then_some(Read));
        of_topic.operations.extend(is_written.then_some(Write));
        rights.push(of_topic);
        let groups = topic.readers.iter().map(|reader| reader_group(&topic.name, reader));
        rights.extend(groups.map(|group| right(Resource::Group, &group, false, &[Read])));
    }
    for step in &usage.steps {
        let of_changelog = [Create, DescribeConfigs, AlterConfigs, Read, Write];
        rights.push(right(Resource::Topic, &changelog_of(&step.name), false, &of_changelog));
        rights.push(right(Resource::Group, &step_group(&step.name), false, &[Read]));
        rights.push(right(Resource::TransactionalId, &transactions_of(&step.name), true, &[Write]));
    }
    let only_asking = GROUPS_WITHOUT_POSITIONS.iter();
    rights.extend(only_asking.map(|group| right(Resource::Group, group, false, &[Describe])));
    rights.push(right(Resource::TransactionalId, CONTROL_IDS, true, &[Write]));
    rights.sort();
    rights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retention;

    #[test]
    fn everything_has_the_prefix_and_what_is_only_written_is_not_read() {
        let topic = |name: &str| TopicSpec::new(name, 1, Retention::default());
        let usage = KafkaUse {
            topics: vec![topic("in").read_by_step("s").read_by("sink"), topic("out"), topic("dead"), topic("told")],
            steps: vec![StepSpec::new("s", "in", ["out"], "dead")],
            published: vec!["in".to_owned(), "told".to_owned()],
        };
        let config = KafkaConfig { prefix: "a.".to_owned(), ..KafkaConfig::default() };
        let rights = rights(&config, &usage);
        let shown: Vec<String> = rights
            .iter()
            .map(|right| {
                let operations: Vec<&str> = right.operations.iter().map(|operation| operation.name()).collect();
                let star = if right.is_prefix { "*" } else { "" };
                format!("{:?} {}{star}: {}", right.resource, right.name, operations.join(" "))
            })
            .collect();
        let expected = [
            "Topic a.dead: Write Create DescribeConfigs AlterConfigs",
            "Topic a.in: Read Write Create DescribeConfigs AlterConfigs",
            "Topic a.out: Write Create DescribeConfigs AlterConfigs",
            "Topic a.s.changelog.v1: Read Write Create DescribeConfigs AlterConfigs",
            "Topic a.told: Write Create DescribeConfigs AlterConfigs",
            "Group a.history: Describe",
            "Group a.look: Describe",
            "Group a.questions: Describe",
            "Group a.reader.in.sink: Read",
            "Group a.restore: Describe",
            "Group a.step.s: Read",
            "TransactionalId a.control-*: Write",
            "TransactionalId a.step.s.*: Write",
        ];
        assert_eq!(shown, expected);
    }
}
