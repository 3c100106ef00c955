//! The pictures that a command is given, and the names of what it makes of them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use llavar_image::ImageFormat;

use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// A picture to read, and where its result goes below `--out`.
pub(crate) struct Job {
    /// The picture's file.
    pub(crate) image: PathBuf,
    /// The name of what is made of it.
    pub(crate) result: PathBuf,
}

/// Pictures of files and folders. A result has the name of its picture, from its folder on, and `ending`.
pub(crate) fn jobs(images: &[PathBuf], ending: &str, results: bool) -> Outcome<Vec<Job>> {
    let mut jobs = Vec::new();
    for path in images {
        if path.is_dir() {
            let before = jobs.len();
            below(path, Path::new(""), ending, &mut jobs)?;
            if jobs.len() == before {
                note(format!("{}: no pictures in it", path.display()));
            }
        } else {
            let name = path.file_name().unwrap_or_default();
            jobs.push(job(path.clone(), Path::new(name), ending));
        }
    }
    let mut seen: HashMap<&Path, &Path> = HashMap::new();
    for job in jobs.iter().filter(|_| results) {
        if let Some(other) = seen.insert(&job.result, &job.image) {
            let (a, b) = (other.display(), job.image.display());
            let both = format!("the results of {a} and {b} would have the same name");
            return Err(
                Failure::usage(both).hint("read them in two runs, or give the folder above both")
            );
        }
    }
    Ok(jobs)
}

fn job(image: PathBuf, name: &Path, ending: &str) -> Job {
    let mut result = name.as_os_str().to_owned();
    result.push(ending);
    Job {
        image,
        result: result.into(),
    }
}

/// Pictures below a folder, by the endings of the formats that are read.
fn below(folder: &Path, within: &Path, ending: &str, jobs: &mut Vec<Job>) -> Outcome {
    let reading = |error| {
        Failure::new(
            Class::Data,
            format!("cannot read {}: {error}", folder.display()),
        )
    };
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(reading)?.collect();
    let mut entries = entries.map_err(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), within.join(entry.file_name()));
        // Links to folders may lead round in circles.
        if entry.file_type().map_err(reading)?.is_dir() {
            below(&path, &name, ending, jobs)?;
        } else if ImageFormat::is_named_so(&name.to_string_lossy()) {
            jobs.push(job(path, &name, ending));
        }
    }
    Ok(())
}
