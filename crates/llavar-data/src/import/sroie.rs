//! SROIE 2019 (scanned receipts) in its official layout:
//! `{train,test}/img/X.jpg`, `{train,test}/box/X.txt`, `{train,test}/entities/X.txt`.

use crate::error::Error;
use crate::record::{Role, Sample, SampleId, Turn};
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

/// How questions and answers are worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnswerForm {
    /// The protocol's question and the bare entity.
    #[default]
    Short,
    /// Duos as LLaVAR-2 has them: a question with a whole-sentence answer, then a question for the
    /// evidence with an answer that quotes the text and says where it stands. An entity that is not
    /// found in the boxes is left out.
    Duo,
}

/// What an import made and what it missed.
#[derive(Debug, Clone, Default)]
pub struct SroieImport {
    /// One sample a receipt, by name; image paths are relative to the given root.
    pub samples: Vec<Sample>,
    /// Receipts of which any file was found.
    pub receipts: usize,
    /// Receipts without an image; left out.
    pub missing_images: Vec<String>,
    /// Receipts without entities; left out.
    pub missing_entities: Vec<String>,
    /// Receipts without boxes; left out only with [`AnswerForm::Duo`].
    pub missing_boxes: Vec<String>,
    /// Receipts whose entities cannot be read, with the reason; left out.
    pub unreadable: Vec<(String, String)>,
    /// Entities that are absent or empty, as `receipt: key`.
    pub empty_entities: Vec<String>,
    /// Entities not found among the boxes, as `receipt: key` ([`AnswerForm::Duo`] only).
    pub unlocated: Vec<String>,
}

/// Imports one split (`train` or `test`) below `root`.
///
/// # Errors
/// [`Error::Layout`] where the split, its `img` or its `entities` folder is missing, [`Error::Io`].
/// Missing files of single receipts are counted and named, never fatal.
pub fn import(root: &Path, split: &str, form: AnswerForm) -> Result<SroieImport, Error> {
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
    for name in names {
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
        let lines = match (form, boxes.get(name)) {
            (AnswerForm::Short, _) => Vec::new(),
            (AnswerForm::Duo, None) => continue,
            (AnswerForm::Duo, Some(file)) => match read_text(&folder.join("box").join(file)) {
                Ok(text) => parse_boxes(&text),
                Err(reason) => {
                    import.unreadable.push((name.clone(), reason));
                    continue;
                }
            },
        };
        let mut turns = Vec::new();
        for (key, question) in QUESTIONS {
            let fact = facts.get(key).and_then(Value::as_str).map_or("", str::trim);
            if fact.is_empty() {
                import.empty_entities.push(format!("{name}: {key}"));
            } else if form == AnswerForm::Short {
                turns.extend([question.to_string(), fact.to_string()]);
            } else if let Some(evidence) = locate(key, fact, &lines) {
                let (subject, sentence) = sentence(key, fact);
                let why = format!(
                    "What in the image tells {subject}, and where in the picture does it stand?"
                );
                turns.extend([question.to_string(), sentence, why, evidence]);
            } else {
                import.unlocated.push(format!("{name}: {key}"));
            }
        }
        if let Some(first) = turns.first_mut() {
            first.insert_str(0, "<image>\n");
            import
                .samples
                .push(sample(name, &format!("{split}/img/{image}"), turns));
        }
    }
    Ok(import)
}

fn sample(name: &str, image: &str, turns: Vec<String>) -> Sample {
    let turn = |(i, value): (usize, String)| Turn {
        from: if i % 2 == 0 { Role::Human } else { Role::Gpt },
        value,
    };
    Sample {
        id: SampleId::Text(name.to_string()),
        images: vec![image.to_string()],
        conversations: turns.into_iter().enumerate().map(turn).collect(),
        extra: serde_json::Map::new(),
        dropped_turns: 0,
    }
}

/// Files of a folder by stem; none for a missing folder.
fn files(folder: &Path, extensions: &[&str]) -> Result<BTreeMap<String, String>, Error> {
    let io = |source| Error::Io {
        path: folder.to_path_buf(),
        source,
    };
    let mut found = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
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

/// One line of text on a receipt: centre and text.
struct Line {
    x: f64,
    y: f64,
    text: String,
}

/// Lines `x1,y1,x2,y2,x3,y3,x4,y4,text`; what does not have this form is left out.
fn parse_boxes(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
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
            lines.push(Line {
                x: corners.iter().step_by(2).sum::<f64>() / 4.0,
                y: corners.iter().skip(1).step_by(2).sum::<f64>() / 4.0,
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
fn locate(key: &str, fact: &str, lines: &[Line]) -> Option<String> {
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
            let near = |j: usize| (lines[j].y - lines[i].y).abs() < 12.0;
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
    let quotes: Vec<&str> = chosen.iter().map(|&i| lines[i].text.as_str()).collect();
    let place = place(&chosen, lines)?;
    let verb = if quotes.len() == 1 { "stands" } else { "stand" };
    let noun = if quotes.len() == 1 { "text" } else { "lines" };
    let quoted = quotes.join("\", \"");
    Some(format!(
        "The {noun} \"{quoted}\" {verb} {place} of the receipt."
    ))
}

/// Where the chosen lines lie within all text, in thirds.
fn place(chosen: &[usize], lines: &[Line]) -> Option<String> {
    if chosen.is_empty() {
        return None;
    }
    let third = |coordinate: fn(&Line) -> f64, names: [&'static str; 3]| {
        let all = lines.iter().map(coordinate);
        let low = all.clone().fold(f64::INFINITY, f64::min);
        let high = all.fold(f64::NEG_INFINITY, f64::max);
        let mean = chosen.iter().map(|&i| coordinate(&lines[i])).sum::<f64>() / chosen.len() as f64;
        let share = if high > low {
            (mean - low) / (high - low)
        } else {
            0.5
        };
        if share < 1.0 / 3.0 {
            names[0]
        } else if share < 2.0 / 3.0 {
            names[1]
        } else {
            names[2]
        }
    };
    let row = third(
        |line| line.y,
        ["at the top", "in the middle", "at the bottom"],
    );
    let column = third(|line| line.x, ["left", "centre", "right"]);
    Some(format!("{row} {column}"))
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
