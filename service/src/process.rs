//! What this process costs, as the system counts it. Linux only; elsewhere nothing is recorded.

use std::path::Path;

/// In which `/proc` counts processor time: the kernel's USER_HZ, 100 a second on every architecture that we build for.
const TICKS_A_SECOND: f64 = 100.0;
/// Fields of `/proc/self/stat` behind the name of the program: user and system time, of ourselves and of children that
/// have ended.
const TIMES: std::ops::Range<usize> = 11..15;

/// Records processor time and memory as they are now.
pub(crate) fn record() {
    let Some((seconds, bytes)) = usage(Path::new("/proc/self")) else { return };
    // It only grows, as a counter; but counters here count whole numbers.
    metrics::gauge!("flywheel_service_processor_seconds").set(seconds);
    metrics::gauge!("flywheel_service_resident_bytes").set(bytes);
}

fn usage(process: &Path) -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The name stands in parentheses and may hold any sign.
    let (_, behind) = stat.rsplit_once(") ")?;
    let times: Vec<f64> = behind.split(' ').skip(TIMES.start).take(TIMES.len()).flat_map(str::parse).collect();
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok());
    let bytes = kibibytes.map(|kibibytes: f64| kibibytes * 1024.0)?;
    (times.len() == TIMES.len()).then(|| (times.iter().sum::<f64>() / TICKS_A_SECOND, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_whatever_name_a_program_has() {
        let directory = tempfile::tempdir().unwrap();
        let stat = "7 (fly) wheel 1 (2) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 30 20 20 0 9 0 1 2 3";
        std::fs::write(directory.path().join("stat"), stat).unwrap();
        assert_eq!(usage(directory.path()), None);
        std::fs::write(directory.path().join("status"), "Name:\tfly\nVmRSS:\t    2048 kB\n").unwrap();
        assert_eq!(usage(directory.path()), Some((3.5, 2_097_152.0)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_cost_something() {
        let begun = std::time::Instant::now();
        loop {
            let (seconds, bytes) = usage(Path::new("/proc/self")).unwrap();
            assert!(bytes > 100_000.0, "{bytes}");
            if seconds > 0.0 {
                break;
            }
            assert!(begun.elapsed().as_secs() < 30, "no processor time is counted");
        }
    }
}
