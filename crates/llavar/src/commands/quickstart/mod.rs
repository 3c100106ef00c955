//! `llavar quickstart`: from nothing to a model that reads, in minutes.

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
};
use evaluate::Question;

/// Train a tiny model in minutes and watch it read pictures that it has never seen.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It writes a set of synthetic signs, receipts and book covers, trains a small LLaVAR-2 on \
them from random weights through both stages, asks it about held-out pictures and shows the answers."
)]
pub(crate) struct Args {
    /// Folder for data, runs, model and pages; must be empty or not exist.
    #[arg(long, default_value = "quickstart")]
    out: PathBuf,
    /// Train on this LLaVA JSON instead of synthetic documents; a tenth of it is held out.
    #[arg(long, requires = "image_folder")]
    data: Option<PathBuf>,
    /// Folder below which the pictures of --data lie.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Training pictures to draw.
    #[arg(long, default_value_t = 5000)]
    pictures: u64,
    /// Held-out pictures to ask about.
    #[arg(long, default_value_t = 100)]
    held_out: u64,
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

const PRETRAIN: &str = include_str!("pretrain.toml");
const SFT: &str = include_str!("sft.toml");

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let begun = Instant::now();
    if args.out.read_dir().is_ok_and(|mut d| d.next().is_some()) {
        return Err(
            Failure::usage(format!("{} is not empty", args.out.display()))
                .hint("remove it or name another folder with --out"),
        );
    }
    let set = match (&args.data, &args.image_folder) {
        (Some(data), Some(images)) => prepare::own(data, images, &args.out)?,
        _ => prepare::synthetic(
            args.pictures,
            args.held_out,
            args.seed,
            &args.synth_sets,
            &args.out,
        )?,
    };
    let (model, tokenizer_folder) = prepare::model(&set, args.seed, &args.out)?;
    let parameters = model.params().iter().map(llavar_tensor::Param::numel).sum();

    let before = assistant(model, &tokenizer_folder)?;
    let probe = &set.questions[..set.questions.len().min(60)];
    let answers_before = evaluate::ask_all("before", &before, probe, true)?;
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
    let answers = evaluate::ask_all("after", &after, &set.questions, true)?;
    let blind = evaluate::ask_all("blind", &after, &set.questions, false)?;

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
