//! Up to where a platform is audited, which may run on meanwhile.
//!
//! The order in which positions are asked for is the argument. First how far each step has come: what it had put out by
//! then *must* be found. Then where its outputs end: what stands before that *may* be there. Then where its inputs end
//! and what time it is: from everything before that the step can not have made more. What a replay puts out between the
//! two bounds is pending.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Bus, BusError, Positions};
use events::Timestamp;
use events::topics::{
    DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW,
};
use service::clock::Clock;

use super::stage::Stage;

/// Everything that is read.
pub(crate) const TOPICS: [&str; 6] =
    [DEAD_LETTERS, TELEMETRY_QUARANTINE, TELEMETRY_RAW, TELEMETRY_CLEAN, PREFERENCE_PAIRS, SERVING_OUTCOMES];

/// Bounds of one step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StageCut {
    /// Up to where it has read its input for certain.
    pub(crate) reached: Positions,
    /// The time that it had reached there, by partition.
    pub(crate) times: BTreeMap<u32, Timestamp>,
    /// Where its input ended later.
    pub(crate) until: Positions,
}

/// Bounds of an audit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    /// What is retained of each topic, from the oldest position on.
    pub(crate) from: BTreeMap<&'static str, Positions>,
    /// Where each topic ended. A topic that is a step's input is read on to [`StageCut::until`].
    pub(crate) ends: BTreeMap<&'static str, Positions>,
    stages: [StageCut; 2],
    /// No step can have reached a later time.
    pub(crate) time: Timestamp,
}

impl Cut {
    pub(crate) async fn take(bus: &dyn Bus, clock: &dyn Clock) -> Result<Self, BusError> {
        let mut cut = Self::default();
        for topic in TOPICS {
            cut.from.insert(topic, bus.oldest_positions(topic).await?);
        }
        for (stage, bounds) in Stage::ALL.into_iter().zip(&mut cut.stages) {
            // A step that never ran has read nothing.
            match bus.step_lag(stage.step()).await {
                Ok(lag) => {
                    for partition in lag.partitions {
                        bounds.reached.set(partition.partition, partition.position);
                        bounds.times.extend(partition.partition_time.map(|time| (partition.partition, time)));
                    }
                }
                Err(BusError::UnknownStep(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for topic in TOPICS {
            cut.ends.insert(topic, bus.end_positions(topic).await?);
        }
        for (stage, bounds) in Stage::ALL.into_iter().zip(&mut cut.stages) {
            bounds.until = bus.end_positions(stage.input()).await?;
        }
        let reached = cut.stages.iter().flat_map(|stage| stage.times.values()).max().copied();
        cut.time = reached.map_or_else(|| clock.now(), |reached| reached.max(clock.now()));
        Ok(cut)
    }

    pub(crate) fn stage(&self, stage: Stage) -> &StageCut {
        match stage {
            Stage::Anonymizer => &self.stages[0],
            Stage::Labeler => &self.stages[1],
        }
    }

    /// The positions before which a topic is read.
    pub(crate) fn until(&self, topic: &str) -> Positions {
        let of_stage =
            Stage::ALL.into_iter().find(|stage| stage.input() == topic).map(|stage| &self.stage(stage).until);
        of_stage.or_else(|| self.ends.get(topic)).cloned().unwrap_or_default()
    }

    /// Partitions of a topic whose beginning retention has deleted.
    pub(crate) fn truncated(&self, topic: &str) -> BTreeSet<u32> {
        let from = self.from.get(topic).into_iter().flat_map(Positions::iter);
        from.filter(|(_, oldest)| *oldest > bus::Position::START).map(|(partition, _)| partition).collect()
    }
}
