//! `llavar eval run`: ask a model the questions of benchmarks and score its answers.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::builder::RangedU64ValueParser;
use llavar_assistant::Assistant;
use llavar_eval::{
    results::{
        DecodeSettings, OcrMode, PromptSettings, RESULTS_FILE, RunResult, RunSettings, read_result,
        write_json,
    },
    run::{
        Answerer, Asked, Column, DataSource, LocalModel, LocalOptions, Prefix, PromptFormat,
        RemoteModel, column_name, columns,
    },
    samples::Shard,
    score::ScoreOptions,
    tasks::{ImageCheck, Item, Options, Task, TaskError, task_names},
};
use serde::Serialize;

use super::{
    CHECK_SERVER, ShardFlags, announce, keep_first, metrics, must_exist,
    ocr::{OcrFlags, OcrText},
    show,
};
use crate::{
    commands::{ask::load, print, print_json},
    device::DeviceFlags,
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
    sampling::{CloserFlag, SamplingFlags},
    server::{AttemptsFlag, ServerFlags},
    shipped::ModelFlag,
};

/// Ask a model the questions of benchmarks and score its answers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar eval run --task docvqa,chartqa --data bench --model models/llavar2 --out runs/eval\n\
\n\
Every task gets a folder in RUN (docvqa_val; docvqa_val-ocr with OCR text): run.json (what\n\
decides the answers), samples.jsonl (answers, appended as they come), results.json and\n\
scored.jsonl (one row a question). RUN/results.json has all of them. The same command again\n\
goes on where it was; another task is added beside. Under torchrun, mpirun or srun, or with\n\
--num-chunks and --chunk-idx, every process writes samples-00000-of-00004.jsonl and so on;\n\
`llavar eval merge RUN` joins and scores them. Decoding is greedy unless --temperature says\n\
otherwise; batch sizes and chunks change no answer."
)]
pub(crate) struct Args {
    /// Tasks, see `llavar eval list`; `all` takes every one whose files are there.
    #[arg(long, short, value_delimiter = ',', required = true)]
    task: Vec<String>,
    /// Folder of the benchmark (or of all), or its annotation file.
    #[arg(long, short)]
    data: PathBuf,
    #[command(flatten)]
    model: ModelFlag,
    /// Ask a model on an OpenAI-compatible server, for example http://localhost:8000; --model is its name there.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Folder of the run.
    #[arg(long, short)]
    out: PathBuf,
    /// Split; the one that published figures are of by default.
    #[arg(long)]
    split: Option<String>,
    /// Where the pictures lie, if not in the benchmark's own layout.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Metrics; the task's own by default.
    #[arg(long, value_delimiter = ',')]
    metric: Vec<String>,
    /// Only the first N questions of every task.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    #[command(flatten)]
    prompt: PromptFlags,
    #[command(flatten)]
    ocr: OcrFlags,
    #[command(flatten)]
    how: AnswerFlags,
    #[command(flatten)]
    shard: ShardFlags,
    #[command(flatten, next_help_heading = "With --endpoint")]
    server: ServerFlags,
    #[command(flatten, next_help_heading = "With --endpoint")]
    attempts: AttemptsFlag,
    /// Print the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// How questions become prompts.
#[derive(Debug, clap::Args)]
pub(crate) struct PromptFlags {
    /// The user's turn after the picture; {question} stands for the question. Replaces the task's suffix.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "suffix")]
    prompt: Option<String>,
    /// Text after every question instead of the task's own; '' for none.
    #[arg(long)]
    suffix: Option<String>,
}

impl PromptFlags {
    fn format(&self, task: &Task) -> Outcome<PromptFormat> {
        let unescape = |text: &str| text.replace("\\n", "\n");
        Ok(match &self.prompt {
            Some(format) => PromptFormat::new(&unescape(format))?,
            None => {
                PromptFormat::with_suffix(task, self.suffix.as_deref().map(unescape).as_deref())
            }
        })
    }
}

/// Who answers and how.
#[derive(Debug, clap::Args)]
pub(crate) struct AnswerFlags {
    /// Questions that are answered side by side; 8 on the CPU and 64 on a GPU by default.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Memory for features of pictures that several questions share, MiB.
    #[arg(long, default_value_t = 512)]
    picture_cache: usize,
    /// Longest answer, tokens; the task's own by default.
    #[arg(
        long,
        alias = "max_new_tokens",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 24)
    )]
    max_new_tokens: Option<usize>,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    closer: CloserFlag,
    /// Conversation template (v1, llava_v1, phi3_instruct, llama3, plain); guessed from the model.
    #[arg(long, alias = "conv_mode")]
    conv_mode: Option<String>,
    #[command(flatten)]
    device: DeviceFlags,
}

