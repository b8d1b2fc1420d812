//! The bus on Apache Kafka beside raw clients, on one real broker of this process.

pub(crate) mod broker;
pub(crate) mod commits;
pub(crate) mod place;
pub(crate) mod rates;
mod raw;
mod raw_state;
pub(crate) mod restore;
pub(crate) mod stalls;
