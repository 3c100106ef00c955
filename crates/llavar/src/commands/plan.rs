//! `llavar plan`: what a training run will need, how long it takes and what it costs, before it is started.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

use llavar_bench::{
    Report as BenchReport,
    estimate::{Rates, StepWork, step_seconds},
};
use llavar_data::Tokenizer;
use llavar_model::config::{ModelConfig, Preset};
use llavar_tensor::optim::Precision;
use llavar_train::{
    MemoryPlan, Planner, Recipe, Spread,
    doctor::{Doctor, Options},
    recipe::{GradientCheckpointing, Paths},
    schedule::StepPlan,
};
use serde::Serialize;

use super::{no_pipe, no_pipe_in_model, print, print_json, train::named};
use crate::{
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::Progress,
};

/// Smaller models than this, elements, do not reach the rates that were measured.
const MEASURED_SHAPE: usize = 2_000_000_000;
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
    /// Folder with the tokenizer for --data, where the recipe names no model folder.
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

/// What one GPU holds, bytes.
#[derive(Debug, Serialize)]
struct Stage {
    zero_stage: u8,
    weights: usize,
    gradients: usize,
    optimizer_states: usize,
    activations: usize,
    workspace: usize,
    together: usize,
    fits: bool,
    kept_blocks: usize,
    blocks: usize,
    /// Largest micro-batch, tokens, with everything recomputed and with nothing.
    most_tokens: Option<usize>,
    most_tokens_kept: Option<usize>,
}

