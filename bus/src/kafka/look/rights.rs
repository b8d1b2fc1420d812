//! Rights that are needed, beside those that are granted.

use std::collections::BTreeSet;

use rdkafka::error::RDKafkaErrorCode;
use service::finding::Finding;

use super::{PRINT_RIGHTS, RIGHTS, list};
use crate::kafka::rights::{Operation, Resource, Right};

/// Rights that are needed and not there.
#[derive(Default)]
pub(super) struct Lacking {
    needed: Vec<String>,
    only_to_change: Vec<String>,
    unknown: Vec<String>,
}

impl Lacking {
    /// Takes up what is granted of a right.
    pub(super) fn compare(&mut self, right: &Right, granted: &Result<BTreeSet<Operation>, RDKafkaErrorCode>) {
        let kind = if right.resource == Resource::Topic { "topic" } else { "group" };
        let granted = match granted {
            Ok(granted) => granted,
            Err(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) => &BTreeSet::new(),
            Err(code) => {
                self.unknown.push(format!("{kind} {} ({code})", right.name));
                return;
            }
        };
        for operation in right.operations.difference(granted) {
            let text = format!("{} on {kind} {}", operation.name(), right.name);
            match operation {
                // It is there.
                Operation::Create => {}
                Operation::AlterConfigs => self.only_to_change.push(text),
                _ => self.needed.push(text),
            }
        }
    }

    /// What it comes to for `user`, who was asked about so many topics and groups.
    pub(super) fn finding(&self, user: &str, topics: usize, groups: usize) -> Finding {
        if !self.needed.is_empty() {
            return Finding::failed(RIGHTS, format!("{user} lacks {}", list(&self.needed)), PRINT_RIGHTS);
        }
        if !self.unknown.is_empty() {
            let says = format!("what {user} may do is not known of {}", list(&self.unknown));
            return Finding::warning(RIGHTS, says, "look whether the brokers are well");
        }
        if !self.only_to_change.is_empty() {
            let says = format!("{user} lacks {}", list(&self.only_to_change));
            let advice = "allow it, or change the settings of topics by hand when those of `[bus]` change";
            return Finding::warning(RIGHTS, says, advice);
        }
        Finding::ok(RIGHTS, format!("{user} may do what is needed with {topics} topics and {groups} groups"))
    }
}

#[cfg(test)]
mod tests {
    use service::finding::Verdict;

    use super::*;

    #[test]
    fn rights_that_are_lacking_are_named_by_how_much_they_matter() {
        let right = |operations: &[Operation]| Right {
            resource: Resource::Topic,
            name: "in".to_owned(),
            is_prefix: false,
            operations: operations.iter().copied().collect(),
        };
        let of = |granted: &[Operation]| {
            let mut lacking = Lacking::default();
            let all = [Operation::Read, Operation::Create, Operation::AlterConfigs];
            lacking.compare(&right(&all), &Ok(granted.iter().copied().collect()));
            let finding = lacking.finding("user `u`", 1, 0);
            (finding.verdict, finding.says)
        };
        assert_eq!(of(&[]), (Verdict::Failed, "user `u` lacks Read on topic in".to_owned()));
        assert_eq!(of(&[Operation::Read]), (Verdict::Warning, "user `u` lacks AlterConfigs on topic in".to_owned()));
        assert_eq!(of(&[Operation::Read, Operation::AlterConfigs]).0, Verdict::Ok);
        let mut hidden = Lacking::default();
        hidden.compare(&right(&[Operation::Read]), &Err(RDKafkaErrorCode::TopicAuthorizationFailed));
        assert_eq!(hidden.finding("u", 1, 0).verdict, Verdict::Failed);
    }
}
