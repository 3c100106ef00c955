//! `--ocr`: text read off the picture before every question.

use std::path::Path;

use llavar_eval::{fingerprint::Fingerprint, results::OcrMode, tasks::Item};
use llavar_ocr::{EngineChoice, Reader};

use crate::failure::{Class, Failure, Outcome};

/// Text read off the picture before every question.
#[derive(Debug, clap::Args)]
pub(crate) struct OcrFlags {
    /// Put text read off the picture before every question; both gives two results side by side.
    #[arg(long, value_enum, default_value = "off")]
    ocr: OcrChoice,
    /// Where that text comes from: sidecar (JSON beside each picture), sidecar:FILE-OR-FOLDER, ppocr,
    /// ppocr-v4 or tesseract.
    #[arg(long, value_name = "ENGINE", default_value = "sidecar")]
    ocr_engine: EngineChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OcrChoice {
    Off,
    On,
    Both,
}

/// OCR text by picture, with the name of its source.
pub(crate) struct OcrText {
    reader: Reader,
    /// Changes with everything that the text depends on.
    pub(crate) source: String,
}

impl OcrFlags {
    /// The ways of asking, the plain one first.
    pub(crate) fn modes(&self) -> &'static [OcrMode] {
        match self.ocr {
            OcrChoice::Off => &[OcrMode::Off],
            OcrChoice::On => &[OcrMode::On],
            OcrChoice::Both => &[OcrMode::Off, OcrMode::On],
        }
    }

    /// The one way of asking, for commands that write one answers file.
    pub(crate) fn mode(&self) -> Outcome<OcrMode> {
        match self.modes() {
            [mode] => Ok(*mode),
            _ => Err(Failure::usage("--ocr both needs two answers files")
                .hint("run the command once with --ocr off and once with --ocr on")),
        }
    }

    /// Makes the engine ready where it is needed.
    pub(crate) fn open(&self) -> Outcome<Option<OcrText>> {
        if self.ocr == OcrChoice::Off {
            return Ok(None);
        }
        if self.ocr_engine == EngineChoice::None {
            return Err(
                Failure::usage("--ocr needs an engine, --ocr-engine is none")
                    .hint(format!("known: {}", EngineChoice::KNOWN)),
            );
        }
        let engine = self.ocr_engine.open()?;
        let source = match (&self.ocr_engine, engine.fingerprint()) {
            (EngineChoice::Sidecar(Some(file)), _) if file.is_file() => {
                format!("sidecar {}", content(file)?)
            }
            (choice, Some(fingerprint)) => format!("{choice} {fingerprint}"),
            (choice, None) => choice.to_string(),
        };
        Ok(Some(OcrText {
            reader: Reader::of_user(engine),
            source,
        }))
    }
}

impl OcrText {
    /// What stands before the questions of an item's picture.
    pub(crate) fn before(&self, item: &Item) -> Result<String, String> {
        let path = item.image_path.as_deref().unwrap_or(Path::new(&item.image));
        let prefix = self.reader.prefix(path);
        prefix.map_err(|error| format!("OCR: {}", llavar_eval::tasks::chain(&error)))
    }
}

fn content(file: &Path) -> Outcome<String> {
    let bytes = std::fs::read(file).map_err(|error| {
        let message = format!("cannot read {}: {error}", file.display());
        Failure::new(Class::Data, message)
    })?;
    let mut hash = Fingerprint::default();
    Ok(hash.bytes(&bytes).hex())
}
