//! The data set of a run: LLaVA JSON, Parquet, WebDataset, with a card.

mod card;
mod records;
mod selection;
mod verdicts;

pub use card::{Card, Counts, Lengths};
pub use selection::{Selection, candidates};
pub use verdicts::{Agreement, agreement, apply};

use std::path::Path;

use llavar_data::{
    Error, Sample,
    write::{write_llava_json, write_parquet, write_webdataset},
};

use crate::{InstructError, Ledger, PictureResult, RunFile, Verdict, run_file};

/// Bytes of a WebDataset shard.
const SHARD_BYTES: u64 = 512 << 20;

/// Which forms are written. LLaVA JSON always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// Parquet with the pictures inside.
    pub parquet: bool,
    /// Tar shards with the pictures inside.
    pub webdataset: bool,
}

/// Writes the data set of a run into its folder: `data/`, `parquet/`, `webdataset/`, `README.md`,
/// `card.json`, `ledger.json` and `rejected.jsonl`.
///
/// Duos that people turned down are left out, edited ones are replaced; of those that were scored only
/// selected ones stay. Pictures go to train or test by their content's hash, so copies never part. Files of
/// forms that are not asked for are removed: they would be of an earlier state.
///
/// # Errors
/// [`InstructError::Io`], [`InstructError::Data`].
pub fn write(
    run: &Path,
    file: &RunFile,
    pictures: &[PictureResult],
    verdicts: &[Verdict],
    selected: Option<&Selection>,
    ledger: &Ledger,
    formats: Formats,
) -> Result<Card, InstructError> {
    let images = file.folder(run);
    let reviewed = apply(pictures, verdicts);
    let kept: Vec<PictureResult> = reviewed
        .pictures
        .into_iter()
        .map(|mut picture| {
            if let Some(selected) = selected {
                let hash = picture.hash.clone();
                let original = &reviewed.original;
                picture.duos.retain(|duo| {
                    let id = duo.id(&hash);
                    !selected
                        .dropped
                        .contains_key(original.get(&id).unwrap_or(&id))
                });
            }
            picture
        })
        .collect();
    if formats.parquet || formats.webdataset {
        // Before the first write: a picture that is gone must not leave one half new and one half old.
        for picture in &kept {
            if !picture.duos.is_empty() || picture.caption.is_some() {
                check_readable(&images.join(&picture.name))?;
            }
        }
    }
    let unusable_edits = reviewed.unusable_edits;
    let card = Card::of(
        file,
        pictures,
        &kept,
        verdicts,
        unusable_edits,
        selected,
        ledger,
    );
    for (what, samples) in [
        (
            "duos",
            records::duos as fn(&[&PictureResult]) -> Vec<Sample>,
        ),
        ("captions", records::captions),
    ] {
        for split in ["train", "test"] {
            let of_split = |picture: &&PictureResult| {
                records::is_test(&picture.hash, file.test_fraction) == (split == "test")
            };
            let part: Vec<&PictureResult> = kept.iter().filter(of_split).collect();
            let samples = samples(&part);
            let name = format!("{what}-{split}");
            let folder = |name: &str| -> Result<_, InstructError> {
                let folder = run.join(name);
                std::fs::create_dir_all(&folder).map_err(InstructError::io(&folder))?;
                Ok(folder)
            };
            write_llava_json(&folder("data")?.join(format!("{name}.json")), &samples)?;
            let with_pictures = || {
                samples.iter().map(|sample| {
                    let picture = sample.images.first().map_or("", String::as_str);
                    let path = images.join(picture);
                    match std::fs::read(&path) {
                        Ok(bytes) => Ok((sample.clone(), bytes)),
                        Err(source) => Err(Error::Io { path, source }),
                    }
                })
            };
            let parquet = run.join("parquet").join(format!("{name}.parquet"));
            if formats.parquet && !samples.is_empty() {
                folder("parquet")?;
                write_parquet(&parquet, with_pictures())?;
            } else if parquet.exists() {
                // Of an earlier state of the run: it may hold what reviews turned down since.
                std::fs::remove_file(&parquet).map_err(InstructError::io(&parquet))?;
            }
            let shards = run.join("webdataset");
            if formats.webdataset && !samples.is_empty() {
                write_webdataset(&folder("webdataset")?, &name, SHARD_BYTES, with_pictures())?;
            } else if shards.is_dir() {
                // Writing none removes those of an earlier state.
                write_webdataset(&shards, &name, SHARD_BYTES, std::iter::empty())?;
            }
        }
    }
    for (name, is_asked) in [
        ("parquet", formats.parquet),
        ("webdataset", formats.webdataset),
    ] {
        if !is_asked {
            // One that holds other files stays, and most often there is none.
            let _ = std::fs::remove_dir(run.join(name));
        }
    }
    let rejected = pictures.iter().flat_map(|picture| {
        let line = |one| serde_json::json!({"image": picture.name, "rejected": one});
        picture.rejected.iter().map(line)
    });
    run_file::write_lines(&run.join("rejected.jsonl"), rejected)?;
    run_file::write_json(&run.join("ledger.json"), ledger)?;
    run_file::write_json(&run.join("card.json"), &card)?;
    let text = card.markdown(formats);
    run_file::write_aside(&run.join("README.md"), |out| out.write_all(text.as_bytes()))?;
    Ok(card)
}

/// That a picture which will be embedded is there.
fn check_readable(path: &Path) -> Result<(), Error> {
    // What is no file is not opened: a pipe would wait for ever.
    let opened = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(std::io::Error::other("it is no file")),
        Ok(_) => std::fs::File::open(path).map(drop),
        Err(error) => Err(error),
    };
    opened.map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })
}
