//! `llavar init`: an untrained model folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_data::{
    Dataset, Message, Template, TemplateName,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_model::{LlavaModel, config::Preset};

use super::{no_pipe, print, write_file};
use crate::failure::{Class, Failure, Outcome};

/// Make an untrained model folder (config, weights, tokenizer).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar init --preset nano --text data/data.json --out models/nano"
)]
pub(crate) struct Args {
    /// Shape: nano, nano-768, phi3.5-3.8b, llama3.1-8b or vicuna1.5-13b.
    #[arg(long, default_value = "nano")]
    preset: String,
    /// Folder to make; it must not exist yet.
    #[arg(long)]
    out: PathBuf,
    /// Text to train a byte-level BPE on: a LLaVA JSON / JSONL or any text file. May be repeated.
    #[arg(
        long,
        required_unless_present = "tokenizer",
        conflicts_with = "tokenizer"
    )]
    text: Vec<PathBuf>,
    /// Take this tokenizer.json (tokenizer_config.json beside it is taken too).
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Entries of the trained vocabulary.
    #[arg(long, default_value_t = 2048)]
    vocab_size: usize,
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let preset = Preset::by_name(&args.preset).map_err(|e| Failure::new(Class::Usage, e))?;
    if args.out.exists() {
        return Err(
            Failure::usage(format!("{} exists already", args.out.display()))
                .hint("choose another --out, or remove it first"),
        );
    }
    args.text
        .iter()
        .chain(&args.tokenizer)
        .try_for_each(|path| no_pipe(path))?;
    let (tokenizer, config) = match &args.tokenizer {
        Some(path) => given_tokenizer(path)?,
        None => {
            let template = match preset {
                Preset::Phi35Mini => TemplateName::Phi3Instruct,
                Preset::Llama31Instruct => TemplateName::Llama3,
                Preset::Nano | Preset::Nano768 | Preset::Vicuna15 => TemplateName::V1,
            };
            trained_tokenizer(&args.text, args.vocab_size, template)?
        }
    };
    let model = build(preset, &tokenizer, &config, args.seed, Vec::new())?;
    save(&model, &tokenizer, &config, &args.out)?;
    let parameters: usize = model.params().iter().map(llavar_tensor::Param::numel).sum();
    print(format!(
        "{}: {:.1} M parameters, untrained\n",
        args.out.display(),
        parameters as f64 / 1e6
    ))
}

/// A model of `preset` with the tokenizer's vocabulary; `changes` replaces keys of the configuration.
pub(crate) fn build(
    preset: Preset,
    tokenizer: &str,
    tokenizer_config: &str,
    seed: u64,
    changes: Vec<(String, serde_json::Value)>,
) -> Outcome<LlavaModel> {
    let settings = serde_json::from_str(tokenizer_config).unwrap_or(serde_json::Value::Null);
    let parsed = llavar_data::Tokenizer::from_json(tokenizer, &settings).map_err(|reason| {
        Failure::new(
            Class::Data,
            format!("the tokenizer cannot be used: {reason}"),
        )
    })?;
    // A published shape has more rows than its tokenizer; a smaller table would not hold its ids.
    let base = preset.config(None)?;
    let rows = if preset.is_own() {
        parsed.vocab_len()
    } else {
        parsed.vocab_len().max(base.llm.vocab_size)
    };
    let mut keys = changes;
    for (key, id) in [
        ("bos_token_id", parsed.bos_id()),
        ("eos_token_id", parsed.eos_id()),
        ("pad_token_id", Some(parsed.pad_id())),
    ] {
        if let (Some(id), true) = (id, preset.is_own()) {
            keys.push((key.to_owned(), id.into()));
        }
    }
    let config = preset.config(Some(rows))?.with(keys)?;
    LlavaModel::init(config, seed).map_err(Failure::from)
}

/// Writes the model folder with its tokenizer files.
pub(crate) fn save(
    model: &LlavaModel,
    tokenizer: &str,
    tokenizer_config: &str,
    out: &Path,
) -> Outcome {
    // The writer copies tokenizer files from a folder, so that every save in the program is the same.
    let files =
        tempfile::tempdir().map_err(|error| Failure::write(std::env::temp_dir(), &error))?;
    write_file(&files.path().join("tokenizer.json"), tokenizer.as_bytes())?;
    write_file(
        &files.path().join("tokenizer_config.json"),
        tokenizer_config.as_bytes(),
    )?;
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| Failure::write(parent, &error))?;
    }
    model.save(out, Some(files.path())).map_err(|error| {
        Failure::new(
            Class::Resource,
            format!("cannot make the model folder {}: {error}", out.display()),
        )
        .hint("check free space and permissions; nothing was left behind")
    })
}

/// Trains a byte-level BPE on the texts of LLaVA sets, as `template` renders them, or of plain text
/// files: the template's own words are in every prompt and so are worth entries too.
pub(crate) fn trained_tokenizer(
    files: &[PathBuf],
    vocab_size: usize,
    template: TemplateName,
) -> Outcome<(String, String)> {
    let mut options = BpeOptions::new(vocab_size);
    match template {
        TemplateName::Phi3Instruct => options = options.with_phi3_tokens(),
        TemplateName::Llama3 => options = options.with_llama3_tokens(),
        _ => {}
    }
    let template = Template::new(template);
    let mut texts = Vec::new();
    for path in files {
        let llava = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("json") || e.eq_ignore_ascii_case("jsonl"));
        if !llava {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    Class::Data,
                    format!("cannot read {}: {error}", path.display()),
                )
            })?;
            texts.extend(text.lines().map(str::to_owned));
            continue;
        }
        for sample in Dataset::open(path, None)?.iter() {
            let sample = sample?;
            let Ok(prompt) = template.render(&Message::from_sample(&sample), false) else {
                texts.extend(sample.conversations.into_iter().map(|turn| turn.value));
                continue;
            };
            // Markers are entries already; learning their letters would be a waste.
            let markers = options
                .extra_special
                .iter()
                .map(String::as_str)
                .chain([llavar_data::IMAGE_TAG, "</s>"]);
            texts.push(markers.fold(prompt.text(), |text, marker| text.replace(marker, "")));
        }
    }
    train_bpe(texts.iter(), &options).map_err(|error| match error {
        llavar_data::Error::Invalid { .. } => {
            Failure::new(Class::Usage, error).hint("change --vocab-size, or give more --text")
        }
        other => other.into(),
    })
}

fn given_tokenizer(path: &Path) -> Outcome<(String, String)> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| {
            Failure::new(
                Class::Data,
                format!("cannot read {}: {error}", path.display()),
            )
        })
    };
    let beside = path.with_file_name("tokenizer_config.json");
    let config = if beside.is_file() {
        read(&beside)?
    } else {
        "{}".to_owned()
    };
    Ok((read(path)?, config))
}
