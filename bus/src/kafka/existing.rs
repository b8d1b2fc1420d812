//! What is wrong with a topic that is there, and what can be mended.
//!
//! | what | must be | otherwise |
//! |---|---|---|
//! | partitions | as configured; those of a changelog as those of the input | refused: keys would move, state would not be found |
//! | cleanup policy | `delete` for records, `compact` for changelogs | refused: it has lost something already, perhaps |
//! | copies | at least `bus.kafka.replication` | refused: only who runs the brokers can make more |
//! | `min.insync.replicas` | at least a majority, at most the copies | changed |
//! | `retention.ms`, `retention.bytes` | as configured | changed; where that is not allowed, longer will do |
//! | `max.message.bytes`, `delete.retention.ms` | at least ours | changed |
//! | `unclean.leader.election.enable` | not `true` | changed: acknowledged records would be lost |
//!
//! A change that our user may not make is refused with what is to be done, unless the topic will do as it is.

use std::collections::BTreeMap;

use super::topics::{Purpose, Wanted, majority};
use crate::error::BusError;

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) value: String,
    /// It was set for this topic, and is no default.
    pub(super) is_own: bool,
}

/// What must be changed about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mending {
    pub(super) stored: String,
    pub(super) changes: Vec<Change>,
    /// The settings of the topic that stay.
    kept: BTreeMap<String, String>,
}

/// A setting that must be another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    name: &'static str,
    found: Option<String>,
    value: String,
    /// The topic can be used without this change.
    will_do: bool,
}

impl Mending {
    /// All settings that the topic has then.
    pub(super) fn all(&self) -> BTreeMap<&str, &str> {
        let kept = self.kept.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        kept.chain(self.changes.iter().map(|change| (change.name, change.value.as_str()))).collect()
    }

    /// What it means when the changes are not allowed.
    pub(super) fn without_rights(&self) -> Result<(), BusError> {
        let needed: Vec<&Change> = self.changes.iter().filter(|change| !change.will_do).collect();
        if needed.is_empty() {
            tracing::warn!(topic = %self.stored, changes = ?self.changes,
                "settings of a Kafka topic are not as configured, and our user may not change them");
            return Ok(());
        }
        let differ = |change: &&Change| {
            format!("{} = {}, not {}", change.name, change.value, change.found.as_deref().unwrap_or("unset"))
        };
        let list: Vec<String> = needed.iter().map(differ).collect();
        Err(BusError::Invalid(format!(
            "Kafka topic {} needs {}, and our user may not change that: change it, or allow the user AlterConfigs on it",
            self.stored,
            list.join(" and ")
        )))
    }
}

/// What cannot be mended: partitions and copies. `copies`: of every partition.
pub(super) fn check_shape(wanted: &Wanted, copies: &[usize]) -> Result<(), BusError> {
    let (stored, expected) = (&wanted.stored, wanted.partitions);
    let actual = u32::try_from(copies.len()).unwrap_or(u32::MAX);
    if actual != expected {
        return Err(match wanted.purpose {
            Purpose::Records(_) => BusError::PartitionsDiffer { topic: wanted.name.clone(), expected, actual },
            Purpose::Changelog => BusError::Invalid(format!(
                "Kafka topic {stored} has {actual} partitions, and the topic whose state it holds has {expected}: \
                 the state of a key would not be found; give that topic {actual} partitions again, or begin anew with \
                 another `bus.prefix`"
            )),
        });
    }
    let fewest = copies.iter().copied().min().unwrap_or(0);
    if fewest < usize::from(wanted.copies) {
        let alone = if fewest < 3 { " with `bus.kafka.single_broker` = true" } else { "" };
        return Err(BusError::Invalid(format!(
            "Kafka topic {stored} has partitions with only {fewest} of the {} copies that `bus.kafka.replication` \
             asks for: reassign its partitions to more brokers, or set `bus.kafka.replication` = {fewest}{alone}",
            wanted.copies
        )));
    }
    Ok(())
}

