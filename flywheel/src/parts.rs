//! What the parts of a platform can be: embedded ones, and those of a production platform. A configuration may name
//! every kind; when this build does not have it, the answer says which cargo feature it needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Brings the parts of a production platform.
const FEATURE: &str = "production";

/// A value that this build does not offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotInThisBuild {
    asked: String,
    offered: &'static [&'static str],
    kind: Asked,
}

/// What is known of a kind that this build does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The feature brings it.
    OfProduction,
    /// A later version will have it, behind the feature.
    Later,
    Unknown,
}

impl fmt::Display for NotInThisBuild {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, offered, kind } = self;
        let quoted: Vec<String> = offered.iter().map(|kind| format!("\"{kind}\"")).collect();
        let expected = format!("expected {}", quoted.join(" or "));
        match kind {
            Asked::Later if cfg!(feature = "production") => {
                write!(formatter, "\"{asked}\" does not exist in this version yet; {expected}")
            }
            Asked::Later | Asked::OfProduction => {
                let missing =
                    if *kind == Asked::Later { "this version does not have yet" } else { "this build does not have" };
                write!(
                    formatter,
                    "\"{asked}\" needs the cargo feature `{FEATURE}`, which {missing}: its embedded parts are all \
                     there is; {expected}"
                )
            }
            Asked::Unknown => write!(formatter, "{expected}, got \"{asked}\""),
        }
    }
}

/// Kinds of a part: the embedded one, those that the feature `production` brings, and those that come later.
macro_rules! parts {
    ($(
        $(#[$meta:meta])*
        $name:ident { $embedded:ident = $offered:literal $(, $production:ident = $text:literal)* }
        later { $($later:literal),* }
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) enum $name {
            /// What a platform has that needs nothing else.
            #[default]
            $embedded,
            $(
                /// Of a production platform.
                #[cfg(feature = "production")]
                $production,
            )*
        }

        impl TryFrom<String> for $name {
            type Error = NotInThisBuild;

            fn try_from(text: String) -> Result<Self, NotInThisBuild> {
                const OFFERED: &[&str] = &[$offered, $(#[cfg(feature = "production")] $text,)*];
                match text.as_str() {
                    $offered => return Ok(Self::$embedded),
                    $(
                        #[cfg(feature = "production")]
                        $text => return Ok(Self::$production),
                    )*
                    _ => {}
                }
                let kind = match text.as_str() {
                    $($text => Asked::OfProduction,)*
                    $($later => Asked::Later,)*
                    _ => Asked::Unknown,
                };
                Err(NotInThisBuild { asked: text, offered: OFFERED, kind })
            }
        }

        impl From<$name> for String {
            fn from(kind: $name) -> Self {
                match kind {
                    $name::$embedded => $offered.to_owned(),
                    $(
                        #[cfg(feature = "production")]
                        $name::$production => $text.to_owned(),
                    )*
                }
            }
        }
    )+};
}

parts! {
    /// What the log is.
    BusKind { Local = "local", Kafka = "kafka" } later {}
    /// What the database is.
    DatabaseKind { Sqlite = "sqlite", Postgresql = "postgresql" } later {}
    /// Where artifacts and lake parts are.
    ArtifactsKind { Local = "local", S3 = "s3" } later {}
    /// How a training job is started.
    JobsKind { Process = "process" } later { "kubernetes" }
}

impl BusKind {
    /// Whether it is shared by processes on any machine, and may go away while they stay.
    pub(crate) fn is_server(self) -> bool {
        self != Self::Local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "production"))]
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
    }

    #[cfg(feature = "production")]
    #[test]
    fn a_production_platform_has_the_kinds_of_this_version() {
        assert_eq!(ArtifactsKind::try_from("s3".to_owned()), Ok(ArtifactsKind::S3));
        assert_eq!(String::from(ArtifactsKind::S3), "s3");
        assert_eq!(
            ArtifactsKind::try_from("gcs".to_owned()).unwrap_err().to_string(),
            "expected \"local\" or \"s3\", got \"gcs\""
        );
        assert_eq!(BusKind::try_from("kafka".to_owned()), Ok(BusKind::Kafka));
        assert_eq!(
            JobsKind::try_from("kubernetes".to_owned()).unwrap_err().to_string(),
            "\"kubernetes\" does not exist in this version yet; expected \"process\""
        );
    }

    #[test]
    fn other_words_are_answered_with_what_there_is() {
        assert_eq!(
            JobsKind::try_from("proces".to_owned()).unwrap_err().to_string(),
            "expected \"process\", got \"proces\"".to_owned()
        );
        assert_eq!(BusKind::try_from("local".to_owned()), Ok(BusKind::Local));
    }
}
