//! What processes have used, as the system's process table tells it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// What a process says of itself in `/proc/ID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Ticks of its own.
    own: u64,
    /// Ticks of its children that have ended.
    ended: u64,
}

fn parse(stat: &str) -> Option<Stat> {
    // The name before may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let parent = fields.get(1)?.parse().ok()?;
    Some(Stat { parent, own: ticks(11)? + ticks(12)?, ended: ticks(13)? + ticks(14)? })
}

/// Ticks of a second.
fn ticks_per_second() -> anyhow::Result<f64> {
    let said = Command::new("getconf").arg("CLK_TCK").output().context("getconf tells how long a tick is")?;
    Ok(String::from_utf8(said.stdout)?.trim().parse()?)
}

/// Processor seconds of a process and all that it has started so far.
pub(crate) fn processor_seconds(root: u32) -> anyhow::Result<f64> {
    let mut table = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may end while it is looked at.
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok();
        if let Some(found) = stat.as_deref().and_then(parse) {
            table.insert(id, found);
        }
    }
    ensure!(table.contains_key(&root), "process {root} has ended");
    let is_below = |id: u32| {
        let mut above = id;
        while above > 1 {
            if above == root {
                return true;
            }
            above = table.get(&above).map_or(0, |stat: &Stat| stat.parent);
        }
        false
    };
    let ticks: u64 = table.iter().filter(|(id, _)| is_below(**id)).map(|(_, stat)| stat.own + stat.ended).sum();
    Ok(ticks as f64 / ticks_per_second()?)
}

/// Processor seconds of this process alone, without what it has started.
pub(crate) fn own_processor_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("the process table says nothing of us")?;
    let stat = parse(&stat).context("the process table has no line of us that can be read")?;
    Ok(stat.own as f64 / ticks_per_second()?)
}

/// Bytes of the files below a directory, as long as they say they are.
pub(crate) fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        // What is removed while it is looked at has no bytes.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += bytes_below(&entry.path()),
            Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_process_table_is_read_whatever_the_process_is_called() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(parse(line), Some(Stat { parent: 7, own: 30, ended: 70 }));
        assert_eq!(parse("42 (cut off) S 7"), None);
    }

    #[test]
    fn our_own_work_and_that_of_our_children_counts() {
        let before = processor_seconds(std::process::id()).unwrap();
        let status = Command::new("sh").args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]).status();
        assert!(status.unwrap().success());
        assert!(processor_seconds(std::process::id()).unwrap() > before);
        assert!(own_processor_seconds().unwrap() < processor_seconds(std::process::id()).unwrap());
    }

    #[test]
    fn files_count_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("inside")).unwrap();
        std::fs::write(directory.path().join("one"), [0; 10]).unwrap();
        std::fs::write(directory.path().join("inside/two"), [0; 5]).unwrap();
        assert_eq!(bytes_below(directory.path()), 15);
        assert_eq!(bytes_below(&directory.path().join("missing")), 0);
    }
}
