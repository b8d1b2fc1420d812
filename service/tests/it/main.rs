//! Tests of what services stand on, through its public interface only.

mod api_keys;
mod config;
mod database;
mod http;
mod keys;
mod lease;
mod outbox;
mod stores;
