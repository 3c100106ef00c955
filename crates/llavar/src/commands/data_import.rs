//! `llavar data import`: official data sets as LLaVA JSON.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

use llavar_data::{
    Cache, Dataset,
    import::{Form, Imported, TextLine, chart_qa, funsd, sroie},
};
use llavar_ocr::{ContentHash, EngineChoice, Page, Reader};

use super::{data, no_pipe, print};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

const LAYOUTS: &str = "sroie, funsd, chartqa";
/// Names told of a list; all are counted.
const NAMES: usize = 20;

/// Turn an official data set into LLaVA JSON.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar data import sroie SROIE2019 --split train --form mixed --out sroie.json\n\
Train with --set data_path=sroie.json --set image_folder=SROIE2019"
)]
pub(crate) struct Args {
    /// Layout of the source: sroie, funsd or chartqa.
    layout: String,
    /// Folder of the set as published.
    root: PathBuf,
    /// Part of the set: train, test, or val where there is one.
    #[arg(long, default_value = "train")]
    split: String,
    /// LLaVA JSON to write.
    #[arg(long)]
    out: PathBuf,
    /// Which turns are made of a picture: short (one conversation of the published questions with the bare
    /// labels), duos (whole sentences, each followed by a question for where it stands), ask (every question
    /// alone, in the published and in other words), talk (one conversation of several, with questions for what
    /// stands beside and below a line), read (all text), mixed (ask, talk, duos and read).
    #[arg(long, value_name = "FORM", value_parser = form, default_value = "short")]
    form: Form,
    /// The same as --form duos.
    #[arg(long, conflicts_with = "form")]
    duos: bool,
    /// Decides wordings and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the text of charts comes from, for duos, talk and read of chartqa: sidecar:FOLDER, ppocr, ...
    #[arg(long, value_name = "ENGINE", default_value = "none")]
    ocr: EngineChoice,
    /// Leave out pictures whose content lies in this folder too, such as that of the test pictures: published
    /// sets have some in both parts.
    #[arg(long, value_name = "FOLDER")]
    not_in: Option<PathBuf>,
    /// Write over a file that is there already; never over a file of the set.
    #[arg(long)]
    force: bool,
}

fn form(name: &str) -> Result<Form, String> {
    let known = || Form::ALL.map(|(name, _)| name).join(", ");
    let found = Form::ALL.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, form)| *form)
        .ok_or_else(|| format!("known: {}", known()))
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let (root, split, seed) = (args.root.as_path(), args.split.as_str(), args.seed);
    let form = if args.duos { Form::Duo } else { args.form };
    let known = LAYOUTS.split(", ").any(|layout| layout == args.layout);
    if !known {
        return Err(Failure::usage(format!("unknown layout `{}`", args.layout))
            .hint(format!("known: {LAYOUTS}")));
    }
    data::not_there(&args.out, args.force)?;
    not_of_set(&args)?;
    let mut samples = match args.layout.as_str() {
        "sroie" => receipts(sroie::import(root, split, form, seed)?),
        "funsd" => labelled(funsd::import(root, split, form, seed)?),
        _ => {
            let read = reader(&args.ocr, root)?;
            labelled(chart_qa::import(root, split, form, seed, &read)?)
        }
    };
    if let Some(folder) = args.not_in.as_ref().filter(|_| !samples.is_empty()) {
        without(&mut samples, root, folder)?;
        if samples.is_empty() {
            let shown = folder.display();
            let what = format!("all pictures lie in {shown} too; nothing was written");
            return Err(Failure::new(Class::Data, what).hint("give another --not-in"));
        }
    }
    if samples.is_empty() {
        let what = Failure::new(Class::Data, "no sample could be made; nothing was written");
        let needs_text = args.layout == "chartqa" && matches!(args.ocr, EngineChoice::None);
        return Err(match needs_text {
            true => {
                what.hint("give --ocr: this set does not say where the text of its charts stands")
            }
            false => what.hint(format!(
                "is {} the folder of the set, and --split one of its parts?",
                root.display()
            )),
        });
    }
    let written = data::write_samples(&args.out, &samples)?;
    print(format!(
        "{}: {written} samples, images below {}\n",
        args.out.display(),
        root.display()
    ))
}

