//! Rights that are lacking while we run.
//!
//! A broker that refuses answers with a code; what for, only whoever asked knows. So a request says which rights it
//! needs ([`Need`]), the sentence is made here, and what is lacking is kept until it is there:
//! [`Bus::check`](crate::Bus::check) asks the brokers again and again (granted.rs), because whoever takes no new work
//! would never find out by itself. Rights on transactional ids can not be asked for: whoever uses one goes on trying,
//! and says when it could.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Inner;
use super::granted::{self, Granted};
use super::rights::{Operation, Resource};
use crate::error::BusError;

/// What to do about a right that is lacking.
pub(super) const ALLOW: &str = "allow it, as `flywheel doctor --print-acls=kafka` prints it";

/// A transactional id that was not tried for so long belongs to somebody else by now, or to nobody.
const TRIED_WITHIN: Duration = Duration::from_secs(60);

/// A right that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    operation: Operation,
    resource: Resource,
    /// As the brokers know it.
    name: String,
}

impl Need {
    pub(super) fn topic(operation: Operation, stored: impl Into<String>) -> Self {
        Self { operation, resource: Resource::Topic, name: stored.into() }
    }

    pub(super) fn group(operation: Operation, stored: impl Into<String>) -> Self {
        Self { operation, resource: Resource::Group, name: stored.into() }
    }

    /// A transactional id, which is written to.
    pub(super) fn transactions(id: impl Into<String>) -> Self {
        Self { operation: Operation::Write, resource: Resource::TransactionalId, name: id.into() }
    }

    fn text(&self) -> String {
        lacks(self.operation, self.resource, &self.name)
    }
}

fn lacks(operation: Operation, resource: Resource, name: &str) -> String {
    format!("{} on {} {name}", operation.name(), kind(resource))
}

const fn kind(resource: Resource) -> &'static str {
    match resource {
        Resource::Topic => "topic",
        Resource::Group => "group",
        Resource::TransactionalId => "transactional id",
    }
}

/// Whether a code says that a right is lacking.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    refused(code).is_some()
}

/// The kind of thing that a code refuses the use of.
fn refused(code: RDKafkaErrorCode) -> Option<Resource> {
    match code {
        // Producers that only publish are told of the cluster when there is no topic at all that they may write to.
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            Some(Resource::Topic)
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => Some(Resource::Group),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => Some(Resource::TransactionalId),
        _ => None,
    }
}

type Thing = (Resource, String);

/// What is lacking on a thing.
#[derive(Debug)]
struct Lacking {
    operations: BTreeSet<Operation>,
    found_at: Instant,
}

/// Everything that is lacking, as far as it was noticed.
#[derive(Debug, Default)]
pub(super) struct Forbidden(Mutex<BTreeMap<Thing, Lacking>>);

impl Forbidden {
    /// The error of a request by `user` that was refused with this code; none: it was not refused for want of a right.
    pub(super) fn refusal(&self, user: &str, doing: &str, code: RDKafkaErrorCode, needs: &[Need]) -> Option<BusError> {
        let resource = refused(code)?;
        let lacking: Vec<&Need> = needs.iter().filter(|need| need.resource == resource).collect();
        let mut kept = self.0.lock();
        for need in &lacking {
            let found_at = Instant::now();
            let thing = kept
                .entry((need.resource, need.name.clone()))
                .or_insert_with(|| Lacking { operations: BTreeSet::new(), found_at });
            thing.operations.insert(need.operation);
            thing.found_at = found_at;
        }
        let what = match lacking.as_slice() {
            [] => format!("a right on a {}", kind(resource)),
            lacking => joined(lacking.iter().map(|need| need.text())),
        };
        Some(BusError::NotAdmitted(format!("{doing}: {user} lacks {what}; {ALLOW}")))
    }

    /// A transactional id was used: whatever was lacking on it is there.
    pub(super) fn used_transactions(&self, id: &str) {
        self.0.lock().remove(&(Resource::TransactionalId, id.to_owned()));
    }

    /// Whether anything is lacking.
    pub(super) fn is_anything(&self) -> bool {
        !self.0.lock().is_empty()
    }

