//! Topic names. A prefix for all of them is one setting of the bus.

/// What editors and serving reported, sealed, short-lived.
pub const TELEMETRY_RAW: &str = "telemetry.raw.v1";
/// Scrubbed, de-duplicated, ordered.
pub const TELEMETRY_CLEAN: &str = "telemetry.clean.v1";
/// What scrubbing refused, sealed.
pub const TELEMETRY_QUARANTINE: &str = "telemetry.quarantine.v1";
/// Records that a step could not process, sealed, with the reason.
pub const DEAD_LETTERS: &str = "telemetry.dead-letters.v1";
/// Preference pairs, sealed text inside.
pub const PREFERENCE_PAIRS: &str = "preference.pairs.v1";
/// One record per closed opportunity, keyed by person pseudonym.
pub const SERVING_OUTCOMES: &str = "serving.outcomes.v1";
/// What the control plane did. Nothing decides from it.
pub const FLYWHEEL_EVENTS: &str = "flywheel.events.v1";

/// All topics.
pub const ALL: [&str; 7] = [
    TELEMETRY_RAW,
    TELEMETRY_CLEAN,
    TELEMETRY_QUARANTINE,
    DEAD_LETTERS,
    PREFERENCE_PAIRS,
    SERVING_OUTCOMES,
    FLYWHEEL_EVENTS,
];
