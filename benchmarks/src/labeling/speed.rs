//! How fast labels are made: the step's handler in memory, through the local log beside a bare stateful step, what
//! memory it takes, and the divergence point alone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bus::testing::ReferenceStep;
use events::topics::SERVING_OUTCOMES;
use events::{ActionList, ByteRange, EditAction, EditContext, Window, apply_actions};
use labeler::divergence::divergence;

use super::LabelingSizes;
use super::load::{Stream, Templates};
use super::office::{Office, START};
use super::through_bus;
use super::wheel::{handler, labeler_step, settle};
use crate::log;
use crate::measurement::{Better, Measurement, median};

const SEED: u64 = 23;
const PERSONS: usize = 64;
/// Scenes of every meaning that loads are made of.
const ROUNDS: usize = 12;
/// Lines of a window: about 1 KiB, and about 8 KiB.
const SMALL_WINDOW: usize = 30;
const LARGE_WINDOW: usize = 230;
/// Opportunities that are open at once while rates are measured.
const OPEN: usize = 5_000;
/// Opportunities that are open at once in memory, where every editor has one, and rounds.
const IN_MEMORY: usize = 2_000;
const IN_MEMORY_ROUNDS: usize = 5;
/// When nothing of a session is kept any more.
const FAR: Duration = Duration::from_secs(400 * 24 * 3600);
/// Bytes of each side whose divergence is timed, times, and what is aimed at.
const SIDE_BYTES: usize = 4 << 10;
const SIDE_TIMES: usize = 2_001;
const EPISODES_TARGET: f64 = 50_000.0;
const EVENTS_TARGET: f64 = 10_000.0;
const BARE_SHARE: f64 = 0.8;
const RESIDENT_TARGET: f64 = 512.0;
const DIVERGENCE_TARGET: f64 = 50.0;
/// The last quarter may take so much more than the second one: an allocator is no ruler.
const FLAT: f64 = 1.1;

/// Two sides of about `SIDE_BYTES` each over a window of real code: every third line is replaced by another one of the
/// file, and in the last of them the sides say something else.
fn sides(file: &str) -> anyhow::Result<(EditContext, ActionList, ActionList)> {
    let lines: Vec<&str> = file.lines().filter(|line| line.trim().len() > 8).collect();
    let (mut start, mut written, mut number) = (0_usize, 0_usize, 0_usize);
    let (mut text, mut actions) = (String::new(), Vec::new());
    for line in file.split_inclusive('\n') {
        let code = line.trim_end_matches('\n');
        if number % 3 == 1 && code.trim().len() > 8 && written < SIDE_BYTES {
            let other = lines.get((number * 7 + 11) % lines.len().max(1)).copied().unwrap_or_default();
            actions.push(EditAction {
                path: "src/lib.rs".to_owned(),
                range: ByteRange::new(start as u64, (start + code.len()) as u64),
                old_text: code.to_owned(),
                new_text: other.to_owned(),
            });
            written += other.len();
        }
        start += line.len();
        number += 1;
        text.push_str(line);
        if written >= SIDE_BYTES {
            break;
        }
    }
    ensure!(written >= SIDE_BYTES, "the file is too short");
    let mut rejected = actions.clone();
    let last = rejected.last_mut().context("nothing is replaced")?;
    last.new_text.push_str(" .something_else()");
    let context = EditContext {
        repository: "r".to_owned(),
        path: "src/lib.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: Vec::new(),
        window: Window { start_byte: 0, first_line: 0, text },
        cursor_byte: 0,
    };
    let open = |actions| ActionList { actions, closed: false };
    Ok((context, open(actions), open(rejected)))
}

/// The divergence point of two large sides, beside applying both and comparing the results.
fn divergence_time() -> anyhow::Result<Measurement> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus");
    let path = corpus.join("terminal-desk/rustyline/src/line_buffer.rs");
    let file = std::fs::read_to_string(&path).with_context(|| format!("{} can not be read", path.display()))?;
    let (context, chosen, rejected) = sides(&file)?;
    let (mut ours, mut plain) = (Vec::with_capacity(SIDE_TIMES), Vec::with_capacity(SIDE_TIMES));
    let applied = |actions: &ActionList| apply_actions(0, &context.window.text, &actions.actions);
    for _ in 0..SIDE_TIMES {
        let started = Instant::now();
        let parted = divergence(&context, std::hint::black_box(&chosen), std::hint::black_box(&rejected));
        ours.push(started.elapsed().as_secs_f64() * 1e6);
        ensure!(parted.is_some(), "the sides do not part");
        let started = Instant::now();
        let same = applied(std::hint::black_box(&chosen)) == applied(std::hint::black_box(&rejected));
        plain.push(started.elapsed().as_secs_f64() * 1e6);
        ensure!(!same, "the sides do the same");
    }
    let (actions, window) = (chosen.actions.len(), context.window.text.len());
    let note = format!(
        "median of {SIDE_TIMES}; {actions} actions of {SIDE_BYTES} bytes a side over a window of {window} bytes; \
         baseline: both applied and compared"
    );
    let measurement = Measurement::new("labeling: divergence of two 4 KiB sides", median(ours), "us", note);
    Ok(measurement.beside(median(plain)).aiming_at(DIVERGENCE_TARGET, Better::Less))
}

