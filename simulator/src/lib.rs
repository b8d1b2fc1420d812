//! Edit trajectories from real code, real edit histories, simulated developers, load. Everything is a function of a
//! seed.

pub mod base;
pub mod baseline;
pub mod behaviour;
pub mod convention;
pub mod corpus;
pub mod developer;
pub mod draft;
pub mod driver;
pub mod error;
pub mod habit;
pub mod history;
pub mod judge;
pub mod plan;
pub mod random;
pub mod scene;
pub mod source;
pub mod syntax;
pub mod tasks;
mod text;
pub mod trajectory;
pub mod words;

pub use base::{BaseCorpus, BaseTaskGenerator, Split};
pub use behaviour::BehaviourRates;
pub use corpus::Corpus;
pub use developer::{Behaviour, BehaviourKind, ClientAction, ClientActionKind, Developer};
pub use error::{Result, SimulatorError};
pub use habit::{HabitTask, SpelledHabit};
pub use plan::{Convention, DemoPlan, PlanSettings, PlannedTask};
pub use scene::{Disturbances, Meaning, Scene, SceneMaker, SceneSettings};
pub use source::{BaseManifest, Language, SourceFile, default_source_cache};
pub use syntax::SymbolKind;
pub use tasks::{EditTask, Limits, Mix, TaskKind};
