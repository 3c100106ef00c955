//! The shipped model is asked about pictures that are drawn on the spot.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use llavar_eval::AnswerRow;
use llavar_synth::{DocKind, Split, SynthConfig};
use serde::Serialize;

use super::{Args, evaluate, prepare, report};
use crate::{
    commands::{ask::load, data::with_sets, ocr, print, print_json, shell_word},
    device::DeviceFlags,
    failure::Outcome,
    progress::note,
};

/// Pictures that are drawn unless a number is given.
const PICTURES: u64 = 8;
/// Longest answer, tokens: an address.
const LONGEST: usize = 48;
/// Where they go below `--out`; the training does not mind.
pub(super) const FOLDER: &str = "asked";

/// The result for scripts.
#[derive(Debug, Serialize)]
struct Report {
    model: PathBuf,
    accuracy: f64,
    questions: usize,
    pictures: u64,
    answers: Vec<AnswerRow>,
    contact_sheet: PathBuf,
    seconds: f64,
}

/// Draws held-out documents, asks about them, prints the answers beside what stands there.
pub(super) fn run(args: &Args, model: &Path) -> Outcome {
    let begun = Instant::now();
    let assistant = load(
        model,
        None,
        &DeviceFlags {
            device: args.device,
            dtype: None,
            adapter: None,
        },
    )?;
    let pictures = args.held_out.unwrap_or(PICTURES);
    let mut profile = SynthConfig::profile("default")?;
    profile.kinds = vec![
        DocKind::Receipt,
        DocKind::Form,
        DocKind::Poster,
        DocKind::BookCover,
        DocKind::BarChart,
        DocKind::Table,
        DocKind::Sign,
    ];
    profile.max_facts = 2;
    let mut profile = with_sets(profile, &args.synth_sets)?;
    profile.seed = args.seed;
    let folder = args.out.join(FOLDER);
    let questions = prepare::held_out(&profile.with_split(Split::HeldOut), pictures, &folder)?;
    let answers = evaluate::ask_all("llavar-nano", &assistant, &questions, true, LONGEST)?;
    let accuracy = llavar_eval::answer::accuracy(&answers);
    let sheet = folder.join("contact-sheet.png");
    let title = format!(
        "llavar-nano on pictures drawn just now: {} of the answers right",
        report::percent(accuracy)
    );
    report::write_sheet(&title, &questions, &answers, &sheet)?;
    note(format!("pictures and answers: {}", sheet.display()));
    let example = answers.first().map(|row| folder.join(&row.image));
    if let (Some(picture), Some(row)) = (example, answers.first()) {
        let picture = shell_word(&picture);
        let pull = if ocr::wished_engine(model)?.is_some() {
            "\n  llavar ocr pull                     once: an engine whose text betters answers about scans"
        } else {
            ""
        };
        note(format!(
            "\ntry next:{pull}\n  llavar ask {picture} \"{}\"\n  llavar chat {picture}",
            row.question,
        ));
    }
    note(
        "  llavar quickstart --train        train a small model of your own from nothing, in minutes\n  \
           llavar quickstart --data your.json --image-folder your_images",
    );
    if args.json {
        return print_json(&Report {
            model: model.to_owned(),
            accuracy,
            questions: answers.len(),
            pictures,
            answers,
            contact_sheet: sheet,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    print(table(&answers, accuracy, begun.elapsed().as_secs_f64()))
}

/// Questions by picture, with what was answered and what stands there.
fn table(answers: &[AnswerRow], accuracy: f64, seconds: f64) -> String {
    let mut text = String::new();
    let mut last = "";
    for row in answers {
        if row.image != last {
            last = &row.image;
            let _ = writeln!(text, "\n{last}");
        }
        let mark = if row.correct { "right" } else { "wrong" };
        let _ = writeln!(
            text,
            "  {}\n    {mark}: {}",
            row.question,
            row.answer.trim()
        );
        let _ = writeln!(text, "    gold:  {}", row.gold);
    }
    let _ = writeln!(
        text,
        "\n{} of {} answers right, {seconds:.1} s in all",
        report::percent(accuracy),
        answers.len()
    );
    text
}
