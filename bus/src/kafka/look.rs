//! What is found at the brokers, for whoever looks whether a platform can live there (`flywheel doctor`).
//!
//! No topic is made and no setting changed: what would be made is only validated, and what our user may do is asked for
//! (granted.rs). The one thing that is tried is beginning to use a transactional id of our own, which the brokers forget
//! again by themselves.
//!
//! What time it is at the brokers can not be asked for: Kafka's protocol does not tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::admin::{AdminClient, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{FutureProducer, Producer};
use service::finding::Finding;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};

use super::client::{Context, Isolation, OurConsumer, QUESTIONS, consumer};
use super::config::KafkaConfig;
use super::granted::{self, Granted};
use super::publish::CONTROL_IDS;
use super::rights::{KafkaUse, Operation, Resource, Right, rights};
use super::topics::{self, changelog_of, options};
use crate::error::BusError;

const SETTINGS: &str = "kafka.settings";
const ADDRESSES: &str = "kafka.addresses";
const ENTRY: &str = "kafka.entry";
const BROKERS: &str = "kafka.brokers";
const TOPICS: &str = "kafka.topics";
const RIGHTS: &str = "kafka.rights";
const TRANSACTIONS: &str = "kafka.transactions";

/// Names of one kind that a sentence lists; of more it says how many.
const LISTED: usize = 4;
const PRINT_RIGHTS: &str = "allow it, as `flywheel doctor --print-acls=kafka` prints it";

/// Looks at the brokers. Each question may take `patience`.
pub async fn look(config: &KafkaConfig, usage: &KafkaUse, patience: Duration) -> Vec<Finding> {
    if let Err(error) = config.check() {
        return vec![Finding::told(SETTINGS, &error.to_string(), "correct it in `[bus.kafka]`")];
    }
    let (reached, is_any_reached) = addresses(config, patience).await;
    let mut findings = vec![reached];
    if !is_any_reached {
        return findings;
    }
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let asking = KafkaConfig { request_timeout_ms: patience_ms, ..config.clone() };
    let entered = spawn_blocking(move || Looking::enter(asking)).await;
    let looking = match entered.unwrap_or_else(|error| Err(BusError::Storage(error.to_string()))) {
        Ok(looking) => looking,
        Err(error) => {
            let advice = "check `bus.kafka.tls` and `bus.kafka.sasl`, and that brokers can be reached under the \
                          addresses that they advertise";
            findings.push(Finding::told(ENTRY, &error.to_string(), advice));
            return findings;
        }
    };
    findings.push(looking.entry());
    findings.push(looking.brokers());
    let begun = {
        let config = config.clone();
        spawn_blocking(move || transactions(&config, patience))
    };
    let wanted = wanted(config, usage);
    let (topics, needed) = (looking.topics(&wanted).await, rights(config, usage));
    findings.extend(topics);
    let looked = spawn_blocking(move || looking.rights(&needed, &wanted)).await;
    findings.push(looked.unwrap_or_else(|error| Finding::told(RIGHTS, &error.to_string(), "try again")));
    findings.push(begun.await.unwrap_or_else(|error| Finding::told(TRANSACTIONS, &error.to_string(), "try again")));
    findings
}

/// Whether somebody listens at each of the addresses to begin with, and whether at any.
async fn addresses(config: &KafkaConfig, patience: Duration) -> (Finding, bool) {
    let mut connecting = JoinSet::new();
    for (index, address) in config.bootstrap_servers.split(',').map(|address| address.trim().to_owned()).enumerate() {
        connecting.spawn(async move {
            let connected = tokio::time::timeout(patience, TcpStream::connect(&address)).await;
            let why = match connected {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", patience.as_secs_f64())),
            };
            (index, address, why)
        });
    }
    let mut all = connecting.join_all().await;
    all.sort();
    let silent: Vec<String> =
        all.iter().filter_map(|(_, address, why)| why.as_ref().map(|why| format!("{address} ({why})"))).collect();
    let count = all.len();
    let advice = "check `bus.kafka.bootstrap_servers`, the brokers and the network between";
    let finding = match silent.len() {
        0 => {
            let names: Vec<&str> = all.iter().map(|(_, address, _)| address.as_str()).collect();
            Finding::ok(ADDRESSES, format!("brokers listen at {}", list(&names)))
        }
        gone if gone == count => Finding::failed(ADDRESSES, format!("no broker listens at {}", list(&silent)), advice),
        gone => {
            let says = format!("{gone} of {count} brokers can not be reached: {}", list(&silent));
            Finding::warning(ADDRESSES, says, advice)
        }
    };
    (finding, silent.len() < count)
}

