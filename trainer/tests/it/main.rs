//! Training as its users meet it: small models, whole runs.

mod fixture;
mod job;
mod methods;
mod pretraining;
