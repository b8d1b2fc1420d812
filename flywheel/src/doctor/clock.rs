//! Clocks: which one counts, and how far those of others are from this machine's.
//!
//! Processes compare times that they wrote on different machines (leases, deadlines), and an object store refuses
//! requests whose time is far from its own. All machines are compared with the same database. Kafka tells no time.

use std::sync::Arc;
use std::time::Duration;

use service::clock::ClockKind;
use service::finding::Finding;

use super::{Patient, database};

/// From here on leases and deadlines are wrong by what people notice.
const WARNING: Duration = Duration::from_secs(1);
/// From here on they are useless.
const FAILED: Duration = Duration::from_secs(30);

const SET_IT: &str = "set the clocks of both machines by the same time server (NTP)";

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let mut findings = vec![kind(&patient)];
    let (of_database, of_bucket) = tokio::join!(of_database(&patient), of_bucket(&patient));
    findings.extend(of_database.map(|(difference, unsure)| judge("clock.database", "database", difference, unsure)));
    findings.extend(of_bucket.map(|(difference, unsure)| judge("clock.bucket", "object store", difference, unsure)));
    findings
}

fn kind(patient: &Patient) -> Finding {
    match patient.settings.clock.kind {
        ClockKind::Real => Finding::ok("clock.kind", "time is that of this machine"),
        ClockKind::Simulated | ClockKind::Scaled => {
            let says = "time is not that of this machine: `clock.kind` is for tests";
            Finding::warning("clock.kind", says, "set `clock.kind` = \"real\" for people")
        }
    }
}

/// None: there is no server, or it can not be asked, which is told elsewhere.
async fn of_database(patient: &Patient) -> Option<(i64, Duration)> {
    if !patient.settings.database.kind.is_server() {
        return None;
    }
    let pool = database::connect(patient).await.ok().flatten()?;
    let (difference, took) = migrations::clock_difference(&pool).await.ok()?;
    Some((difference, took / 2))
}

#[cfg(feature = "production")]
async fn of_bucket(patient: &Patient) -> Option<(i64, Duration)> {
    let store = super::bucket::store(patient).await?.ok()?;
    tokio::time::timeout(patient.patience, store.clock_difference()).await.ok()?.ok()?
}

#[cfg(not(feature = "production"))]
async fn of_bucket(_: &Patient) -> Option<(i64, Duration)> {
    None
}

/// `micros`: how much later the other clock is than ours; `unsure`: by how much that may be wrong.
fn judge(check: &str, what: &str, micros: i64, unsure: Duration) -> Finding {
    let difference = Duration::from_micros(micros.unsigned_abs());
    let certain = difference.saturating_sub(unsure);
    let (seconds, unsure) = (difference.as_secs_f64(), unsure.as_secs_f64());
    let ahead = if micros < 0 { "behind" } else { "ahead of" };
    if certain > FAILED {
        Finding::failed(check, format!("the clock of the {what} is {seconds:.1} s {ahead} ours"), SET_IT)
    } else if certain > WARNING {
        Finding::warning(check, format!("the clock of the {what} is {seconds:.1} s {ahead} ours"), SET_IT)
    } else {
        let says = format!("the clock of the {what} is within {:.1} s of ours", (seconds + unsure).max(0.1));
        Finding::ok(check, says)
    }
}

#[cfg(test)]
mod tests {
    use service::finding::Verdict;

    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_is_certain() {
        let of = |micros: i64, unsure: Duration| {
            let finding = judge("clock.database", "database", micros, unsure);
            (finding.verdict, finding.says)
        };
        let sure = Duration::from_millis(1);
        assert_eq!(of(-2_000, sure), (Verdict::Ok, "the clock of the database is within 0.1 s of ours".to_owned()));
        let behind = "the clock of the database is 1.5 s behind ours".to_owned();
        assert_eq!(of(-1_500_000, sure), (Verdict::Warning, behind));
        let ahead = "the clock of the database is 40.0 s ahead of ours".to_owned();
        assert_eq!(of(40_000_000, sure), (Verdict::Failed, ahead));
        // An answer that took seconds says nothing of a difference of one.
        assert_eq!(of(1_500_000, Duration::from_secs(2)).0, Verdict::Ok);
    }
}
