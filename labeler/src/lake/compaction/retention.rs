//! Retention: parts leave the lake when every pair in them was labeled longer ago than pairs are kept.
//!
//! What goes is decided by the rows alone, so that a part that cannot be read goes as well. It goes the way of a part
//! that was written again: in one transaction, behind the fence of the lease, its row goes and its object is written down
//! to be removed later; whoever listed it before goes on reading. The same transaction writes down up to which label
//! pairs may be gone because of their age ([`expired_until`]): an audit tells by it what is past retention from what is
//! lost. A process may end at each of these points.
//!
//! Most parts hold pairs of one day, so that a pair goes at most a day late. Compaction parts those that hold pairs of
//! several days, as soon as another day begins; where nothing is compacted, such a part goes with its newest pair.

use std::collections::BTreeMap;

use events::{TenantId, Timestamp};
use metrics::counter;
use service::lease::Fence;
use sqlx::{AnyConnection, Row as _};

use super::{Compactor, take_out};
use crate::lake::LakePart;
use crate::lake::error::LakeError;
use crate::lake::rows;

/// What has left the lake because of its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Parts.
    pub parts: u64,
    /// Pairs in them, as their rows say.
    pub pairs: u64,
}

impl Compactor {
    /// Takes those parts out of the lake of which every pair was labeled before `before`. Their objects are removed by a
    /// later [`Compactor::compact`], as those of parts that were written again; `now` is real time, by which they are
    /// kept. Idempotent; may be dropped at any point.
    ///
    /// # Errors
    /// A lease that was lost, or a database that fails. What was done until then stays.
    pub async fn expire(&self, fence: &Fence, before: Timestamp, now: Timestamp) -> Result<Expired, LakeError> {
        let mut done = Expired::default();
        loop {
            let parts = rows::labeled_before(&self.pool, before).await?;
            if parts.is_empty() {
                return Ok(done);
            }
            migrations::retried(|| self.let_go(fence, &parts, now)).await?;
            let gone = Expired {
                parts: u64::try_from(parts.len()).unwrap_or(u64::MAX),
                pairs: parts.iter().map(|part| part.pairs).sum(),
            };
            counter!("flywheel_labeler_lake_parts_expired_total").increment(gone.parts);
            counter!("flywheel_labeler_lake_pairs_expired_total").increment(gone.pairs);
            done = Expired { parts: done.parts + gone.parts, pairs: done.pairs + gone.pairs };
        }
    }

    async fn let_go(&self, fence: &Fence, parts: &[LakePart], now: Timestamp) -> Result<(), LakeError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        fence.check(&mut transaction).await?;
        take_out(&mut transaction, parts, now).await?;
        for part in parts {
            rows::expire_until(&mut transaction, &part.tenant, part.max_labeled_at).await?;
        }
        migrations::commit(transaction).await?;
        Ok(())
    }
}

/// Of each tenant of which something has left the lake because of its age: the newest label of what has. Whatever is
/// newer must be there.
///
/// # Errors
/// A database that fails or holds something that it may not.
pub async fn expired_until(connection: &mut AnyConnection) -> Result<BTreeMap<TenantId, Timestamp>, LakeError> {
    let rows = sqlx::query("SELECT tenant, labeled_until FROM lake_expired").fetch_all(connection).await?;
    let mut until = BTreeMap::new();
    for row in rows {
        let tenant: TenantId = row.try_get::<String, _>(0)?.parse()?;
        until.insert(tenant, Timestamp::from_micros(row.try_get(1)?));
    }
    Ok(until)
}
