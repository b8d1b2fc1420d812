//! A look at the file of a log from outside, by somebody who must not make one.

use std::collections::BTreeMap;
use std::path::Path;

use super::LocalLogConfig;
use super::schema::{Access, check_format, open_reader, storage};
use crate::error::BusError;

/// What the file of a log says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLogFacts {
    /// Its format.
    pub format: i64,
    /// Numbers of partitions by topic, as the callers know it; those of other wheels in the same file left out.
    pub topics: BTreeMap<String, u32>,
}

/// Looks at the file of a log, which must be there.
///
/// # Errors
/// A file that can not be read, or that is no log of this release.
pub fn look(path: &Path, config: &LocalLogConfig) -> Result<LocalLogFacts, BusError> {
    let connection = open_reader(path, Access::Read)?;
    let format = check_format(&connection)?;
    let mut statement = connection.prepare("SELECT name, partitions FROM topics").map_err(storage)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(storage)?;
    let mut topics = BTreeMap::new();
    for row in rows {
        let (stored, partitions): (String, u32) = row.map_err(storage)?;
        if let Some(name) = stored.strip_prefix(&config.prefix) {
            topics.insert(name.to_owned(), partitions);
        }
    }
    Ok(LocalLogFacts { format, topics })
}

#[cfg(test)]
mod tests {
    use super::super::LocalLog;
    use super::*;
    use crate::interface::Bus as _;
    use crate::record::{Retention, TopicSpec};
    use service::clock::RealClock;

    #[tokio::test]
    async fn a_log_is_looked_at_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.sqlite");
        let config = LocalLogConfig { prefix: "a.".to_owned(), ..LocalLogConfig::default() };
        assert!(matches!(look(&path, &config), Err(BusError::Storage(_))));
        assert!(!path.exists());
        let log = LocalLog::open(&path, RealClock::shared(), config.clone()).unwrap();
        log.create_topics(&[TopicSpec::new("in", 3, Retention::default())]).await.unwrap();
        let topics = BTreeMap::from([("in".to_owned(), 3)]);
        assert_eq!(look(&path, &config), Ok(LocalLogFacts { format: 1, topics }));
        let other = LocalLogConfig { prefix: "b.".to_owned(), ..config };
        assert_eq!(look(&path, &other).map(|facts| facts.topics.len()), Ok(0));
    }
}