/// Refuses to write over a file that is read, which `--force` cannot mean. What is read is known only after all
/// of it was, and a broken label file would not be in that list; but sets as published hold no LLaVA JSON, so
/// such a file is what this command wrote there before, and any other file in these folders is theirs.
fn not_of_set(args: &Args) -> Outcome {
    let text = match &args.ocr {
        EngineChoice::Sidecar(Some(path)) => Some(path),
        _ => None,
    };
    let mut read = [Some(&args.root), text, args.not_in.as_ref()]
        .into_iter()
        .flatten();
    let Some(folder) = read.find(|folder| lies_in(&args.out, folder)) else {
        return Ok(());
    };
    no_pipe(&args.out)?;
    let first = Dataset::open_with(&args.out, None, &Cache::none())
        .ok()
        .filter(|set| !set.is_container())
        .map(|set| set.get(0));
    match first {
        Some(Ok(_)) => Ok(()),
        _ => Err(Failure::usage(format!(
            "--out would write over {}, which lies in {} and is no LLaVA JSON",
            args.out.display(),
            folder.display()
        ))
        .hint("give another --out: this file may belong to the set")),
    }
}

/// Whether a file that exists lies in a folder, by its name or behind links.
fn lies_in(file: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let named = |path: &Path| std::path::absolute(path).ok();
    let within = |file: Option<PathBuf>, folder: Option<PathBuf>| {
        file.zip(folder)
            .is_some_and(|(file, folder)| file.starts_with(folder))
    };
    file.exists() && (within(real(file), real(folder)) || within(named(file), named(folder)))
}

/// What reads the text of a picture below `root`; a picture that cannot be read has none, which is told.
fn reader(choice: &EngineChoice, root: &Path) -> Outcome<impl Fn(&str) -> Vec<TextLine>> {
    let sidecar = matches!(choice, EngineChoice::Sidecar(Some(_)));
    let reader = Reader::of_user(choice.open()?);
    let root = root.to_owned();
    Ok(move |image: &str| {
        let read = if sidecar {
            // Found by name, also in a folder that holds nothing but this split.
            reader.read(&Page::from_bytes(Path::new(image), Vec::new()))
        } else {
            reader.read_file(&root.join(image))
        };
        let lines = read.unwrap_or_else(|error| {
            note(format!("{image} has no text: {error}"));
            Vec::new().into()
        });
        let line = |line: &llavar_ocr::Line| TextLine {
            bounds: line.bounds(),
            text: line.text.clone(),
        };
        lines.iter().map(line).collect()
    })
}

/// Leaves out the samples whose pictures have the content of a file in `folder`.
fn without(samples: &mut Vec<llavar_data::Sample>, root: &Path, folder: &Path) -> Outcome {
    let files = fs::read_dir(folder).map_err(|source| llavar_ocr::OcrError::Io {
        verb: "read",
        path: folder.to_owned(),
        source,
    })?;
    let paths = files.filter_map(Result::ok).map(|entry| entry.path());
    let known: HashSet<ContentHash> = paths
        .filter(|path| path.is_file())
        .map(|path| Ok(Page::open(&path)?.hash().clone()))
        .collect::<Outcome<_>>()?;
    let images: BTreeSet<&String> = samples.iter().flat_map(|s| &s.images).collect();
    let mut left_out = BTreeSet::new();
    for image in images {
        if known.contains(Page::open(&root.join(image))?.hash()) {
            left_out.insert(image.clone());
        }
    }
    samples.retain(|sample| !sample.images.iter().any(|image| left_out.contains(image)));
    let names: Vec<String> = left_out.into_iter().collect();
    let what = format!("pictures are in {} too, left out", folder.display());
    tell(&what, &names);
    Ok(())
}

fn labelled(imported: Imported) -> Vec<llavar_data::Sample> {
    tell("without an image, left out", &imported.missing_images);
    tell("facts without a place, no duo", &imported.unlocated);
    unreadable(&imported.unreadable);
    imported.samples
}

fn receipts(imported: sroie::SroieImport) -> Vec<llavar_data::Sample> {
    tell("without an image, left out", &imported.missing_images);
    tell("without entities, left out", &imported.missing_entities);
    tell("without boxes", &imported.missing_boxes);
    tell("entities that are empty", &imported.empty_entities);
    tell(
        "entities not found among the boxes, no duo",
        &imported.unlocated,
    );
    unreadable(&imported.unreadable);
    imported.samples
}

fn tell(what: &str, names: &[String]) {
    if !names.is_empty() {
        let more = if names.len() > NAMES { ", ..." } else { "" };
        let first = names[..names.len().min(NAMES)].join(", ");
        note(format!("{} {what}: {first}{more}", names.len()));
    }
}

fn unreadable(files: &[(String, String)]) {
    for (name, reason) in files {
        note(format!("{name} cannot be read, left out: {reason}"));
    }
}
