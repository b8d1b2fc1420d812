//! Prints the rates of the local log: `cargo run --release -p bus --example rates [FOLDER]`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bus::Bus;
use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{self, Load};
use service::clock::RealClock;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("bus-rates-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(&folder).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let log = LocalLog::open(&folder.join("log.sqlite"), RealClock::shared(), LocalLogConfig::default())?;
    let bus: Arc<dyn Bus> = Arc::new(log);
    let load = Load::default();
    let mut out = std::io::stdout();
    let published = measure::publish(&bus, "load", &load).await?;
    writeln!(out, "publish: {:.0} acknowledged records/s (target 20000)", published.per_second())?;
    let stepped = measure::step(&bus, "load", &load).await?;
    writeln!(out, "stateful step: {:.0} records/s (target 5000)", stepped.per_second())?;
    Ok(())
}
