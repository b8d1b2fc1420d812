//! What a look at something found, for whoever looks at everything and changes nothing (`flywheel doctor`).

use serde::Serialize;

/// How it stands with what was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A platform runs with it, and somebody should look at it.
    Warning,
    /// No platform runs with it, or not for long.
    Failed,
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: the part, a dot, and what of it, such as `kafka.topics`.
    pub check: String,
    /// How it stands with it.
    pub verdict: Verdict,
    /// What was found, in one sentence without a secret.
    pub says: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn ok(check: impl Into<String>, says: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, says: says.into(), advice: None }
    }

    /// Somebody should look at it.
    #[must_use]
    pub fn warning(check: impl Into<String>, says: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { check: check.into(), verdict: Verdict::Warning, says: says.into(), advice }
    }

    /// No platform runs with it.
    #[must_use]
    pub fn failed(check: impl Into<String>, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, ..Self::warning(check, says, advice) }
    }

    /// The failure that an error tells. Our errors say behind their last semicolon what to do; `otherwise` is said for
    /// those that do not.
    #[must_use]
    pub fn told(check: impl Into<String>, error: &str, otherwise: &str) -> Self {
        match error.rsplit_once("; ") {
            Some((says, advice)) => Self::failed(check, says, advice),
            None => Self::failed(check, error, otherwise),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_taken_from_the_error_that_says_it() {
        let told = Finding::told("a.b", "the door is shut; open it", "knock");
        assert_eq!((told.says.as_str(), told.advice.as_deref()), ("the door is shut", Some("open it")));
        let told = Finding::told("a.b", "the door is shut", "knock");
        assert_eq!((told.says.as_str(), told.advice.as_deref()), ("the door is shut", Some("knock")));
        assert_eq!(told.verdict, Verdict::Failed);
    }
}
