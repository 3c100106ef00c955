//! `llavar quickstart`: the shipped model asked about pictures drawn on the spot; from nothing to a model of one's own.

mod ask;
mod evaluate;
mod prepare;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use llavar_assistant::Assistant;
use llavar_data::Tokenizer;
use llavar_model::LlavaModel;
use llavar_tensor::DeviceKind;
use llavar_train::{Outcome as TrainOutcome, Recipe, Resume, Trainer};
use serde::Serialize;

use super::{print_json, train::TrainView};
use crate::{
    device::kind,
    failure::{Failure, Outcome},
    interrupt,
    progress::note,
    shipped,
};
use evaluate::Question;

/// Ask the shipped model about pictures that are drawn on the spot; with --train make a small one from nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --train it draws documents that no training has seen, asks llavar-nano about them and shows \
the answers beside what stands there.\n\
With --train, or where llavar-nano is not found, it writes a set of synthetic signs, receipts and book covers, trains \
a small LLaVAR-2 on them from random weights through both stages in minutes, asks it about held-out pictures and shows \
the answers."
)]
pub(crate) struct Args {
    /// Folder for pictures, runs, model and pages; to train in it must be empty or not exist.
    #[arg(long, default_value = "quickstart")]
    out: PathBuf,
    /// Train a small model from nothing instead of asking the shipped one.
    #[arg(long)]
    train: bool,
    /// Train on this LLaVA JSON instead of synthetic documents; a tenth of it is held out.
    #[arg(long, requires = "image_folder")]
    data: Option<PathBuf>,
    /// Folder below which the pictures of --data lie.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Training pictures to draw; 5000 by default. Trains, as the flags of recipes and data do.
    #[arg(long)]
    pictures: Option<u64>,
    /// Held-out pictures to ask about; 100 after training, else 8.
    #[arg(long)]
    held_out: Option<u64>,
    /// Change a key of the second stage's recipe, for example max_steps=2000; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Change a key of the first stage's recipe; may be repeated.
    #[arg(long = "set-pretrain", value_name = "KEY=VALUE")]
    pretrain_sets: Vec<String>,
    /// Change a setting of the synthetic documents (see `llavar data synth`); may be repeated.
    #[arg(long = "set-synth", value_name = "KEY=VALUE", conflicts_with = "data")]
    synth_sets: Vec<String>,
    /// Where to train and answer; auto takes a GPU where one can be used.
    #[arg(long, value_name = "auto|cpu|cuda|cuda:N", default_value = "cpu", value_parser = kind)]
    device: DeviceKind,
    /// Element types: bf16 (with f32 master weights) on a GPU and f32 on the CPU by default.
    #[arg(long, value_name = "f32|bf16|bf16-pure")]
    dtype: Option<String>,
    /// Seed of pictures, weights and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the result as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// The result for scripts.
#[derive(Debug, Serialize)]
struct Report {
    accuracy_before: f64,
    accuracy_after: f64,
    accuracy_without_picture: f64,
    questions: usize,
    held_out_pictures: usize,
    training_pictures: usize,
    parameters: usize,
    seconds: f64,
    model: PathBuf,
    page: PathBuf,
    contact_sheet: PathBuf,
}

/// Longest answer, tokens: one sentence. What rambles on must not hit the gold by chance.
const SENTENCE: usize = 24;

const PRETRAIN: &str = include_str!("pretrain.toml");
const SFT: &str = include_str!("sft.toml");

/// Training pictures, and those held out.
const TRAINING: (u64, u64) = (5000, 100);

impl Args {
    /// Whether something was asked for that only training does.
    fn trains(&self) -> bool {
        self.train
            || self.data.is_some()
            || self.pictures.is_some()
            || self.dtype.is_some()
            || !self.sets.is_empty()
            || !self.pretrain_sets.is_empty()
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let shipped = shipped::find().filter(|_| !args.trains());
    match shipped {
        Some(model) => ask::run(&args, &model),
        None => train(args),
    }
}

fn train(args: Args) -> Outcome {
    if !args.trains() {
        note(
            "llavar-nano is not found (`llavar ask` says where it is looked for): training a small model instead",
        );
    }
    let begun = Instant::now();
    let mut there = args.out.read_dir().into_iter().flatten().flatten();
    if there.any(|entry| entry.file_name() != ask::FOLDER) {
        return Err(
            Failure::usage(format!("{} is not empty", args.out.display()))
                .hint("remove it or name another folder with --out"),
        );
    }
    let set = match (&args.data, &args.image_folder) {
        (Some(data), Some(images)) => prepare::own(data, images, &args.out)?,
        _ => prepare::synthetic(
            args.pictures.unwrap_or(TRAINING.0),
            args.held_out.unwrap_or(TRAINING.1),
            args.seed,
            &args.synth_sets,
            &args.out,
        )?,
    };
    let (model, tokenizer_folder) = prepare::model(&set, args.seed, &args.out)?;
    let parameters = model.params().iter().map(llavar_tensor::Param::numel).sum();

    let before = assistant(model, &tokenizer_folder)?;
    let probe = &set.questions[..set.questions.len().min(60)];
    let answers_before = evaluate::ask_all("before", &before, probe, true, SENTENCE)?;
    let model = LlavaModel::load(&tokenizer_folder)?;

    let sets = |data: &Path, extra: &[String]| {
        let mut sets = vec![
            format!("data_path={}", quoted(data)),
            format!("image_folder={}", quoted(&set.image_folder)),
        ];
        sets.push(format!("seed={}", args.seed));
        sets.push(format!("train.device={}", args.device));
        sets.extend(args.dtype.iter().map(|d| format!("train.precision={d}")));
        sets.extend_from_slice(extra);
        sets
    };
    let runs = args.out.join("runs");
    let recipe = Recipe::from_toml(
        "quickstart stage 1",
        PRETRAIN,
        &sets(&set.pretrain, &args.pretrain_sets),
    )?;
    let (model, pretrain_losses) = stage(
        "stage 1",
        recipe,
        model,
        &tokenizer_folder,
        &runs.join("pretrain"),
    )?;
    let recipe = Recipe::from_toml("quickstart stage 2", SFT, &sets(&set.train, &args.sets))?;
    let (model, sft_losses) = stage(
        "stage 2",
        recipe,
        model,
        &tokenizer_folder,
        &runs.join("sft"),
    )?;

    let after = assistant(model, &tokenizer_folder)?;
    let answers = evaluate::ask_all("after", &after, &set.questions, true, SENTENCE)?;
    let blind = evaluate::ask_all("blind", &after, &set.questions, false, SENTENCE)?;

    let result = report::Result {
        before: llavar_eval::answer::accuracy(&answers_before),
        after: llavar_eval::answer::accuracy(&answers),
        blind: llavar_eval::answer::accuracy(&blind),
        parameters,
        seconds: begun.elapsed().as_secs_f64(),
        losses: vec![
            ("stage 1".into(), pretrain_losses),
            ("stage 2".into(), sft_losses),
        ],
        answers,
    };
    let model_folder = runs.join("sft").join("model");
    let (page, sheet) = report::write(&set, &result, &model_folder, &args.out)?;
    note(report::summary(&set, &result, &model_folder, &page, &sheet));
    if args.json {
        print_json(&Report {
            accuracy_before: result.before,
            accuracy_after: result.after,
            accuracy_without_picture: result.blind,
            questions: result.answers.len(),
            held_out_pictures: set.held_out_pictures,
            training_pictures: set.training_pictures,
            parameters,
            seconds: result.seconds,
            model: model_folder,
            page,
            contact_sheet: sheet,
        })?;
    }
    Ok(())
}

fn assistant(model: LlavaModel, tokenizer_folder: &Path) -> Outcome<Assistant> {
    Ok(Assistant::new(
        model,
        Tokenizer::from_folder(tokenizer_folder)?,
        None,
        None,
    ))
}

/// Runs one stage and gives the trained model and its losses.
fn stage(
    name: &str,
    recipe: Recipe,
    model: LlavaModel,
    tokenizer: &Path,
    run: &Path,
) -> Outcome<(LlavaModel, Vec<f32>)> {
    let mut trainer = Trainer::with_model(recipe, model, tokenizer, run, Resume::No)?;
    let mut view = TrainView::new(name, false);
    match trainer.run(&mut view, &*interrupt::stop_flag()?)? {
        TrainOutcome::Finished { .. } => {
            view.finish();
            Ok((trainer.into_model(), view.losses))
        }
        TrainOutcome::Interrupted { checkpoint, step } => Err(Failure::interrupted(format!(
            "{name} after step {step}, saved in {}",
            checkpoint.display()
        ))),
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
