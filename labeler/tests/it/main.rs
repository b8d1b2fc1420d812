//! The labeler from the outside: clean events in, pairs and outcomes out, rows and parts behind the sinks.

mod kit;
mod labels;
mod orders;
mod sinks;
