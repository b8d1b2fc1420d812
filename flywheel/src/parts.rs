//! The parts of which this version has one kind each. A configuration may name the kinds of a production platform; the
//! answer says which cargo feature they need, and that this version does not have it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that this version does not offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotInThisVersion {
    asked: String,
    offered: &'static str,
    feature: Option<&'static str>,
}

impl fmt::Display for NotInThisVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, offered, feature } = self;
        match feature {
            Some(feature) => write!(
                formatter,
                "\"{asked}\" needs the cargo feature `{feature}`, which this version does not have yet: its embedded \
                 parts are all there is; expected \"{offered}\""
            ),
            None => write!(formatter, "expected \"{offered}\", got \"{asked}\""),
        }
    }
}

macro_rules! parts {
    ($(
        $(#[$meta:meta])*
        $name:ident, $only:ident = $offered:literal, $($asked:literal needs $feature:literal),+;
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) enum $name {
            /// The only one of this version.
            #[default]
            $only,
        }

        impl TryFrom<String> for $name {
            type Error = NotInThisVersion;

            fn try_from(text: String) -> Result<Self, NotInThisVersion> {
                let feature = match text.as_str() {
                    $offered => return Ok(Self::$only),
                    $($asked => Some($feature),)+
                    _ => None,
                };
                Err(NotInThisVersion { asked: text, offered: $offered, feature })
            }
        }

        impl From<$name> for String {
            fn from(_: $name) -> Self {
                $offered.to_owned()
            }
        }
    )+};
}

parts! {
    /// What the log is.
    BusKind, Local = "local", "kafka" needs "production";
    /// What the database is.
    DatabaseKind, Sqlite = "sqlite", "postgresql" needs "production", "postgres" needs "production";
    /// Where artifacts and lake parts are.
    ArtifactsKind, Local = "local", "s3" needs "production";
    /// How a training job is started.
    JobsKind, Process = "process", "kubernetes" needs "production";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_a_production_platform_names_its_feature() {
        let refusals = [
            BusKind::try_from("kafka".to_owned()).unwrap_err(),
            DatabaseKind::try_from("postgresql".to_owned()).unwrap_err(),
            ArtifactsKind::try_from("s3".to_owned()).unwrap_err(),
            JobsKind::try_from("kubernetes".to_owned()).unwrap_err(),
        ];
        for refusal in refusals {
            assert!(refusal.to_string().contains("cargo feature `production`"), "{refusal}");
        }
        assert_eq!(
            BusKind::try_from("loca".to_owned()).unwrap_err().to_string(),
            "expected \"local\", got \"loca\"".to_owned()
        );
        assert_eq!(BusKind::try_from("local".to_owned()), Ok(BusKind::Local));
    }
}
