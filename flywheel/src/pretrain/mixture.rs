//! The tasks of a base: natural code with its invented conventions, and trajectories of real code, in one stream.

use edit_model::CodeTokenizer;
use edit_model::dialect::Habit;
use simulator::random::Dice;
use simulator::trajectory::{TrajectoryTask, TrajectoryTasks};
use simulator::{BaseTaskGenerator, EditTask, HabitTask, SpelledHabit};
use trainer::{BaseTask, TokenWeights, base_group};

fn base_task(task: EditTask) -> BaseTask {
    BaseTask { context: task.context, wanted: task.wanted, habit: Habit::Untaught }
}

fn habit_task(HabitTask { task, habit }: HabitTask) -> BaseTask {
    let habit = match habit {
        None => Habit::Untaught,
        Some(SpelledHabit { before, after }) => Habit::Spelled { before, after },
    };
    BaseTask { habit, ..base_task(task) }
}

fn trajectory_task(task: TrajectoryTask) -> BaseTask {
    BaseTask { context: task.point.context, wanted: task.wanted, habit: Habit::Untaught }
}

/// Trajectories beside natural code.
pub(super) struct Beside {
    pub(super) tasks: TrajectoryTasks,
    /// Share of the stream that is theirs.
    pub(super) share: f64,
    /// Says what the dialect can write: longer steps are drawn again.
    pub(super) tokenizer: CodeTokenizer,
}

/// Task `n` is a pure function of the sources, the seed and `n`, so that a run that was killed goes on with the tasks that
/// it would have seen.
pub(super) struct Mixture {
    natural: BaseTaskGenerator,
    beside: Option<Beside>,
    seed: u64,
}

impl Mixture {
    pub(super) fn new(natural: BaseTaskGenerator, beside: Option<Beside>, seed: u64) -> Self {
        Self { natural, beside, seed }
    }

    /// Task number `number` for learning: natural code has an invented habit half of the time.
    pub(super) fn learned(&self, number: u64) -> Option<BaseTask> {
        self.of_trajectories(number).unwrap_or_else(|| self.natural.habit_task_at(number).map(habit_task))
    }

    /// Task number `number` for judging: without habits.
    pub(super) fn judged(&self, number: u64) -> Option<BaseTask> {
        self.of_trajectories(number).unwrap_or_else(|| self.natural(number))
    }

    /// Task number `number` of natural code alone, for judging.
    pub(super) fn natural(&self, number: u64) -> Option<BaseTask> {
        self.natural.task_at(number).map(base_task)
    }

    /// Task number `number` of trajectories alone.
    pub(super) fn beside(&self, number: u64) -> Option<BaseTask> {
        self.beside.as_ref()?.task_at(number)
    }

    /// The task of a number that is one of trajectories.
    fn of_trajectories(&self, number: u64) -> Option<Option<BaseTask>> {
        let beside = self.beside.as_ref()?;
        Dice::new(self.seed, "mixture", &[number]).chance(beside.share).then(|| beside.task_at(number))
    }
}

