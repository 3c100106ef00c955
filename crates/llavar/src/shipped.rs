//! `--model`, and the model that is used where none is named: llavar-nano.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Where it lies below a checkout and below a folder of data.
const FOLDER: &str = "models/llavar-nano";
/// Names another default.
const VARIABLE: &str = "LLAVAR_MODEL";

/// The flag of commands that ask a model.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelFlag {
    /// Model folder; by default the one that LLAVAR_MODEL names, or llavar-nano, which comes with the program.
    #[arg(long, short)]
    model: Option<PathBuf>,
}

impl ModelFlag {
    /// What was named on the command line.
    pub(crate) fn named(&self) -> Option<&Path> {
        self.model.as_deref()
    }

    /// The model folder: the named one, else the default, which is said.
    ///
    /// # Errors
    /// Where none is named and none is found, with every place that was looked at.
    pub(crate) fn folder(&self) -> Outcome<PathBuf> {
        match &self.model {
            Some(folder) => Ok(folder.clone()),
            None => default_model(),
        }
    }
}

/// The model that is used where none is named, which is said.
fn default_model() -> Outcome<PathBuf> {
    let folder = choose(variable(VARIABLE), &places())?;
    note(format!("model: {}", folder.display()));
    Ok(folder)
}

fn choose(named: Option<PathBuf>, places: &[PathBuf]) -> Outcome<PathBuf> {
    // A name is never passed over for another model: that it leads nowhere is for its reader to say.
    let found = named.or_else(|| places.iter().find(|place| is_model(place)).cloned());
    found.ok_or_else(|| {
        let places: String = places
            .iter()
            .map(|place| format!("\n    {}", place.display()))
            .collect();
        let message = format!("no model is named, and llavar-nano is in none of its places:{places}");
        Failure::new(Class::Usage, message).hint(format!(
            "name a model folder with --model or {VARIABLE}; `llavar model install {FOLDER}` in a checkout puts \
             llavar-nano where the program finds it"
        ))
    })
}

/// The shipped model, wherever it is.
pub(crate) fn find() -> Option<PathBuf> {
    places().into_iter().find(|place| is_model(place))
}

fn is_model(folder: &Path) -> bool {
    folder.join("config.json").is_file()
}

/// Where the shipped model may lie, in the order in which it is looked for: beside the program (an unpacked
/// archive, a prefix with `bin` and `share`), in the user's data folder, in the checkout that the program was built
/// in or that it is called in.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    let program = env::current_exe().and_then(|path| path.canonicalize());
    let beside = program.ok().and_then(|p| Some(p.parent()?.to_owned()));
    if let Some(beside) = &beside {
        places.push(beside.join(FOLDER));
        if let Some(prefix) = beside.parent() {
            places.push(prefix.join("share/llavar").join(FOLDER));
        }
    }
    places.extend(installed());
    // target/release of a checkout, whatever it is called now.
    let built = beside.as_deref().and_then(|beside| {
        let target = beside
            .ancestors()
            .find(|a| a.file_name() == Some(OsStr::new("target")))?;
        Some(target.parent()?.join(FOLDER))
    });
    places.extend(built);
    places.push(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(FOLDER),
    );
    places.push(PathBuf::from(FOLDER));
    let mut seen: Vec<PathBuf> = Vec::new();
    for place in places {
        let place = plain(&place);
        if !seen.contains(&place) {
            seen.push(place);
        }
    }
    seen
}

/// The place in the user's data folder: `$XDG_DATA_HOME/llavar` or `~/.local/share/llavar`, on Windows
/// `%LOCALAPPDATA%\llavar`.
pub(crate) fn installed() -> Option<PathBuf> {
    let data = variable("XDG_DATA_HOME")
        .or_else(|| variable("LOCALAPPDATA").filter(|_| cfg!(windows)))
        .or_else(|| Some(variable("HOME")?.join(".local/share")))?;
    Some(data.join("llavar").join(FOLDER))
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(Into::into)
}

/// Without `..`, for messages; as it is where it does not exist.
fn plain(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                std::path::Component::ParentDir if plain.file_name().is_some() => {
                    plain.pop();
                }
                part => plain.push(part),
            }
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_holds_a_model_is_taken_unless_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let places = ["a", "b", "c"].map(|name| root.path().join(name));
        let error = choose(None, &places).unwrap_err().to_string();
        for place in &places {
            assert!(error.contains(&place.display().to_string()), "{error}");
        }
        assert!(
            error.contains("--model") && error.contains(VARIABLE),
            "{error}"
        );
        for place in &places[1..] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("config.json"), "{}").unwrap();
        }
        assert_eq!(choose(None, &places).unwrap(), places[1]);
        let named = PathBuf::from("nowhere");
        assert_eq!(choose(Some(named.clone()), &places).unwrap(), named);
    }

    #[test]
    fn a_checkout_is_found_from_the_program_that_was_built_in_it() {
        let checkout = plain(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        let places = places();
        assert!(places.contains(&checkout.join(FOLDER)), "{places:?}");
        assert_eq!(plain(Path::new("/no/such/../a")), Path::new("/no/a"));
    }
}
