//! `llavar data`: make, import and measure data sets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_data::{
    Dataset, Sample, Template, TemplateName, Tokenizer, stats::Stats, write::write_llava_json,
};
use llavar_synth::{
    FontSet, ImageKind, SynthConfig, SynthError, WriteOptions, remove_set, write_set,
};

use super::{no_pipe, no_pipe_in_model, print, print_json};
use crate::{
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::{Progress, note},
};

/// Make, import and measure data sets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write synthetic documents with captions, questions, answers and word boxes.
    Synth(SynthArgs),
    /// Turn an official data set into LLaVA JSON.
    Import(super::data_import::Args),
    /// Put the text of the pictures before the first question, as --ocr does when a model is asked.
    Prefix(super::data_prefix::Args),
    /// Show where pictures lie in the square that a model sees (`image_aspect_ratio` fit).
    Fit(super::data_fit::Args),
    /// Count turns, images, words and tokens of a data set.
    Stats(StatsArgs),
    /// Look at every sample as training will: lengths, copies, broken pictures; write a clean copy.
    Doctor(super::doctor::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Synth(args) => synth(args),
        Command::Import(args) => super::data_import::run(args),
        Command::Prefix(args) => super::data_prefix::run(args),
        Command::Fit(args) => super::data_fit::run(args),
        Command::Stats(args) => stats(args),
        Command::Doctor(args) => super::doctor::run(args),
    }
}

/// Write synthetic documents with captions, questions, answers and word boxes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar data synth --out data/synth -n 1000 --set damage.blur=1.0\n\
Training and held-out sets of one seed never show the same document: --split train, --split held_out."
)]
pub(crate) struct SynthArgs {
    /// Folder to write to.
    #[arg(long, required_unless_present = "print_config")]
    out: Option<PathBuf>,
    /// Pictures.
    #[arg(short, long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    /// Index of the first picture: a second part begins where the first ended.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Settings to start from: default, quickstart or reading.
    #[arg(long, default_value = "default")]
    profile: String,
    /// Change a setting; may be repeated (see --print-config).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Seed of the set.
    #[arg(long)]
    seed: Option<u64>,
    /// all, train or held_out.
    #[arg(long)]
    split: Option<String>,
    /// JPEG quality, 1 to 100; 0 writes PNG.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    jpeg: u8,
    /// Use the fonts of this system too (the set then depends on the machine).
    #[arg(long)]
    system_fonts: bool,
    /// Use the fonts of this folder too; may be repeated.
    #[arg(long, value_name = "FOLDER")]
    fonts: Vec<PathBuf>,
    /// Print the settings as TOML and stop.
    #[arg(long)]
    print_config: bool,
    /// Replace the set that is there already; files that are not of it stay.
    #[arg(long)]
    force: bool,
}

fn synth(args: SynthArgs) -> Outcome {
    let mut sets = args.sets;
    sets.extend(args.seed.map(|seed| format!("seed={seed}")));
    sets.extend(args.split.map(|split| format!("split={split}")));
    let mut config = with_sets(
        SynthConfig::profile(&args.profile).map_err(|e| Failure::new(Class::Usage, e))?,
        &sets,
    )?;
    if args.print_config {
        let text = toml::to_string(&config).map_err(|error| Failure::new(Class::Failure, error))?;
        return print(text);
    }
    if args.first.checked_add(args.number).is_none() {
        return Err(Failure::usage(format!(
            "--first {} leaves no room for {} pictures",
            args.first, args.number
        )));
    }
    let out = args.out.unwrap_or_default();
    not_there(&out.join("data.json"), args.force)?;
    config.read_corpus()?;
    let mut folders = args.fonts;
    if args.system_fonts {
        folders.extend(FontSet::system_folders());
    }
    let fonts = FontSet::with_folders(&folders)?;
    if !folders.is_empty() && fonts.hash() == FontSet::embedded()?.hash() {
        note("the font folders hold no usable font beside the built-in ones, which are used");
    }
    config
        .validate_with(&fonts)
        .map_err(|e| Failure::new(Class::Usage, e))?;
    let images = if args.jpeg == 0 {
        ImageKind::Png
    } else {
        ImageKind::Jpeg(args.jpeg)
    };
    if args.force {
        // Before the first new picture: a run that ends early must not leave both sets side by side.
        remove_set(&out)?;
    }
    let card = write_synth(
        &config,
        &fonts,
        args.number,
        &out,
        WriteOptions {
            images,
            first: args.first,
        },
    )?;
    print(format!(
        "{}: {} pictures, {} facts\n",
        out.display(),
        card.pictures,
        card.facts
    ))
}

