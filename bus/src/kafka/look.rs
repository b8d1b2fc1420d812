//! What is found at the brokers, for whoever looks whether a platform can live there (`flywheel doctor`).
//!
//! No topic is made and no setting changed: what would be made is only validated, and what our user may do is asked for
//! (granted.rs). The one thing that is tried is beginning to use a transactional id of our own, which the brokers forget
//! again by themselves.
//!
//! What time it is at the brokers can not be asked for: Kafka's protocol does not tell.

mod beside;
mod rights;
mod topics;

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{Producer, ThreadedProducer};
use service::finding::{Finding, Verdict};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};

use self::rights::Lacking;
use self::topics::{Wanted, compare, shape, wanted};
use super::client::{Context, Questions};
use super::config::KafkaConfig;
use super::forbidden::ALLOW as PRINT_RIGHTS;
use super::granted::{self, Granted};
use super::publish::CONTROL_IDS;
use super::refusal::Entering;
use super::rights::{KafkaUse, Resource, Right, rights as needed_rights};
use super::topics::options;
use super::versions::{self, OLDEST};
use crate::error::BusError;

const SETTINGS: &str = "kafka.settings";
const ADDRESSES: &str = "kafka.addresses";
const ENTRY: &str = "kafka.entry";
const VERSION: &str = "kafka.version";
const BROKERS: &str = "kafka.brokers";
const TOPICS: &str = "kafka.topics";
const RIGHTS: &str = "kafka.rights";
const TRANSACTIONS: &str = "kafka.transactions";

/// Names of one kind that a sentence lists; of more it says how many.
const LISTED: usize = 4;

/// Looks at the brokers. Each question may take `patience`.
pub async fn look(config: &KafkaConfig, usage: &KafkaUse, patience: Duration) -> Vec<Finding> {
    if let Err(error) = config.check() {
        return vec![Finding::told(SETTINGS, &error.to_string(), "correct it in `[bus.kafka]`")];
    }
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let asking = KafkaConfig { request_timeout_ms: patience_ms, ..config.clone() };
    let context = match config.tls.check_files().and_then(|()| Context::new(&asking)) {
        Ok(context) => context,
        Err(error) => return vec![Finding::told(SETTINGS, &error.to_string(), "correct it in `[bus.kafka]`")],
    };
    let ((reached, is_any_reached), token, schemas) =
        tokio::join!(addresses(config, patience), beside::token(&asking, &context), beside::schemas(&asking));
    let may_enter = token.as_ref().is_none_or(|token| token.verdict == Verdict::Ok);
    let mut findings = vec![reached];
    findings.extend(token);
    findings.extend(schemas);
    if !is_any_reached || !may_enter {
        return findings;
    }
    let entering = context.clone();
    let entered = spawn_blocking(move || Looking::enter(asking, &entering)).await;
    let looking = match entered.unwrap_or_else(|error| Err(BusError::Storage(error.to_string()))) {
        Ok(looking) => looking,
        Err(error) => {
            let advice = "check `bus.kafka.tls` and `bus.kafka.sasl`, and that brokers can be reached under the \
                          addresses that they advertise";
            findings.push(Finding::told(ENTRY, &sentence(&error), advice));
            return findings;
        }
    };
    findings.push(looking.entry());
    findings.push(looking.version.clone());
    findings.push(looking.brokers());
    let begun = {
        let config = config.clone();
        spawn_blocking(move || transactions(&config, &context, patience))
    };
    let wanted = wanted(config, usage);
    let (topics, needed) = (looking.topics(&wanted).await, needed_rights(config, usage));
    findings.extend(topics);
    let looked = spawn_blocking(move || looking.rights(&needed, &wanted)).await;
    findings.push(looked.unwrap_or_else(|error| Finding::told(RIGHTS, &error.to_string(), "try again")));
    findings.push(begun.await.unwrap_or_else(|error| Finding::told(TRANSACTIONS, &error.to_string(), "try again")));
    findings
}

/// What an error says. That it is the log's is known here.
fn sentence(error: &BusError) -> String {
    match error {
        BusError::Storage(why) => why.clone(),
        error => error.to_string(),
    }
}

