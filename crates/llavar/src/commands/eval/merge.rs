//! `llavar eval merge`: join the answers of several chunks or ranks, and score them.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use llavar_eval::{
    results::{ERRORS_FILE, RunResult, SAMPLES_FILE, read_rows_of},
    run::{Column, PromptFormat, RunRecord, columns, read_record},
    samples::{MergeLock, SampleKey, SampleRow, Shard, merge, write_merged},
    score::ScoreOptions,
    tasks::{ImageCheck, Options, Task},
};

use super::{announce, keep_first, metrics, must_exist, run::write_all, show};
use crate::{
    commands::{print, print_json},
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Join the answers of several chunks or ranks, and score them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar eval merge runs/eval")]
pub(crate) struct Args {
    /// Folder of the run, or of one task in it.
    run: PathBuf,
    /// Folder of the benchmark, if it is not where the run found it.
    #[arg(long, short)]
    data: Option<PathBuf>,
    /// Metrics; the task's own by default.
    #[arg(long, value_delimiter = ',')]
    metric: Vec<String>,
    /// Score although answers are missing; they count as wrong.
    #[arg(long)]
    partial: bool,
    /// Print the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    must_exist("run", &args.run)?;
    let metrics = metrics(&args.metric)?;
    let mut results = Vec::new();
    for (_, folder) in columns(&args.run)? {
        if let Some(record) = read_record(&folder)? {
            let options = ScoreOptions {
                metrics: metrics.clone(),
                ..ScoreOptions::default()
            };
            results.push(merge_column(&args, &folder, record, &options)?);
        }
    }
    if results.is_empty() {
        let message = format!("{} holds no run", args.run.display());
        return Err(Failure::new(Class::Data, message).hint("`llavar eval run` makes one"));
    }
    if read_record(&args.run)?.is_none() {
        write_all(&args.run)?;
    }
    if args.json {
        return print_json(&results);
    }
    print(show::table(&results))
}

fn merge_column(
    args: &Args,
    folder: &Path,
    record: RunRecord,
    options: &ScoreOptions,
) -> Outcome<RunResult> {
    let RunRecord { settings, source } = record;
    let data = args.data.as_deref().unwrap_or(&source.data);
    let opened = Options {
        split: Some(settings.split.clone()),
        image_folder: source.image_folder.clone(),
        image_check: ImageCheck::Header,
        ocr_tokens: false,
    };
    let mut task = Task::open_with(&settings.task, data, &opened)?;
    announce(&task);
    keep_first(&mut task, source.limit);
    let keys: Vec<SampleKey> = task
        .answerable()
        .map(|item| (task.name.clone(), item.id.clone()))
        .collect();
    let chunks = chunks(folder)?;
    let samples = folder.join(SAMPLES_FILE);
    let mut files: Vec<PathBuf> = chunks.iter().map(|shard| shard.file(&samples)).collect();
    if files.is_empty() || samples.is_file() {
        files.push(samples.clone());
    }
    // Without chunks there is nothing to join, and the file is the run's own.
    let merged = if chunks.is_empty() {
        merge(&files, &keys)?
    } else {
        let lock = MergeLock::take(&samples)?;
        let merged = merge(&files, &keys)?;
        write_merged(&merged, &samples, &lock)?;
        merged
    };
    for (path, recovery) in &merged.recoveries {
        note(format!("{}: {recovery}", path.display()));
    }
    for (count, what) in [
        (
            merged.unknown.len(),
            "answers to questions that are not asked now are kept and not scored",
        ),
        (
            merged.different.len(),
            "questions have different answers in several files; the first counts",
        ),
    ] {
        if count > 0 {
            note(format!("{}: {count} {what}", folder.display()));
        }
    }
    let mut errors: Vec<SampleRow> = Vec::new();
    for shard in chunks.iter().copied().chain([Shard::default()]) {
        let path = shard.file(&folder.join(ERRORS_FILE));
        if path.is_file() {
            errors.extend(read_rows_of::<SampleRow>(&path)?);
        }
    }
    let mut known: HashSet<SampleKey> = merged.rows.iter().map(SampleRow::key).collect();
    errors.retain(|error| known.insert(error.key()));
    let missing = merged.missing.len().saturating_sub(errors.len());
    if missing > 0 && !args.partial {
        let absent: Vec<String> = merged
            .absent
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let which = match absent.first() {
            Some(first) => format!("; {} file(s) are absent, first {first}", absent.len()),
            None => String::new(),
        };
        let message = format!(
            "{}: {missing} of {} questions are not answered yet{which}",
            folder.display(),
            keys.len()
        );
        return Err(Failure::new(Class::Data, message)
            .hint("finish the other chunks, or give --partial to count them as wrong"));
    }
    let column = Column {
        task: &task,
        format: PromptFormat::new(&settings.prompt.format)?,
        settings,
        prefix: None,
        source,
        folder: folder.to_path_buf(),
        shard: Shard::default(),
    };
    Ok(column.finish(&merged.rows, &errors, options)?.0)
}

/// More are taken for a file of another kind.
const MOST_CHUNKS: usize = 1 << 16;

/// The chunks whose files lie in a folder, and all others of the largest division that is there.
fn chunks(folder: &Path) -> Outcome<Vec<Shard>> {
    let read = |error| {
        let message = format!("cannot list {}: {error}", folder.display());
        Failure::new(Class::Data, message)
    };
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let name = name.to_string_lossy();
        // samples-00001-of-00004.jsonl
        let chunk = name
            .strip_prefix("samples-")
            .and_then(|name| name.strip_suffix(".jsonl"))
            .and_then(|name| name.split_once("-of-"))
            .and_then(|(idx, of)| Some((of.parse::<usize>().ok()?, idx.parse::<usize>().ok()?)))
            .filter(|(of, idx)| idx < of && *of <= MOST_CHUNKS);
        found.extend(chunk);
    }
    if let Some((most, _)) = found.last().copied() {
        found.extend((0..most).map(|idx| (most, idx)));
    }
    let shards = found.into_iter().map(|(of, idx)| Shard::new(of, idx));
    shards
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(Class::Data, error))
}
