//! `llavar plan`: what a training run will need, how long it takes and what it costs, before it is started.

mod data;
mod fit;
mod table;
mod time;

use std::path::{Path, PathBuf};

use llavar_model::config::{ModelConfig, Preset};
use llavar_train::{
    Planner, Recipe, Spread,
    recipe::{GradientCheckpointing, Paths},
};
use serde::Serialize;

use super::{no_pipe_in_model, print, print_json, train::named};
use crate::failure::{Class, Failure, Outcome};
use data::{Data, data};
use fit::{Stage, highest_stage, suggestions};
use time::{Time, time};

const GIB: f64 = (1u64 << 30) as f64;

/// Plan a training run: what fits on the GPUs, how long it takes, what it costs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  llavar plan --recipe phi3-readme-sft --gpus 8 --memory 80 --samples 424000 --mean-tokens 900\n  \
llavar plan --recipe sft.toml --gpus 8 --memory 80 --data data.json --image-folder images --price-per-gpu-hour 2.5\n\
Exit code 4: it does not fit."
)]
pub(crate) struct Args {
    /// Name of a built-in recipe (see `llavar train --list`) or a TOML file.
    #[arg(long)]
    recipe: String,
    /// Change a key of the recipe; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Shape of the model where the recipe names no folder: nano, phi3.5-3.8b, llama3.1-8b or vicuna1.5-13b.
    #[arg(long)]
    preset: Option<String>,
    /// GPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    gpus: u32,
    /// Memory of one GPU, GiB.
    #[arg(long, default_value_t = 80.0)]
    memory: f64,
    /// Data to be trained on; every sample is measured as `llavar data doctor` does.
    #[arg(long)]
    data: Option<String>,
    /// Folder below which its pictures lie.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Folder with the tokenizer for --data, where the recipe names no model folder; llavar-nano's by default.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Instead of --data: number of samples.
    #[arg(long, requires = "mean_tokens", conflicts_with = "data")]
    samples: Option<usize>,
    /// Mean length of a sample, tokens, its picture counted in full.
    #[arg(long, requires = "samples", value_parser = clap::value_parser!(u32).range(1..))]
    mean_tokens: Option<u32>,
    /// Price of one GPU for an hour, in any currency.
    #[arg(long)]
    price_per_gpu_hour: Option<f64>,
    /// Rates measured by `llavar bench gpu --work train,master --out FILE`; by default those of BENCHMARKS.md.
    #[arg(long, value_name = "FILE")]
    rates: Option<PathBuf>,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
struct Plan {
    recipe: String,
    model: String,
    parameters: usize,
    trainable_parameters: usize,
    precision: String,
    gpus: usize,
    memory_bytes: usize,
    /// Tokens and pictures of one micro-batch.
    micro_batch: [usize; 2],
    stages: Vec<Stage>,
    /// The stage that the recipe asks for.
    zero_stage: u8,
    fits: bool,
    suggestions: Vec<String>,
    data: Option<Data>,
    time: Option<Time>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let mut sets = args.sets.clone();
    if let Some(data) = &args.data {
        sets.push(format!("data.data_path={data}"));
    }
    let mut recipe = named(&args.recipe, &sets)?;
    if let Some(folder) = &args.image_folder {
        recipe.data.image_folder = Paths::One(folder.display().to_string());
    }
    if args.samples == Some(0) {
        return Err(Failure::usage("--samples 0 is nothing to plan for"));
    }
    if args
        .price_per_gpu_hour
        .is_some_and(|price| !(0.0..1e9).contains(&price))
    {
        return Err(Failure::usage("--price-per-gpu-hour is a number from 0 on"));
    }
    if !(args.memory.is_finite() && args.memory > 0.0 && args.memory < 1e6) {
        return Err(Failure::usage("--memory is in GiB, above 0"));
    }
    let (name, config) = shape(&args, &recipe)?;
    let planner = Planner::new(&config, &recipe)?;
    let gpus = args.gpus as usize;
    let spread = |zero_stage| Spread {
        gpus,
        zero_stage,
        precision: planner.precision(),
        memory: (args.memory * GIB) as usize,
    };
    let data = data(&args, &recipe, &planner)?;
    // Pictures of so many tokens: as in the data, else as many as there is room for.
    let images_of = |tokens: usize| match &data {
        Some(d) => (tokens as f64 * d.images / d.tokens.max(1.0)).ceil() as usize,
        None => planner.most_images(tokens),
    };
    let own_stage = if gpus > 1 { recipe.zero_stage() } else { 0 };
    let stages: Vec<u8> = if gpus > 1 {
        (0..=highest_stage(&recipe)).collect()
    } else {
        vec![0]
    };
    let batch = planner.micro_batch();
    let stages: Vec<Stage> = stages
        .into_iter()
        .map(|stage| {
            let spread = spread(stage);
            let most = |on| {
                let keep = GradientCheckpointing::Switch(on);
                planner.largest_budget(&spread, keep, &images_of)
            };
            Stage {
                most_tokens: most(true),
                // Stage 3 recomputes everything.
                most_tokens_kept: if stage == 3 { None } else { most(false) },
                ..Stage::of(stage, &planner.plan(&spread, batch, None))
            }
        })
        .collect();
    let own = stages.iter().find(|s| s.zero_stage == own_stage);
    let fits = own.is_some_and(|s| s.fits);
    let time = match &data {
        Some(data) => Some(time(&args, &recipe, &planner, data, own)?),
        None => None,
    };
    let plan = Plan {
        recipe: args.recipe.clone(),
        model: name,
        parameters: planner.parameters().0,
        trainable_parameters: planner.parameters().1,
        precision: planner.precision().to_string(),
        gpus,
        memory_bytes: spread(0).memory,
        micro_batch: [batch.0, batch.1],
        zero_stage: own_stage,
        fits,
        suggestions: suggestions(&recipe, &planner, &stages, own_stage, &spread),
        stages,
        data,
        time,
    };
    match args.json {
        true => print_json(&plan)?,
        false => print(plan.table())?,
    }
    match fits {
        true => Ok(()),
        false => Err(Failure::new(
            Class::Resource,
            format!(
                "the run does not fit on {gpus} GPU(s) of {} GiB",
                args.memory
            ),
        )
        .maybe_hint(plan.suggestions.first().map(String::as_str))),
    }
}

/// The model's configuration: of its folder, of `--preset`, or of the name of a built-in recipe.
fn shape(args: &Args, recipe: &Recipe) -> Outcome<(String, ModelConfig)> {
    if let Some(preset) = &args.preset {
        let preset = Preset::by_name(preset).map_err(|e| Failure::new(Class::Usage, e))?;
        return Ok((preset.name().to_owned(), preset.config(None)?));
    }
    if let Some(folder) = &recipe.model.model_name_or_path {
        let folder = Path::new(folder);
        no_pipe_in_model(folder)?;
        return Ok((folder.display().to_string(), ModelConfig::read(folder)?));
    }
    let preset = match args.recipe.split('-').next() {
        Some("phi3") => Preset::Phi35Mini,
        Some("llama3") => Preset::Llama31Instruct,
        Some("vicuna") => Preset::Vicuna15,
        Some("nano") => Preset::Nano,
        _ => {
            return Err(Failure::usage("the recipe names no model folder")
                .hint("give --preset, or --set model_name_or_path=DIR"));
        }
    };
    Ok((preset.name().to_owned(), preset.config(None)?))
}
