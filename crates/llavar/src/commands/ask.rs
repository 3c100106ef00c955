//! `llavar ask`: one question about one or more pictures.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::builder::RangedU64ValueParser;
use llavar_assistant::{Answer, Assistant, Conversation};
use llavar_data::TemplateName;
use llavar_image::{DecodeLimits, ImageFormat, exif_orientation};
use llavar_model::generation::GenerationOptions;
use serde::Serialize;

use super::{print, print_json, shell_word};
use crate::{
    device::DeviceFlags,
    failure::{Class, Failure, Outcome},
    progress::note,
    sampling::{CloserFlag, SamplingFlags},
    shipped::ModelFlag,
};

/// Ask one question about one or more pictures.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "llavar ask [OPTIONS] [PICTURE]... <QUESTION>",
    after_help = "Example: llavar ask receipt.jpg \"what is the total?\"\n         \
llavar ask --model runs/sft/model --ocr ppocr page1.png page2.png \"Who signed?\""
)]
pub(crate) struct Args {
    /// Picture files, then the question.
    #[arg(required = true, value_name = "[PICTURE]... QUESTION")]
    words: Vec<String>,
    /// Picture file, as before the question; may be repeated.
    #[arg(long, short)]
    image: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelFlag,
    #[command(flatten)]
    ocr: super::ocr::OcrFlag,
    #[command(flatten)]
    decoding: Decoding,
    #[command(flatten)]
    closer: CloserFlag,
    /// Print a JSON object instead of the bare answer.
    #[arg(long)]
    json: bool,
}

/// Flags shared by commands that generate text.
#[derive(Debug, clap::Args)]
pub(crate) struct Decoding {
    /// Conversation template (v1, llava_v1, phi3_instruct, llama3, plain); guessed from the model.
    #[arg(long, alias = "conv_mode")]
    conv_mode: Option<String>,
    /// Longest answer, tokens.
    #[arg(
        long,
        alias = "max_new_tokens",
        default_value_t = 512,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 24)
    )]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    device: DeviceFlags,
}

impl Decoding {
    /// Opens the model with the chosen template.
    pub(crate) fn load(&self, model: &Path) -> Outcome<Assistant> {
        // One picture at a time: what its stages free is not worth keeping twice.
        llavar_tensor::memory::set_cache_floor(CACHE_FLOOR);
        load(model, self.conv_mode.as_deref(), &self.device)
    }

    /// The options of a generation.
    pub(crate) fn options(&self, assistant: &Assistant) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            num_beams: self.sampling.num_beams,
            seed: self.sampling.seed,
            ..assistant.defaults()
        }
    }

    /// Says on stderr that an answer is likely a guess. Long ones, sampled ones and those of beams are passed over:
    /// their probability is low for other reasons, or is none.
    pub(crate) fn doubt(&self, answer: &Answer) {
        let alone = self.sampling.temperature == 0.0 && self.sampling.num_beams == 1;
        let probability = answer.score.exp();
        if alone && (1..=SHORT).contains(&answer.new_tokens) && probability < GUESS {
            // No answer that was given has none.
            let percent = match probability < 5e-4 {
                true => "less than 0.1".to_owned(),
                false => format!("{:.1}", probability * 100.0),
            };
            note(format!(
                "likely a guess: the model's own probability of this answer is {percent} %"
            ));
        }
    }
}

/// The model's own probability of an answer below which it is called a guess. Of llavar-nano's answers about the test
/// receipts and forms 7 to 14 of 100 below it are right, with and without OCR text (BENCHMARKS.md).
const GUESS: f64 = 0.2;

/// The most tokens of an answer that is judged by the probability of the whole.
const SHORT: usize = 64;

/// What tensors and freed buffers may take before the pool keeps no more than the largest need.
const CACHE_FLOOR: usize = 160 << 20;

/// Opens a model folder on the chosen device, with a template by its name or the one that fits.
pub(crate) fn load(
    model: &Path,
    conv_mode: Option<&str>,
    device: &DeviceFlags,
) -> Outcome<Assistant> {
    let template = conv_mode
        .map(|name| {
            name.parse::<TemplateName>().map_err(|_| {
                let known: Vec<&str> = TemplateName::ALL.iter().map(|n| n.as_str()).collect();
                Failure::usage(format!("unknown conversation template `{name}`"))
                    .hint(format!("known: {}", known.join(", ")))
            })
        })
        .transpose()?;
    if !model.is_dir() {
        let what = if model.exists() {
            "is a file"
        } else {
            "does not exist"
        };
        return Err(Failure::new(
            Class::Data,
            format!("model folder {} {what}", model.display()),
        )
        .hint("give a folder with config.json, weights and tokenizer; `llavar init` or `llavar quickstart` makes one"));
    }
    device.load(model, template)
}