    /// The things on which something is lacking.
    fn things(&self) -> Vec<Thing> {
        let mut kept = self.0.lock();
        kept.retain(|(resource, _), lacking| {
            *resource != Resource::TransactionalId || lacking.found_at.elapsed() < TRIED_WITHIN
        });
        kept.keys().cloned().collect()
    }

    /// Forgets what is there by what the brokers say; whether that is anything.
    fn follow(&self, said: &Said) -> bool {
        let mut is_given = false;
        self.0.lock().retain(|(resource, name), lacking| {
            let before = lacking.operations.len();
            lacking.operations.retain(|operation| said.withholds(*resource, name, *operation));
            is_given |= lacking.operations.len() < before;
            !lacking.operations.is_empty()
        });
        is_given
    }

    /// What `user` lacks, as a sentence; none: nothing.
    fn sentence(&self, user: &str) -> Option<String> {
        let kept = self.0.lock();
        let all = kept.iter().flat_map(|((resource, name), lacking)| {
            let only_one = lacking.operations.len() == 1;
            // To read or to write includes it.
            let told = move |operation: &&Operation| only_one || **operation != Operation::Describe;
            lacking.operations.iter().filter(told).map(move |operation| lacks(*operation, *resource, name))
        });
        let all: Vec<String> = all.collect();
        (!all.is_empty()).then(|| format!("{user} lacks {}; {ALLOW}", joined(all)))
    }
}

fn joined(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(" and ")
}

/// What the brokers say of rights.
struct Said {
    topics: Granted,
    groups: Granted,
}

impl Said {
    /// Whether a right is lacking. What nothing is said of is as it was.
    fn withholds(&self, resource: Resource, name: &str, operation: Operation) -> bool {
        let granted = match resource {
            Resource::Topic => &self.topics,
            Resource::Group => &self.groups,
            Resource::TransactionalId => return true,
        };
        match granted.get(name) {
            Some(Ok(granted)) => !granted.contains(&operation),
            // It is not there any more, which whoever needs it is told.
            Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) => false,
            Some(Err(_)) | None => true,
        }
    }
}

impl Inner {
    /// The error of a request that needs these rights. Where several may be meant, the brokers are asked which of them
    /// are lacking. Blocks.
    pub(super) fn error_of(&self, doing: &str, error: &KafkaError, needs: Vec<Need>) -> BusError {
        let Some(resource) = error.rdkafka_error_code().and_then(refused) else {
            return self.context.error(doing, error);
        };
        let mut needs: Vec<Need> = needs.into_iter().filter(|need| need.resource == resource).collect();
        if needs.len() > 1 {
            let things: Vec<Thing> = needs.iter().map(|need| (need.resource, need.name.clone())).collect();
            if let Ok(said) = self.ask_rights(&things) {
                needs.retain(|need| said.withholds(need.resource, &need.name, need.operation));
            }
        }
        self.context.error_of(doing, error, &needs)
    }

    /// Whether rights that were lacking are there. Blocks.
    pub(super) fn check_rights(&self) -> Result<(), BusError> {
        let things = self.context.forbidden.things();
        if !things.is_empty() {
            match self.ask_rights(&things) {
                Ok(said) if self.context.forbidden.follow(&said) => {
                    tracing::info!("rights at the Kafka brokers that were lacking are there");
                    // A client remembers for a while what it may not.
                    self.publisher.begin_anew();
                }
                Ok(_) => {}
                Err(code) => tracing::debug!(%code, "the Kafka brokers do not say what our user may do"),
            }
        }
        match self.context.forbidden.sentence(&self.context.who()) {
            None => Ok(()),
            Some(sentence) => Err(BusError::NotAdmitted(sentence)),
        }
    }

