//! `llavar init`: an untrained model folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_data::{
    Dataset, Message, Template, TemplateName,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_model::{
    LlavaModel, Parts,
    config::{Pathways, Preset},
    weights::Dtype,
};

use super::{no_pipe, no_pipe_in_model, print, write_file};
use crate::failure::{Class, Failure, Outcome};

/// Make a model folder (config, weights, tokenizer): untrained, or of a language model and its towers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  llavar init --preset nano --text data/data.json --out models/nano\n  llavar init --from-llm \
                  Phi-3.5-mini-instruct --vision-tower clip-vit-large-patch14-336 --vision-tower-slow \
                  convnext_large_mlp.safetensors --out models/start\nThe reference's slow tower is timm's \
                  convnext_large_mlp.clip_laion2b_soup_ft_in12k_in1k_320."
)]
pub(crate) struct Args {
    /// Shape: nano, nano-768, phi3.5-3.8b, llama3.1-8b or vicuna1.5-13b.
    #[arg(long, default_value = "nano")]
    preset: String,
    /// Pathways of the preset's vision tower: both, fast (CLIP alone) or slow (ConvNeXt alone).
    #[arg(long, default_value = "both", value_parser = pathways)]
    pathways: Pathways,
    #[command(flatten)]
    parts: PartsArgs,
    /// Folder to make; it must not exist yet.
    #[arg(long)]
    out: PathBuf,
    /// Text to train a byte-level BPE on: a LLaVA JSON / JSONL or any text file. May be repeated.
    #[arg(
        long,
        required_unless_present_any = ["tokenizer", "from_llm"],
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

/// Plain parts to put a model together from.
#[derive(Debug, clap::Args)]
struct PartsArgs {
    /// Folder of a language model of transformers (Llama, Vicuna, Phi-3) to take with its tokenizer.
    #[arg(long, value_name = "DIR", requires = "vision_tower", conflicts_with_all = ["preset", "pathways", "text", "tokenizer", "vocab_size"])]
    from_llm: Option<PathBuf>,
    /// Its CLIP, a folder or weight file of transformers; or a ConvNeXt, which then sees alone.
    #[arg(long, value_name = "DIR|FILE", requires = "from_llm")]
    vision_tower: Option<PathBuf>,
    /// The ConvNeXt of the slow path: a folder or weight file of timm or open_clip; left out, CLIP sees alone.
    #[arg(long, value_name = "DIR|FILE", requires = "from_llm")]
    vision_tower_slow: Option<PathBuf>,
    /// Side of the picture that a ConvNeXt sees, px; 768 by default. A CLIP alone has its own.
    #[arg(long, value_name = "PX", requires = "vision_tower")]
    input_image_size: Option<usize>,
    /// Put the adapters between the towers too, which change nothing until they are trained; stage 2 adds them itself.
    #[arg(long, requires = "vision_tower_slow")]
    adapters: bool,
    /// Element type of the written weights; that of the language model by default.
    #[arg(long, value_name = "f32|bf16|f16", value_parser = super::dtype, requires = "from_llm")]
    dtype: Option<Dtype>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if let Some(llm) = &args.parts.from_llm {
        return from_parts(llm, &args);
    }
    let preset = Preset::by_name(&args.preset).map_err(|e| Failure::new(Class::Usage, e))?;
    free(&args.out)?;
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
    let shape = Shape {
        preset,
        pathways: args.pathways,
        changes: Vec::new(),
    };
    let model = build(shape, &tokenizer, &config, args.seed)?;
    save(&model, &tokenizer, &config, &args.out)?;
    let parameters: usize = model.params().iter().map(llavar_tensor::Param::numel).sum();
    print(format!(
        "{}: {:.1} M parameters, untrained\n",
        args.out.display(),
        parameters as f64 / 1e6
    ))
}

fn free(out: &Path) -> Outcome {
    match out.exists() {
        false => Ok(()),
        true => Err(Failure::usage(format!("{} exists already", out.display()))
            .hint("choose another --out, or remove it first")),
    }
}

/// Puts a model together; projector and fusion are new.
fn from_parts(llm: &Path, args: &Args) -> Outcome {
    free(&args.out)?;
    let own = &args.parts;
    let paths = [
        Some(llm),
        own.vision_tower.as_deref(),
        own.vision_tower_slow.as_deref(),
    ];
    for path in paths.into_iter().flatten() {
        no_pipe(path)?;
        no_pipe_in_model(path)?;
    }
    // Asked for by the argument parser.
    let Some(tower) = &own.vision_tower else {
        return Err(Failure::usage("--from-llm needs --vision-tower"));
    };
    let (slow, size) = (own.vision_tower_slow.as_deref(), own.input_image_size);
    let parts = Parts::open(llm, tower, slow, size)?;
    let rows = parts.config().llm.vocab_size;
    let tokenizer = llavar_data::Tokenizer::from_folder(llm)?;
    if tokenizer.vocab_len() > rows {
        return Err(Failure::new(
            Class::Data,
            format!(
                "the tokenizer in {} has {} ids, its model only {rows} embedding rows",
                llm.display(),
                tokenizer.vocab_len()
            ),
        ));
    }
    if let Some(parent) = args.out.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|error| Failure::write(parent, &error))?;
    }
    for note in parts.notes() {
        eprintln!("note: {note}");
    }
    let made = parts.write(&args.out, own.adapters, own.dtype, args.seed)?;
    print(format!(
        "{}: {:.1} M parameters in {}, {:.2} M of them new (projector and fusion{}); train stage 1 next\n",
        args.out.display(),
        made.parameters as f64 / 1e6,
        made.dtype,
        made.new_parameters as f64 / 1e6,
        if own.adapters { " and adapters" } else { "" },
    ))
}

fn pathways(name: &str) -> Result<Pathways, String> {
    Pathways::by_name(name).ok_or_else(|| "there are both, fast and slow".to_owned())
}

/// What an untrained model is to look like.
pub(crate) struct Shape {
    pub(crate) preset: Preset,
    pub(crate) pathways: Pathways,
    /// Other values for keys of the configuration.
    pub(crate) changes: Vec<(String, serde_json::Value)>,
}

/// A model of this shape with the tokenizer's vocabulary.
pub(crate) fn build(
    shape: Shape,
    tokenizer: &str,
    tokenizer_config: &str,
    seed: u64,
) -> Outcome<LlavaModel> {
    let preset = shape.preset;
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
    let mut keys = shape.changes;
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
    let config = config.with_pathways(shape.pathways)?;
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