impl AnswerFlags {
    pub(crate) fn load(&self, model: &Path) -> Outcome<Assistant> {
        if self.batch_size == Some(0) {
            return Err(Failure::usage("--batch-size 0: must be at least 1"));
        }
        let device = self.device.of_rank(&super::launch()?);
        load(model, self.conv_mode.as_deref(), &device)
    }

    pub(crate) fn local(&self, assistant: &Assistant) -> LocalOptions {
        let usual = LocalOptions::for_device(assistant);
        LocalOptions {
            batch: self.batch_size.unwrap_or(usual.batch),
            cache: self.picture_cache.saturating_mul(1 << 20),
            ..usual
        }
    }

    pub(crate) fn decode(&self, task: &Task, model: &dyn Answerer) -> DecodeSettings {
        DecodeSettings {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            num_beams: self.sampling.num_beams,
            repetition_penalty: model.repetition_penalty(),
            max_new_tokens: self.max_new_tokens.unwrap_or(task.max_new_tokens),
            seed: self.sampling.seed,
            closer: self.closer.closer,
        }
    }
}

/// A task with its prompts.
struct Asking {
    task: Task,
    format: PromptFormat,
    /// Of all prompts, also those that `--limit` leaves out: more may be asked later.
    hash: String,
}

impl Args {
    /// A task asked in one way.
    fn column<'a>(
        &self,
        Asking { task, format, hash }: &'a Asking,
        mode: OcrMode,
        ocr: Option<&OcrText>,
        prefix: Prefix<'a>,
        model: &dyn Answerer,
        shard: Shard,
    ) -> Column<'a> {
        let on = mode == OcrMode::On;
        let name = column_name(&task.name, &task.split, mode);
        Column {
            settings: RunSettings {
                task: task.name.clone(),
                split: task.split.clone(),
                model: model.info(),
                prompt: PromptSettings {
                    format: format.as_str().to_owned(),
                    ocr: mode,
                    ocr_lines: ocr.filter(|_| on).map(|ocr| ocr.source.clone()),
                    hash: hash.clone(),
                },
                decode: self.how.decode(task, model),
            },
            task,
            format: format.clone(),
            prefix: on.then_some(prefix),
            source: DataSource {
                data: self.data.clone(),
                image_folder: self.image_folder.clone(),
                limit: self.limit,
            },
            folder: self.out.join(name),
            shard,
        }
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    out: &'a Path,
    results: &'a [RunResult],
    answered_now: usize,
    seconds: f64,
    questions_per_second: f64,
    answerer: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    must_exist("data folder", &args.data)?;
    let metrics = metrics(&args.metric)?;
    let shard = args.shard.shard()?;
    let tasks = open_tasks(&args)?;
    let ocr = args.ocr.open()?;
    let options = ScoreOptions {
        metrics,
        ..ScoreOptions::default()
    };
    let ask =
        |model: &mut dyn Answerer| ask_tasks(&args, &tasks, ocr.as_ref(), shard, &options, model);
    match &args.endpoint {
        None => {
            let model = args.model.folder()?;
            let assistant = args.how.load(&model)?;
            let local = args.how.local(&assistant);
            ask(&mut LocalModel::new(&assistant, &model, local)?)
        }
        Some(address) => {
            let client = args
                .server
                .client(address, &args.attempts, interrupt::stop_flag()?)?;
            let name = args.model.named().ok_or_else(|| {
                Failure::usage("--model is missing")
                    .hint("with --endpoint it is the model's name there")
            })?;
            let name = name.to_string_lossy();
            let concurrency = usize::from(args.server.concurrency);
            ask(&mut RemoteModel::new(&client, name, concurrency))
        }
    }
}

