//! The bus on Apache Kafka. Without the cargo feature `production` only its settings are there.
//!
//! * `publish` is an idempotent producer with `acks=all` (`publish.rs`); a control record goes to all partitions
//!   of its topic in one Kafka transaction.
//! * `tail` is a consumer with partitions assigned by hand that sees committed records only; the positions belong to
//!   the sink. What a sink tells with [`Tail::commit`](crate::Tail::commit) is kept as the positions of a group of its own, for lag only.
//! * A step owns partitions by leases in the database; a partition's transactions bear a name of its own, so that a new
//!   owner ends those of the one before (`slot.rs`). Its state is a compacted topic, with a copy on this machine's disk.
//! * Positions are offsets. Partitions are chosen by [`partition_for`](crate::partition_for), as on the local log.
//!
//! # What errors mean
//!
//! *Fatal*: the client can do nothing more. For the idempotent producer that is a gap in its numbers; it is replaced.
//! For a transactional producer it is another one of the same name, or its own end; whatever it had open is aborted by
//! the brokers. *Abortable*: the transaction is lost and the client is not. *Retriable*: nothing is known; asked again,
//! the brokers answer what became of it. A record is acknowledged only by the brokers' own answer, and a commit only by
//! a commit's; everything else is an error to the caller, who then knows that it does not know.
//!
//! What retention deletes is decided by the brokers, by age or bytes, whoever has read it: a reader whose position is
//! gone is told so ([`BusError::PositionGone`](crate::BusError::PositionGone)) and stops; `auto.offset.reset` is `error`. That records wait for their
//! readers is the job of [`Bus::topic_status`](crate::Bus::topic_status): ingest refuses new records before unread ones are in danger.

#[cfg(feature = "production")]
mod changelog;
#[cfg(feature = "production")]
mod client;
mod config;
#[cfg(feature = "production")]
mod delivery;
#[cfg(feature = "production")]
mod existing;
#[cfg(feature = "production")]
mod forbidden;
#[cfg(feature = "production")]
mod granted;
#[cfg(feature = "production")]
mod handle;
#[cfg(feature = "production")]
mod history;
#[cfg(feature = "production")]
mod keeper;
#[cfg(feature = "production")]
mod look;
#[cfg(test)]
#[cfg(feature = "production")]
mod model_tests;
#[cfg(test)]
#[cfg(feature = "production")]
mod owner_tests;
#[cfg(feature = "production")]
mod publish;
#[cfg(feature = "production")]
mod reader;
#[cfg(feature = "production")]
mod record;
#[cfg(feature = "production")]
mod refusal;
#[cfg(feature = "production")]
mod registry;
#[cfg(feature = "production")]
mod rights;
#[cfg(feature = "production")]
mod skip;
#[cfg(feature = "production")]
mod slot;
#[cfg(feature = "production")]
mod state;
#[cfg(feature = "production")]
mod status;
#[cfg(feature = "production")]
mod step;
#[cfg(feature = "production")]
mod tail;
#[cfg(feature = "production")]
mod token;
#[cfg(feature = "production")]
mod topics;
#[cfg(feature = "production")]
mod versions;
#[cfg(feature = "production")]
mod web;

pub use self::config::{Compression, KafkaConfig, KafkaOauth, KafkaSasl, KafkaSchemaRegistry, KafkaTls, SaslMechanism};
#[cfg(feature = "production")]
use self::handle::Inner;
#[cfg(feature = "production")]
pub use self::handle::{KafkaBus, KafkaSteps};
#[cfg(feature = "production")]
pub use self::look::look;
#[cfg(feature = "production")]
pub use self::rights::{KafkaUse, Operation, Resource, Right, rights};
