//! Labels: how right they are, how fast they are made, and what each rule of the label table is worth.

pub(crate) mod ablation;
pub(crate) mod interval;
pub(crate) mod lessons;
mod load;
pub(crate) mod office;
pub(crate) mod scenes;
pub(crate) mod speed;
mod through_bus;
pub(crate) mod truth;
pub(crate) mod wheel;

/// How much is measured of labels.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct LabelingSizes {
    /// Persons of `labels`.
    #[arg(long, default_value_t = 60)]
    pub(crate) people: usize,
    /// How often each of them means every row of the label table.
    #[arg(long, default_value_t = 2)]
    pub(crate) label_rounds: usize,
    /// Telemetry through the local log in `labeling`, MiB.
    #[arg(long, default_value_t = 1024)]
    pub(crate) input_mib: u64,
    /// Events while `labeling` watches memory.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) resident_events: u64,
    /// Opportunities open at once meanwhile.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) open_episodes: usize,
}
