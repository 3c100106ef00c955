//! `llavar data prefix`: the text of the pictures before the questions of a training set.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_data::{Dataset, ImageFolder, ImagePathError, ImageSource, Sample};
use llavar_ocr::{EngineChoice, Line, Misreading, Page, Reader, has_prefix, prefix, put_before};
use rayon::prelude::*;

use super::{data::write_samples, no_pipe, not_over, print};
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
    /// Folder of the pictures, or its address; engines need it, sidecar:FILE-OR-FOLDER does not.
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
    /// It has the prefix already.
    Had,
    /// Its picture has no text.
    NoText,
    /// Its text is longer than allowed.
    TooLong,
    /// The picture could not be read, or nobody read it; why, for the first of its samples.
    Failed(Option<Failure>),
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
    not_over("--out", &args.out, &[("the data", &args.data)])?;
    if let EngineChoice::Sidecar(Some(results)) = &args.ocr {
        not_over("--out", &args.out, &[("the text of the pictures", results)])?;
    }
    let pictures = Pictures::open(&args)?;
    let data = Dataset::open(&args.data, None)?;
    if data.is_container() {
        let shown = args.data.display();
        return Err(Failure::usage(format!(
            "the pictures lie inside {shown}, which LLaVA JSON cannot name"
        ))
        .hint("unpack the pictures and the records first"));
    }
    let samples: Vec<Sample> = (0..data.len())
        .into_par_iter()
        .map(|index| data.get(index))
        .collect::<Result<_, _>>()?;
    let made = all(&args, &pictures, &samples);
    let (mut out, mut with, mut characters, mut longest) = (Vec::new(), 0_usize, 0, 0);
    let mut had = 0_usize;
    let (mut no_text, mut too_long, mut failed, mut first) = (0_usize, 0_usize, 0_usize, None);
    for (sample, made) in samples.into_iter().zip(made) {
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
            Made::Had => had += 1,
            Made::NoText => no_text += 1,
            Made::TooLong => too_long += 1,
            Made::Failed(error) => {
                failed += 1;
                first = first.or(error.map(|error| (sample.id.to_string(), error)));
            }
        }
        out.push(sample);
    }
    for (count, why) in [
        (had, "they have the text of their pictures already"),
        (no_text, "no text was found in the picture"),
        (too_long, "the text is too long"),
    ] {
        if count > 0 {
            note(format!("{count} samples stay as they are: {why}"));
        }
    }
    if let Some((id, error)) = first {
        let said = error.to_string();
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        note(format!(
            "{failed} samples stay as they are, the first is {id}: {said}"
        ));
        if with == 0 {
            return Err(error);
        }
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
    reader: Reader,
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
        let folder = folder
            .map(ImageFolder::open)
            .transpose()
            .map_err(|e| Failure::new(Class::Data, e))?;
        if beside && let Some(folder) = folder.as_ref().filter(|folder| folder.is_remote()) {
            let shown = folder.path().display();
            return Err(Failure::usage(format!(
                "--ocr sidecar looks beside the pictures, and {shown} is no folder of this machine"
            ))
            .hint("give the file or folder with the results: --ocr sidecar:FILE-OR-FOLDER"));
        }
        Ok(Self {
            reader: Reader::of_user(args.ocr.open()?),
            folder,
            sees,
        })
    }

    fn lines(&self, image: &str) -> Outcome<Arc<[Line]>> {
        Ok(self.reader.read(&self.page(image)?)?)
    }

    fn page(&self, image: &str) -> Outcome<Page> {
        let wrong = |error: ImagePathError| Failure::new(Class::Data, error);
        // A sidecar knows pictures by their names alone.
        let by_name = |path: &Path| Page::from_bytes(path, Vec::new());
        let source = match &self.folder {
            None => return Ok(by_name(Path::new(image))),
            Some(folder) if folder.is_remote() => folder.fetch(image).map_err(wrong)?,
            Some(folder) => ImageSource::File(folder.resolve(image).map_err(wrong)?),
        };
        Ok(match source {
            ImageSource::Bytes { name, bytes } => Page::from_bytes(&name, bytes),
            ImageSource::File(path) if self.sees => Page::open(&path)?,
            ImageSource::File(path) => by_name(&path),
        })
    }
}

/// What becomes of the samples. Those of the same pictures are one piece of work: the pictures are read once.
fn all(args: &Args, pictures: &Pictures, samples: &[Sample]) -> Vec<Made> {
    let mut groups: HashMap<&[String], Vec<usize>> = HashMap::new();
    for (index, sample) in samples.iter().enumerate() {
        if !sample.images.is_empty() && is_chosen(args, index) {
            groups.entry(&sample.images).or_default().push(index);
        }
    }
    let done: Vec<(usize, Made)> = groups
        .into_par_iter()
        .flat_map_iter(|(images, indices)| {
            let read: Outcome<Vec<_>> = images.iter().map(|image| pictures.lines(image)).collect();
            let (pages, mut error) = match read {
                Ok(pages) => (Some(pages), None),
                Err(error) => (None, Some(error)),
            };
            indices.into_iter().map(move |index| match &pages {
                Some(pages) => (index, one(args, pages, index, &samples[index])),
                None => (index, Made::Failed(error.take())),
            })
        })
        .collect();
    let mut made: Vec<Made> = samples.iter().map(|_| Made::Plain).collect();
    for (index, one) in done {
        made[index] = one;
    }
    made
}

fn is_chosen(args: &Args, index: usize) -> bool {
    // The upper 53 bits are a number in 0 to 1 that f64 holds exactly.
    let draw = mixed(args.seed, index as u64) >> 11;
    (draw as f64) < args.share * (1_u64 << 53) as f64
}

fn one(args: &Args, pages: &[Arc<[Line]>], index: usize, sample: &Sample) -> Made {
    if has_prefix(sample) {
        return Made::Had;
    }
    let draw = mixed(args.seed, index as u64);
    let mut text = String::new();
    for (at, lines) in pages.iter().enumerate() {
        if args.errors > 0.0 {
            let seed = draw.wrapping_add(at as u64);
            text += &prefix(&Misreading::at(args.errors).read(lines, seed));
        } else {
            text += &prefix(lines);
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