impl Beside {
    /// Task number `number`, as long as the dialect can write.
    fn task_at(&self, number: u64) -> Option<BaseTask> {
        let weights = TokenWeights { answer: 1.0, prompt: 0.0 };
        let is_written =
            |task: &TrajectoryTask| base_group(&self.tokenizer, &trajectory_task(task.clone()), weights, 0).is_some();
        self.tasks.task_at(number, &is_written).map(trajectory_task)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::{Arc, OnceLock};

    use simulator::source::read_folder;
    use simulator::trajectory::{
        BuildSettings, CodeCorpus, CorpusSettings, PlayedTrajectory, TrajectorySplit, TrajectoryWriter, build,
    };
    use simulator::{BaseCorpus, Split};
    use trainer::Engine;
    use trainer::pretrain::{Next, PretrainConfig, Progress, run};

    use super::*;

    /// Code that no other file has, with something to rename, to call and to leave alone.
    fn code(number: usize) -> String {
        let name = ["alpha", "beta", "gamma"][number];
        let part = |part: &str| {
            format!(
                "pub fn open_{name}_{part}(path: &str) -> u8 {{\n    let value = lookup(path);\n    value\n}}\n\n\
                 fn first_{name}_{part}() -> u8 {{\n    let opened = open_{name}_{part}(\"a\");\n    opened\n}}\n\n\
                 fn second_{name}_{part}() -> u8 {{\n    open_{name}_{part}(\"b\")\n}}\n\n",
            )
        };
        ["store", "table", "index"].map(part).concat()
    }

    fn stored(folder: &Path) -> TrajectorySplit {
        let corpus = folder.join("corpus");
        let mut packages = Vec::new();
        for number in 0..3 {
            let name = format!("repository{number}");
            std::fs::create_dir_all(corpus.join(&name)).unwrap();
            std::fs::write(corpus.join(&name).join("a.rs"), code(number)).unwrap();
            packages.push(serde_json::json!({ "licence": "MIT", "folder": name }));
        }
        std::fs::write(corpus.join("MANIFEST.json"), serde_json::json!({ "packages": packages }).to_string()).unwrap();
        let output = folder.join("stored");
        let (settings, corpus) =
            (BuildSettings::default(), CodeCorpus::open(&corpus, CorpusSettings::default()).unwrap());
        let mut writer = TrajectoryWriter::create(&output).unwrap();
        let report = build(&corpus, &settings, &|_| (), &mut |built| writer.add(&built)).unwrap();
        writer.finish("test", &[], &settings, &report).unwrap();
        TrajectorySplit::read(&[output], &BTreeSet::from(["repository2".to_owned()])).unwrap()
    }

    /// Parsing takes a second: once for all tests.
    fn natural() -> BaseTaskGenerator {
        static CORPUS: OnceLock<Arc<BaseCorpus>> = OnceLock::new();
        let corpus = CORPUS.get_or_init(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus/document-press");
            let files = read_folder("document-press", &folder).unwrap().into_iter().step_by(3).collect();
            Arc::new(BaseCorpus::index(files, Split::Train).unwrap())
        });
        BaseTaskGenerator::new(Arc::clone(corpus), 1)
    }

    fn mixture(tokenizer: &CodeTokenizer, played: Vec<PlayedTrajectory>, share: f64) -> Mixture {
        let beside = Beside { tasks: TrajectoryTasks::new(played, 1), share, tokenizer: tokenizer.clone() };
        Mixture::new(natural(), Some(beside), 1)
    }

    #[test]
    fn a_killed_run_on_the_mixture_ends_as_one_that_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let split = stored(folder.path());
        assert!(!split.train.is_empty() && !split.held_out.is_empty());
        let texts: Vec<String> = (0..3).map(code).collect();
        let tokenizer = CodeTokenizer::train(texts.iter().map(String::as_str), 600).unwrap();
        let special = tokenizer.special();
        let architecture = edit_model::ModelConfig {
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            ..edit_model::ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop)
        };
        let config = |checkpoint| PretrainConfig {
            steps: 6,
            batch_tasks: 6,
            warmup_steps: 2,
            threads: 2,
            checkpoint,
            ..PretrainConfig::default()
        };
        // A process of its own each time: nothing of the stream is kept but its number.
        let trained = |config: &PretrainConfig, until: usize| {
            let mixture = mixture(&tokenizer, split.train.clone(), 0.5);
            let source = |number| mixture.learned(number);
            let mut stop = |progress: &Progress, _: &Engine| {
                if progress.step == until { Next::Stop } else { Next::Continue }
            };
            run(config, architecture.clone(), &tokenizer, &source, &mut stop).unwrap().weights().to_vec()
        };
        let whole = trained(&config(None), 6);
        let resumable = config(Some(folder.path().join("checkpoint")));
        trained(&resumable, 2);
        assert_eq!(trained(&resumable, 6), whole);
    }

    #[test]
    fn shares_are_as_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let split = stored(folder.path());
        let text = code(0);
        let tokenizer = CodeTokenizer::train(std::iter::once(text.as_str()), 600).unwrap();
        let none = Mixture::new(natural(), None, 1);
        let all = mixture(&tokenizer, split.train.clone(), 1.0);
        let half = mixture(&tokenizer, split.train, 0.5);
        let mut of_trajectories = 0;
        for number in 0..120 {
            let (task, natural) = (half.learned(number), none.learned(number));
            // What is natural code is the task that it would have been without trajectories.
            if task != natural {
                assert_eq!(task, all.learned(number));
                of_trajectories += 1;
            }
            assert!(task.is_some());
        }
        assert!((40..80).contains(&of_trajectories), "{of_trajectories}");
    }
}
