//! `llavar train`: a stage by recipe.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_tensor::collective::Launch;
use llavar_train::{
    NAMED_RECIPES, Observer, Outcome as TrainOutcome, Recipe, Resume, RunInfo, Silent, StepReport,
    TraceSummary, Trainer, join_ranks, recipe::Launch as LaunchFlags,
};

use super::{no_pipe, no_pipe_in_model, print, write_file};
use crate::{
    device::announce,
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
};

/// Train a model: stage 1 (pretrain) or stage 2 (sft), as a recipe says.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar train --recipe nano-sft --set model_name_or_path=models/nano \\\n  \
--set data_path=data/data.json --set image_folder=data --out runs/sft\n\
Several ranks: start the same command with torchrun --no-python, srun or mpirun; --set zero_stage=3 shards \
weights, gradients and states over them.\n\
Coming from LLaVA, LLaVA-HR or LLaVAR-2: llavar train --out runs/sft --from-llava-flags deepspeed train_mem.py \
--model_name_or_path .. trains as that command does; with --write-recipe sft.toml it becomes a recipe."
)]
pub(crate) struct Args {
    /// Name of a built-in recipe (see --list) or a TOML file.
    #[arg(long, required_unless_present_any = ["list", "from_llava_flags", "from_llava_script"])]
    recipe: Option<String>,
    /// Train as a command of the original scripts says: everything after this is that command, from its launcher
    /// or from its first flag on. Flags without effect are named.
    #[arg(
        long,
        value_name = "COMMAND",
        num_args = 1..,
        allow_hyphen_values = true,
        conflicts_with_all = ["recipe", "list"]
    )]
    from_llava_flags: Option<Vec<String>>,
    /// The same from a shell script that holds the command.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipe", "list", "from_llava_flags"])]
    from_llava_script: Option<PathBuf>,
    /// Write the resolved recipe to a TOML file and stop.
    #[arg(long, value_name = "FILE")]
    write_recipe: Option<PathBuf>,
    /// Change a key of the recipe; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Labels: exact, or llavar2 for those of the release, which start one or two tokens early.
    #[arg(long, value_name = "exact|llavar2")]
    mask_compat: Option<String>,
    /// Where to train: auto takes the first GPU that can be used, else the CPU.
    #[arg(long, value_name = "auto|cpu|cuda|cuda:N")]
    device: Option<String>,
    /// Element types: bf16 (with f32 master weights) on a GPU and f32 on the CPU by default.
    #[arg(long, value_name = "f32|bf16|bf16-pure")]
    dtype: Option<String>,
    /// Run folder: logs, checkpoints, the trained model.
    #[arg(long, required_unless_present_any = ["list", "dry_run", "write_recipe", "from_llava_flags", "from_llava_script"])]
    out: Option<PathBuf>,
    /// Go on from a checkpoint: `auto` takes the newest in the run folder, or name one.
    #[arg(long, value_name = "auto|DIR")]
    resume: Option<String>,
    /// List the built-in recipes.
    #[arg(long)]
    list: bool,
    /// Print the resolved recipe and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if args.list {
        for recipe in NAMED_RECIPES {
            print(format!("{:<24} {}\n", recipe.name, recipe.description()))?;
        }
        return Ok(());
    }
    let (recipe, launch) = resolve(&args)?;
    if let Some(path) = &args.write_recipe {
        only_over_a_recipe(path)?;
        write_file(path, recipe.to_toml()?.as_bytes())?;
        return print(format!("{}\n", path.display()));
    }
    if args.dry_run {
        return print(recipe.to_toml()?);
    }
    for path in recipe.data.data_path.list() {
        no_pipe(Path::new(path))?;
    }
    if let Some(model) = &recipe.model.model_name_or_path {
        no_pipe_in_model(Path::new(model))?;
    }
    let (output_dir, resume) = launch.map_or((None, None), |l| (l.output_dir, l.resume));
    let Some(out) = args.out.or(output_dir) else {
        return Err(
            Failure::usage("no run folder: the flags have no --output_dir")
                .hint("give one as --out DIR before --from-llava-flags"),
        );
    };
    let resume = match args.resume.or(resume).as_deref() {
        None => Resume::No,
        Some("auto") => Resume::Auto,
        Some(dir) => Resume::From(dir.into()),
    };
    let group = join_ranks(&recipe, &Launch::from_env()?)?;
    let mut trainer = Trainer::on_ranks(recipe, &out, resume, Arc::clone(&group))?;
    let stop = interrupt::stop_flag()?;
    if !group.is_first() {
        // Rank 0 speaks for all.
        let outcome = trainer.run(&mut Silent, &stop)?;
        group.leave(None)?;
        return match outcome {
            TrainOutcome::Finished { .. } => Ok(()),
            TrainOutcome::Interrupted { checkpoint, step } => {
                Err(interrupted(&out, &checkpoint, step))
            }
        };
    }
    let mut view = TrainView::new("train", true);
    let outcome = trainer.run(&mut view, &stop)?;
    group.leave(None)?;
    match outcome {
        TrainOutcome::Finished { model, step } => {
            view.finish();
            print(format!("{} after {step} steps\n", model.display()))
        }
        TrainOutcome::Interrupted { checkpoint, step } => Err(interrupted(&out, &checkpoint, step)),
    }
}

