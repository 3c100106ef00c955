//! `llavar data prefix`: the text of the pictures before the questions of a training set.

use std::path::{Path, PathBuf};

use llavar_data::{Dataset, ImageFolder, Sample};
use llavar_ocr::{Engine, EngineChoice, Line, Misreading, Page, prefix, put_before};
use rayon::prelude::*;

use super::{data::write_samples, no_pipe, print};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Put the text of the pictures before the first question of samples, as `ask`, `chat` and `eval` do with
/// --ocr, so that a model learns to use it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar ocr run SROIE2019/train/img --out ocr && llavar data prefix sroie.json --ocr sidecar:ocr --share 0.5 --out sroie-ocr.json\n\
         llavar data prefix synth/data.json --ocr sidecar:synth/words.jsonl --errors 0.02 --out synth/data-ocr.json"
)]
pub(crate) struct Args {
    /// LLaVA JSON or JSONL.
    data: PathBuf,
    /// Where the text comes from: sidecar (JSON beside each picture), sidecar:FILE-OR-FOLDER, ppocr,
    /// ppocr-v4 or tesseract. Words (words.jsonl of a synthetic set) are joined to lines.
    #[arg(long, value_name = "ENGINE")]
    ocr: EngineChoice,
    /// Folder of the pictures; engines need it, sidecar:FILE-OR-FOLDER does not.
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Share of the samples that get the text, 0 to 1.
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    /// Write those samples without the text too.
    #[arg(long)]
    twice: bool,
    /// Make an engine's mistakes: share of wrong characters, 0 to 1; as many lines are lost, and three times as
    /// many spaces. PP-OCR on scanned receipts has about 0.02.
    #[arg(long, default_value_t = 0.0)]
    errors: f64,
    /// Leave samples alone whose text would be longer than this, characters.
    #[arg(long)]
    max_chars: Option<usize>,
    /// Which samples are chosen, and which mistakes are made.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// LLaVA JSON to write.
    #[arg(long)]
    out: PathBuf,
    /// Write over a file that is there already.
    #[arg(long)]
    force: bool,
}

/// What became of one sample.
enum Made {
    /// It was not chosen, or has no picture.
    Plain,
    /// Its picture has no text.
    NoText,
    /// Its text is longer than allowed.
    TooLong,
    /// The picture could not be read, or nobody read it.
    Failed(Failure),
    /// It has the prefix, of so many characters.
    With(Sample, usize),
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    no_pipe(&args.data)?;
    for (name, value) in [("share", args.share), ("errors", args.errors)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Failure::usage(format!("--{name} {value} is not in 0 to 1")));
        }
    }
    super::data::not_there(&args.out, args.force)?;
    let pictures = Pictures::open(&args)?;
    let data = Dataset::open(&args.data, None)?;
    let made: Vec<(Sample, Made)> = (0..data.len())
        .into_par_iter()
        .map(|index| {
            let sample = data.get(index)?;
            let made = one(&args, &pictures, index, &sample);
            Ok::<_, llavar_data::Error>((sample, made))
        })
        .collect::<Result<_, _>>()?;
    let (mut out, mut with, mut characters, mut longest) = (Vec::new(), 0_usize, 0, 0);
    let (mut no_text, mut too_long, mut failed) = (0_usize, 0_usize, Vec::new());
    for (sample, made) in made {
        match made {
            Made::With(prefixed, length) => {
                if args.twice {
                    out.push(sample);
                }
                out.push(prefixed);
                with += 1;
                characters += length;
                longest = longest.max(length);
                continue;
            }
            Made::Plain => {}
            Made::NoText => no_text += 1,
            Made::TooLong => too_long += 1,
            Made::Failed(error) => failed.push((sample.id.to_string(), error)),
        }
        out.push(sample);
    }
    for (count, why) in [
        (no_text, "no text was found in the picture"),
        (too_long, "the text is too long"),
    ] {
        if count > 0 {
            note(format!("{count} samples stay as they are: {why}"));
        }
    }
    if let Some((id, error)) = failed.first() {
        let count = failed.len();
        let said = error.to_string();
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        note(format!(
            "{count} samples stay as they are, the first is {id}: {said}"
        ));
    }
    if with == 0 && !failed.is_empty() {
        return Err(failed.swap_remove(0).1);
    }
    let written = write_samples(&args.out, &out)?;
    print(format!(
        "{}: {written} samples, {with} with the text of their pictures: {} characters on average, {longest} at most\n",
        args.out.display(),
        characters / with.max(1),
    ))
}

/// The text of pictures by the name that a data set has for them.
struct Pictures {
    engine: Box<dyn Engine>,
    folder: Option<ImageFolder>,
    /// Whether the engine looks at the pixels.
    sees: bool,
}

impl Pictures {
    fn open(args: &Args) -> Outcome<Self> {
        let sees = match &args.ocr {
            EngineChoice::None => {
                return Err(Failure::usage("--ocr none has no text")
                    .hint(format!("known: {}", EngineChoice::KNOWN)));
            }
            EngineChoice::Sidecar(_) => false,
            _ => true,
        };
        let beside = args.ocr == EngineChoice::Sidecar(None);
        if args.image_folder.is_none() && (sees || beside) {
            return Err(
                Failure::usage(format!("--ocr {} needs --image-folder", args.ocr))
                    .hint("give the folder below which the pictures of the data set lie"),
            );
        }
        let folder = args.image_folder.as_deref().filter(|_| sees || beside);
        let folder = folder.map(ImageFolder::open);
        Ok(Self {
            engine: args.ocr.open()?,
            folder: folder
                .transpose()
                .map_err(|e| Failure::new(Class::Data, e))?,
            sees,
        })
    }

    fn lines(&self, image: &str) -> Outcome<Vec<Line>> {
        let path = match &self.folder {
            Some(folder) => folder
                .resolve(image)
                .map_err(|error| Failure::new(Class::Data, error))?,
            None => Path::new(image).to_owned(),
        };
        // A sidecar knows pictures by their names alone.
        let page = if self.sees {
            Page::open(&path)?
        } else {
            Page::from_bytes(&path, Vec::new())
        };
        Ok(self.engine.read(&page)?)
    }
}

fn one(args: &Args, pictures: &Pictures, index: usize, sample: &Sample) -> Made {
    let draw = mixed(args.seed, index as u64);
    // The upper 53 bits are a number in 0 to 1 that f64 holds exactly.
    let chosen = ((draw >> 11) as f64) < args.share * (1_u64 << 53) as f64;
    if !chosen || sample.images.is_empty() {
        return Made::Plain;
    }
    let mut text = String::new();
    for (at, image) in sample.images.iter().enumerate() {
        match pictures.lines(image) {
            Ok(lines) if args.errors > 0.0 => {
                let seed = draw.wrapping_add(at as u64);
                text += &prefix(&Misreading::at(args.errors).read(&lines, seed));
            }
            Ok(lines) => text += &prefix(&lines),
            Err(error) => return Made::Failed(error),
        }
    }
    let length = text.chars().count();
    if length == 0 {
        return Made::NoText;
    }
    if args.max_chars.is_some_and(|most| length > most) {
        return Made::TooLong;
    }
    let mut prefixed = sample.clone();
    put_before(&mut prefixed, &text);
    Made::With(prefixed, length)
}

/// A number that looks random, of a seed and a place (splitmix64).
fn mixed(seed: u64, at: u64) -> u64 {
    let mut z = seed ^ at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
