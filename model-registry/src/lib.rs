//! Versions of models, their lineage, and the rollouts that decide which of them is served.
//!
//! * [`routing`] is pure and shared with serving: who is served which version.
//! * [`evidence`] is pure: from what persons did to a verdict.
//! * [`lineage`] leads from a person to every version that learned from it, and back.
//! * [`rollout`] is the state machine; [`reconciler`] moves it by evidence, [`registry`] by a named person's word.
//! * [`Registry::check_consistency`] reads all of it back.
//! * [`client`] is how other services call; [`run`] opens the door.

mod change;
pub mod client;
pub mod config;
mod consistency;
mod convert;
mod convert_lineage;
pub mod error;
pub mod evidence;
mod grpc;
mod http;
pub mod lineage;
pub mod policy;
pub mod reconciler;
pub mod registry;
pub mod rollout;
pub mod routing;
pub mod server;
mod store;
mod trace;
pub mod version;

pub use client::{ClientError, RegistryClient, Trust};
pub use config::RegistryConfig;
pub use consistency::{Checked, Consistency, Finding};
pub use convert::InvalidField;
pub use error::RegistryError;
pub use evidence::{RolloutEvidence, Verdict};
pub use lineage::{Trace, TraceOf, VersionLineage};
pub use policy::{Promotion, RolloutPolicy};
pub use registry::{Registry, RegistryDeps, evaluate_rollout};
pub use rollout::{Rollout, RolloutState};
pub use routing::{Assignment, RoutingTable, ServedVersion, assign};
pub use server::{RunError, RunningRegistry, run};
pub use trace::served_snapshots;
pub use version::{Alias, AuditEntry, ModelSummary, NewVersion, Version};

/// The messages and services of `flywheel.registry.v1`, generated from the proto.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("flywheel.registry.v1");
}

/// The trailer that carries the stable code of a failed call.
pub const ERROR_CODE_METADATA: &str = "flywheel-error-code";