    /// What the brokers say our user may do with things. Blocks.
    fn ask_rights(&self, things: &[Thing]) -> Result<Said, RDKafkaErrorCode> {
        let names = |kind: Resource| -> BTreeSet<String> {
            things.iter().filter(|(resource, _)| *resource == kind).map(|(_, name)| name.clone()).collect()
        };
        let (topics, groups) = (names(Resource::Topic), names(Resource::Group));
        let (topics, groups): (Vec<String>, Vec<String>) = (topics.into_iter().collect(), groups.into_iter().collect());
        let timeout = self.request_timeout();
        let topics =
            if topics.is_empty() { Granted::new() } else { granted::on_topics(&self.admin, &topics, timeout)? };
        let groups =
            if groups.is_empty() { Granted::new() } else { granted::on_groups(&self.admin, &groups, timeout)? };
        Ok(Said { topics, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(forbidden: &Forbidden, code: RDKafkaErrorCode, needs: &[Need]) -> Option<String> {
        let error = forbidden.refusal("user `me`", "its transaction was not made", code, needs)?;
        assert!(matches!(error, BusError::NotAdmitted(_)) && error.may_pass());
        Some(error.to_string())
    }

    #[test]
    fn what_is_lacking_is_named_as_well_as_is_known() {
        let forbidden = Forbidden::default();
        let needs = [
            Need::topic(Operation::Write, "p.out"),
            Need::group(Operation::Read, "p.step.s"),
            Need::transactions("p.step.s.0"),
        ];
        let told: Vec<String> = [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::GroupAuthorizationFailed,
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed,
        ]
        .into_iter()
        .map(|code| refusal(&forbidden, code, &needs).unwrap())
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        its transaction was not made: user `me` lacks Write on topic p.out; allow it, as `flywheel doctor --print-acls=kafka` prints it
        its transaction was not made: user `me` lacks Read on group p.step.s; allow it, as `flywheel doctor --print-acls=kafka` prints it
        its transaction was not made: user `me` lacks Write on transactional id p.step.s.0; allow it, as `flywheel doctor --print-acls=kafka` prints it
        ");
        let unknown = refusal(&forbidden, RDKafkaErrorCode::ClusterAuthorizationFailed, &[]).unwrap();
        assert!(unknown.contains("lacks a right on a topic; allow it"), "{unknown}");
        assert_eq!(refusal(&forbidden, RDKafkaErrorCode::NotLeaderForPartition, &needs), None);
    }

    #[test]
    fn what_is_lacking_is_told_until_it_is_there() {
        let forbidden = Forbidden::default();
        assert_eq!(forbidden.sentence("our user"), None);
        for operation in [Operation::Describe, Operation::Read] {
            let needs = [Need::topic(operation, "in"), Need::transactions("id")];
            refusal(&forbidden, RDKafkaErrorCode::TopicAuthorizationFailed, &needs).unwrap();
        }
        let group = [Need::group(Operation::Describe, "look"), Need::transactions("id")];
        refusal(&forbidden, RDKafkaErrorCode::GroupAuthorizationFailed, &group).unwrap();
        refusal(&forbidden, RDKafkaErrorCode::TransactionalIdAuthorizationFailed, &group).unwrap();
        insta::assert_snapshot!(forbidden.sentence("our user").unwrap(), @"our user lacks Read on topic in and Describe on group look and Write on transactional id id; allow it, as `flywheel doctor --print-acls=kafka` prints it");
        assert_eq!(forbidden.things().len(), 3);

        let said = |topic: &[Operation], group: Result<BTreeSet<Operation>, RDKafkaErrorCode>| Said {
            topics: Granted::from([("in".to_owned(), Ok(topic.iter().copied().collect()))]),
            groups: Granted::from([("look".to_owned(), group)]),
        };
        let refused = || Err(RDKafkaErrorCode::GroupAuthorizationFailed);
        assert!(!forbidden.follow(&said(&[Operation::Write], refused())));
        assert!(forbidden.follow(&said(&[Operation::Read, Operation::Describe], refused())));
        insta::assert_snapshot!(forbidden.sentence("our user").unwrap(), @"our user lacks Describe on group look and Write on transactional id id; allow it, as `flywheel doctor --print-acls=kafka` prints it");
        assert!(forbidden.follow(&said(&[], Ok(BTreeSet::from([Operation::Describe])))));
        forbidden.used_transactions("another");
        assert!(forbidden.sentence("our user").is_some());
        forbidden.used_transactions("id");
        assert_eq!(forbidden.sentence("our user"), None);
    }
}