/// Refuses to write a recipe over a file that is none.
fn only_over_a_recipe(path: &Path) -> Outcome {
    // One with a fault is a recipe too, and to be written anew. Data and logs are JSON, which is no TOML.
    let is_toml = |text: String| text.parse::<toml::Table>().is_ok();
    if !path.is_file() || std::fs::read_to_string(path).is_ok_and(is_toml) {
        return Ok(());
    }
    let message = format!(
        "--write-recipe would write over {}, which is no recipe",
        path.display()
    );
    Err(Failure::usage(message).hint("give another --write-recipe"))
}

/// The recipe that the command line asks for, and what else launch flags said; tells which of them do nothing.
fn resolve(args: &Args) -> Outcome<(Recipe, Option<LaunchFlags>)> {
    let mut sets = args.sets.clone();
    let more = [
        ("mask_compat", &args.mask_compat),
        ("train.device", &args.device),
        ("train.precision", &args.dtype),
    ];
    sets.extend(
        more.iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?))),
    );
    // A script may be given in place of its words.
    let script = match args.from_llava_flags.as_deref() {
        Some([one]) if !one.starts_with("--") => Some(PathBuf::from(one)),
        _ => args.from_llava_script.clone(),
    };
    let launch = match (&args.from_llava_flags, script) {
        (_, Some(path)) => {
            no_pipe(&path)?;
            LaunchFlags::from_script(&path, &sets)?
        }
        (Some(words), None) => LaunchFlags::from_words(words, &sets)?,
        (None, None) => {
            let name = args.recipe.as_deref().unwrap_or_default();
            return Ok((named(name, &sets)?, None));
        }
    };
    for said in &launch.notes {
        note(format!("note: {said}"));
    }
    Ok((launch.recipe.clone(), Some(launch)))
}

/// A built-in recipe or a file.
pub(super) fn named(name: &str, sets: &[String]) -> Outcome<Recipe> {
    no_pipe(Path::new(name))?;
    Recipe::resolve(name, sets).map_err(|error| match error {
        llavar_train::TrainError::Io { .. } => Failure::new(Class::Usage, error)
            .hint("--recipe takes a TOML file or a built-in name; --list shows the names"),
        other => other.into(),
    })
}

/// What to say when a run was stopped.
fn interrupted(out: &Path, checkpoint: &Path, step: u64) -> Failure {
    Failure::interrupted(format!(
        "after step {step}, saved in {}",
        checkpoint.display()
    ))
    .hint(format!(
        "the same command with `--resume auto` goes on; run folder: {}",
        out.display()
    ))
}

/// Draws a run on stderr and keeps its losses.
pub(crate) struct TrainView {
    name: String,
    /// One line a step beside the bar.
    every_step: bool,
    bar: Option<Progress>,
    /// Loss of every step, nats a token.
    pub(crate) losses: Vec<f32>,
    seconds: f64,
    images: f64,
}

impl TrainView {
    /// A view of a stage called `name`.
    pub(crate) fn new(name: &str, every_step: bool) -> Self {
        Self {
            name: name.to_owned(),
            every_step,
            bar: None,
            losses: Vec::new(),
            seconds: 0.0,
            images: 0.0,
        }
    }

    /// Ends the bar with a line of what was done.
    pub(crate) fn finish(&mut self) {
        let tail = self.losses.len().min(20);
        let last: f32 = self.losses.iter().rev().take(tail).sum::<f32>() / tail as f32;
        let text = match self.losses.first() {
            Some(first) => format!(
                "{}: {} steps in {:.0} s, {:.1} images/s, loss {first:.3} -> {last:.3} nats/token",
                self.name,
                self.losses.len(),
                self.seconds,
                self.images / self.seconds.max(1e-9),
            ),
            None => format!("{}: no steps this time", self.name),
        };
        match self.bar.take() {
            Some(bar) => bar.finish(&text),
            None => note(text),
        }
    }
}

