//! `llavar eval judge`: a language model as judge of captions and open answers.

use std::{fs, path::PathBuf, time::Instant};

use llavar_eval::{
    judge::{Judge, JudgeError, JudgeKind, JudgePrompt, JudgeResult, JudgeSettings, JudgedRun},
    report::{ReportColumn, ReportRun},
    results::DecodeSettings,
    run::{Answerer, RemoteModel},
    tasks::title,
};
use serde::Serialize;

use super::{CHECK_SERVER, must_exist};
use crate::{
    commands::{no_pipe, print, print_json},
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
    server::{AttemptsFlag, ServerFlags},
};

/// Let a language model judge captions and open answers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar eval judge runs/eval --task hybrid_instruct --endpoint http://localhost:8000 --model judge\n\
\n\
Without --against every answer gets 1 to 10 points for its agreement with the reference and the picture.\n\
With --against OTHER the answers of both runs are compared in both orders; pairs on which the orders disagree\n\
count as ties and are reported. Replies are kept as they come: the same command goes on where it was, and asks\n\
again only where an answer has changed. Verdicts lie in RUN/TASK/judge-*/ and are never part of a score."
)]
pub(crate) struct Args {
    /// Run folder, or the folder of one task in it.
    run: PathBuf,
    /// Compare with the answers of this run, in both orders.
    #[arg(long, value_name = "RUN")]
    against: Option<PathBuf>,
    /// Judge only these tasks; all of the run by default.
    #[arg(long, short, value_delimiter = ',')]
    task: Vec<String>,
    /// The judge's server, for example http://localhost:8000.
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// The judge's name on its server.
    #[arg(long, short)]
    model: String,
    /// Only the first N questions of every task.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Let the judge see question, reference and answers only.
    #[arg(long)]
    no_picture: bool,
    /// A prompt of your own: a file with {question}, {reference} and {answer} (or {answer_a} and
    /// {answer_b}) that asks for a last line `Score: N` (or `Verdict: A`, `B` or `tie`).
    #[arg(long, value_name = "FILE")]
    prompt: Option<PathBuf>,
    /// Longest reply, tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    attempts: AttemptsFlag,
    /// Print the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Judged {
    folder: PathBuf,
    result: JudgeResult,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    must_exist("run folder", &args.run)?;
    let mut a = ReportRun::open(&args.run)?;
    a.columns
        .retain(|column| args.task.is_empty() || args.task.contains(&column.result.task));
    let b = match &args.against {
        None => None,
        Some(folder) => {
            must_exist("run folder", folder)?;
            Some(ReportRun::open(folder)?)
        }
    };
    let prompt = prompt(&args)?;
    let stop = interrupt::stop_flag()?;
    let client = args
        .server
        .client(&args.endpoint, &args.attempts, stop.clone())?;
    let mut model = RemoteModel::new(&client, &args.model, usize::from(args.server.concurrency));
    let mut judged = Vec::new();
    let mut unjudged = None;
    for column in &a.columns {
        let other = match &b {
            None => None,
            Some(b) => match b.columns.iter().find(|other| alike(column, other)) {
                Some(other) => Some((b, other)),
                None => {
                    note(format!(
                        "{}: {} has no such task",
                        column.result.task, b.name
                    ));
                    continue;
                }
            },
        };
        let rows = |column: &ReportColumn| {
            let kept = args.limit.unwrap_or(usize::MAX).min(column.rows.len());
            column.rows[..kept].to_vec()
        };
        let (rows_a, rows_b) = (rows(column), other.map(|(_, other)| other.rows.clone()));
        let judge = Judge {
            settings: JudgeSettings {
                task: column.result.task.clone(),
                split: column.result.split.clone(),
                kind: kind(&args),
                judge: model.info(),
                prompt: prompt.clone(),
                picture: !args.no_picture,
                decode: decode(&args),
                a: judged_run(&a, column),
                b: other.map(|(b, other)| judged_run(b, other)),
            },
            a: &rows_a,
            b: rows_b.as_deref(),
            column: &column.folder,
        };
        let begun = Instant::now();
        let mut bar = Progress::new(&column.result.task, "replies", 1);
        let run = judge.run(&mut model, &stop, &mut |view| {
            bar.set_total(view.total as u64);
            let rate = (view.done - view.resumed) as f64 / begun.elapsed().as_secs_f64().max(1e-9);
            bar.set(
                (view.done + view.failed) as u64,
                format!("{rate:.2} replies/s, {} failed", view.failed),
            );
        })?;
        bar.finish(&format!(
            "{}: {} replies in {:.1} s, {} taken from before, {} failed",
            column.result.task,
            run.view.done - run.view.resumed,
            begun.elapsed().as_secs_f64(),
            run.view.resumed,
            run.view.failed
        ));
        if !run.recovery.is_clean() {
            note(format!("journal: {}", run.recovery));
        }
        if let Some(error) = &run.first_error {
            note(format!("first failure: {error}"));
        }
        if run.result.counts.left > 0 {
            return Err(Failure::interrupted(format!(
                "{} questions of {} are still to be judged; the same command goes on",
                run.result.counts.left, column.result.task
            )));
        }
        let counts = run.result.counts;
        if counts.judged == 0 && counts.failed > 0 {
            let why = run.first_error.unwrap_or_default();
            let task = &column.result.task;
            let message = format!("{task}: no answer was judged; first failure: {why}");
            unjudged.get_or_insert(Failure::new(Class::Failure, message).hint(CHECK_SERVER));
        }
        judged.push(Judged {
            folder: run.folder,
            result: run.result,
        });
    }
    if judged.is_empty() {
        let message = format!("{}: no task to judge", args.run.display());
        return Err(Failure::new(Class::Data, message).hint("--task names tasks of the run"));
    }
    if args.json {
        print_json(&judged)?;
    } else {
        for judged in &judged {
            let settings = &judged.result.settings;
            print(format!(
                "{}, {}\n  {}\n",
                title(&settings.task, &settings.split),
                judged.result.line(),
                judged.folder.display()
            ))?;
        }
    }
    unjudged.map_or(Ok(()), Err)
}

