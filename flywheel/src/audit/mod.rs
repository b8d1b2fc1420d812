//! `flywheel audit`: the retained log, replayed into empty state with the same binary, and everything that the platform
//! concluded held against it.
//!
//! * Each step is replayed from its own input as it stands in the log (`replay`), and what it puts out is compared with
//!   what the platform's step put out, by id and content (`items`, `compare`).
//! * The ledger is counted once more from the log (`ledger`), every part of the lake is read and held against its row
//!   and against the log (`lake`), and so is the table of closed opportunities (`tally`).
//! * The registry checks itself ([`model_registry::Registry::check_consistency`]).
//!
//! The platform may run; it is never written to (`source`), and audited up to a cut (`cut`). What lies before the range
//! that the log still holds can not be replayed: a session whose history begins there is left out and counted, with the
//! reason. What the log does not determine (when the platform's own clock let a step conclude) is told apart from what
//! it does by replaying it under other assumptions, and counted as not covered where these disagree.

mod compare;
mod cut;
mod items;
mod lake;
mod ledger;
mod reading;
mod replay;
mod report;
mod scratch;
mod source;
mod stage;
mod tables;
mod tally;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use bus::control::Control;
use bus::{BusError, HistoryEntry};
use bytes::Bytes;
use events::Timestamp;
use events::topics::{DEAD_LETTERS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use labeler::lake::LakeReader;
use model_registry::Checked;
use service::drain::stop_signal;

use self::compare::Retained;
use self::cut::Cut;
use self::items::Items;
use self::ledger::Hours;
use self::reading::{CleanReader, RawReader, Reading, first_entries};
use self::replay::{Model, Nobody, Player, Replayed, Selection, Tape, Visitor};
use self::report::{Check, Report, SHOWN};
use self::scratch::{FIRST_REPLAY, Named, Scratch};
use self::source::Source;
use self::stage::{Kind, Stage};
use self::tables::{Since, Tables};
use crate::cli::{AuditArgs, Common};
use crate::failure::Failure;
use crate::parts::BusKind;
use crate::progress::Progress;
use crate::table::{print, print_json};

const HOUR_MICROS: i64 = 3_600_000_000;

/// Audits and prints what it came to: exit code 0 when everything is consistent, 1 when something is not. An audit that
/// can not be finished is a refusal: it has found nothing.
pub(crate) async fn run(common: &Common, arguments: &AuditArgs) -> Result<ExitCode, Failure> {
    let progress = Progress::new();
    let outcome = tokio::select! {
        outcome = audit(common, arguments, &progress) => outcome,
        // What was copied goes with the future that was dropped.
        signal = stop_signal() => Err(Failure::refused(format!("interrupted by {}; nothing is reported", signal?))),
    };
    progress.finish();
    let report = outcome.map_err(unfinished)?;
    if arguments.list.json {
        print_json(&report)?;
    } else {
        print(&report.text())?;
    }
    Ok(if report.consistent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unfinished(failure: Failure) -> Failure {
    match failure {
        Failure::Broke(error) => {
            let is_gone = |cause: &(dyn std::error::Error + 'static)| {
                matches!(cause.downcast_ref::<BusError>(), Some(BusError::PositionGone { .. }))
            };
            let hint = if error.chain().any(is_gone) {
                "; retention deleted it meanwhile, so run the audit again"
            } else {
                ""
            };
            Failure::refused(format!("the audit could not be finished: {error:#}{hint}"))
        }
        refused @ Failure::Refused(_) => refused,
    }
}

/// When the first entries left of the cut-off partitions of a topic were appended.
type First = BTreeMap<&'static str, BTreeMap<u32, Timestamp>>;

async fn first_of_all(source: &Source, cut: &Cut) -> anyhow::Result<First> {
    let mut first = First::new();
    for topic in cut::TOPICS {
        let from = cut.from.get(topic).cloned().unwrap_or_default();
        first.insert(topic, first_entries(source.bus.as_ref(), topic, &from, &cut.truncated(topic)).await?);
    }
    Ok(first)
}

async fn audit(common: &Common, arguments: &AuditArgs, progress: &Progress) -> Result<Report, Failure> {
    progress.begin("opening the platform", None);
    let source = Source::open(common).await?;
    let secret = source.keys.tenant_secret(&source.settings.tenant).await?;
    let scratch = Scratch::open(arguments.scratch.as_deref())
        .map_err(|error| Failure::refused(format!("there is no place for what is copied: {error:#}; see --scratch")))?;
    let items = Items::new(source.keys.clone(), &secret);

    progress.begin("reading the database", None);
    // Only to know which rows the log can tell of; positions that count are taken when the rows have been read.
    let glance = Cut::take(source.bus.as_ref(), source.clock.as_ref()).await?;
    let (first, cut_off) = (first_of_all(&source, &glance).await?, |topic| !glance.truncated(topic).is_empty());
    let oldest = |topic: &str| first.get(topic).into_iter().flat_map(BTreeMap::values).min().copied();
    let since = Since {
        hour: match oldest(TELEMETRY_RAW) {
            Some(oldest) if cut_off(TELEMETRY_RAW) => oldest.hour().as_micros() - 2 * HOUR_MICROS,
            _ => i64::MIN,
        },
        closed_at: match oldest(SERVING_OUTCOMES) {
            Some(oldest) if cut_off(SERVING_OUTCOMES) => oldest.as_micros() - 24 * HOUR_MICROS,
            _ => i64::MIN,
        },
    };
    let tables = Tables::read(&source, &scratch, &items, since).await?;
    let cut = Cut::take(source.bus.as_ref(), source.clock.as_ref()).await?;
    let first = first_of_all(&source, &cut).await?;

    let bus = source.bus.as_ref();
    let reading = Reading { bus, cut: &cut, tables: &tables, scratch: &scratch, items: &items, progress };
    progress.begin("reading dead letters", None);
    reading.dead_letters().await?;
    progress.begin("reading quarantine", None);
    reading.quarantine().await?;
    let auditor = Auditor { source: &source, cut: &cut, first: &first, scratch: &scratch, items: &items, progress };
    let anonymized = auditor.replay(Stage::Anonymizer, &mut RawReader(reading)).await?;
    let labeled = auditor.replay(Stage::Labeler, &mut CleanReader(reading)).await?;
    progress.begin("reading pairs", None);
    reading.pairs().await?;
    progress.begin("reading outcomes", None);
    reading.outcomes().await?;
    reading.what_came_since().await?;
    scratch.place_outcomes()?;
    scratch.letters_arrive()?;
    for (stage, replayed) in [(Stage::Anonymizer, anonymized), (Stage::Labeler, labeled)] {
        auditor.compare(stage, replayed).await?;
    }

    let mut checks = Vec::new();
    for kind in Stage::ALL.into_iter().flat_map(Stage::kinds) {
        checks.push(compare::check(&scratch, kind)?);
    }
    let latest = |topic: &'static str| {
        let of_topic = first.get(topic).map(|first| compare::latest(first, &cut.truncated(topic), cut.time));
        of_topic.flatten().map(Timestamp::as_micros)
    };
    let ends = [TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, DEAD_LETTERS];
    let hours = Hours {
        read_from: since.hour,
        whole_from: latest(TELEMETRY_RAW)
            .map_or(i64::MIN, |at| Timestamp::from_micros(at).hour().as_micros() + HOUR_MICROS),
        ends_deleted: ends.iter().any(|topic| !cut.truncated(topic).is_empty()),
    };
    checks.push(ledger::against_the_log(&scratch, hours)?);
    checks.push(ledger::equation(&tables.statement));
    checks.push(tally::against_the_log(&scratch, latest(SERVING_OUTCOMES).unwrap_or(i64::MIN))?);
    let lake = LakeReader::new(source.pool.clone(), Arc::clone(&source.artifacts));
    checks.push(lake::parts(&scratch, &lake, &items, progress).await?);
    let pairs_from = cut.from.get(Kind::Pair.topic()).cloned().unwrap_or_default();
    checks.push(lake::pairs(&scratch, &pairs_from, &tables.lake)?);
    checks.extend(registry(&source, progress).await?);
    Ok(Report::new(cut.time, checks, &cut))
}

struct Auditor<'a> {
    source: &'a Source,
    cut: &'a Cut,
    first: &'a First,
    scratch: &'a Scratch,
    items: &'a Items,
    progress: &'a Progress,
}

impl Auditor<'_> {
    fn tape(&self, stage: Stage) -> Tape {
        let bounds = self.cut.stage(stage);
        Tape {
            bus: Arc::clone(&self.source.bus),
            from: self.cut.from.get(stage.input()).cloned().unwrap_or_default(),
            reached: bounds.reached.clone(),
            times: bounds.times.clone(),
            until: bounds.until.clone(),
            time: self.cut.time,
        }
    }

    /// Where the beginning of the input is gone, the last word about each subject stands before the rest. Whom it may
    /// be wrong about is not judged (`compare::skip_the_cut_off`).
    fn seeds(&self, stage: Stage) -> anyhow::Result<Vec<Bytes>> {
        if self.cut.truncated(stage.input()).is_empty() {
            return Ok(Vec::new());
        }
        let seeds = self.scratch.seeds(stage)?.into_iter();
        let controls = seeds.filter_map(|(kind, subject, value)| Control::new(&kind, &subject, value.into()));
        Ok(controls.map(|control| control.encode()).collect())
    }

    fn player(&self, stage: Stage, model: Model, selection: Selection) -> Result<Player<'_>, Failure> {
        let bus = &self.source.settings.bus;
        let record_bytes = match bus.kind {
            BusKind::Local => bus.local.record_bytes,
            #[cfg(feature = "production")]
            BusKind::Kafka => bus.kafka.record_bytes,
        };
        Ok(Player {
            stage,
            handler: stage.handler(self.source)?,
            selection,
            model,
            record_bytes,
            seeds: Vec::new(),
            truncated: self.cut.truncated(stage.input()),
            scratch: self.scratch.directory(),
            progress: self.progress,
        })
    }

    /// Replays a step from the platform's log, and keeps what it puts out.
    async fn replay(&self, stage: Stage, visitor: &mut dyn Visitor) -> Result<Replayed, Failure> {
        let of = self.source.bus.topic_status(stage.input()).await?.records;
        let what = match stage {
            Stage::Anonymizer => "replaying raw telemetry",
            Stage::Labeler => "replaying clean telemetry",
        };
        self.progress.begin(what, Some(of));
        let never = self.scratch.never_replayed(stage)?.into_iter().collect();
        let selection = Selection { only: None, never };
        let player = Player { seeds: self.seeds(stage)?, ..self.player(stage, Model::Records, selection)? };
        let replayed = player.play(&self.tape(stage), visitor).await?;
        self.keep(stage, FIRST_REPLAY, &replayed).await?;
        Ok(replayed)
    }

    async fn keep(&self, stage: Stage, side: i64, replayed: &Replayed) -> Result<(), Failure> {
        for kind in stage.kinds() {
            let see = async |entry: HistoryEntry, is_required: bool| {
                let item = self.items.read(kind, &entry).await?;
                self.scratch.saw_item(side, &item, entry.partition, is_required)
            };
            replayed.outputs(kind.topic(), see).await?;
        }
        Ok(())
    }

    fn retained(&self, stage: Stage) -> Retained {
        let input = self.cut.truncated(stage.input());
        let first = |topic: &str| self.first.get(topic).cloned().unwrap_or_default();
        let of_input = first(stage.input());
        // Of a partition of which nothing is left, nothing that is to come is covered either.
        let at = |partition: &u32| of_input.get(partition).copied().unwrap_or(self.cut.time);
        let outputs = stage.kinds().map(|kind| {
            let topic = kind.topic();
            (kind, compare::latest(&first(topic), &self.cut.truncated(topic), self.cut.time))
        });
        Retained {
            input: input.iter().map(|partition| (*partition, at(partition))).collect(),
            outputs: outputs.into_iter().collect(),
        }
    }

    /// Compares a step's records with the platform's; what differs is replayed under other assumptions about time.
    async fn compare(&self, stage: Stage, replayed: Replayed) -> Result<(), Failure> {
        let retained = self.retained(stage);
        compare::skip_the_cut_off(self.scratch, stage, &retained)?;
        compare::find(self.scratch, stage, &retained)?;
        let mut replays = 1;
        for model in Model::ALL.into_iter().filter(|model| *model != Model::Records) {
            let open = compare::open_keys(self.scratch, stage)?;
            if open.is_empty() {
                return Ok(());
            }
            self.progress.begin("replaying what differs", None);
            let selection = Selection { only: Some(open.clone()), ..Selection::default() };
            let tape = replayed.tape(&self.tape(stage)).await?;
            let again = self.player(stage, model, selection)?.play(&tape, &mut Nobody).await?;
            let side = FIRST_REPLAY + replays;
            self.keep(stage, side, &again).await?;
            self.scratch.place_outcomes()?;
            compare::agree(self.scratch, stage, side, &open)?;
            replays += 1;
        }
        Ok(compare::leave_to_time(self.scratch, stage, replays)?)
    }
}

