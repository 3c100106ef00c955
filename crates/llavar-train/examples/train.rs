//! Trains from the command line: `train RECIPE RUN_FOLDER [key=value]...`, resuming where it stopped.
//!
//! Where `model_name_or_path` does not exist yet, an untrained nano model is made there, with a
//! vocabulary of the data's texts.

use std::{error::Error, path::Path, sync::atomic::AtomicBool};

use llavar_data::{
    Dataset,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_model::{LlavaModel, config::Preset};
use llavar_train::{Observer, Recipe, Resume, RunInfo, StepReport, Trainer};

struct Lines;

impl Observer for Lines {
    fn on_start(&mut self, info: &RunInfo) {
        eprintln!("{info:?}");
    }
    fn on_step(&mut self, r: &StepReport) {
        eprintln!(
            "step {}/{} epoch {:.2} loss {:.4} lr {:.2e} norm {:?} | {:.2} s, {:.0} tokens/s, {:.1} images/s, \
             wait {:.0} %, peak {} MB, rss {:?} MB",
            r.step,
            r.total_steps,
            r.epoch,
            r.loss,
            r.learning_rate,
            r.grad_norm,
            r.seconds,
            r.tokens_per_second,
            r.images_per_second,
            r.data_wait_percent,
            r.tensor_peak_bytes >> 20,
            r.resident_bytes.map(|b| b >> 20),
        );
    }
    fn on_warning(&mut self, message: &str) {
        eprintln!("warning: {message}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(recipe), Some(run)) = (args.next(), args.next()) else {
        return Err("usage: train RECIPE RUN_FOLDER [key=value]...".into());
    };
    let recipe = Recipe::resolve(&recipe, &args.collect::<Vec<_>>())?;
    if let Some(folder) = &recipe.model.model_name_or_path
        && !Path::new(folder).exists()
    {
        make_nano(Path::new(folder), &recipe)?;
    }
    let mut trainer = Trainer::new(recipe, Path::new(&run), Resume::Auto)?;
    let outcome = trainer.run(&mut Lines, &AtomicBool::new(false))?;
    eprintln!("{outcome:?}");
    Ok(())
}

fn make_nano(folder: &Path, recipe: &Recipe) -> Result<(), Box<dyn Error>> {
    let mut texts = Vec::new();
    for file in recipe.data.data_path.list() {
        for sample in Dataset::open(Path::new(file), None)?.iter() {
            texts.extend(sample?.conversations.into_iter().map(|turn| turn.value));
        }
    }
    let (tokenizer, config) = train_bpe(texts.into_iter(), &BpeOptions::new(1024))?;
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("tokenizer.json"), tokenizer)?;
    std::fs::write(files.path().join("tokenizer_config.json"), config)?;
    let config = Preset::Nano.config(Some(1024))?;
    LlavaModel::init(config, recipe.train.seed)?.save(folder, Some(files.path()))?;
    Ok(())
}