/// How it stands with the age of the brokers, by what they know.
fn version(judged: Result<bool, BusError>) -> Finding {
    let advice = format!("use Kafka {OLDEST} or later");
    match judged {
        Ok(true) => Finding::ok(VERSION, format!("the brokers know what is needed, which came with Kafka {OLDEST}")),
        Ok(false) => Finding::warning(VERSION, "which requests the brokers know can not be found out", advice),
        Err(error) => Finding::told(VERSION, &sentence(&error), &advice),
    }
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

/// The clients, and what the brokers said first.
struct Looking {
    config: KafkaConfig,
    admin: AdminClient<Context>,
    metadata: Metadata,
    version: Finding,
}

/// How it stands with a topic.
enum Presence<'a> {
    Absent,
    Hidden,
    There(&'a rdkafka::metadata::MetadataTopic),
}

impl Looking {
    /// Blocks.
    fn enter(config: KafkaConfig, context: &Context) -> Result<Self, BusError> {
        let metadata = Questions::new(&config, context)?.metadata(None)?;
        let version = version(versions::judge(&config, context));
        let admin: AdminClient<Context> = config
            .client()?
            .create_with_context(context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        context.give_token(admin.inner())?;
        Ok(Self { config, admin, metadata, version })
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    fn user(&self) -> String {
        Entering::by(&self.config).who()
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

/// Whether transactions can be begun, which needs brokers that are new enough, the right to it, and time-outs that they
/// allow. Blocks.
fn transactions(config: &KafkaConfig, context: &Context, patience: Duration) -> Finding {
    let ids = config.stored_name(CONTROL_IDS);
    let begin = || -> Result<(), BusError> {
        let mut client = config.producer()?;
        client
            .set("transactional.id", format!("{ids}doctor"))
            .set("transaction.timeout.ms", config.delivery_timeout_ms.to_string());
        let producer: ThreadedProducer<Context> = client
            .create_with_context(context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        producer.init_transactions(patience).map_err(|error| not_begun(config, context, &error, &ids))
    };
    match begin() {
        Ok(()) => Finding::ok(TRANSACTIONS, format!("a transaction under {ids}* can be begun")),
        Err(error) => Finding::told(TRANSACTIONS, &sentence(&error), "look whether the brokers are well"),
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
            format!("the brokers are too old for transactions; use Kafka {OLDEST} or later")
        }
        _ => return context.error("a transaction can not be begun", error),
    };
    BusError::Invalid(sentence)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn brokers_that_are_too_old_are_told() {
        // It knows less than Kafka 2.5 did.
        let old = MockCluster::new(1).unwrap();
        let config = KafkaConfig {
            bootstrap_servers: old.bootstrap_servers(),
            replication: 1,
            single_broker: true,
            ..KafkaConfig::default()
        };
        let findings = look(&config, &KafkaUse::default(), Duration::from_secs(5)).await;
        let of = |check: &str| findings.iter().find(|found| found.check == check).cloned().unwrap();
        assert_eq!(of(ENTRY).verdict, Verdict::Ok, "{findings:?}");
        let Finding { verdict, says, advice, .. } = of(VERSION);
        assert_eq!((verdict, advice.as_deref()), (Verdict::Failed, Some("use Kafka 2.5 or later")), "{findings:?}");
        insta::assert_snapshot!(says.replace(&config.bootstrap_servers, "HOST:PORT"), @"the Kafka brokers at HOST:PORT are older than 2.5, which is needed: they do not know OffsetFetch");
    }

    #[test]
    fn what_brokers_know_is_no_failure_while_it_is_not_known() {
        assert_eq!(version(Ok(true)).verdict, Verdict::Ok);
        assert_eq!(version(Ok(false)).verdict, Verdict::Warning);
        let away = version(Err(BusError::Storage("the Kafka brokers do not answer: gone".to_owned())));
        assert_eq!((away.verdict, away.says.as_str()), (Verdict::Failed, "the Kafka brokers do not answer: gone"));
    }

    #[test]
    fn long_lists_end_with_how_many_more_there_are() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d, 2 more");
    }
}
