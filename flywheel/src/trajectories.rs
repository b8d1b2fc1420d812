//! `flywheel trajectories`: edit trajectories that end in real code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use events::Licence;
use serde_json::json;
use simulator::SimulatorError;
use simulator::trajectory::{
    BuildSettings, Built, CodeCorpus, CodeLanguage, CorpusSettings, PATTERNS, Pattern, TrajectoryReport,
    TrajectoryWriter, build, diffs,
};

use crate::cli::{CODE_VERSION, TrajectoriesBuildArgs, TrajectoriesCommand};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::report::{check_writable, lies_in, put};
use crate::table::{markdown_text, print, print_json, rows_text};
use crate::visible::{visible, visible_with_tabs};

const HEADER: [&str; 6] = ["pattern", "language", "trajectories", "steps", "across files", "broken states"];

pub(crate) fn run(command: &TrajectoriesCommand) -> Result<ExitCode, Failure> {
    let TrajectoriesCommand::Build(arguments) = command;
    make(arguments)?;
    Ok(ExitCode::SUCCESS)
}

/// A corpus that can not be read and a folder that can not be written are for the caller to mend.
pub(crate) fn refused(error: SimulatorError) -> Failure {
    match error {
        SimulatorError::Read { path, source } => {
            Failure::refused(format!("{} can not be read: {source}", path.display()))
        }
        SimulatorError::Write { path, source } => {
            Failure::refused(format!("{} can not be written: {source}", path.display()))
        }
        SimulatorError::Manifest { path, source } => {
            Failure::refused(format!("{} is not a valid manifest: {source}", path.display()))
        }
        SimulatorError::NoCompiler { program, source } => {
            Failure::refused(format!("the compiler {program} can not be asked: {source}"))
        }
        SimulatorError::Occupied { .. } | SimulatorError::NoUsableFile { .. } | SimulatorError::Stored { .. } => {
            Failure::refuse(error)
        }
        error => Failure::from(error),
    }
}

/// The first trajectories of each pattern and language, as diffs.
struct Samples {
    most: usize,
    kept: BTreeMap<(Pattern, CodeLanguage), Vec<String>>,
}

impl Samples {
    fn look(&mut self, built: &Built) -> Result<(), Failure> {
        let trajectory = &built.trajectory;
        let kept = self.kept.entry((trajectory.pattern, trajectory.language)).or_default();
        if kept.len() < self.most {
            kept.push(diffs(trajectory, &built.texts).map_err(anyhow::Error::from)?);
        }
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        self.kept.values().flatten()
    }
}

fn make(arguments: &TrajectoriesBuildArgs) -> Result<(), Failure> {
    let defaults = (BuildSettings::default(), CorpusSettings::default());
    if arguments.patterns.contains(&Pattern::DiagnosticFix) && arguments.compilers.is_empty() {
        return Err(Failure::refused("diagnostic-fix needs a compiler to ask: --compiler rustc or --compiler python"));
    }
    let compilers = arguments.compilers.iter().map(|one| one.find()).collect::<Result<_, _>>().map_err(refused)?;
    let settings = BuildSettings {
        seed: arguments.seed,
        compilers,
        patterns: if arguments.patterns.is_empty() { PATTERNS.to_vec() } else { arguments.patterns.clone() },
        per_file: arguments.per_file as usize,
        most_steps: arguments.most_steps as usize,
        threads: arguments.threads.map_or(defaults.0.threads, |threads| threads as usize),
        ..defaults.0
    };
    let mut allowed = defaults.1.allowed;
    for text in &arguments.allow_licences {
        let licence = Licence::parse(text).map_err(Failure::refuse)?;
        let one = licence.one().ok_or_else(|| {
            Failure::refused(format!("--allow-licence {text:?} names several licences; give the option once for each"))
        })?;
        allowed.push(one.to_owned());
    }
    if let Some(file) = &arguments.report {
        if lies_in(file, &arguments.corpus) {
            let (file, corpus) = (file.display(), arguments.corpus.display());
            return Err(Failure::refused(format!("--report {file} lies in --corpus {corpus}, which is only read")));
        }
        check_writable(file)?;
    }
    let started = Instant::now();
    let corpus_settings = CorpusSettings { allowed: allowed.clone(), ..CorpusSettings::default() };
    let corpus = CodeCorpus::open(&arguments.corpus, corpus_settings).map_err(refused)?;
    let mut writer = arguments.output.as_deref().map(TrajectoryWriter::create).transpose().map_err(refused)?;
    let shown = arguments.show as usize;
    let most = if arguments.report.is_some() { shown.max(1) } else { shown };
    let mut samples = Samples { most, kept: BTreeMap::new() };
    let mut failed = None;
    let bar = Progress::new();
    bar.begin("source files", Some(corpus.len() as u64));
    let built = build(&corpus, &settings, &|progress| bar.reached(progress.files as u64), &mut |built| {
        if failed.is_none() {
            failed = samples.look(&built).err();
        }
        match &mut writer {
            Some(writer) => writer.add(&built),
            None => Ok(()),
        }
    });
    bar.finish();
    let report = built.map_err(refused)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    if let Some(writer) = writer {
        writer.finish(CODE_VERSION, &allowed, &settings, &report).map_err(refused)?;
    }
    if let Some(file) = &arguments.report {
        put(file, &report_text(&report, &samples))?;
    }
    if arguments.list.json {
        let seconds = started.elapsed().as_secs_f64();
        let texts: Vec<&String> = samples.texts().collect();
        return print_json(&json!({
            "report": report, "seconds": seconds, "output": arguments.output, "samples": texts,
        }));
    }
    tell(arguments, &report, &samples, started.elapsed().as_secs_f64())
}