/// What the registry says of itself, as checks of the report.
async fn registry(source: &Source, progress: &Progress) -> Result<Vec<Check>, Failure> {
    progress.begin("reading artifacts", None);
    let mut read = |read: u64, of: u64| {
        if read == 1 {
            progress.begin("reading artifacts", Some(of));
        }
        progress.reached(read);
    };
    let found = source.registry()?.check_consistency(&source.settings.tenant, &mut read).await?;
    let check = |name: &str, checked: Checked| {
        let differences = u64::try_from(checked.findings.len()).unwrap_or(u64::MAX);
        let first = checked.findings.into_iter().take(usize::try_from(SHOWN).unwrap_or(0));
        Check {
            name: format!("registry: {name}"),
            checked: checked.checked,
            differences,
            not_covered: checked.not_covered,
            reasons: (checked.not_covered > 0)
                .then(|| ("outcomes_came_later".to_owned(), checked.not_covered))
                .into_iter()
                .collect(),
            first: first.map(|one| Named { id: one.subject, what: one.code.to_owned() }).collect(),
            ..Check::default()
        }
    };
    Ok(vec![
        check("artifacts", found.artifacts),
        check("lineage", found.lineage),
        check("current versions", found.current),
        check("rollouts", found.rollouts),
        check("evidence", found.evidence),
    ])
}
