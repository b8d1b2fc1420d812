//! An artifact that names a model of an engine instead of holding its weights: `engine.json` beside the `tokenizer.json`
//! of the base, from which prompts are made.

use std::path::Path;

use edit_model::export::Dialect;
use serde::Deserialize;

use crate::models::Unservable;

/// Says that a directory is such an artifact.
const FILE: &str = "engine.json";

/// `engine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// The engine, as the configuration names it.
    pub(crate) engine: String,
    /// The model, as the engine names it.
    pub(crate) model: String,
    /// How the model is asked.
    pub(crate) dialect: String,
}

impl Description {
    /// The description in `directory`; none where there are weights.
    pub(crate) async fn read(directory: &Path) -> Result<Option<Self>, Unservable> {
        match tokio::fs::read(directory.join(FILE)).await {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| Unservable(format!("{FILE}: {error}")))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unservable(format!("{FILE}: {error}"))),
        }
    }

    pub(crate) fn dialect(&self) -> Result<Dialect, Unservable> {
        self.dialect.parse::<Dialect>().map_err(|error| Unservable(format!("{FILE}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn weights_are_no_description_and_a_bad_one_says_why() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Description::read(directory.path()).await, Ok(None));
        let write = |text: &str| std::fs::write(directory.path().join(FILE), text).unwrap();
        write(r#"{"engine": "big", "model": "qwen", "dialect": "qwen2.5-coder-fim"}"#);
        let read = Description::read(directory.path()).await.unwrap().unwrap();
        assert_eq!((read.engine.as_str(), read.dialect()), ("big", Ok(Dialect::QwenCoderFim)));
        write(r#"{"engine": "big", "model": "qwen", "dialect": "english"}"#);
        let read = Description::read(directory.path()).await.unwrap().unwrap();
        assert!(read.dialect().unwrap_err().0.contains("english"));
        write(r#"{"engine": "big", "model": "qwen", "dialect": "flywheel", "url": "http://a"}"#);
        assert!(Description::read(directory.path()).await.unwrap_err().0.contains("unknown field `url`"));
    }
}
