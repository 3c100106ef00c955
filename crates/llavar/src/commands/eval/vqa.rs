//! `llavar eval vqa`: the job of LLaVA's `model_vqa.py`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use llavar_eval::{
    results::{OcrMode, PromptSettings, RunSettings, write_rows},
    run::{Answerer, Asked, Column, DataSource, LocalModel, PromptFormat},
    samples::{SampleKey, SampleRow, Shard},
    score::ScoreOptions,
    tasks::{ImageCheck, Item, Options, Task},
};
use serde_json::{Value, json};

use super::{
    announce, must_exist,
    ocr::OcrFlags,
    run::{AnswerFlags, answered_at_all, ask, unless_stopped},
    show,
};
use crate::{
    commands::{no_pipe, not_over, print, print_json},
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Answer a question file as LLaVA's model_vqa.py does, and report by kind of question.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar eval vqa --model-path models/llavar2 --question-file Hybrid_Instruct_test/vqa_test.json \\\n\
  --image-folder Hybrid_Instruct_test/LLaVAR-2_img --answers-file answers.jsonl\n\
\n\
QUESTION_FILE is LLaVA JSON (every question-answer pair is asked alone) or JSONL with\n\
question_id, image, text. ANSWERS_FILE gets the keys of model_vqa.py (question_id, prompt,\n\
text, gt, model_id, metadata) and ours (qa_id, category, image, answer_id). Beside it lies\n\
answers.run with answers as they come and scores: the same command again goes on where it was.\n\
The published figures were made with OCR text in the prompt: --ocr on."
)]
pub(crate) struct Args {
    /// Model folder.
    #[arg(long, alias = "model_path")]
    model_path: PathBuf,
    /// Model that MODEL_PATH's weights belong on top of.
    #[arg(long, alias = "model_base")]
    model_base: Option<PathBuf>,
    /// Questions: LLaVA JSON, or JSONL with question_id, image and text.
    #[arg(long, alias = "question_file")]
    question_file: PathBuf,
    /// Folder of the pictures; where the questions lie by default.
    // Scripts pass it empty too, which the usual parser of paths refuses.
    #[arg(long, alias = "image_folder", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    image_folder: Option<PathBuf>,
    /// Where the answers go, JSONL.
    #[arg(long, alias = "answers_file", default_value = "answer.jsonl")]
    answers_file: PathBuf,
    /// Number of parts of the questions.
    #[arg(long, alias = "num_chunks", default_value_t = 1)]
    num_chunks: usize,
    /// Which part is answered, from 0.
    #[arg(long, alias = "chunk_idx", default_value_t = 0)]
    chunk_idx: usize,
    #[command(flatten)]
    how: AnswerFlags,
    #[command(flatten)]
    ocr: OcrFlags,
    /// Print the result as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if let Some(base) = &args.model_base {
        let message = format!(
            "--model-base {}: weights on top of a base are not put together here",
            base.display()
        );
        return Err(Failure::usage(message)
            .hint("give a whole model folder as --model-path; leave --model-base out"));
    }
    no_pipe(&args.question_file)?;
    must_exist("question file", &args.question_file)?;
    let questions = [("the question file", args.question_file.as_path())];
    not_over("--answers-file", &args.answers_file, &questions)?;
    let folder = journal_of(&args.answers_file);
    if args.answers_file.is_file() && !folder.exists() {
        let shown = args.answers_file.display();
        return Err(Failure::usage(format!(
            "{shown} is there already, and not from this command"
        ))
        .hint("give another --answers-file, or move it"));
    }
    let shard = Shard::new(args.num_chunks, args.chunk_idx);
    let shard = shard.map_err(|error| Failure::new(Class::Usage, error))?;
    let mode = args.ocr.mode()?;
    let options = Options {
        image_folder: args
            .image_folder
            .clone()
            .filter(|f| !f.as_os_str().is_empty()),
        image_check: ImageCheck::Header,
        ..Options::default()
    };
    let mut task = Task::open_with("hybrid_instruct", &args.question_file, &options)?;
    announce(&task);
    task.items = part(&task, shard);
    let ocr = args.ocr.open()?;
    let assistant = args.how.load(&args.model_path)?;
    let mut model = LocalModel::new(&assistant, &args.model_path, args.how.local(&assistant))?;

    let format = PromptFormat::with_suffix(&task, None);
    let prefix = |item: &_| match &ocr {
        Some(ocr) => ocr.before(item),
        None => Ok(String::new()),
    };
    let column = Column {
        settings: RunSettings {
            task: task.name.clone(),
            split: task.split.clone(),
            model: model.info(),
            prompt: PromptSettings {
                format: format.as_str().to_owned(),
                ocr: mode,
                ocr_lines: ocr.as_ref().map(|ocr| ocr.source.clone()),
                hash: format.hash(&task),
            },
            decode: args.how.decode(&task, &model),
        },
        task: &task,
        format,
        prefix: (mode == OcrMode::On).then_some(&prefix),
        source: DataSource {
            data: args.question_file.clone(),
            image_folder: options.image_folder.clone(),
            limit: None,
        },
        folder,
        shard: Shard::default(),
    };
    let asked = ask(&column, &mut model)?;
    let lines = lines(&task, &asked);
    write_rows(&args.answers_file, &lines)?;
    note(format!(
        "{}: {} answers",
        args.answers_file.display(),
        lines.len()
    ));
    if let Some(summary) = model.summary() {
        note(summary);
    }
    unless_stopped(&asked, &args.answers_file.display().to_string())?;
    report(&args, &column, &asked, lines.len())
}

