//! Word recognition sets in the manner of IIIT5K: one word a picture.
//!
//! # Source
//! MultimodalOCR asks `what is written in the image?` of every picture. Label files: JSONL
//! `{image, question, answers}`; `test_label.txt` with `picture word` a line (MultimodalOCR);
//! `gt.txt` with `picture, "word"` a line (the ICDAR challenges).

use super::error::{BadRow, RowFault, TaskError};
use super::missing::Official;
use super::record::{self, Content, Record};
use super::registry::normalise;
use super::task::{Draft, Question, Request};
use std::path::{Path, PathBuf};

/// Sets that are asked this way, as normalised names.
pub(super) const SETS: &[&str] = &[
    "word",
    "wordset",
    "iiit5k",
    "svt",
    "svtp",
    "ct80",
    "cute80",
    "ic13",
    "ic13857",
    "ic15",
    "ic151811",
    "cocotext",
    "ctw",
    "totaltext",
    "host",
    "wost",
    "wordart",
];

/// What is asked of every picture.
pub(super) const QUESTION: &str = "what is written in the image?";

pub(super) fn read(request: &Request) -> Result<Draft, TaskError> {
    let (split, path) =
        request.choose(&["test", "val", "train"], |split| locate(request, split))?;
    let mut draft = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "json" | "ndjson") => read_json(&path)?,
        _ => read_labels(&path)?,
    };
    let folder = path.parent().unwrap_or(&request.tree.root);
    draft.split = split;
    draft.image_folders = request
        .tree
        .image_folders(folder, &["images", "imgs", split, "image"]);
    let iiit5k =
        request.alias == "iiit5k" || normalise(&folder.to_string_lossy()).ends_with("iiit5k");
    draft.official = (iiit5k && split == "test").then_some(Official {
        found: draft.questions.len(),
        published: 3000,
        unit: "words",
    });
    draft.sources = vec![path];
    Ok(draft)
}

/// The label file of a split: in the folder of the set's name or, where the user pointed at one
/// folder, in that. Any other would be a set that was not asked for.
fn locate(request: &Request, split: &str) -> Option<PathBuf> {
    let names = [
        format!("{split}.jsonl"),
        format!("{split}_label.txt"),
        "gt.txt".to_string(),
    ];
    let labels = |file: &str| {
        let known = names.iter().any(|name| name.eq_ignore_ascii_case(file));
        known && (split == "test" || !file.eq_ignore_ascii_case("gt.txt"))
    };
    let any_set = ["word", "words", "wordset"].contains(&&*request.alias);
    let tree = &request.tree;
    let own = tree.find_file(|folder, file| labels(file) && is_set(&request.alias, folder.name()));
    own.or_else(|| {
        let root = tree.folders.first()?.path.clone();
        tree.find_file(|folder, file| labels(file) && (any_set || folder.path == root))
    })
}

/// Whether a folder's name is the set's, with the numbers and words that releases add: `IC13_857`,
/// `IIIT5K-Words`. (`SVTP` is not `SVT`.)
fn is_set(alias: &str, folder: &str) -> bool {
    let rest = normalise(folder);
    let Some(rest) = rest.strip_prefix(alias) else {
        return false;
    };
    rest.bytes().all(|b| b.is_ascii_digit()) || ["words", "test", "dataset"].contains(&rest)
}

fn read_json(path: &Path) -> Result<Draft, TaskError> {
    let rows = match record::read_content(path)? {
        Content::Rows(rows) => rows,
        Content::Object(map) => vec![(record::at_row(path, 0), Ok(serde_json::Value::Object(map)))],
    };
    let mut draft = Draft::default();
    for (at, row) in rows {
        let question = row.and_then(|row| {
            let row = Record::new(&row)?;
            let image = row.text("image")?.to_string();
            let mut answers = row.texts("answers")?;
            if answers.is_empty() {
                answers = row.texts("answer")?;
            }
            Ok(word(
                image,
                row.text("question").unwrap_or(QUESTION),
                answers,
            ))
        });
        match question {
            Ok(question) => draft.questions.push(question),
            Err(fault) => draft.bad_rows.push(BadRow { at, fault }),
        }
    }
    Ok(draft)
}

fn word(image: String, question: &str, answers: Vec<String>) -> Question {
    Question {
        id: image.clone(),
        source_id: image.clone(),
        images: vec![image],
        question: question.to_string(),
        answers,
        ..Question::default()
    }
}

fn read_labels(path: &Path) -> Result<Draft, TaskError> {
    let bytes = record::read_file(path)?;
    let mut draft = Draft::default();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fault = match std::str::from_utf8(line) {
            Ok(line) => match label(line.trim()) {
                Some((image, text)) => {
                    draft
                        .questions
                        .push(word(image.to_string(), QUESTION, vec![text]));
                    continue;
                }
                None => RowFault::LabelLine,
            },
            Err(error) => RowFault::Unreadable {
                reason: error.to_string(),
            },
        };
        draft.bad_rows.push(BadRow {
            at: record::at_line(path, index),
            fault,
        });
    }
    Ok(draft)
}

/// `picture word` or `picture, "word"`.
fn label(line: &str) -> Option<(&str, String)> {
    if let Some((image, text)) = line.split_once(',')
        && llavar_image::ImageFormat::is_named_so(image.trim())
    {
        let text = text.trim();
        let bare = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let text = bare.map_or_else(|| text.to_string(), |text| text.replace("\\\"", "\""));
        return (!text.is_empty()).then(|| (image.trim(), text));
    }
    let (image, text) = line.split_once(char::is_whitespace)?;
    let text = text.trim();
    (!text.is_empty()).then(|| (image, text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_label_forms_are_read() {
        for (line, image, text) in [
            ("test/1_1.png PRIVATE", "test/1_1.png", "PRIVATE"),
            ("word_1.png, \"JOINT\"", "word_1.png", "JOINT"),
            ("word_2.png, \"a, \\\"b\\\"\"", "word_2.png", "a, \"b\""),
            ("a.jpg\tCoca Cola", "a.jpg", "Coca Cola"),
            ("a.jpg 1,000", "a.jpg", "1,000"),
        ] {
            assert_eq!(label(line), Some((image, text.to_string())), "{line}");
        }
        assert_eq!(label("a.jpg"), None);
        assert_eq!(label("a.jpg,"), None);
    }
}