/// Some names, the first of them written out.
fn list(names: &[impl AsRef<str>]) -> String {
    let mut text: Vec<&str> = names.iter().take(LISTED).map(AsRef::as_ref).collect();
    let more = format!("{} more", names.len().saturating_sub(LISTED));
    if names.len() > LISTED {
        text.push(&more);
    }
    text.join(", ")
}

/// A topic as a platform makes it.
struct Wanted {
    stored: String,
    partitions: u32,
    settings: BTreeMap<&'static str, String>,
    is_changelog: bool,
}

fn wanted(config: &KafkaConfig, usage: &KafkaUse) -> Vec<Wanted> {
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

/// The clients, and what the brokers said first.
struct Looking {
    config: KafkaConfig,
    client: OurConsumer,
    admin: AdminClient<Context>,
    metadata: Metadata,
}

/// How it stands with a topic.
enum Presence<'a> {
    Absent,
    Hidden,
    There(&'a rdkafka::metadata::MetadataTopic),
}

impl Looking {
    /// Blocks.
    fn enter(config: KafkaConfig) -> Result<Self, BusError> {
        let context = Context::default();
        let client = consumer(&config, &context, QUESTIONS, Isolation::Committed, |_| {})?;
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let metadata = client.fetch_metadata(None, timeout).map_err(|error| {
            // Why it is so the client tells when it is polled.
            for _ in 0..16 {
                if client.poll(Duration::from_millis(5)).is_none() {
                    break;
                }
            }
            context.error("the brokers do not answer", &error)
        })?;
        let admin = config
            .client()?
            .create_with_context(context)
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        Ok(Self { config, client, admin, metadata })
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    fn user(&self) -> String {
        match self.config.sasl.mechanism {
            Some(_) => format!("user `{}`", self.config.sasl.username),
            None => "our user".to_owned(),
        }
    }

    fn entry(&self) -> Finding {
        let tls = self.config.tls.enabled;
        let says = format!("the brokers let {} in, {}", self.user(), if tls { "within TLS" } else { "without TLS" });
        let is_here =
            |address: &str| ["127.", "localhost:", "[::1]"].iter().any(|here| address.trim().starts_with(here));
        if tls || self.config.bootstrap_servers.split(',').all(is_here) {
            Finding::ok(ENTRY, says)
        } else {
            Finding::warning(ENTRY, says, "set `bus.kafka.tls.enabled` = true, unless nobody else is in that network")
        }
    }

    fn brokers(&self) -> Finding {
        let (brokers, copies) = (self.metadata.brokers().len(), usize::from(self.config.replication));
        let says = match brokers {
            1 => format!("there is 1 broker, and `bus.kafka.replication` = {copies}"),
            _ => format!("there are {brokers} brokers, and `bus.kafka.replication` = {copies}"),
        };
        if brokers < copies {
            let advice = "start more brokers, or let `bus.kafka.replication` ask for fewer copies";
            Finding::failed(BROKERS, says, advice)
        } else if copies < 3 {
            let advice = "let `bus.kafka.replication` = 3 on three brokers: with fewer copies, what was acknowledged is \
                          lost with a broker";
            Finding::warning(BROKERS, says, advice)
        } else {
            Finding::ok(BROKERS, says)
        }
    }

    fn presence(&self, stored: &str) -> Presence<'_> {
        let Some(topic) = self.metadata.topics().iter().find(|topic| topic.name() == stored) else {
            return Presence::Absent;
        };
        match topic.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Presence::Hidden,
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Presence::Absent,
            _ if topic.partitions().is_empty() => Presence::Absent,
            _ => Presence::There(topic),
        }
    }

    /// Topics as they are, and those that are not there as they would be made.
    async fn topics(&self, wanted: &[Wanted]) -> Vec<Finding> {
        let (mut findings, mut absent, mut present) = (Vec::new(), Vec::new(), Vec::new());
        for topic in wanted {
            match self.presence(&topic.stored) {
                Presence::Absent => absent.push(topic),
                // What is hidden is told with the rights.
                Presence::Hidden => {}
                Presence::There(found) => {
                    findings.extend(shape(&self.config, topic, found));
                    present.push(topic);
                }
            }
        }
        findings.extend(self.settings(&present).await);
        if findings.is_empty() && !present.is_empty() {
            let says = format!("{} of {} topics are there, as configured", present.len(), wanted.len());
            findings.push(Finding::ok(TOPICS, says));
        }
        if !absent.is_empty() {
            findings.push(self.would_be_made(&absent).await);
        }
        findings
    }

    async fn settings(&self, present: &[&Wanted]) -> Vec<Finding> {
        let asked: Vec<ResourceSpecifier<'_>> =
            present.iter().map(|topic| ResourceSpecifier::Topic(&topic.stored)).collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let described = match self.admin.describe_configs(&asked, &options(&self.config)).await {
            Ok(described) => described,
            Err(error) => {
                let says = format!("the settings of topics can not be had: {error}");
                return vec![Finding::failed(TOPICS, says, "look whether the brokers are well")];
            }
        };
        let mut findings = Vec::new();
        for found in described.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(name) = &found.specifier else { continue };
            let Some(topic) = present.iter().find(|topic| topic.stored == *name) else { continue };
            // No settings at all are those of a topic whose settings we may not see: told with the rights.
            let values: BTreeMap<&str, &str> =
                found.entries.iter().filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?))).collect();
            if !values.is_empty() {
                findings.extend(compare(topic, &values));
            }
        }
        findings
    }

    /// Whether the brokers would make what is absent.
    async fn would_be_made(&self, absent: &[&Wanted]) -> Finding {
        let names: Vec<&str> = absent.iter().map(|topic| topic.stored.as_str()).collect();
        let copies = i32::from(self.config.replication);
        let new: Vec<NewTopic<'_>> = absent
            .iter()
            .map(|topic| {
                let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
                let new = NewTopic::new(&topic.stored, partitions, TopicReplication::Fixed(copies));
                topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let refused = match self.admin.create_topics(&new, &options(&self.config).validate_only(true)).await {
            Ok(results) => results.into_iter().find_map(Result::err),
            Err(error) => {
                let says = format!("topics are not there, and whether they can be made is not known: {error}");
                return Finding::failed(TOPICS, says, "look whether the brokers are well");
            }
        };
        match refused {
            None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => {
                let says = format!("{} topics are not there yet, and can be made: {}", absent.len(), list(&names));
                Finding::ok(TOPICS, format!("{says}; the first start of a service makes them"))
            }
            Some((name, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                let says = format!("topic {name} is not there, and can not be made for want of brokers");
                Finding::failed(TOPICS, says, "start more brokers, or let `bus.kafka.replication` ask for fewer copies")
            }
            Some((name, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                let says = format!("topic {name} is not there, and {} may not create it", self.user());
                Finding::failed(TOPICS, says, PRINT_RIGHTS)
            }
            Some((name, code)) => {
                let says = format!("topic {name} is not there, and the brokers would not make it: {code}");
                Finding::failed(TOPICS, says, "make it by hand, or mend what they object to")
            }
        }
    }

    /// What our user may not do. Blocks.
    fn rights(&self, needed: &[Right], wanted: &[Wanted]) -> Finding {
        let names = |resource: Resource| -> Vec<String> {
            let of_that_kind = needed.iter().filter(|right| right.resource == resource && !right.is_prefix);
            of_that_kind.map(|right| right.name.clone()).collect()
        };
        let is_there = |name: &String| {
            let is_wanted = wanted.iter().any(|topic| topic.stored == *name);
            is_wanted && !matches!(self.presence(name), Presence::Absent)
        };
        let topics: Vec<String> = names(Resource::Topic).into_iter().filter(is_there).collect();
        let asked = || -> Result<(Granted, Granted), RDKafkaErrorCode> {
            let on_topics = match topics.as_slice() {
                [] => Granted::new(),
                topics => granted::on_topics(&self.admin, topics, self.timeout())?,
            };
            Ok((on_topics, granted::on_groups(&self.admin, &names(Resource::Group), self.timeout())?))
        };
        let (on_topics, on_groups) = match asked() {
            Ok(granted) => granted,
            Err(code) => {
                let says = format!("what {} may do can not be asked: {code}", self.user());
                return Finding::warning(RIGHTS, says, "look whether the brokers are well");
            }
        };
        // Kept until here: what the client knows is asked for through the other one.
        let _still_open = &self.client;
        let mut lacking = Lacking::default();
        for right in needed {
            let granted = match right.resource {
                Resource::Topic => on_topics.get(&right.name),
                Resource::Group => on_groups.get(&right.name),
                Resource::TransactionalId => None,
            };
            if let Some(granted) = granted {
                lacking.compare(right, granted);
            }
        }
        lacking.finding(&self.user(), on_topics.len(), on_groups.len())
    }
}

/// Rights that are needed and not there.
#[derive(Default)]
struct Lacking {
    needed: Vec<String>,
    only_to_change: Vec<String>,
    unknown: Vec<String>,
}

impl Lacking {
    fn compare(&mut self, right: &Right, granted: &Result<BTreeSet<Operation>, RDKafkaErrorCode>) {
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

    fn finding(&self, user: &str, topics: usize, groups: usize) -> Finding {
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

/// Partitions, their copies and leaders.
fn shape(config: &KafkaConfig, wanted: &Wanted, found: &rdkafka::metadata::MetadataTopic) -> Vec<Finding> {
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
fn compare(wanted: &Wanted, found: &BTreeMap<&str, &str>) -> Vec<Finding> {
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

/// Whether transactions can be begun, which needs brokers that are new enough, the right to it, and time-outs that they
/// allow. Blocks.
fn transactions(config: &KafkaConfig, patience: Duration) -> Finding {
    let context = Context::default();
    let ids = config.stored_name(CONTROL_IDS);
    let begin = || -> Result<(), BusError> {
        let mut client = config.producer()?;
        client
            .set("transactional.id", format!("{ids}doctor"))
            .set("transaction.timeout.ms", config.delivery_timeout_ms.to_string());
        let producer: FutureProducer<Context> = client
            .create_with_context(context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        producer.init_transactions(patience).map_err(|error| not_begun(config, &context, &error, &ids))
    };
    match begin() {
        Ok(()) => Finding::ok(TRANSACTIONS, format!("a transaction under {ids}* can be begun")),
        Err(error) => Finding::told(TRANSACTIONS, &error.to_string(), "look whether the brokers are well"),
    }
}

fn not_begun(config: &KafkaConfig, context: &Context, error: &KafkaError, ids: &str) -> BusError {
    let sentence = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
            format!("our user may not use transactional ids that begin with {ids}; {PRINT_RIGHTS}")
        }
        Some(RDKafkaErrorCode::InvalidTransactionTimeout) => format!(
            "`bus.kafka.delivery_timeout_ms` = {} is more than the brokers' transaction.max.timeout.ms; let one of \
             them be another",
            config.delivery_timeout_ms
        ),
        Some(RDKafkaErrorCode::UnsupportedFeature) => {
            "the brokers are too old for transactions; use Kafka 2.5 or later".to_owned()
        }
        _ => return context.error("a transaction can not be begun", error),
    };
    BusError::Invalid(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Retention, TopicSpec};
    use crate::step::StepSpec;
    use service::finding::Verdict;

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

    #[test]
    fn long_lists_end_with_how_many_more_there_are() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d, 2 more");
    }
}
