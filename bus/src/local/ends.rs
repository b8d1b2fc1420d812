//! Where partitions end, as far as this process knows, and waking who waits for more.

use std::collections::HashMap;

use parking_lot::RwLock;
use tokio::sync::watch;

/// Ends of partitions by partition id. Knows what this process appended at once, and what other processes appended when
/// the watch thread has looked.
pub(super) struct Ends {
    next: RwLock<HashMap<i64, u64>>,
    changes: watch::Sender<u64>,
}

impl Ends {
    pub(super) fn new() -> Self {
        Self { next: RwLock::new(HashMap::new()), changes: watch::Sender::new(0) }
    }

    /// Partitions end there (or farther); wakes waiters when that is news.
    pub(super) fn appended(&self, ends: impl Iterator<Item = (i64, u64)>) {
        let mut news = false;
        {
            let mut next = self.next.write();
            for (partition_id, end) in ends {
                let known = next.entry(partition_id).or_insert(0);
                if end > *known {
                    *known = end;
                    news = true;
                }
            }
        }
        if news {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The known end of a partition.
    pub(super) fn end(&self, partition_id: i64) -> u64 {
        self.next.read().get(&partition_id).copied().unwrap_or(0)
    }

    /// Changes whenever some partition grew.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Looks up where every partition ends.
pub(super) fn load(connection: &rusqlite::Connection, ends: &Ends) -> rusqlite::Result<()> {
    let mut query = connection.prepare_cached("SELECT id, next FROM partitions")?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    let found: Vec<(i64, u64)> = rows.collect::<Result<_, _>>()?;
    ends.appended(found.into_iter());
    Ok(())
}
