//! The vocabulary: typed ids, Avro schemas, stage types, topic names. No I/O.

pub mod avro;
pub mod edit;
pub mod ids;
pub mod licence;
pub mod pair;
pub mod receipt;
pub mod sealing;
pub mod stage;
pub mod telemetry;
pub mod time;
pub mod topics;
pub mod vocabulary;
pub mod wire;

pub use edit::{
    ActionList, ByteRange, EditAction, EditContext, OffsetEncoding, RecentEdit, Window, apply_actions, pattern_of,
};
pub use ids::{
    Audience, EventId, IdSource, InvalidId, KeyId, ModelName, ModelVersion, OpportunityId, PairId, PersonPseudonym,
    RolloutId, RunId, SessionId, Sha256Digest, SuggestionId, TenantId, uuid_v7,
};
pub use licence::Licence;
pub use pair::{DivergencePoint, FlywheelEvent, OpportunityOutcome, OutcomeDetail, PairText, PreferencePair};
pub use receipt::{Probabilities, Receipt, ReceiptError};
pub use sealing::{DataKey, OpenError, Sealed, TenantSecret};
pub use stage::{ScrubWitness, ScrubbedText};
pub use telemetry::{CleanEvent, EventHeader, EventText, QuarantinedEvent, RawEvent};
pub use time::Timestamp;
pub use vocabulary::{
    Arm, ConsentTier, Decision, Disposition, EditPattern, EventKind, Origin, PairReason, ReceiptState, Signal,
};
