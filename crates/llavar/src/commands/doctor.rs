//! `llavar data doctor`: every sample looked at before a run does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use llavar_data::Tokenizer;
use llavar_model::config::ModelConfig;
use llavar_train::{
    Recipe, TrainError,
    doctor::{Doctor, Options, quarantine_of},
    recipe::Paths,
};

use super::{no_pipe, no_pipe_in_model, not_over, print, print_json};
use crate::{
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
};

/// Look at every sample as training will: lengths, copies, broken pictures; write a clean copy.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar data doctor data.json --image-folder images --model models/nano --fix clean.json\n\
Exit code 0: every sample can be used; 3: some cannot (with --strict also for copies and cut samples)."
)]
pub(crate) struct Args {
    /// LLaVA JSON or JSONL, Parquet, WebDataset tar; 'dir/part-*.parquet' for several files.
    data: String,
    /// Folder below which the pictures lie; without it they are not looked at.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Model folder (or a folder with tokenizer.json) whose tokenizer counts; without it words are counted.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Conversation template.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Longest text, tokens, an image counting as one.
    #[arg(long, default_value_t = 2048)]
    model_max_length: usize,
    /// Tokens of a pack, for a run on packs; 0: none.
    #[arg(long, default_value_t = 0)]
    pack_tokens: usize,
    /// Tokens of an image; by default those of the model, or 576.
    #[arg(long)]
    image_tokens: Option<usize>,
    /// Decode pictures whole instead of reading their headers.
    #[arg(long)]
    pixels: bool,
    /// Exit code 3 also for copies, cut samples and stray turns.
    #[arg(long)]
    strict: bool,
    /// Write the usable samples, each once, to this file (LLaVA JSON where it ends in .json, else JSONL), and
    /// the others to FILE.quarantine.jsonl.
    #[arg(long, value_name = "FILE")]
    fix: Option<PathBuf>,
    /// Write over a copy that is there already.
    #[arg(long)]
    force: bool,
    /// Threads; 0: one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    no_pipe(args.data.as_ref())?;
    args.model.as_deref().map_or(Ok(()), no_pipe_in_model)?;
    args.fix.as_deref().map_or(Ok(()), is_text)?;
    let written: Vec<PathBuf> = args
        .fix
        .iter()
        .flat_map(|fix| [fix.clone(), quarantine_of(fix)])
        .collect();
    if let Some(there) = written.iter().find(|path| path.exists() && !args.force) {
        return Err(
            Failure::usage(format!("{} exists already", there.display()))
                .hint("choose another --fix, or give --force to write over it"),
        );
    }
    let mut recipe = Recipe::default();
    recipe.data.data_path = Paths::One(args.data.clone());
    if let Some(folder) = &args.image_folder {
        recipe.data.image_folder = Paths::One(folder.display().to_string());
    }
    recipe.model.version.clone_from(&args.version);
    recipe.train.model_max_length = args.model_max_length;
    recipe.train.pack_tokens = args.pack_tokens;
    if let Some(problem) = recipe.validate().first() {
        return Err(Failure::usage(problem.to_string()));
    }
    let tokenizer = args.model.as_deref().map(Tokenizer::from_folder);
    let of_model = args
        .model
        .as_deref()
        .filter(|m| m.join("config.json").is_file());
    let of_model = of_model.map(ModelConfig::read).transpose()?;
    let of_model = of_model.and_then(|config| config.image_tokens());
    let options = Options {
        pixels: args.pixels,
        threads: args.threads,
        image_tokens: args.image_tokens.or(of_model).unwrap_or(576),
    };
    let doctor = Doctor::open(&recipe, tokenizer.transpose()?, options)?;
    for path in &written {
        for data in doctor.paths() {
            not_over("--fix", path, &[("the data", data)])?;
        }
    }
    if let Some(folder) = args.fix.as_deref().and_then(Path::parent) {
        fs::create_dir_all(folder).map_err(|error| Failure::write(folder, &error))?;
    }
    let stop = interrupt::stop_flag()?;
    let start = Instant::now();
    let mut bar = Progress::new("doctor", "samples", doctor.len() as u64);
    let report = doctor.examine(args.fix.as_deref(), &mut |done| {
        bar.set(done as u64, String::new());
        !stop.load(Relaxed)
    });
    // Nothing that a run would resume is at stake here.
    let report = report.map_err(|error| match error {
        TrainError::Save { .. } => {
            Failure::new(Class::Resource, error).hint("check free space and permissions")
        }
        other => other.into(),
    })?;
    let Some(report) = report else {
        return Err(Failure::interrupted("nothing was written"));
    };
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    bar.finish(&format!(
        "{} samples in {seconds:.2} s, {:.0} samples/s",
        report.samples,
        report.samples as f64 / seconds
    ));
    match args.json {
        true => print_json(&report)?,
        false => print(report.to_string())?,
    }
    if let Some(fix) = &args.fix {
        note(format!(
            "{}: {} samples; {} left out, listed in {}.quarantine.jsonl",
            fix.display(),
            report.good - report.duplicates,
            report.bad + report.duplicates,
            fix.display()
        ));
    }
    let remark = match (report.is_usable(), report.is_spotless() || !args.strict) {
        (true, true) => return Ok(()),
        (false, _) => format!(
            "{} of {} samples cannot be used",
            report.bad, report.samples
        ),
        (true, false) => format!(
            "{} copies, {} cut samples, {} stray turns",
            report.duplicates, report.cut_samples, report.dropped_turns
        ),
    };
    let hint = match args.fix {
        Some(_) => "the clean copy has the others",
        None if doctor.can_copy() => "--fix FILE writes a copy without them",
        None => "write the files anew without them",
    };
    Err(Failure::new(Class::Data, remark).hint(hint))
}

/// Refuses names that promise another form than that of a clean copy.
fn is_text(fix: &Path) -> Outcome {
    const OTHERS: [&str; 8] = ["parquet", "tar", "tgz", "gz", "zst", "bz2", "xz", "zip"];
    let ending = fix.extension().unwrap_or_default().to_ascii_lowercase();
    match OTHERS.iter().find(|other| ending == **other) {
        Some(other) => Err(Failure::usage(format!(
            "--fix {}: a clean copy is LLaVA JSON or JSONL, not .{other}",
            fix.display()
        ))
        .hint("give a name that ends in .json or .jsonl")),
        None => Ok(()),
    }
}
