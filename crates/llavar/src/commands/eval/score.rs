//! `llavar eval score`: score an answers file of any tool.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_eval::{
    results::{RESULTS_FILE, SCORED_FILE, SETTINGS_FILE, write_json, write_rows},
    samples::read_answers,
    score::{ScoreOptions, score},
    tasks::{ImageCheck, Options, Task, task_info},
};

use super::{announce, metrics, must_exist, show};
use crate::{
    commands::{is_same, no_pipe, not_over, print, print_json},
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Score an answers file of any tool.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar eval score --task docvqa --data DocVQA answers.jsonl --out scored/docvqa\n\
\n\
Read are JSONL, a JSON array, an object that holds a list, and an object from id to answer,\n\
with the keys of LLaVA, lmms-eval, VLMEvalKit, MultimodalOCR and similar tools. Answers are\n\
matched by question id, by sample or picture and question, or by position. Without --data the\n\
references in the answers file are used; questions that it leaves out are then not known.\n\
Questions without an answer score 0 and are counted."
)]
pub(crate) struct Args {
    /// The answers.
    answers: PathBuf,
    /// Task, see `llavar eval list`.
    #[arg(long, short)]
    task: String,
    /// Folder of the benchmark, or its annotation file.
    #[arg(long, short)]
    data: Option<PathBuf>,
    /// Split; the one that published figures are of by default.
    #[arg(long, requires = "data")]
    split: Option<String>,
    /// Where the pictures lie, if not in the benchmark's own layout.
    #[arg(long, requires = "data")]
    image_folder: Option<PathBuf>,
    /// Metrics; the task's own by default.
    #[arg(long, value_delimiter = ',')]
    metric: Vec<String>,
    /// Leave questions out whose picture is not there, instead of counting them as unanswered.
    #[arg(long, requires = "data")]
    only_with_image: bool,
    /// Folder for results.json and scored.jsonl.
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Print the result as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let metrics = metrics(&args.metric)?;
    // A wrong name is told before a large file is read.
    task_info(&args.task)?;
    no_pipe(&args.answers)?;
    must_exist("answers file", &args.answers)?;
    if args.answers.is_dir() {
        let message = format!("{} is a folder", args.answers.display());
        return Err(Failure::new(Class::Data, message)
            .hint("give the answers file, such as runs/ev/TASK/samples.jsonl"));
    }
    if let Some(out) = &args.out {
        let data = args.data.as_deref().unwrap_or(&args.answers);
        let inputs = [("the answers", args.answers.as_path()), ("--data", data)];
        for name in [RESULTS_FILE, SCORED_FILE] {
            not_over("--out", &out.join(name), &inputs)?;
        }
        not_another_run(out, &args.answers)?;
    }
    let task = match &args.data {
        Some(data) => {
            let options = Options {
                split: args.split.clone(),
                image_folder: args.image_folder.clone(),
                image_check: ImageCheck::Header,
                ocr_tokens: false,
            };
            Some(Task::open_with(&args.task, data, &options)?)
        }
        None => None,
    };
    let file = read_answers(&args.answers)?;
    let task = match task {
        Some(task) => task,
        None => Task::from_answers(&args.task, &args.answers, &file)?,
    };
    announce(&task);
    let options = ScoreOptions {
        metrics,
        only_with_image: args.only_with_image,
    };
    let (result, rows) = score(&task, &file, &options)?;
    if let Some(out) = &args.out {
        write_json(&out.join(RESULTS_FILE), &result)?;
        write_rows(&out.join(SCORED_FILE), &rows)?;
        note(format!("{}: results and scored rows", out.display()));
    }
    if args.json {
        return print_json(&result);
    }
    print(show::table(&[result]))
}

/// Results of `eval run` belong to its answers: those of others are not put in their place. A task's own answers may
/// be scored again there.
fn not_another_run(out: &Path, answers: &Path) -> Outcome {
    let is_task = |folder: &Path| folder.join(SETTINGS_FILE).exists();
    let own = answers
        .file_name()
        .is_some_and(|name| is_same(answers, &out.join(name)));
    let mut below = fs::read_dir(out).into_iter().flatten().flatten();
    if (is_task(out) && !own) || below.any(|entry| is_task(&entry.path())) {
        let message = format!("--out {} holds what `llavar eval run` made", out.display());
        return Err(Failure::usage(message).hint("give a folder of its own"));
    }
    Ok(())
}
