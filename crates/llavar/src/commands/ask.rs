//! `llavar ask`: one question about one or more pictures.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

use llavar_assistant::{Assistant, Conversation};
use llavar_data::TemplateName;
use llavar_model::generation::GenerationOptions;
use serde::Serialize;

use super::{print, print_json};
use crate::{
    device::DeviceFlags,
    failure::{Class, Failure, Outcome},
};

/// Ask one question about one or more pictures.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar ask --model quickstart/model --image receipt.jpg \"What is the total?\""
)]
pub(crate) struct Args {
    /// Model folder.
    #[arg(long, short)]
    model: PathBuf,
    /// Picture file; may be repeated.
    #[arg(long, short)]
    image: Vec<PathBuf>,
    /// The question.
    question: String,
    #[command(flatten)]
    ocr: super::ocr::OcrFlag,
    #[command(flatten)]
    decoding: Decoding,
    /// Print a JSON object instead of the bare answer.
    #[arg(long)]
    json: bool,
}

/// Flags shared by commands that generate text.
#[derive(Debug, clap::Args)]
pub(crate) struct Decoding {
    /// Conversation template (v1, llava_v1, phi3_instruct, llama3, plain); guessed from the model.
    #[arg(long)]
    conv_mode: Option<String>,
    /// Longest answer, tokens.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// 0 always takes the most likely token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample from the smallest set of tokens with this probability mass.
    #[arg(long = "top-p", alias = "top_p", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample from this many most likely tokens.
    #[arg(long = "top-k", alias = "top_k")]
    top_k: Option<usize>,
    /// Beams; needs temperature 0.
    #[arg(long = "num-beams", alias = "num_beams", default_value_t = 1)]
    num_beams: usize,
    /// Seed of sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceFlags,
}

impl Decoding {
    /// Opens the model with the chosen template.
    pub(crate) fn load(&self, model: &Path) -> Outcome<Assistant> {
        load(model, self.conv_mode.as_deref(), &self.device)
    }

    /// The options of a generation.
    pub(crate) fn options(&self, assistant: &Assistant) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            num_beams: self.num_beams,
            seed: self.seed,
            ..assistant.defaults()
        }
    }
}

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
    seconds: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let reader = args.ocr.open()?;
    let assistant = args.decoding.load(&args.model)?;
    let options = args.decoding.options(&assistant);
    let begun = Instant::now();
    let mut conversation = Conversation::default();
    let mut ocr = String::new();
    for path in &args.image {
        conversation.show(assistant.see_file(path)?);
        ocr += &super::ocr::prefix(reader.as_ref(), path)?;
    }
    let mut shown = Ok(());
    let question = format!("{ocr}{}", args.question);
    let answer = conversation.ask(&assistant, &question, &options, |piece| {
        if !args.json {
            shown = print(piece);
        }
        // Nobody reads on: no reason to go on.
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    shown?;
    if !args.json {
        return print("\n");
    }
    print_json(&Report {
        question: args.question,
        ocr: reader.map(|_| ocr),
        answer: answer.text,
        images: args.image,
        model: args.model,
        template: assistant.template().name().as_str().to_owned(),
        prompt_tokens: answer.prompt_tokens,
        new_tokens: answer.new_tokens,
        stop_reason: answer.stop_reason.name().to_owned(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}
