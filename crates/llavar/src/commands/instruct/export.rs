//! `llavar instruct export`, and what `run` ends with.

use std::path::{Path, PathBuf};

use llavar_instruct::{
    Journal, Ledger, RunFile,
    output::{self, Card, Formats, Selection},
    read_pictures,
};

use crate::{
    commands::{print, print_json},
    failure::{Failure, Outcome},
    progress::note,
};

/// Write the data set of a run again, after reviews or in other forms.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar instruct export runs/posters --formats json,parquet\n\
Decisions of `llavar instruct review` are applied: rejected duos go, edited ones are replaced."
)]
pub(crate) struct Args {
    /// Run folder.
    run: PathBuf,
    /// Forms beside LLaVA JSON: json, parquet, webdataset; files of those not named are removed.
    #[arg(long, default_value = FORMATS, value_parser = formats)]
    formats: Formats,
    /// Print a JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// Forms that are written where nothing is said.
pub(super) const FORMATS: &str = "json,parquet,webdataset";

/// Reads a list of forms.
pub(super) fn formats(text: &str) -> Result<Formats, String> {
    let mut formats = Formats {
        parquet: false,
        webdataset: false,
    };
    for name in text.split(',') {
        match name.trim() {
            "json" => {}
            "parquet" => formats.parquet = true,
            "webdataset" => formats.webdataset = true,
            "" => return Err(format!("a form is missing; there are {FORMATS}")),
            other => return Err(format!("`{other}` is no form; there are {FORMATS}")),
        }
    }
    Ok(formats)
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if !args.run.is_dir() {
        let message = format!("there is no run folder {}", args.run.display());
        return Err(Failure::usage(message).hint("`llavar instruct run --out` makes one"));
    }
    let card = write(&args.run, args.formats)?;
    match args.json {
        true => print_json(&card),
        false => print(summary(&args.run, &card)),
    }
}

/// Writes the data set from what the run folder holds.
pub(super) fn write(run: &Path, formats: Formats) -> Outcome<Card> {
    let file = RunFile::read(run)?;
    let pictures = read_pictures(run)?;
    let (verdicts, ledger) = match run.join(Journal::FILE).exists() {
        true => {
            let journal = Journal::open_to_read(run)?;
            (journal.verdicts(), Ledger::of(&journal.entries()))
        }
        false => (Vec::new(), Ledger::default()),
    };
    let selection = Selection::read(run)?;
    let selection = selection.as_ref();
    let mut before = [
        ("parquet", formats.parquet),
        ("webdataset", formats.webdataset),
    ]
    .into_iter()
    .filter(|(name, is_asked)| !is_asked && run.join(name).is_dir())
    .map(|(name, _)| name)
    .collect::<Vec<_>>();
    let card = output::write(
        run, &file, &pictures, &verdicts, selection, &ledger, formats,
    )?;
    before.retain(|name| !run.join(name).exists());
    for name in before {
        note(format!("{name}/ is removed: --formats does not name it"));
    }
    Ok(card)
}

/// The card in a few lines.
pub(super) fn summary(run: &Path, card: &Card) -> String {
    let total = |of: fn(&output::Counts) -> usize| card.splits.values().map(of).sum::<usize>();
    let mut text = format!(
        "{}: {} captions and {} duos ({} question-answer pairs) of {} pictures\n",
        run.display(),
        total(|c| c.captions),
        total(|c| c.duos),
        2 * total(|c| c.duos),
        card.pictures.values().sum::<usize>()
    );
    for (state, n) in card.pictures.iter().filter(|(state, _)| *state != "done") {
        text += &format!("  {n:>7} pictures {state}\n");
    }
    text += &format!(
        "  {:>7} of {} proposed duos passed the checks\n",
        card.duos_accepted, card.duos_proposed
    );
    for (step, reasons) in &card.rejected {
        for (reason, n) in reasons {
            text += &format!(
                "  {n:>7} turned down: {step}, {}\n",
                reason.replace('_', " ")
            );
        }
    }
    for (reason, n) in &card.selection {
        text += &format!("  {n:>7} duos in selection: {}\n", reason.replace('_', " "));
    }
    if card.unusable_edits > 0 {
        text += &format!(
            "  {:>7} edits hold `{}` and were not applied; review them again\n",
            card.unusable_edits,
            llavar_data::IMAGE_TAG
        );
    }
    for row in &card.ledger.rows {
        text += &format!(
            "  {:>7} answers of {} for {}: {} + {} tokens{}{}{}\n",
            row.answers,
            row.model,
            row.step,
            row.prompt_tokens,
            row.completion_tokens,
            row.usd
                .map_or(String::new(), |usd| format!(", {usd:.4} USD")),
            match row.estimated_answers {
                0 => String::new(),
                n => format!("; the tokens of {n} are estimated"),
            },
            match row.in_doubt {
                0 => String::new(),
                n => format!("; {n} requests in doubt may have been charged too"),
            }
        );
    }
    text
}
