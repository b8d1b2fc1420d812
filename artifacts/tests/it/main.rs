//! The behaviour that every artifact store must have, and what is special about the local one.

mod local;
mod suite;
