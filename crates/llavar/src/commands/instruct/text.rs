//! Who reads the text of the pictures.

use std::path::Path;

use llavar_instruct::{Pictures, RunFile};
use llavar_ocr::{Engine, EngineChoice, OcrError, Sidecar};

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// The engine of that name, ready. `auto` is the one of the run that goes on: another text would make other
/// requests, and what was paid for would be asked again.
pub(super) fn engine(
    name: &str,
    run: &Path,
    pictures: &Pictures,
) -> Outcome<(EngineChoice, Box<dyn Engine>)> {
    let open = |choice: EngineChoice| {
        let engine = choice.open();
        engine
            .map(|engine| (choice, engine))
            .map_err(|error| Failure::new(Class::Data, error))
    };
    let parse = |name: &str| {
        name.parse()
            .map_err(|error: OcrError| Failure::new(Class::Usage, error))
    };
    if name != "auto" {
        return open(parse(name)?);
    }
    if let Ok(before) = RunFile::read(run) {
        return open(parse(&before.ocr)?);
    }
    let path = |name: &String| pictures.folder.join(name);
    let found = match pictures
        .names
        .iter()
        .all(|name| Sidecar::is_beside(&path(name)))
    {
        true => open(EngineChoice::Sidecar(None))?,
        false => match EngineChoice::ready() {
            Some(found) => found,
            None => {
                note("no OCR engine is ready: `llavar ocr pull` fetches the models of one");
                return open(EngineChoice::None);
            }
        },
    };
    note(format!("text is read by: {} (--ocr)", found.0));
    Ok(found)
}
