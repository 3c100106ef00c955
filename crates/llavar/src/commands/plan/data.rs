//! The data that a run will go over: measured by the doctor, or as the command line says.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

use llavar_data::Tokenizer;
use llavar_train::{
    Planner, Recipe,
    doctor::{Doctor, Options},
    recipe::Paths,
};
use serde::Serialize;

use super::Args;
use crate::{
    commands::no_pipe,
    failure::{Failure, Outcome},
    interrupt,
    progress::{Progress, note},
    shipped,
};

/// The data, as measured or as said.
#[derive(Debug, Serialize)]
pub(super) struct Data {
    pub(super) samples: usize,
    pub(super) tokens: f64,
    pub(super) images: f64,
    /// Share of tokens whose prediction counts.
    pub(super) supervised: f64,
    pub(super) packs: Option<usize>,
}

/// Lengths of the data, measured by the doctor or taken from the command line.
pub(super) fn data(args: &Args, recipe: &Recipe, planner: &Planner) -> Outcome<Option<Data>> {
    let image_tokens = planner.config().image_tokens().unwrap_or(0);
    if let (Some(samples), Some(mean)) = (args.samples, args.mean_tokens) {
        let tokens = samples as f64 * f64::from(mean);
        let images = if mean as usize > image_tokens {
            samples
        } else {
            0
        };
        return Ok(Some(Data {
            samples,
            tokens,
            images: if image_tokens == 0 {
                0.0
            } else {
                images as f64
            },
            // Not known: what is left beside the picture, half of it answers.
            supervised: ((f64::from(mean) - image_tokens as f64) / f64::from(mean)).max(0.0) / 2.0,
            packs: (recipe.train.pack_tokens > 0)
                .then(|| (tokens / recipe.train.pack_tokens as f64).ceil() as usize),
        }));
    }
    if args.data.is_none() && recipe.data.data_path == Paths::None {
        return Ok(None);
    }
    for path in recipe.data.data_path.list() {
        no_pipe(Path::new(path))?;
    }
    let folder = args.tokenizer.clone();
    let folder = folder.or(recipe.model.model_name_or_path.as_ref().map(PathBuf::from));
    let shipped = || {
        let folder = shipped::find()?;
        note(
            "measured with llavar-nano's tokenizer, whose small vocabulary makes texts longer; --tokenizer DIR takes \
             another",
        );
        Some(folder)
    };
    let Some(folder) = folder.or_else(shipped) else {
        return Err(Failure::usage("no tokenizer to measure the data with")
            .hint("give --tokenizer DIR (a model folder, or one with tokenizer.json)"));
    };
    let options = Options {
        image_tokens: image_tokens.max(1),
        ..Options::default()
    };
    // Headers of pictures are of no matter here.
    let mut texts = recipe.clone();
    texts.data.image_folder = Paths::None;
    let doctor = Doctor::open(&texts, Some(Tokenizer::from_folder(&folder)?), options)?;
    let stop = interrupt::stop_flag()?;
    let mut bar = Progress::new("measuring", "samples", doctor.len() as u64);
    let report = doctor.examine(None, &mut |done| {
        bar.set(done as u64, String::new());
        !stop.load(Relaxed)
    })?;
    let Some(report) = report else {
        return Err(Failure::interrupted("nothing was planned"));
    };
    bar.finish(&format!(
        "{} samples, {} usable",
        report.samples, report.good
    ));
    let tokens = report.lengths.total as f64;
    Ok(Some(Data {
        samples: report.good,
        tokens,
        images: report.images as f64,
        supervised: report.supervised_tokens.unwrap_or(0) as f64 / tokens.max(1.0),
        packs: doctor.packs(recipe.train.pack_tokens)?,
    }))
}