impl Observer for TrainView {
    fn on_start(&mut self, info: &RunInfo) {
        note(format!(
            "{}: {:.1} M parameters ({:.3} M train, {:.2} %), {} {}, {} steps",
            self.name,
            info.parameters as f64 / 1e6,
            info.trainable_parameters as f64 / 1e6,
            100.0 * info.trainable_parameters as f64 / info.parameters.max(1) as f64,
            info.samples,
            if info.packing.is_some() {
                "packs"
            } else {
                "samples"
            },
            info.total_steps,
        ));
        if let Some(adapters) = &info.adapters {
            note(adapters);
        }
        if info.ranks > 1 {
            note(format!(
                "{} ranks over {}, ZeRO stage {}",
                info.ranks, info.backend, info.zero_stage
            ));
        }
        announce(&info.device, info.device_note.as_deref());
        if let Some(p) = &info.packing {
            note(format!(
                "packing: {} samples in {} packs of {} tokens, {:.2} % filled; {} samples cannot be used",
                p.samples,
                p.packs,
                p.pack_tokens,
                100.0 * p.utilisation,
                p.unusable
            ));
        }
        let rates = info.groups.iter().map(|g| g.learning_rate.to_bits());
        if rates.collect::<std::collections::HashSet<_>>().len() > 1 {
            for group in &info.groups {
                note(format!(
                    "learning rate {:.2e}, weight decay {}: {} weights, {:.2} M elements",
                    group.learning_rate,
                    group.weight_decay,
                    group.tensors,
                    group.elements as f64 / 1e6
                ));
            }
        }
        if let Some(f) = &info.features {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            note(format!(
                "features of the vision tower: {} pictures of {:.2} MB, {} there already; {:.2} GB to be written to \
                 {}{}",
                f.pictures,
                f.picture_bytes as f64 / 1e6,
                f.present,
                gb(f.to_write),
                f.path.display(),
                f.free
                    .map_or(String::new(), |free| format!(", {:.2} GB free", gb(free)))
            ));
        }
        note(format!("memory plan: {}", info.memory));
        if !info.memory.fits() {
            note("warning: the plan is larger than the memory of the device");
        }
        if let Some(from) = &info.resumed_from {
            note(format!(
                "resumed at step {} from {}",
                info.first_step,
                from.display()
            ));
        }
        self.bar = Some(Progress::new(&self.name, "steps", info.total_steps));
    }

    fn on_step(&mut self, r: &StepReport) {
        self.losses.push(r.loss as f32);
        self.seconds += r.seconds;
        self.images += r.images_per_second * r.seconds;
        let line = format!(
            "loss {:.3} nats/token lr {:.1e} |g| {:.2} {:.0} tok/s {:.1} img/s wait {:.0}% {:.1} GiB",
            r.loss,
            r.learning_rate,
            r.grad_norm.unwrap_or(f32::NAN),
            r.supervised_tokens_per_second,
            r.images_per_second,
            r.data_wait_percent,
            r.resident_bytes.unwrap_or(r.tensor_peak_bytes) as f64 / (1u64 << 30) as f64,
        );
        if let Some(bar) = &mut self.bar {
            if self.every_step {
                bar.line(&format!("step {}/{} {line}", r.step, r.total_steps));
                bar.set(r.step, String::new());
            } else {
                bar.set(r.step, line);
            }
        }
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) {
        if let Some(bar) = &self.bar {
            bar.line(&format!("saved step {step} in {}", path.display()));
        }
    }

    fn on_trace(&mut self, path: &Path, summary: &TraceSummary) {
        note(format!(
            "trace of step {} in {}: {:.1} ms, exchanges between ranks {:.1} ms, of which {:.1} ms held the \
             computation up ({:.0} % overlapped)",
            summary.step,
            path.display(),
            summary.total_ms,
            summary.exchange_ms,
            summary.waited_ms,
            summary.overlap_percent(),
        ));
    }

    fn on_rollback(&mut self, spike: u64, to: u64) {
        self.on_warning(&format!(
            "went back to step {to}; the data up to those of step {spike} are passed over"
        ));
    }

    fn on_warning(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.line(&format!("warning: {message}")),
            None => note(format!("warning: {message}")),
        }
    }
}