fn kind(args: &Args) -> JudgeKind {
    match args.against {
        None => JudgeKind::Grade,
        Some(_) => JudgeKind::Pair,
    }
}

/// Judges do not sample: the same question gets the same verdict.
fn decode(args: &Args) -> DecodeSettings {
    DecodeSettings {
        temperature: 0.0,
        top_p: None,
        top_k: None,
        num_beams: 1,
        repetition_penalty: 1.0,
        max_new_tokens: args.max_new_tokens,
        seed: 0,
        closer: false,
    }
}

fn prompt(args: &Args) -> Outcome<JudgePrompt> {
    let Some(path) = &args.prompt else {
        return Ok(kind(args).prompt());
    };
    no_pipe(path)?;
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Class::Data,
            format!("cannot read {}: {error}", path.display()),
        )
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    JudgePrompt::own(kind(args), &name, &text).map_err(|error| Failure::new(Class::Usage, error))
}

/// The same task, split and way of asking; another OCR mode only where there is no other.
fn alike(a: &ReportColumn, b: &ReportColumn) -> bool {
    (&a.result.task, &a.result.split) == (&b.result.task, &b.result.split)
        && a.folder.file_name() == b.folder.file_name()
}

fn judged_run(run: &ReportRun, column: &ReportColumn) -> JudgedRun {
    JudgedRun {
        name: run.name.clone(),
        model_id: column.result.model_id.clone(),
        run: column.result.run.clone(),
    }
}

impl From<JudgeError> for Failure {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Journal(error) => error.into(),
            JudgeError::Results(error) => error.into(),
            JudgeError::Client(error) => error.into(),
            other => Self::new(Class::Data, other),
        }
    }
}