/// What one thread did in memory.
struct InMemory {
    /// Of one round.
    episodes: usize,
    episodes_per_second: f64,
    events_per_second: f64,
}

/// The step's own handler over plain maps. Making the load is not timed.
async fn in_memory(office: &Office, templates: &Templates) -> anyhow::Result<InMemory> {
    let handler = handler(office);
    let (mut rates, mut episodes) = (Vec::new(), 0);
    // The first round loads keys and is not counted.
    for round in 0..=IN_MEMORY_ROUNDS {
        let mut step = labeler_step(&handler, 1);
        let mut stream = Stream::new(office, templates, IN_MEMORY).once();
        let mut events = 0_u64;
        while let Some(record) = stream.record()? {
            step.publish(record);
            events += 1;
        }
        let started = Instant::now();
        settle(&mut step, &handler, ReferenceStep::run).await?;
        settle(&mut step, &handler, |step| step.advance_to(START + FAR)).await?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(step.dead_letters().is_empty(), "inputs ended as dead letters");
        episodes = step.emitted(SERVING_OUTCOMES).len();
        ensure!(episodes > 0, "nothing was labeled");
        if round > 0 {
            rates.push((episodes as f64 / seconds, events as f64 / seconds));
        }
    }
    let (by_episode, by_event): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
    Ok(InMemory { episodes, episodes_per_second: median(by_episode), events_per_second: median(by_event) })
}

/// All figures of speed and size.
pub(crate) fn measure(sizes: &LabelingSizes) -> anyhow::Result<Vec<Measurement>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let office = runtime.block_on(Office::open(SEED, PERSONS))?;
    let small = Templates::new(&office, SMALL_WINDOW, ROUNDS)?;
    let mut measurements = Vec::new();

    // First, while nothing else has used memory.
    let folder = log::folder()?;
    let mut stream = Stream::new(&office, &small, sizes.open_episodes);
    let watched = through_bus::resident(folder.path(), &office, &mut stream, sizes.resident_events);
    let resident = runtime.block_on(watched)?;
    drop((stream, folder));
    let note = format!(
        "{} events with {} opportunities open, {:.0} s; the maker of the load is in it; state and log on disk",
        resident.events, sizes.open_episodes, resident.seconds
    );
    let memory = Measurement::new("labeling: resident memory, most", resident.most, "MiB", note);
    measurements.push(memory.aiming_at(RESIDENT_TARGET, Better::Less));
    let flat = Measurement::new(
        "labeling: resident memory, last quarter",
        resident.late,
        "MiB",
        format!("baseline: the second quarter; flat: at most {FLAT} times that"),
    );
    measurements.push(flat.beside(resident.early).aiming_at(resident.early * FLAT, Better::Less));

    measurements.push(divergence_time()?);

    let large = Templates::new(&office, LARGE_WINDOW, ROUNDS)?;
    let windows = [("1 KiB windows", &small, Some(EPISODES_TARGET)), ("8 KiB windows", &large, None)];
    for (name, templates, target) in windows {
        let InMemory { episodes, episodes_per_second, events_per_second } =
            runtime.block_on(in_memory(&office, templates))?;
        let each = templates.events_each();
        let note = format!(
            "one thread, median of {IN_MEMORY_ROUNDS} rounds of {episodes} opportunities of {each:.1} events; \
             {events_per_second:.0} events/s"
        );
        let name = format!("labeling: in memory, {name}");
        let rate = Measurement::new(name, episodes_per_second, "episodes/s", note);
        measurements.push(match target {
            Some(target) => rate.aiming_at(target, Better::More),
            None => rate,
        });
    }

    let folder = log::folder()?;
    let mut stream = Stream::new(&office, &large, OPEN);
    let bytes = sizes.input_mib << 20;
    let each = large.events_each();
    let rates = runtime.block_on(through_bus::rates(folder.path(), &office, &mut stream, bytes, OPEN, each))?;
    let note = format!(
        "{} events, {:.2} GiB, {} pairs, {OPEN} opportunities open; baseline: the bare stateful step over as many \
         records of the same size, 8 KiB of state once a key",
        rates.events,
        rates.bytes as f64 / f64::from(1 << 30),
        rates.pairs
    );
    let through = Measurement::new("labeling: through the local log", rates.labeled, "events/s", note);
    measurements.push(through.beside(rates.bare).aiming_at(EVENTS_TARGET, Better::More));
    let share = Measurement::new(
        "labeling: share of the bare step's rate",
        rates.labeled / rates.bare,
        "share",
        "what labeling itself leaves of the log's rate",
    );
    measurements.push(share.aiming_at(BARE_SHARE, Better::More));
    Ok(measurements)
}
