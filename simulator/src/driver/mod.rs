//! The simulated editor's side of the two doors: asks serving, reports to ingest, over real HTTP.

mod client;
pub mod doors;
pub mod load;
pub mod session;
mod sse;

pub use client::HttpError;
pub use doors::{Answer, DoorSettings, Doors, DriverError};
pub use load::{LoadReport, LoadSettings, quantile_of, run_load};
pub use session::{ClientSession, Episode, Played, reported_as};