/// What must be changed about the settings of a topic; none: nothing. `copies`: of every partition.
pub(super) fn check_settings(
    wanted: &Wanted,
    copies: &[usize],
    existing: &BTreeMap<String, Existing>,
) -> Result<Option<Mending>, BusError> {
    let stored = &wanted.stored;
    let found = |name: &str| existing.get(name).map(|setting| setting.value.as_str());
    let policy = found("cleanup.policy").unwrap_or_default();
    match wanted.purpose {
        Purpose::Records(_) if policy.contains("compact") => {
            return Err(BusError::Invalid(format!(
                "Kafka topic {stored} is compacted, and would lose every record of a key but the last: set its \
                 cleanup.policy to delete"
            )));
        }
        Purpose::Changelog if policy != "compact" => {
            return Err(BusError::Invalid(format!(
                "Kafka topic {stored} has cleanup.policy = {policy}, and would lose state by its age: set it to \
                 compact, and if records are lost already, begin anew with another `bus.prefix`"
            )));
        }
        _ => {}
    }
    let fewest = copies.iter().copied().min().unwrap_or(0);
    let mut changes = Vec::new();
    for (name, value) in &wanted.settings {
        let number = |text: &str| text.parse::<i64>().ok();
        let (ours, theirs) = (number(value), found(name).and_then(number));
        // For retention, -1 is more than any number.
        let unlimited = |value: i64| if value < 0 { i64::MAX } else { value };
        let at_least = theirs.zip(ours).is_some_and(|(theirs, ours)| theirs >= ours);
        let lasts = theirs.zip(ours).is_some_and(|(theirs, ours)| unlimited(theirs) >= unlimited(ours));
        let (fits, will_do) = match *name {
            "retention.ms" | "retention.bytes" => (theirs.is_some() && theirs == ours, lasts),
            "max.message.bytes" | "delete.retention.ms" => (at_least, false),
            "min.insync.replicas" => {
                let possible = theirs.and_then(|theirs| usize::try_from(theirs).ok()).is_some_and(|it| it <= fewest);
                (at_least && possible, false)
            }
            "segment.ms" => (theirs == ours, true),
            _ => (found(name) == Some(value.as_str()), false),
        };
        if !fits {
            let found = found(name).map(str::to_owned);
            changes.push(Change { name, found, value: value.clone(), will_do });
        }
    }
    if found("unclean.leader.election.enable") == Some("true") {
        let (name, value) = ("unclean.leader.election.enable", "false".to_owned());
        // Without copies nobody is elected.
        let will_do = majority(wanted.copies) < 2;
        changes.push(Change { name, found: Some("true".to_owned()), value, will_do });
    }
    let own = existing.iter().filter(|(_, setting)| setting.is_own);
    let kept = own.map(|(name, setting)| (name.clone(), setting.value.clone())).collect();
    Ok((!changes.is_empty()).then(|| Mending { stored: stored.clone(), changes, kept }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kafka::KafkaConfig;
    use crate::record::{Retention, TopicSpec};

    fn records() -> Wanted {
        let retention = Retention::age(Duration::from_secs(3_600));
        Wanted::records(&KafkaConfig::default(), &TopicSpec::new("telemetry.raw.v1", 2, retention))
    }

    fn changelog() -> Wanted {
        Wanted::changelog(&KafkaConfig::default(), "anonymizer.changelog.v1", 2, 0)
    }

    /// The settings of a topic that was created as it should be, with some changed.
    fn settings(wanted: &Wanted, changed: &[(&str, &str)]) -> BTreeMap<String, Existing> {
        let own =
            |(name, value): (&&str, &String)| ((*name).to_owned(), Existing { value: value.clone(), is_own: true });
        let mut settings: BTreeMap<String, Existing> = wanted.settings.iter().map(own).collect();
        for (name, value) in changed {
            settings.insert((*name).to_owned(), Existing { value: (*value).to_owned(), is_own: true });
        }
        settings
    }

    /// What is changed about a topic, and the sentence when it may not be.
    fn changed(wanted: &Wanted, changed: &[(&str, &str)]) -> (BTreeMap<&'static str, String>, Option<String>) {
        let mending = check_settings(wanted, &[3, 3], &settings(wanted, changed)).unwrap();
        let Some(mending) = mending else { return (BTreeMap::new(), None) };
        let sentence = mending.without_rights().err().map(|error| error.to_string());
        (mending.changes.into_iter().map(|change| (change.name, change.value)).collect(), sentence)
    }

    #[test]
    fn a_topic_as_it_should_be_stays() {
        for wanted in [records(), changelog()] {
            check_shape(&wanted, &[3, 4]).unwrap();
            assert_eq!(changed(&wanted, &[]).0, BTreeMap::new());
            // More than is needed is no reason to change anything.
            let more = [("max.message.bytes", "99999999"), ("min.insync.replicas", "3")];
            assert_eq!(changed(&wanted, &more).0, BTreeMap::new());
        }
    }

    #[test]
    fn what_cannot_be_mended_is_refused_with_what_to_do() {
        let shape = |wanted: Wanted, copies: &[usize]| check_shape(&wanted, copies).unwrap_err().to_string();
        insta::assert_snapshot!(shape(records(), &[3, 3, 3]), @"topic telemetry.raw.v1 has 3 partitions, configured are 2: keys would move; set `bus.partitions` = 3, or begin anew with another `bus.prefix`");
        insta::assert_snapshot!(shape(changelog(), &[3]), @"Kafka topic anonymizer.changelog.v1 has 1 partitions, and the topic whose state it holds has 2: the state of a key would not be found; give that topic 1 partitions again, or begin anew with another `bus.prefix`");
        insta::assert_snapshot!(shape(records(), &[3, 1]), @"Kafka topic telemetry.raw.v1 has partitions with only 1 of the 3 copies that `bus.kafka.replication` asks for: reassign its partitions to more brokers, or set `bus.kafka.replication` = 1 with `bus.kafka.single_broker` = true");
        let five = Wanted { copies: 5, ..records() };
        insta::assert_snapshot!(shape(five, &[3, 3]), @"Kafka topic telemetry.raw.v1 has partitions with only 3 of the 5 copies that `bus.kafka.replication` asks for: reassign its partitions to more brokers, or set `bus.kafka.replication` = 3");
        let policy = |wanted: Wanted, policy: &str| {
            let settings = settings(&wanted, &[("cleanup.policy", policy)]);
            check_settings(&wanted, &[3, 3], &settings).unwrap_err().to_string()
        };
        insta::assert_snapshot!(policy(records(), "compact,delete"), @"Kafka topic telemetry.raw.v1 is compacted, and would lose every record of a key but the last: set its cleanup.policy to delete");
        insta::assert_snapshot!(policy(changelog(), "delete"), @"Kafka topic anonymizer.changelog.v1 has cleanup.policy = delete, and would lose state by its age: set it to compact, and if records are lost already, begin anew with another `bus.prefix`");
        assert_eq!(policy(records(), "compact"), policy(records(), "compact,delete"));
    }

    #[test]
    fn settings_are_mended_and_without_the_right_to_do_so_refused() {
        let one = |name: &'static str, value: &str| BTreeMap::from([(name, value.to_owned())]);
        let (changes, sentence) = changed(&records(), &[("retention.ms", "1000")]);
        assert_eq!(changes, one("retention.ms", "3600000"));
        insta::assert_snapshot!(sentence.unwrap(), @"Kafka topic telemetry.raw.v1 needs retention.ms = 3600000, not 1000, and our user may not change that: change it, or allow the user AlterConfigs on it");
        // Too long is against what was promised to people, and loses nothing.
        for longer in ["3600001", "-1"] {
            assert_eq!(changed(&records(), &[("retention.ms", longer)]), (one("retention.ms", "3600000"), None));
        }
        let (changes, sentence) = changed(&records(), &[("retention.bytes", "1000")]);
        assert_eq!((changes, sentence.is_some()), (one("retention.bytes", "-1"), true));
        let (changes, sentence) = changed(&changelog(), &[("max.message.bytes", "1000"), ("min.insync.replicas", "1")]);
        assert_eq!(changes.len(), 2);
        insta::assert_snapshot!(sentence.unwrap(), @"Kafka topic anonymizer.changelog.v1 needs max.message.bytes = 4210688, not 1000 and min.insync.replicas = 2, not 1, and our user may not change that: change it, or allow the user AlterConfigs on it");
        // More than there are copies: nothing could be written.
        assert_eq!(changed(&records(), &[("min.insync.replicas", "4")]).0, one("min.insync.replicas", "2"));
        let unclean = changed(&records(), &[("unclean.leader.election.enable", "true")]);
        assert_eq!(unclean.0, one("unclean.leader.election.enable", "false"));
        assert_eq!(changed(&records(), &[("segment.ms", "1")]), (one("segment.ms", "360000"), None));
    }

    #[test]
    fn what_is_not_ours_is_kept() {
        let wanted = records();
        let mut settings = settings(&wanted, &[("retention.ms", "1"), ("compression.type", "zstd")]);
        settings.insert("flush.ms".to_owned(), Existing { value: "9".to_owned(), is_own: false });
        let mending = check_settings(&wanted, &[3, 3], &settings).unwrap().unwrap();
        let all = mending.all();
        assert_eq!((all["compression.type"], all["retention.ms"]), ("zstd", "3600000"));
        assert!(!all.contains_key("flush.ms"));
    }
}
