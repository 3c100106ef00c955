//! One module a subcommand.

pub(crate) mod ask;
pub(crate) mod chat;
pub(crate) mod data;
pub(crate) mod init;
pub(crate) mod quickstart;
pub(crate) mod train;

use std::{fs, path::Path};

use serde::Serialize;

use crate::failure::{Class, Failure, Outcome};

/// Prints a value as one JSON document on stdout.
fn print_json(value: &impl Serialize) -> Outcome {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::new(Class::Failure, error))?;
    println!("{text}");
    Ok(())
}

/// Writes a file aside and renames it, so that a reader never sees half of it.
fn write_file(path: &Path, bytes: &[u8]) -> Outcome {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::write(path, &error))
}