/// The data, as measured or as said.
#[derive(Debug, Serialize)]
struct Data {
    samples: usize,
    tokens: f64,
    images: f64,
    /// Share of tokens whose prediction counts.
    supervised: f64,
    packs: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Time {
    rates: Rates,
    steps: u64,
    tokens_per_step: f64,
    step_seconds: f64,
    tokens_per_second: f64,
    images_per_second: f64,
    hours: f64,
    gpu_hours: f64,
    cost: Option<f64>,
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

/// Lengths of the data, measured by the doctor or taken from the command line.
fn data(args: &Args, recipe: &Recipe, planner: &Planner) -> Outcome<Option<Data>> {
    let image_tokens = planner.config().image_tokens().unwrap_or(0);
    if let (Some(samples), Some(mean)) = (args.samples, args.mean_tokens) {
        let tokens = samples as f64 * f64::from(mean);
        let images = if mean as usize > image_tokens {
            samples
        } else {
            0
        };
        return Ok(Some(Data {
            samples,
            tokens,
            images: if image_tokens == 0 {
                0.0
            } else {
                images as f64
            },
            // Not known: what is left beside the picture, half of it answers.
            supervised: ((f64::from(mean) - image_tokens as f64) / f64::from(mean)).max(0.0) / 2.0,
            packs: (recipe.train.pack_tokens > 0)
                .then(|| (tokens / recipe.train.pack_tokens as f64).ceil() as usize),
        }));
    }
    if args.data.is_none() && recipe.data.data_path == Paths::None {
        return Ok(None);
    }
    for path in recipe.data.data_path.list() {
        no_pipe(Path::new(path))?;
    }
    let folder = args.tokenizer.clone();
    let folder = folder.or(recipe.model.model_name_or_path.as_ref().map(PathBuf::from));
    let Some(folder) = folder else {
        return Err(Failure::usage("no tokenizer to measure the data with")
            .hint("give --tokenizer DIR (a model folder, or one with tokenizer.json)"));
    };
    let options = Options {
        image_tokens: image_tokens.max(1),
        ..Options::default()
    };
    // Headers of pictures are of no matter here.
    let mut texts = recipe.clone();
    texts.data.image_folder = Paths::None;
    let doctor = Doctor::open(&texts, Some(Tokenizer::from_folder(&folder)?), options)?;
    let stop = interrupt::stop_flag()?;
    let mut bar = Progress::new("measuring", "samples", doctor.len() as u64);
    let report = doctor.examine(None, &mut |done| {
        bar.set(done as u64, String::new());
        !stop.load(Relaxed)
    })?;
    let Some(report) = report else {
        return Err(Failure::interrupted("nothing was planned"));
    };
    bar.finish(&format!(
        "{} samples, {} usable",
        report.samples, report.good
    ));
    let tokens = report.lengths.total as f64;
    Ok(Some(Data {
        samples: report.good,
        tokens,
        images: report.images as f64,
        supervised: report.supervised_tokens.unwrap_or(0) as f64 / tokens.max(1.0),
        packs: doctor.packs(recipe.train.pack_tokens)?,
    }))
}

/// Steps, seconds, hours and cost.
fn time(
    args: &Args,
    recipe: &Recipe,
    planner: &Planner,
    data: &Data,
    own: Option<&Stage>,
) -> Outcome<Time> {
    let rates = match &args.rates {
        None => Rates::measured(),
        Some(path) => {
            no_pipe(path)?;
            let wrong = |why: String| {
                Failure::new(Class::Data, format!("{}: {why}", path.display()))
                    .hint("make it with `llavar bench gpu --work train,master --out FILE`")
            };
            let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
            let report: BenchReport =
                serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
            Rates::of_report(&report, &path.display().to_string())
                .ok_or_else(|| wrong("it holds no row of a training step".into()))?
        }
    };
    let gpus = args.gpus as usize;
    let units = data.packs.unwrap_or(data.samples).max(1);
    let micro_batches = recipe.train.gradient_accumulation_steps * gpus;
    let steps = StepPlan::with_micro_batches(&recipe.train, units, micro_batches);
    let per_step = recipe.train.per_device_train_batch_size * micro_batches;
    let share = per_step.min(units) as f64 / units as f64;
    let (tokens, images) = (share * data.tokens, share * data.images);
    let (vision, language) = planner.trains();
    let recomputed = own.map_or(1.0, |s| 1.0 - s.kept_blocks as f64 / s.blocks.max(1) as f64);
    let work = StepWork {
        tokens: tokens / gpus as f64,
        images: images / gpus as f64,
        mean_length: data.tokens / data.samples.max(1) as f64,
        supervised: data.supervised,
        vision,
        language,
        recomputed,
        mixed: planner.precision() != Precision::PureBf16,
    };
    let step_seconds = step_seconds(planner.config(), &work, &rates);
    let hours = steps.total_steps() as f64 * step_seconds / 3600.0;
    Ok(Time {
        rates,
        steps: steps.total_steps(),
        tokens_per_step: tokens,
        step_seconds,
        tokens_per_second: tokens / step_seconds,
        images_per_second: images / step_seconds,
        hours,
        gpu_hours: hours * gpus as f64,
        cost: args
            .price_per_gpu_hour
            .map(|price| price * hours * gpus as f64),
    })
}

/// ZeRO's highest stage that a recipe can take: weights of 4 bits are not cut into parts.
fn highest_stage(recipe: &Recipe) -> u8 {
    if recipe.lora.bits == 4 { 2 } else { 3 }
}

/// Changes with which it fits, the cheapest first; none where it fits.
fn suggestions(
    recipe: &Recipe,
    planner: &Planner,
    stages: &[Stage],
    own_stage: u8,
    spread: &impl Fn(u8) -> Spread,
) -> Vec<String> {
    let own = stages.iter().find(|s| s.zero_stage == own_stage);
    if own.is_some_and(|s| s.fits) {
        return Vec::new();
    }
    let (train, highest) = (&recipe.train, highest_stage(recipe));
    let all = GradientCheckpointing::Switch(true);
    let batch = planner.micro_batch();
    let fits = |spread: &Spread, batch, keep| planner.plan(spread, batch, keep).fits_safely();
    let mut ways = Vec::new();
    if train.gradient_checkpointing != all && fits(&spread(own_stage), batch, Some(all)) {
        ways.push("--set gradient_checkpointing=true".to_owned());
    }
    let samples = train.per_device_train_batch_size;
    let smaller = (1..samples).rev().find(|n| {
        let part = |all: usize| all * n / samples;
        samples.is_multiple_of(*n) && fits(&spread(own_stage), (part(batch.0), part(batch.1)), None)
    });
    if let Some(n) = smaller.filter(|_| train.max_tokens_per_micro_batch == 0) {
        ways.push(format!(
            "--set per_device_train_batch_size={n} --set gradient_accumulation_steps={}: the same step in smaller \
             parts",
            train.gradient_accumulation_steps * samples / n
        ));
    }
    if let Some(stage) = stages.iter().find(|s| s.fits && s.zero_stage > own_stage) {
        ways.push(format!("--set zero_stage={}", stage.zero_stage));
    }
    let pure = Spread {
        precision: Precision::PureBf16,
        ..spread(own_stage)
    };
    if planner.precision() != Precision::PureBf16 && fits(&pure, batch, None) {
        ways.push("--set precision=bf16-pure: 8 bytes a parameter instead of 18".into());
    }
    let more = [2usize, 4, 8, 16, 32, 64, 128, 256]
        .into_iter()
        .find(|gpus| {
            let sharded = Spread {
                gpus: *gpus,
                ..spread(highest)
            };
            *gpus > spread(0).gpus && fits(&sharded, batch, None)
        });
    if let Some(gpus) = more {
        ways.push(format!("--gpus {gpus} --set zero_stage={highest}"));
    }
    if planner.trains().0 {
        ways.push("--set 'freeze=[\"model.vision_tower.*\"]': the towers stay as they are".into());
    }
    ways
}

/// A number of parameters in words.
fn count(parameters: usize) -> String {
    match parameters {
        0..1_000_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        _ => format!("{:.2} G", parameters as f64 / 1e9),
    }
}

impl Stage {
    fn of(zero_stage: u8, plan: &MemoryPlan) -> Self {
        Self {
            zero_stage,
            weights: plan.weights,
            gradients: plan.gradients,
            optimizer_states: plan.optimizer_states,
            activations: plan.activations,
            workspace: plan.workspace,
            together: plan.on_device(),
            fits: plan.fits_safely(),
            kept_blocks: plan.kept_blocks,
            blocks: plan.blocks,
            most_tokens: None,
            most_tokens_kept: None,
        }
    }
}

impl Plan {
    fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, f: &mut String) -> std::fmt::Result {
        let gib = |bytes: usize| bytes as f64 / GIB;
        writeln!(
            f,
            "{} on {}: {} parameters ({} train) in {}; {} GPU(s) of {:.1} GiB",
            self.recipe,
            self.model,
            count(self.parameters),
            count(self.trainable_parameters),
            self.precision,
            self.gpus,
            gib(self.memory_bytes),
        )?;
        writeln!(
            f,
            "a micro-batch: {} tokens with {} pictures; what one GPU holds, GiB:",
            self.micro_batch[0], self.micro_batch[1]
        )?;
        writeln!(
            f,
            "{:<8} {:>8} {:>9} {:>8} {:>11} {:>9} {:>8}  {:<12} {:>22}",
            "ZeRO",
            "weights",
            "gradients",
            "states",
            "activations",
            "workspace",
            "together",
            "",
            "largest micro-batch"
        )?;
        for s in &self.stages {
            let budget = |tokens: Option<usize>| match tokens {
                Some(tokens) => tokens.to_string(),
                None => "-".into(),
            };
            writeln!(
                f,
                "{:<8} {:>8.2} {:>9.2} {:>8.2} {:>11.2} {:>9.2} {:>8.2}  {:<12} {:>22}",
                format!(
                    "{}{}",
                    s.zero_stage,
                    if s.zero_stage == self.zero_stage {
                        " <--"
                    } else {
                        ""
                    }
                ),
                gib(s.weights),
                gib(s.gradients),
                gib(s.optimizer_states),
                gib(s.activations),
                gib(s.workspace),
                gib(s.together),
                if s.fits { "fits" } else { "does not fit" },
                format!(
                    "{} / {} tokens",
                    budget(s.most_tokens),
                    budget(s.most_tokens_kept)
                ),
            )?;
        }
        writeln!(
            f,
            "largest micro-batch: everything recomputed / nothing recomputed; 8 % of a GPU is left for what is not \
             counted"
        )?;
        if let Some(d) = &self.data {
            write!(
                f,
                "data: {} samples, {:.1} M tokens an epoch, {:.0} on average, {:.0} pictures",
                d.samples,
                d.tokens / 1e6,
                d.tokens / d.samples.max(1) as f64,
                d.images
            )?;
            match d.packs {
                Some(packs) => writeln!(f, ", {packs} packs")?,
                None => writeln!(f)?,
            }
        }
        if let Some(t) = &self.time {
            writeln!(
                f,
                "time: {} steps of {:.0} tokens, {:.3} s each: {:.0} tokens/s, {:.0} img/s over all GPUs",
                t.steps,
                t.tokens_per_step,
                t.step_seconds,
                t.tokens_per_second,
                t.images_per_second
            )?;
            write!(f, "      {:.1} h, {:.1} GPU-hours", t.hours, t.gpu_hours)?;
            match t.cost {
                Some(cost) => writeln!(f, ", cost {cost:.0}")?,
                None => writeln!(f)?,
            }
            if self.parameters < MEASURED_SHAPE {
                writeln!(
                    f,
                    "      the rates are those of a 3.8B model: a smaller one keeps a GPU less busy and takes longer"
                )?;
            }
            let exchange = match self.gpus {
                1 => "",
                _ => "; what GPUs exchange is taken as hidden behind the work",
            };
            writeln!(
                f,
                "      rates: {} ({}){exchange}",
                t.rates.source, t.rates.gpu
            )?;
        }
        if !self.suggestions.is_empty() {
            writeln!(f, "ways to make it fit, alone or together:")?;
            for way in &self.suggestions {
                writeln!(f, "  {way}")?;
            }
        }
        Ok(())
    }
}
