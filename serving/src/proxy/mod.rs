//! Serving as a reverse proxy before a completion server that is there already: Tabby, or any OpenAI-compatible engine.
//!
//! Everything passes as it comes, in both directions: paths, fields, credentials, bodies piece by piece, upgraded
//! connections. Only what belongs to a connection stays on its side (RFC 9110, 7.6.1), and a request says that it came
//! through here (`Via`, 7.6.3). `POST /v1/completions` and `POST /v1/events` are copied on the side, within bounds, and
//! read when they are over; no answer waits for that, or depends on anything but the upstream: with everything else of
//! Flywheel gone, the same bytes pass, and what is not recorded is counted.
//!
//! `config` settings · `headers` what becomes of a request · `forward` the way through · `failure` what is said where it
//! ends · `tunnel` upgraded connections · `body` and `copy` the tap · `dialect` and `tabby` what a body says · `memory`
//! sessions, places and completions · `recorder` and `record` from a tap to events.

mod body;
mod config;
mod copy;
mod dialect;
mod failure;
mod forward;
mod headers;
mod memory;
#[cfg(test)]
mod passing_tests;
mod record;
mod recorder;
#[cfg(test)]
mod recording_tests;
mod tabby;
#[cfg(test)]
mod testing;
mod tunnel;

pub use config::{NoSuchMode, Upstream, UpstreamConfig, UpstreamMode};
pub(crate) use forward::{Proxy, ProxyDeps};