/// Where answers are kept as they come: beside the answers file, in a folder of its name.
fn journal_of(answers: &Path) -> PathBuf {
    let ours = answers
        .extension()
        .is_some_and(|end| end == "jsonl" || end == "json");
    if ours {
        return answers.with_extension("run");
    }
    let mut name = answers.as_os_str().to_owned();
    name.push(".run");
    name.into()
}

/// A chunk of the questions. As in the reference it is one of samples: the questions of a sample stay
/// together.
fn part(task: &Task, shard: Shard) -> Vec<Item> {
    let is_first = |item: &Item| item.extra.get("qa_id").is_none_or(|id| *id == 0);
    let mut samples: Vec<Vec<Item>> = Vec::new();
    for item in &task.items {
        match samples.last_mut() {
            Some(sample) if !is_first(item) => sample.push(item.clone()),
            _ => samples.push(vec![item.clone()]),
        }
    }
    shard.of(&samples).concat()
}

/// Scores where there are references, and says what was done.
fn report(args: &Args, column: &Column<'_>, asked: &Asked, lines: usize) -> Outcome {
    if column.task.items.iter().all(|item| item.answers.is_empty()) {
        note("the question file has no references: nothing is scored");
        if args.json {
            return print_json(&json!({"answers_file": args.answers_file, "answers": lines}));
        }
        return print(format!(
            "{}: {lines} answers\n",
            args.answers_file.display()
        ));
    }
    let (result, _) = column.finish(&asked.rows, &asked.errors, &ScoreOptions::default())?;
    answered_at_all(std::slice::from_ref(&result))?;
    if args.json {
        return print_json(&result);
    }
    print(show::table(&[result]))
}

/// The answers in the order of the questions, in the reference's keys and ours.
fn lines(task: &Task, asked: &Asked) -> Vec<Value> {
    let rows = asked.rows.iter().chain(&asked.errors);
    let rows: HashMap<SampleKey, &SampleRow> = rows.map(|row| (row.key(), row)).collect();
    let lines = task.items.iter().filter_map(|item| {
        let row = rows.get(&(task.name.clone(), item.id.clone()))?;
        // The reference's id is the sample's, shared by all its questions; qa_id tells them apart.
        let row = SampleRow {
            question_id: item.source_id.clone(),
            ..(*row).clone()
        };
        let mut line = serde_json::to_value(&row).ok()?;
        if let [gt] = row.gt.as_slice() {
            line["gt"] = gt.as_str().into();
        }
        if let Some(qa_id) = item.extra.get("qa_id") {
            line["qa_id"] = qa_id.clone();
        }
        Some(line)
    });
    lines.collect()
}
