//! SROIE 2019 (scanned receipts) in its official layout:
//! `{train,test}/img/X.jpg`, `{train,test}/box/X.txt`, `{train,test}/entities/X.txt`.

use super::page::{Fact, Page, TextLine, evidence};
use super::turns::{Form, samples};
use crate::error::Error;
use crate::record::Sample;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Entity keys with the questions that the MultimodalOCR protocol asks, in its order.
pub const QUESTIONS: [(&str, &str); 4] = [
    (
        "company",
        "what is the name of the company that issued this invoice?",
    ),
    ("date", "when was this invoice issued?"),
    ("address", "where was this invoice issued?"),
    ("total", "what is the total amount of this invoice?"),
];

/// The same questions in other words, by key.
const WORDINGS: [(&str, &[&str]); 4] = [
    (
        "company",
        &[
            "what is the name of the company that issued this receipt?",
            "What is the name of the company?",
            "Which company issued this receipt?",
            "Which shop is this receipt from?",
            "What is the name of the shop?",
            "Who is the seller?",
            "company?",
        ],
    ),
    (
        "date",
        &[
            "when was this receipt issued?",
            "What is the date on the receipt?",
            "What is the date?",
            "Which date is printed here?",
            "On which day was the purchase made?",
            "date?",
        ],
    ),
    (
        "address",
        &[
            "where was this receipt issued?",
            "What is the address of the company?",
            "What is the address?",
            "Where is the shop?",
            "Which address is on the receipt?",
            "address?",
        ],
    ),
    (
        "total",
        &[
            "what is the total amount of this receipt?",
            "What is the total?",
            "What is the total amount?",
            "How much was paid in total?",
            "What does it come to?",
            "How much is the bill?",
            "total?",
        ],
    ),
];

/// What an import made and what it missed.
#[derive(Debug, Clone, Default)]
pub struct SroieImport {
    /// The samples, by the names of the receipts; image paths are relative to the given root.
    pub samples: Vec<Sample>,
    /// Receipts of which any file was found.
    pub receipts: usize,
    /// Receipts without an image; left out.
    pub missing_images: Vec<String>,
    /// Receipts without entities; left out.
    pub missing_entities: Vec<String>,
    /// Receipts without boxes; left out only with [`Form::Duo`].
    pub missing_boxes: Vec<String>,
    /// Receipts whose entities cannot be read, with the reason; left out.
    pub unreadable: Vec<(String, String)>,
    /// Entities that are absent or empty, as `receipt: key`.
    pub empty_entities: Vec<String>,
    /// Entities not found among the boxes, as `receipt: key` (forms with duos only).
    pub unlocated: Vec<String>,
}

/// Imports one split (`train` or `test`) below `root`; `seed` decides wordings and order where a form has several.
///
/// # Errors
/// [`Error::Layout`] where the split, its `img` or its `entities` folder is missing, [`Error::Io`].
/// Missing files of single receipts are counted and named, never fatal.
pub fn import(root: &Path, split: &str, form: Form, seed: u64) -> Result<SroieImport, Error> {
    let folder = root.join(split);
    let layout = |reason: String| Error::Layout {
        path: folder.clone(),
        layout: "SROIE 2019",
        reason,
    };
    if split.contains(['/', '\\']) || split == ".." || !folder.is_dir() {
        return Err(layout(format!("there is no split {split:?}")));
    }
    for part in ["img", "entities"] {
        if !folder.join(part).is_dir() {
            return Err(layout(format!("folder {part:?} is missing")));
        }
    }
    let images = files(&folder.join("img"), &["jpg", "jpeg", "png"])?;
    let boxes = files(&folder.join("box"), &["txt"])?;
    let entities = files(&folder.join("entities"), &["txt"])?;
    let names: BTreeSet<&String> = images
        .keys()
        .chain(boxes.keys())
        .chain(entities.keys())
        .collect();
    let mut import = SroieImport {
        receipts: names.len(),
        ..SroieImport::default()
    };
    for (at, name) in names.into_iter().enumerate() {
        if !boxes.contains_key(name) {
            import.missing_boxes.push(name.clone());
        }
        let Some(image) = images.get(name) else {
            import.missing_images.push(name.clone());
            continue;
        };
        let Some(entity_file) = entities.get(name) else {
            import.missing_entities.push(name.clone());
            continue;
        };
        let facts = match read_entities(&folder.join("entities").join(entity_file)) {
            Ok(facts) => facts,
            Err(reason) => {
                import.unreadable.push((name.clone(), reason));
                continue;
            }
        };
        let lines = match boxes.get(name).filter(|_| form.needs_lines()) {
            None if form == Form::Duo => continue,
            None => Vec::new(),
            Some(file) => match read_text(&folder.join("box").join(file)) {
                Ok(text) => parse_boxes(&text),
                Err(reason) => {
                    import.unreadable.push((name.clone(), reason));
                    continue;
                }
            },
        };
        let mut page = Page {
            name: name.clone(),
            image: format!("{split}/img/{image}"),
            facts: Vec::new(),
            lines,
        };
        for ((key, question), (_, wordings)) in QUESTIONS.into_iter().zip(WORDINGS) {
            let answer = facts.get(key).and_then(Value::as_str).map_or("", str::trim);
            if answer.is_empty() {
                import.empty_entities.push(format!("{name}: {key}"));
                continue;
            }
            let (subject, sentence) = sentence(key, answer);
            let why = format!(
                "What in the image tells {subject}, and where in the picture does it stand?"
            );
            let evidence = locate(key, answer, &page.lines);
            if evidence.is_none() && matches!(form, Form::Duo | Form::Mixed) {
                import.unlocated.push(format!("{name}: {key}"));
            }
            page.facts.push(Fact {
                question: question.to_string(),
                wordings: wordings.iter().map(|w| (*w).to_string()).collect(),
                answer: answer.to_string(),
                sentence,
                evidence: evidence.map(|evidence| [why, evidence]),
            });
        }
        import.samples.extend(samples(&page, form, at, seed));
    }
    Ok(import)
}