fn rows(report: &TrajectoryReport) -> Vec<Vec<String>> {
    (report.patterns.iter())
        .map(|count| {
            vec![
                count.pattern.to_string(),
                count.language.to_string(),
                count.trajectories.to_string(),
                count.steps.to_string(),
                count.across_files.to_string(),
                count.broken_states.to_string(),
            ]
        })
        .collect()
}

/// What the trajectories were made of, in a few lines.
fn origin(report: &TrajectoryReport) -> Vec<String> {
    let list = |counts: Vec<String>| if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    let languages = report.languages.iter().map(|(language, files)| format!("{files} {language}")).collect();
    let licences = report.licences.iter().map(|(licence, files)| format!("{files} {licence}")).collect();
    let left_out = report.left_out_text();
    vec![
        format!("{} source files, {} bytes: {}", report.files, report.bytes, list(languages)),
        format!("licences: {}", list(licences)),
        format!("left out: {}", if left_out.is_empty() { "none" } else { &left_out }),
        format!("not understood by their grammar, so that nothing begins or ends in them: {}", report.broken_files),
    ]
}

fn tell(
    arguments: &TrajectoriesBuildArgs,
    report: &TrajectoryReport,
    samples: &Samples,
    seconds: f64,
) -> Result<(), Failure> {
    if arguments.show > 0 {
        for text in samples.texts() {
            for line in text.lines() {
                print(&visible_with_tabs(line))?;
            }
            print("")?;
        }
    }
    print(&rows_text(&HEADER, rows(report), "no trajectory was found"))?;
    print("")?;
    for line in origin(report) {
        print(&line)?;
    }
    let in_place = |place: &PathBuf| format!(", in {}", visible(&place.display().to_string()));
    let place = arguments.output.as_ref().map_or_else(String::new, in_place);
    print(&format!("{} trajectories after {seconds:.1} s{place}", report.trajectories()))
}

fn report_text(report: &TrajectoryReport, samples: &Samples) -> String {
    let header: Vec<String> = HEADER.iter().map(|name| (*name).to_owned()).collect();
    let mut text = format!("# Trajectories\n\n{}\n\n", markdown_text(&header, rows(report)));
    for line in origin(report) {
        text.push_str(&format!("- {line}\n"));
    }
    text.push_str("\n## Samples\n");
    for sample in samples.texts() {
        // Longer than any fence inside, so that code that holds one ends nothing.
        let longest = sample.split(|character| character != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        text.push_str(&format!("\n{fence}diff\n{sample}{fence}\n"));
    }
    text
}
