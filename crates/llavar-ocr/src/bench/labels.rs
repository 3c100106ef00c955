//! Labelled pages in the layouts of SROIE and FUNSD.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::OcrError;

/// A picture and the words that people read on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledPage {
    /// The picture.
    pub image: PathBuf,
    /// The words, in the order of the labels.
    pub words: Vec<String>,
    /// The folder that holds its part of the set, as given.
    pub set: PathBuf,
}

/// Finds all pages below a folder: `img` beside `box` (SROIE: eight coordinates and a text a line), and
/// `images` beside `annotations` (FUNSD: JSON with words). Pictures without labels are passed over.
///
/// # Errors
/// When the folder or a label file cannot be read.
pub fn labelled_pages(folder: &Path) -> Result<Vec<LabelledPage>, OcrError> {
    let mut pages = Vec::new();
    walk(folder, 0, &mut pages)?;
    Ok(pages)
}

fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> OcrError {
    |source| OcrError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, OcrError> {
    let entries = fs::read_dir(folder).map_err(reading(folder))?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|e| e.map(|e| e.path())).collect();
    let mut paths = paths.map_err(reading(folder))?;
    paths.sort();
    Ok(paths)
}

fn walk(folder: &Path, depth: usize, pages: &mut Vec<LabelledPage>) -> Result<(), OcrError> {
    for (images, labels, ending, words) in [
        ("img", "box", "txt", receipt_words as fn(&Path) -> _),
        (
            "images",
            "annotations",
            "json",
            form_words as fn(&Path) -> _,
        ),
    ] {
        let (images, labels) = (folder.join(images), folder.join(labels));
        if !images.is_dir() || !labels.is_dir() {
            continue;
        }
        for image in sorted(&images)? {
            let stem = image.file_stem().unwrap_or_default().to_string_lossy();
            let label = labels.join(format!("{stem}.{ending}"));
            if image.is_file() && label.is_file() {
                pages.push(LabelledPage {
                    words: words(&label)?,
                    image,
                    set: folder.to_owned(),
                });
            }
        }
    }
    if depth < 4 {
        for path in sorted(folder)? {
            if path.is_dir() {
                walk(&path, depth + 1, pages)?;
            }
        }
    }
    Ok(())
}

/// Words of a file of `x1,y1,x2,y2,x3,y3,x4,y4,text` lines.
fn receipt_words(path: &Path) -> Result<Vec<String>, OcrError> {
    let bytes = fs::read(path).map_err(reading(path))?;
    let text = String::from_utf8_lossy(&bytes);
    let texts = text.lines().filter_map(|line| line.splitn(9, ',').nth(8));
    Ok(texts
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect())
}

/// Words of a form's annotation.
fn form_words(path: &Path) -> Result<Vec<String>, OcrError> {
    let bytes = fs::read(path).map_err(reading(path))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| OcrError::BadSidecar {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let boxes = value["form"].as_array().into_iter().flatten();
    let words = boxes.flat_map(|b| b["words"].as_array().into_iter().flatten());
    let texts = words.filter_map(|word| word["text"].as_str());
    Ok(texts
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["a/test/img", "a/test/box", "b/images", "b/annotations"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("a/test/img/r.jpg"), b"").unwrap();
        fs::write(at("a/test/img/none.jpg"), b"").unwrap();
        fs::write(
            at("a/test/box/r.txt"),
            "1,2,3,4,5,6,7,8,NO.59, JALAN\r\nbroken\n",
        )
        .unwrap();
        fs::write(at("b/images/f.png"), b"").unwrap();
        let form = r#"{"form": [{"words": [{"text": "TO:"}, {"text": ""}]}, {"words": [{"text": "Mr. X"}]}]}"#;
        fs::write(at("b/annotations/f.json"), form).unwrap();
        let pages = labelled_pages(root.path()).unwrap();
        let words: Vec<&[String]> = pages.iter().map(|page| &page.words[..]).collect();
        assert_eq!(words, [&["NO.59,", "JALAN"][..], &["TO:", "Mr.", "X"][..]]);
        assert!(labelled_pages(&at("nothing")).is_err());
    }
}
