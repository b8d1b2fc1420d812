//! Room on the disks that a platform writes to.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::statvfs;
use service::finding::Finding;

use super::Patient;
use super::data::nearest;

/// Less than this does not last: a log, models and training runs grow by gigabytes.
const ENOUGH_BYTES: u64 = 5 << 30;

pub(super) async fn look(patient: Arc<Patient>) -> Vec<Finding> {
    let data = match &patient.data {
        Some(data) => data.root(),
        None => nearest(&patient.settings.data_dir),
    };
    // Temporary files lie there as well.
    vec![room("disk.data", data, "the data directory", ENOUGH_BYTES)]
}

/// How much room there is beside `path`, of which `enough` bytes are enough.
fn room(check: &str, path: &Path, what: &str, enough: u64) -> Finding {
    let shown = path.display();
    match statvfs(path) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let says = format!("{:.1} GiB are free for {what} in {shown}", free as f64 / f64::from(1_u32 << 30));
            if free >= enough {
                Finding::ok(check, says)
            } else {
                let advice = "make room or take a larger disk; what finds no room is refused, not lost";
                Finding::warning(check, says, advice)
            }
        }
        Err(error) => {
            let says = format!("how much room there is for {what} in {shown} is not known: {error}");
            Finding::warning(check, says, "look whether it is there")
        }
    }
}

#[cfg(test)]
mod tests {
    use service::finding::Verdict;

    use super::*;

    #[test]
    fn a_disk_with_little_room_is_a_warning() {
        let place = std::env::temp_dir();
        let of = |enough: u64| room("disk.data", &place, "data", enough).verdict;
        assert_eq!((of(0), of(u64::MAX)), (Verdict::Ok, Verdict::Warning));
        assert_eq!(room("disk.data", Path::new("/no/such/place"), "data", 0).verdict, Verdict::Warning);
    }
}