#[derive(Debug, Serialize)]
struct Report {
    question: String,
    /// What stood before the question: text of the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    ocr: Option<String>,
    answer: String,
    images: Vec<PathBuf>,
    model: PathBuf,
    template: String,
    prompt_tokens: usize,
    new_tokens: usize,
    stop_reason: String,
    /// The model's own probability of the whole answer, 0 to 1; of beams that of an average token. The lower, the
    /// likelier it is a guess.
    probability: f64,
    /// With --closer: whether the answer was unsure and halves of the picture were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    closer_look: Option<bool>,
    /// From opening the picture to the end of the answer.
    seconds: f64,
    /// Opening the model.
    load_seconds: f64,
    /// From opening the picture to the first text of the answer, if there was any.
    first_token_seconds: Option<f64>,
    /// From there on.
    tokens_per_second: Option<f64>,
    /// Most memory that the process had, where the system tells.
    peak_memory_bytes: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let (images, question) = pictures_and_question(args.words, args.image)?;
    images.iter().for_each(|image| note_turned(image));
    let model = args.model.folder()?;
    if args.closer.closer && images.len() != 1 {
        return Err(Failure::usage(format!(
            "--closer looks at one picture, there are {}",
            images.len()
        ))
        .hint("give one picture, or leave --closer out"));
    }
    let reader = args.ocr.open(&model)?;
    let opened = Instant::now();
    let assistant = args.decoding.load(&model)?;
    let options = args.decoding.options(&assistant);
    let begun = Instant::now();
    let mut first = None;
    let mut ocr = String::new();
    for path in &images {
        ocr += &super::ocr::prefix(reader.as_ref(), path)?;
    }
    let asked = format!("{ocr}{question}");
    let mut shown = Ok(());
    let mut show = |piece: &str| {
        first.get_or_insert_with(|| begun.elapsed());
        if !args.json {
            shown = print(piece);
        }
        // Nobody reads on: no reason to go on.
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let (answer, closer) = match images.as_slice() {
        [path] if args.closer.closer => {
            let image = llavar_image::decode_file(path, &DecodeLimits::default());
            let image = image.map_err(llavar_assistant::Error::from)?;
            let mut conversation = Conversation::default();
            conversation.show(assistant.see(&image)?);
            llavar_tensor::memory::trim();
            // What it settles on is known in the end.
            let (answer, closer) =
                conversation.ask_closely(&assistant, &image, &asked, &options)?;
            let _ = show(&answer.text);
            (answer, Some(closer))
        }
        _ => {
            let mut conversation = Conversation::default();
            for path in &images {
                conversation.show(assistant.see_file(path)?);
            }
            // What the vision tower worked in is of no use for the text, which may be long.
            llavar_tensor::memory::trim();
            (conversation.ask(&assistant, &asked, &options, show)?, None)
        }
    };
    shown?;
    if !args.json {
        print("\n")?;
        args.decoding.doubt(&answer);
        return Ok(());
    }
    let seconds = begun.elapsed();
    let rest = answer.new_tokens.saturating_sub(1);
    let rate = |first: Duration| rest as f64 / (seconds - first).as_secs_f64().max(1e-9);
    print_json(&Report {
        question,
        ocr: reader.map(|_| ocr),
        answer: answer.text,
        images,
        model,
        template: assistant.template().name().as_str().to_owned(),
        prompt_tokens: answer.prompt_tokens,
        new_tokens: answer.new_tokens,
        stop_reason: answer.stop_reason.name().to_owned(),
        probability: answer.score.exp(),
        closer_look: closer,
        seconds: seconds.as_secs_f64(),
        load_seconds: (begun - opened).as_secs_f64(),
        first_token_seconds: first.map(|first| first.as_secs_f64()),
        // A closer look shows its answer as a whole.
        tokens_per_second: first.filter(|_| rest > 0 && closer.is_none()).map(rate),
        peak_memory_bytes: peak_memory(),
    })
}

/// Every word but the last is a picture, the last one is the question.
fn pictures_and_question(
    mut words: Vec<String>,
    flagged: Vec<PathBuf>,
) -> Outcome<(Vec<PathBuf>, String)> {
    // There is one: the command line is refused without.
    let question = words.pop().unwrap_or_default();
    let last = Path::new(&question);
    let alone = flagged.is_empty() && words.is_empty();
    if (alone || ImageFormat::is_named_so(&question)) && last.is_file() {
        let hint = format!("llavar ask {} \"what is the total?\"", shell_word(last));
        return Err(Failure::usage("the question is missing").hint(hint));
    }
    if alone && ImageFormat::is_named_so(&question) {
        return Err(Failure::usage(format!("there is no picture `{question}`"))
            .hint("check the path, and ask something behind it"));
    }
    if question.trim().is_empty() {
        return Err(Failure::usage("the question is empty")
            .hint("llavar ask receipt.jpg \"what is the total?\""));
    }
    let mut later = words.iter().skip(1);
    if let Some(word) = later.find(|word| !Path::new(word).exists()) {
        return Err(Failure::usage(format!("there is no picture `{word}`"))
            .hint("if it belongs to the question, put the question in quotes"));
    }
    let named = words.into_iter().map(PathBuf::from);
    Ok((flagged.into_iter().chain(named).collect(), question))
}

/// Says that a picture is read on its side where a camera has noted so: its pixels are read as they are stored, as in
/// training.
pub(crate) fn note_turned(picture: &Path) {
    let bytes = llavar_image::read_file(picture, &DecodeLimits::default());
    if let Some(turned) = bytes.ok().and_then(|bytes| exif_orientation(&bytes))
        && turned != 1
    {
        note(format!(
            "{}: the camera held it another way (EXIF orientation {turned}); it is read as it is stored: turn its pixels \
             first if the answer is wrong",
            picture.display()
        ));
    }
}

/// Linux keeps it with the process.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}
