//! One module a subcommand.

pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod checkpoint;
pub(crate) mod data;
pub(crate) mod data_fit;
pub(crate) mod data_import;
pub(crate) mod data_prefix;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod init;
pub(crate) mod instruct;
pub(crate) mod model;
pub(crate) mod ocr;
pub(crate) mod pictures;
pub(crate) mod plan;
pub(crate) mod quickstart;
pub(crate) mod runs;
pub(crate) mod select;
pub(crate) mod serve;
pub(crate) mod train;

use std::{fs, io::Write, path::Path};

use llavar_data::write::write_whole;
use llavar_model::weights::Dtype;
use serde::Serialize;

use crate::failure::{Class, Failure, Outcome};

/// The element type of written weights.
fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::BF16),
        "f16" => Ok(Dtype::F16),
        _ => Err("there are f32, bf16 and f16".into()),
    }
}

/// Prints a value as one JSON document on stdout.
fn print_json(value: &impl Serialize) -> Outcome {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::new(Class::Failure, error))?;
    print(text + "\n")
}

/// Refuses pipes, sockets and devices where a file is read: opening one could wait for ever. That a file
/// is missing or a folder is for its reader to say.
fn no_pipe(path: &Path) -> Outcome {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(Failure::new(
            Class::Data,
            format!("{} is not a regular file", path.display()),
        )
        .hint("pipes, sockets and devices are not read: write it to a file first")),
        _ => Ok(()),
    }
}

/// [`no_pipe`] for the text files of a model folder; its weights are looked at where they are opened.
pub(crate) fn no_pipe_in_model(folder: &Path) -> Outcome {
    [
        "adapter_config.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    .iter()
    .try_for_each(|name| no_pipe(&folder.join(name)))
}

/// A path as a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let shown = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match !shown.is_empty() && shown.chars().all(plain) {
        true => shown,
        false => format!("'{}'", shown.replace('\'', "'\\''")),
    }
}

/// Whether two paths lead to one place.
fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Refuses to write over a file that is read, whatever its name is spelled like.
fn not_over(option: &str, out: &Path, inputs: &[(&str, &Path)]) -> Outcome {
    match inputs.iter().find(|(_, input)| is_same(out, input)) {
        Some((name, _)) => Err(Failure::usage(format!("{option} would write over {name}"))
            .hint(format!("give another {option}"))),
        None => Ok(()),
    }
}

/// Refuses to write over a file that is no earlier output of the same command, as its first bytes or what lies beside
/// it tell.
fn not_over_other(option: &str, out: &Path, is_ours: impl FnOnce(&[u8]) -> bool) -> Outcome {
    let mut head = Vec::new();
    if let Ok(file) = std::fs::File::open(out)
        && file.metadata().is_ok_and(|at| at.is_file())
    {
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, 64), &mut head);
    }
    match head.is_empty() || is_ours(&head) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{} is there already, and no earlier output of this command",
            out.display()
        ))
        .hint(format!("give another {option}, or move the file"))),
    }
}

/// Prints results on stdout. Unlike `print!`, a closed pipe or a full disk is an error.
fn print(text: impl AsRef<str>) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_ref().as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
            _ => Failure::write("standard output", &error),
        })
}

/// Writes a file aside and renames it, so that a reader never sees half of it.
fn write_file(path: &Path, bytes: &[u8]) -> Outcome {
    write_whole(path, |out| out.write_all(bytes)).map_err(|error| Failure::write(path, &error))
}