/// Puts all tasks in all ways to a model and tells the results.
fn ask_tasks(
    args: &Args,
    tasks: &[Asking],
    ocr: Option<&OcrText>,
    shard: Shard,
    options: &ScoreOptions,
    model: &mut dyn Answerer,
) -> Outcome {
    let prefix = |item: &Item| match ocr {
        Some(ocr) => ocr.before(item),
        None => Ok(String::new()),
    };
    let begun = Instant::now();
    let mut results = Vec::new();
    let mut answered_now = 0;
    for task in tasks {
        for mode in args.ocr.modes() {
            let column = args.column(task, *mode, ocr, &prefix, model, shard);
            let asked = ask(&column, model)?;
            unless_stopped(&asked, &column.name())?;
            answered_now += asked.view.new_answers();
            if shard.num_chunks() == 1 {
                results.push(column.finish(&asked.rows, &asked.errors, options)?.0);
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let summary = model.summary();
    if let Some(summary) = &summary {
        note(summary);
    }
    if shard.num_chunks() > 1 {
        note(format!(
            "part {} of {} is answered; when all are, run: llavar eval merge {}",
            shard.chunk_idx() + 1,
            shard.num_chunks(),
            args.out.display()
        ));
    } else {
        write_all(&args.out)?;
    }
    answered_at_all(&results)?;
    if args.json {
        return print_json(&Report {
            out: &args.out,
            results: &results,
            answered_now,
            seconds,
            questions_per_second: answered_now as f64 / seconds.max(1e-9),
            answerer: summary,
        });
    }
    print(if results.is_empty() {
        format!(
            "{}: {answered_now} questions answered\n",
            args.out.display()
        )
    } else {
        show::table(&results)
    })
}

/// A score of questions of which none was answered says nothing of the model.
pub(crate) fn answered_at_all(results: &[RunResult]) -> Outcome {
    let Some(result) = results.iter().find(|result| result.counts.answered == 0) else {
        return Ok(());
    };
    let message = format!(
        "{}: none of the {} questions was answered; {}",
        result.title(),
        result.counts.scored,
        result.notes.last().map_or("", String::as_str)
    );
    let again =
        "errors.jsonl beside the results names every question; the same command asks them again";
    let model = result.settings.as_ref().map(|settings| &settings.model);
    Err(match model.is_some_and(|model| model.endpoint.is_some()) {
        true => Failure::new(Class::Failure, message).hint(format!("{CHECK_SERVER}; {again}")),
        false => Failure::new(Class::Data, message).hint(again),
    })
}

fn open_tasks(args: &Args) -> Outcome<Vec<Asking>> {
    let options = Options {
        split: args.split.clone(),
        image_folder: args.image_folder.clone(),
        image_check: ImageCheck::Header,
        ocr_tokens: false,
    };
    let all = args.task.iter().any(|name| name == "all");
    let known = task_names();
    let names: Vec<&str> = match all {
        true => known,
        false => args.task.iter().map(String::as_str).collect(),
    };
    let mut tasks: Vec<Asking> = Vec::new();
    for name in names {
        match Task::open_with(name, &args.data, &options) {
            Ok(mut task) => {
                let same = |Asking { task: other, .. }: &Asking| {
                    other.name == task.name && other.split == task.split
                };
                if tasks.iter().any(same) {
                    continue;
                }
                announce(&task);
                let format = args.prompt.format(&task)?;
                let hash = format.hash(&task);
                keep_first(&mut task, args.limit);
                tasks.push(Asking { task, format, hash });
            }
            Err(TaskError::NoLayout { .. } | TaskError::NoSplit { .. }) if all => {
                note(format!("{name}: not there"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if tasks.is_empty() {
        let message = format!("no benchmark lies below {}", args.data.display());
        return Err(Failure::new(Class::Data, message)
            .hint("`llavar eval list` shows the files that are looked for"));
    }
    Ok(tasks)
}

/// Asks a column with a bar.
pub(crate) fn ask(column: &Column<'_>, answerer: &mut dyn Answerer) -> Outcome<Asked> {
    let stop = interrupt::stop_flag()?;
    let total = column.shard.of(&column.task.items).len() as u64;
    let begun = Instant::now();
    let mut bar = Progress::new(&column.name(), "questions", total);
    let asked = column.ask_all(answerer, &stop, &mut |view| {
        let now = view.done - view.resumed;
        let rate = now as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        bar.set(
            (view.done + view.failed) as u64,
            format!("{rate:.2} questions/s, {} failed", view.failed),
        );
    })?;
    let (view, seconds) = (asked.view, begun.elapsed().as_secs_f64());
    bar.finish(&format!(
        "{}: {} questions answered in {seconds:.1} s ({:.2} questions/s), {} taken from before, {} failed",
        column.name(),
        view.new_answers(),
        view.new_answers() as f64 / seconds.max(1e-9),
        view.resumed,
        view.failed
    ));
    if !asked.recovery.is_clean() {
        note(format!("answers file: {}", asked.recovery));
    }
    Ok(asked)
}

/// The error of a run that was stopped.
pub(crate) fn unless_stopped(asked: &Asked, what: &str) -> Outcome {
    if !asked.stopped {
        return Ok(());
    }
    Err(Failure::interrupted(format!(
        "{} of {} questions of {what} are answered; the same command goes on",
        asked.view.done, asked.view.total
    )))
}

/// Writes the results of all columns of a run into one file.
pub(crate) fn write_all(run: &Path) -> Outcome {
    let mut results = Vec::new();
    for (_, folder) in columns(run)? {
        let path = folder.join(RESULTS_FILE);
        if path.is_file() {
            results.push(read_result(&path)?);
        }
    }
    Ok(write_json(&run.join(RESULTS_FILE), &results)?)
}
