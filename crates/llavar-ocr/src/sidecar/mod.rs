//! OCR results that somebody else made, in JSON files.

mod parse;

use std::{
    collections::HashMap,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::{Engine, Line, OcrError, Page};

pub use parse::parse_lines;

/// Results in JSON files.
///
/// | `sidecar` | Where the lines of `images/a.png` are looked for |
/// |---|---|
/// | nothing | `images/a.png.ocr.json`, `images/a.ocr.json`, `images/a.json` |
/// | a folder `F` | the same names below `F` at the longest tail of `/set/images` that is there, last in `F` itself |
/// | a JSON file | an object from picture names to lines, or an array of objects with `image` and `lines` |
/// | a JSON Lines file | one such object a line |
///
/// In a file of many pictures the name may be the picture's whole path, its last parts, its file name or
/// its stem; the longest that is there wins.
///
/// Lines are an array, bare or under `lines`, of `{"quad": [[x, y] x 4], "text", "score"}`,
/// `{"box": [x1, y1, x2, y2], "text"}`, `[quad, text, score]` or `[quad, [text, score]]`: what this
/// program writes, word annotations, and what RapidOCR and PaddleOCR give, the latter also as a list of one
/// page. No score is a score of 1. Words under `words` instead, as in the `words.jsonl` of a synthetic set, are
/// joined to lines: [`crate::join_words`].
#[derive(Debug)]
pub struct Sidecar {
    place: Option<PathBuf>,
    /// The pictures of a file of many; `None` where each has its own file.
    many: Option<HashMap<String, Vec<Line>>>,
}

impl Sidecar {
    /// Results beside each picture, or in `place`, a folder or a file.
    ///
    /// # Errors
    /// When `place` cannot be read or is no such file.
    pub fn open(place: Option<&Path>) -> Result<Self, OcrError> {
        let is_file = match place {
            Some(path) => {
                let found = fs::metadata(path).map_err(reading(path))?;
                if !found.is_file() && !found.is_dir() {
                    return Err(OcrError::BadSidecar {
                        path: path.to_owned(),
                        reason: "is neither a regular file nor a folder".to_owned(),
                    });
                }
                found.is_file()
            }
            None => false,
        };
        let many = match place {
            Some(path) if is_file => {
                let text = fs::read_to_string(path).map_err(reading(path))?;
                Some(parse::parse_many(&text).map_err(bad(path))?)
            }
            _ => None,
        };
        Ok(Self {
            place: place.map(Path::to_owned),
            many,
        })
    }

    /// Whether a file named as a result of OCR (`.ocr.json`) lies beside a picture.
    pub fn is_beside(image: &Path) -> bool {
        let beside = Self {
            place: None,
            many: None,
        };
        let files = beside.candidates(image).into_iter();
        let mut named = files.filter(|file| file.to_string_lossy().ends_with(".ocr.json"));
        named.any(|file| file.is_file())
    }

    /// Files that may hold the lines of one picture, the best first.
    fn candidates(&self, image: &Path) -> Vec<PathBuf> {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let stem = image.file_stem().unwrap_or_default().to_string_lossy();
        let beside = image.parent().unwrap_or(Path::new(""));
        let folders = match &self.place {
            None => vec![beside.to_owned()],
            Some(place) => tails(beside).map(|tail| place.join(tail)).collect(),
        };
        let names = [
            format!("{name}.ocr.json"),
            format!("{stem}.ocr.json"),
            format!("{stem}.json"),
        ];
        folders
            .iter()
            .flat_map(|folder| names.iter().map(|name| folder.join(name)))
            .collect()
    }

    fn missing(&self, image: &Path) -> OcrError {
        let beside = image.parent().filter(|p| !p.as_os_str().is_empty());
        OcrError::NoSidecar {
            image: image.to_owned(),
            sidecar: self
                .place
                .clone()
                .unwrap_or_else(|| beside.unwrap_or(Path::new(".")).to_owned()),
        }
    }
}

/// The last parts of a path, the longest first, the empty one last.
fn tails(path: &Path) -> impl Iterator<Item = PathBuf> {
    let parts: Vec<Component<'_>> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    (0..=parts.len()).map(move |from| parts[from..].iter().collect())
}

/// The lines of a picture under the longest tail of its path that is known, or its stem.
fn look_up<'a>(many: &'a HashMap<String, Vec<Line>>, image: &Path) -> Option<&'a Vec<Line>> {
    let parts: Vec<_> = image.iter().map(|part| part.to_string_lossy()).collect();
    let whole = many.get(image.to_string_lossy().as_ref());
    whole
        .or_else(|| (0..parts.len()).find_map(|from| many.get(&parts[from..].join("/"))))
        .or_else(|| many.get(image.file_stem()?.to_string_lossy().as_ref()))
}

impl Engine for Sidecar {
    fn name(&self) -> &'static str {
        "sidecar"
    }

    /// Files may change, and reading them costs nothing.
    fn fingerprint(&self) -> Option<String> {
        None
    }

    fn read(&self, page: &Page) -> Result<Vec<Line>, OcrError> {
        if let Some(many) = &self.many {
            let found = look_up(many, page.path());
            return found.cloned().ok_or_else(|| self.missing(page.path()));
        }
        for path in self.candidates(page.path()) {
            match fs::metadata(&path) {
                Ok(found) if found.is_file() => {
                    let text = fs::read_to_string(&path).map_err(reading(&path))?;
                    return parse_lines(&text).map_err(bad(&path));
                }
                _ => {}
            }
        }
        Err(self.missing(page.path()))
    }
}

fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> OcrError {
    |source| OcrError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    }
}

fn bad(path: &Path) -> impl FnOnce(String) -> OcrError {
    |reason| OcrError::BadSidecar {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
