//! How fast a data set is made of the pairs of a lake, and whether ten times the pairs take ten times the time; what it
//! costs to take from texts what they say, to find near-duplicates and to read the lake. Beside DuckDB and datasketch,
//! which are asked the same and must find the same.

mod building;
mod company;
mod lessons;
mod near_duplicates;
mod peers;
mod pool;
mod scan;

use anyhow::ensure;
use trainer_orchestrator::LEAST_GATE_OPPORTUNITIES;

use self::pool::Pool;
use crate::log;
use crate::measurement::Measurement;

/// Real texts that everything is made of, and who writes them.
const TEXTS: usize = 10_000;
const WRITERS: usize = 40;

/// How many pairs data sets are made of.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct DataSetSizes {
    /// Most pairs of `data-set`; a tenth and a hundredth of it are measured too.
    #[arg(long, default_value_t = 1_000_000)]
    pairs_of_lake: usize,
}

/// All figures of data sets.
pub(crate) fn measure(asked: &DataSetSizes) -> anyhow::Result<Vec<Measurement>> {
    let most = asked.pairs_of_lake;
    // The smallest must have enough to be judged by, and to train on besides.
    let least = LEAST_GATE_OPPORTUNITIES * 4 * 100;
    ensure!(most >= least, "--pairs-of-lake must be at least {least}");
    let folder = log::folder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pool = runtime.block_on(Pool::new(WRITERS, TEXTS))?;
    let (lessons, opened) = lessons::measure(&pool)?;
    let mut measurements = building::measure(folder.path(), &pool, &lessons, &[most / 100, most / 10, most])?;
    measurements.push(opened);
    measurements.extend(near_duplicates::measure(folder.path(), &pool, &lessons)?);
    measurements.extend(scan::measure(folder.path(), &pool, &lessons)?);
    Ok(measurements)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model_registry::lineage::Purpose;
    use trainer_orchestrator::data_set::build;
    use trainer_orchestrator::data_set::composition::{Census, Reason};
    use trainer_orchestrator::data_set::lesson::Lesson;
    use trainer_orchestrator::data_set::policy::DataSetPolicy;

    use super::company::Company;
    use super::*;

    const SIZE: usize = 2_000;
    const GATE: usize = 200;

    #[tokio::test]
    async fn a_company_gives_every_stage_something_to_do() {
        let pool = Pool::new(8, 100).await.unwrap();
        assert!(pool.pairs.iter().all(|open| open.pair.sealed.is_some()));
        let lessons: Vec<Lesson> = pool.pairs.iter().map(|open| Lesson::of(&open.text)).collect();
        let candidates = Company::new(&pool, &lessons, SIZE, 90).candidates(SIZE).unwrap();
        let ids: BTreeSet<_> = candidates.iter().map(|candidate| candidate.pair.pair_id).collect();
        assert_eq!(ids.len(), SIZE);
        let filters = building::filters(GATE, SIZE).unwrap();
        let plan = build(filters, &DataSetPolicy::default(), &candidates, &Census::new()).unwrap();
        assert_eq!(plan.count(Purpose::Gate), GATE);
        for reason in [Reason::Duplicate, Reason::Merged, Reason::BeyondPerson, Reason::NearDuplicate] {
            let left_out = plan.composition.left_out(reason);
            assert!(left_out > 0 && left_out < SIZE / 2, "{left_out} {}", reason.as_str());
        }
    }
}
