//! `llavar select report`.

use std::{collections::HashMap, path::PathBuf};

use llavar_data::ImageFolder;
use llavar_image::{DecodeLimits, ImageError, RgbImage, decode_file};
use llavar_select::{
    ScoreTable,
    pick::Dropped,
    report::{ReportOptions, page},
};
use serde::Deserialize;

use super::{pick::beside, score::image_folder};
use crate::{
    commands::{no_pipe, not_over, not_over_other, print, write_file},
    failure::{Class, Failure, Outcome},
};

/// Show scores, and a pick of them, on a page.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar select report scores.parquet --image-folder images --picked picked.json --out scores.html\n\
\n\
One HTML file that needs nothing else: distributions of all scores, VFD against IFD, the lowest and the\n\
highest pairs of every score with their pictures, what has no score and why. With --picked (the output of\n\
`llavar select pick`) kept and dropped pairs are told apart and stand side by side."
)]
pub(crate) struct Args {
    /// Score file of `llavar select score`.
    scores: PathBuf,
    /// Folder below which the pictures lie; that of the score file by default.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// What `llavar select pick` wrote from this score file: its list of dropped pairs lies beside it.
    #[arg(long)]
    picked: Option<PathBuf>,
    /// Page to write; the score file's name with .html by default.
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Pairs shown at each end of a score, and of kept and dropped ones.
    #[arg(long, value_name = "N", default_value_t = 8)]
    shown: usize,
}

/// A line of the list of dropped pairs.
#[derive(Debug, Deserialize)]
struct DroppedLine {
    id: String,
    occurrence: u32,
    qa_id: u32,
    #[serde(flatten)]
    why: Dropped,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    no_pipe(&args.scores)?;
    let out = args
        .out
        .unwrap_or_else(|| args.scores.with_extension("html"));
    not_over("--out", &out, &[("the score file", &args.scores)])?;
    if let Some(picked) = &args.picked {
        let dropped = beside(picked, "dropped.jsonl");
        let inputs = [
            ("--picked", picked.as_path()),
            ("the list of dropped pairs", &dropped),
        ];
        not_over("--out", &out, &inputs)?;
    }
    not_over_other("--out", &out, |head| {
        head.to_ascii_lowercase().starts_with(b"<!doctype html")
    })?;
    let table = ScoreTable::read(&args.scores)?;
    let verdicts = match &args.picked {
        Some(picked) => Some(verdicts(&table, picked)?),
        None => None,
    };
    let folder = image_folder(&args.scores, args.image_folder.as_deref());
    let folder = ImageFolder::open(&folder)?;
    let mut read = |name: &str| -> Result<RgbImage, ImageError> {
        // The rules of paths in data sets: a name that leaves the folder is not found.
        let path = folder.resolve(name).map_err(|_| ImageError::NotFound {
            path: folder.path().join(name),
        })?;
        decode_file(&path, &DecodeLimits::default())
    };
    let options = ReportOptions {
        shown: args.shown,
        ..ReportOptions::default()
    };
    let title = format!("scores of {}", args.scores.display());
    let html = page(&title, &table, verdicts.as_deref(), &options, &mut read);
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Failure::write(parent, &error))?;
    }
    write_file(&out, html.as_bytes())?;
    print(format!("{}: {} pairs\n", out.display(), table.rows.len()))
}

/// Why each row was dropped; `None` for those that the list does not name.
fn verdicts(table: &ScoreTable, picked: &std::path::Path) -> Outcome<Vec<Option<Dropped>>> {
    let path = beside(picked, "dropped.jsonl");
    no_pipe(&path)?;
    let bad = |message: String| {
        Failure::new(Class::Data, message)
            .hint("--picked is the --out of `llavar select pick` on this score file")
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| bad(format!("{}: {error}", path.display())))?;
    let mut dropped = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line: DroppedLine = serde_json::from_str(line)
            .map_err(|error| bad(format!("{}, line {}: {error}", path.display(), number + 1)))?;
        dropped.insert((line.id, line.occurrence, line.qa_id), line.why);
    }
    let verdicts = table.rows.iter().map(|row| dropped.remove(&row.key()));
    let verdicts: Vec<Option<Dropped>> = verdicts.collect();
    match dropped.is_empty() {
        true => Ok(verdicts),
        false => Err(bad(format!(
            "{} names {} pairs that the score file does not have",
            path.display(),
            dropped.len()
        ))),
    }
}