/// Files of a folder by stem; none for a missing folder.
pub(super) fn files(folder: &Path, extensions: &[&str]) -> Result<BTreeMap<String, String>, Error> {
    let io = |source| Error::Io {
        path: folder.to_path_buf(),
        source,
    };
    let mut found = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        // Opening a pipe could wait for ever. What a link to nothing stands for is told where it is read.
        if std::fs::metadata(entry.path()).is_ok_and(|found| !found.is_file()) {
            continue;
        }
        let name = entry.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else {
            continue;
        };
        let wanted = extensions.iter().any(|e| extension.eq_ignore_ascii_case(e));
        // Copies like `X(1).jpg` have their own stem and so no labels: they are named as missing.
        if wanted && !stem.is_empty() {
            found.insert(stem.to_string(), format!("{stem}.{extension}"));
        }
    }
    Ok(found)
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    // A few box files hold Latin-1 bytes; one strange character must not cost the receipt.
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_start_matches('\u{FEFF}').to_string())
}

fn read_entities(path: &Path) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(&read_text(path)?).map_err(|error| error.to_string())?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("the entities are not a JSON object".to_string())
    }
}

/// Lines `x1,y1,x2,y2,x3,y3,x4,y4,text`; what does not have this form is left out.
fn parse_boxes(text: &str) -> Vec<TextLine> {
    let mut lines = Vec::new();
    for row in text.lines() {
        let parts: Vec<&str> = row.splitn(9, ',').collect();
        let [corners @ .., text] = parts.as_slice() else {
            continue;
        };
        let corners: Vec<f64> = corners
            .iter()
            .filter_map(|c| c.trim().parse().ok())
            .collect();
        if corners.len() == 8 && corners.iter().all(|c| c.is_finite()) && !text.trim().is_empty() {
            let side = |first: usize, pick: fn(f64, f64) -> f64| {
                let places = corners.iter().skip(first).step_by(2).copied();
                places.reduce(pick).unwrap_or_default()
            };
            lines.push(TextLine {
                bounds: [
                    side(0, f64::min),
                    side(1, f64::min),
                    side(0, f64::max),
                    side(1, f64::max),
                ],
                text: text.trim().to_string(),
            });
        }
    }
    lines
}

/// Letters and digits only, so that spacing and punctuation of the labels do not matter.
fn key_of(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_uppercase).collect()
}

/// The sentence that quotes a fact and tells its place, if the boxes show it.
fn locate(key: &str, fact: &str, lines: &[TextLine]) -> Option<String> {
    let wanted = key_of(fact);
    if wanted.is_empty() {
        return None;
    }
    let keys: Vec<String> = lines.iter().map(|line| key_of(&line.text)).collect();
    let whole: Vec<usize> = (0..lines.len())
        .filter(|&i| keys[i].contains(&wanted))
        .collect();
    let chosen: Vec<usize> = if key == "total" {
        // The same amount often stands on several lines: take one in a row that says "total", or
        // the last.
        let says_total = |&&i: &&usize| {
            let near = |j: usize| (lines[j].y() - lines[i].y()).abs() < 12.0;
            (0..lines.len()).any(|j| near(j) && keys[j].contains("TOTAL"))
        };
        let best = whole.iter().find(says_total).or(whole.last());
        best.copied().into_iter().collect()
    } else if let Some(&first) = whole.first() {
        vec![first]
    } else {
        // Long facts run over several lines. Short scraps would match anywhere.
        let part = |i: &usize| keys[*i].chars().count() >= 4 && wanted.contains(&keys[*i]);
        let parts: Vec<usize> = (0..lines.len()).filter(part).collect();
        let shown: usize = parts.iter().map(|&i| keys[i].len()).sum();
        // Less than half of it would be no evidence.
        if shown * 2 < wanted.len() {
            Vec::new()
        } else {
            parts
        }
    };
    evidence(&chosen, lines, "receipt")
}

/// What the fact is, and the whole sentence that answers the question.
fn sentence(key: &str, fact: &str) -> (&'static str, String) {
    let stop = if fact.ends_with('.') { "" } else { "." };
    match key {
        "company" => (
            "the name of the company",
            format!("The company that issued this invoice is {fact}{stop}"),
        ),
        "date" => (
            "the date of the invoice",
            format!("This invoice was issued on {fact}{stop}"),
        ),
        "address" => (
            "the address of the company",
            format!("This invoice was issued at {fact}{stop}"),
        ),
        _ => (
            "the total amount",
            format!("The total amount of this invoice is {fact}{stop}"),
        ),
    }
}
