//! `llavar eval report`: runs as a page, as Markdown, as JSON.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_eval::{
    report::{BrowserOptions, ReportError, ReportRun, Summary, html, markdown},
    results::{RESULTS_FILE, SETTINGS_FILE},
    run::columns,
};

use super::must_exist;
use crate::{
    commands::{not_over, print, print_json, write_file},
    failure::{Class, Failure, Outcome},
};

/// Show runs on a page: scores beside the published ones, and every question with its picture.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar eval report runs/eval runs/baseline --out report.html --out report.md\n\
\n\
The page is one file without anything from elsewhere: it can be mailed and opens without a network.\n\
Several runs stand side by side, with a paired test of the first against every other."
)]
pub(crate) struct Args {
    /// Run folders, or folders of one task in them.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Files to write; the form follows the name: .html, .md or .json. May be repeated.
    #[arg(long, short, value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Questions of each task on the page at most; an even part of more.
    #[arg(long, value_name = "N", default_value_t = 400)]
    questions: usize,
    /// Show only questions that are not answered right by every run.
    #[arg(long)]
    only_wrong: bool,
    /// Longest side of a picture on the page, px.
    #[arg(long, value_name = "PX", default_value_t = 640, value_parser = clap::value_parser!(u32).range(16..=8192))]
    picture_side: u32,
    /// What the pictures of the page may take together, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 24)]
    picture_mib: usize,
    /// Print the numbers as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// What a file is to hold.
#[derive(Clone, Copy)]
enum Form {
    Html,
    Markdown,
    Json,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let forms = args.out.iter().map(|path| {
        let extension = path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        match extension.as_str() {
            "html" | "htm" => Ok(Form::Html),
            "md" | "markdown" => Ok(Form::Markdown),
            "json" => Ok(Form::Json),
            _ => Err(Failure::usage(format!(
                "--out {}: the name must end in .html, .md or .json",
                path.display()
            ))),
        }
    });
    let forms: Vec<Form> = forms.collect::<Outcome<_>>()?;
    let mut runs = Vec::new();
    for folder in &args.runs {
        must_exist("run folder", folder)?;
        for path in &args.out {
            not_over_run(path, folder)?;
        }
        runs.push(ReportRun::open(folder)?);
    }
    let summary = Summary::new(&runs);
    let options = BrowserOptions {
        questions: args.questions,
        only_wrong: args.only_wrong,
        picture_side: args.picture_side as usize,
        picture_bytes: args.picture_mib.saturating_mul(1 << 20),
    };
    for (path, form) in args.out.iter().zip(forms) {
        let text = match form {
            Form::Html => html(&runs, &summary, &options),
            Form::Markdown => markdown(&summary),
            Form::Json => {
                serde_json::to_string_pretty(&summary)
                    .map_err(|error| Failure::new(Class::Failure, error))?
                    + "\n"
            }
        };
        write_file(path, text.as_bytes())?;
    }
    if args.json {
        return print_json(&summary);
    }
    if args.out.is_empty() {
        return print(markdown(&summary));
    }
    args.out
        .iter()
        .try_for_each(|path| print(format!("{}\n", path.display())))
}

/// Refuses to write over what a run holds, of which only the JSON files have a name that a report can have.
fn not_over_run(out: &Path, run: &Path) -> Outcome {
    let mut own = vec![run.join(RESULTS_FILE)];
    for (_, column) in columns(run)? {
        own.extend([SETTINGS_FILE, RESULTS_FILE].map(|name| column.join(name)));
        let judges = fs::read_dir(&column).into_iter().flatten().flatten();
        own.extend(judges.map(|judge| judge.path().join("judge.json")));
    }
    own.iter()
        .try_for_each(|file| not_over("--out", out, &[("a file of the run", file)]))
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Results(error) => error.into(),
            other => Self::new(Class::Data, other)
                .hint("`llavar eval run` and `llavar eval score --out DIR` make such folders"),
        }
    }
}