/// Refuses to write over a file, unless the user asks for it.
pub(super) fn not_there(path: &Path, force: bool) -> Outcome {
    if path.exists() && !force {
        return Err(Failure::usage(format!("{} exists already", path.display()))
            .hint("choose another --out, or give --force to write over it"));
    }
    Ok(())
}

/// Applies `key=value` to the settings; a dot reaches into a table.
pub(crate) fn with_sets(config: SynthConfig, sets: &[String]) -> Outcome<SynthConfig> {
    let fail = |reason: String| {
        Failure::usage(reason).hint("`llavar data synth --print-config` lists all keys")
    };
    let mut table =
        toml::Table::try_from(&config).map_err(|error| Failure::new(Class::Failure, error))?;
    for set in sets {
        let (key, value) = set
            .split_once('=')
            .ok_or_else(|| fail(format!("`{set}` is not KEY=VALUE")))?;
        // A bare word is a string.
        let parsed = format!("v = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        let mut place = &mut table;
        let mut parts: Vec<&str> = key.trim().split('.').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            place = place
                .get_mut(part)
                .and_then(toml::Value::as_table_mut)
                .ok_or_else(|| fail(format!("`{key}`: there is no table `{part}`")))?;
        }
        place.insert(last.to_owned(), parsed);
    }
    let config: SynthConfig = toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| fail(error.to_string()))?;
    config
        .validate()
        .map_err(|e| Failure::new(Class::Usage, e))?;
    Ok(config)
}

/// Writes a set with a progress bar; Ctrl-C stops between pictures.
pub(crate) fn write_synth(
    config: &SynthConfig,
    fonts: &FontSet,
    number: u64,
    out: &std::path::Path,
    options: WriteOptions,
) -> Outcome<llavar_synth::SetCard> {
    let stop = interrupt::stop_flag()?;
    let bar = std::sync::Mutex::new(Progress::new("pictures", "pictures", number));
    let card = write_set(config, fonts, number, out, &options, &|done, _| {
        if let Ok(mut bar) = bar.lock() {
            bar.set(done, String::new());
        }
        !stop.load(std::sync::atomic::Ordering::Relaxed)
    });
    match card {
        Err(SynthError::Stopped { .. }) => Err(Failure::interrupted(format!(
            "the set in {} is not complete",
            out.display()
        ))),
        other => Ok(other?),
    }
}

/// Writes LLaVA JSON and the folder that it lies in; how many samples.
pub(super) fn write_samples(out: &Path, samples: &[Sample]) -> Outcome<usize> {
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::write(folder, &error))?;
    }
    write_llava_json(out, samples).map_err(|error| match error {
        llavar_data::Error::Io { path, source } => Failure::write(path, &source),
        other => other.into(),
    })
}

/// Count turns, images, words and tokens of a data set.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)] // `--version` is the template, as the trainer calls it.
pub(crate) struct StatsArgs {
    /// LLaVA JSON or JSONL.
    data: PathBuf,
    /// Count tokens with the tokenizer of this model folder too.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Conversation template for the token counts.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn stats(args: StatsArgs) -> Outcome {
    no_pipe(&args.data)?;
    args.model.as_deref().map_or(Ok(()), no_pipe_in_model)?;
    let data = Dataset::open(&args.data, None)?;
    let name: TemplateName = args
        .version
        .parse()
        .map_err(|error: llavar_data::Error| Failure::new(Class::Usage, error))?;
    let template = Template::new(name);
    let tokenizer = args
        .model
        .as_deref()
        .map(Tokenizer::from_folder)
        .transpose()?;
    let stats = Stats::of_dataset(&data, tokenizer.as_ref().map(|t| (t, &template)));
    if args.json {
        return print_json(&stats);
    }
    print(stats.to_string())
}
