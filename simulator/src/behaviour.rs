//! How simulated developers behave: every rate of the simulation is here.

/// Rates and times of a developer. Rates are probabilities; where several exclude each other they are weights.
#[derive(Debug, Clone, PartialEq)]
pub struct BehaviourRates {
    /// Esc out of habit, whatever is shown. What is wanted is typed afterwards.
    pub habitual_escape: f64,
    /// The developer is away: nothing is pressed and nothing is typed.
    pub distraction: f64,
    /// Tab on a good suggestion, then undo; what is wanted is not made.
    pub tab_then_regret: f64,
    /// A formatter runs after an edit and changes space in its line.
    pub formatter: f64,
    /// A suggestion at the right place with the wrong text: Tab, then the text is mended. Weight.
    pub mend_after_tab: f64,
    /// The same: Esc, then what is wanted is typed. Weight.
    pub escape_then_type: f64,
    /// The same: typing on while the suggestion is visible. Weight.
    pub type_against: f64,
    /// A suggestion where nothing is wanted: Esc (else it is ignored).
    pub escape_unwanted: f64,
    /// A wanted edit after silence is made by hand (else it is forgotten).
    pub type_after_silence: f64,
    /// The chosen text is typed in two strokes rather than in one.
    pub two_strokes: f64,
}

impl Default for BehaviourRates {
    fn default() -> Self {
        Self {
            habitual_escape: 0.03,
            distraction: 0.04,
            tab_then_regret: 0.03,
            formatter: 0.10,
            mend_after_tab: 0.25,
            escape_then_type: 0.50,
            type_against: 0.25,
            escape_unwanted: 0.60,
            type_after_silence: 0.95,
            two_strokes: 0.40,
        }
    }
}

impl BehaviourRates {
    /// A developer without noise: for tests and for upper bounds.
    #[must_use]
    pub fn noiseless() -> Self {
        Self {
            habitual_escape: 0.0,
            distraction: 0.0,
            tab_then_regret: 0.0,
            formatter: 0.0,
            type_after_silence: 1.0,
            two_strokes: 0.0,
            ..Self::default()
        }
    }
}

/// A suggestion becomes visible this long after the request, ms.
pub const SHOWN_AT_MS: u64 = 40;
/// A developer reacts to a suggestion after this long, ms: shortest and longest.
pub const REACTION_MS: (usize, usize) = (600, 2200);
/// Between two keystrokes that belong together, ms: shortest and longest.
pub const STROKE_MS: (usize, usize) = (150, 900);
/// A suggestion that is ignored leaves the screen after this long, ms.
pub const IGNORED_MS: u64 = 6000;
/// When the region is looked at, seconds after the request.
pub const LOOKS_S: [u32; 3] = [30, 120, 300];
/// Between two opportunities of a developer, ms: longer than an episode, so that no two overlap.
pub const OPPORTUNITY_MS: u64 = 330_000;
