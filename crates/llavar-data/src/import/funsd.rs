//! FUNSD (scanned forms) in its official layout: `training_data/annotations/X.json` and
//! `training_data/images/X.png`, the same below `testing_data`.

use super::Imported;
use super::page::{Fact, Page, TextLine, evidence};
use super::turns::{Form, samples};
use crate::error::Error;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Other words for the published question; `{}` is the printed name of the field, `{name}` the same without the
/// marks at its end.
const WORDINGS: [&str; 8] = [
    "What is the {name}?",
    "What is the value of \"{}\"?",
    "What does the form say for \"{}\"?",
    "What is filled in for \"{name}\"?",
    "What is written next to \"{}\"?",
    "Which entry belongs to \"{name}\"?",
    "{}",
    "what is the \"{name}\" in this form?",
];

/// An annotation file.
#[derive(Deserialize)]
struct Annotation {
    form: Vec<Entry>,
}

/// A box with text, and what it is linked to.
#[derive(Deserialize)]
struct Entry {
    id: i64,
    #[serde(rename = "box")]
    bounds: [f64; 4],
    text: String,
    label: String,
    #[serde(default)]
    linking: Vec<[i64; 2]>,
    #[serde(default)]
    words: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    #[serde(rename = "box")]
    bounds: [f64; 4],
    text: String,
}

/// Imports one split (`train` or `test`) below `root`; `seed` decides wordings and order where a form has
/// several. The questions, and which labels answer them, are those of the MultimodalOCR protocol: every box
/// labelled `question` with the texts of the answers that it is linked to; empty texts are passed over.
///
/// # Errors
/// [`Error::Layout`] where the split is missing, [`Error::Io`]. Broken annotations and missing pictures are named,
/// never fatal.
pub fn import(root: &Path, split: &str, form: Form, seed: u64) -> Result<Imported, Error> {
    let name = match split {
        "train" => "training_data",
        "test" => "testing_data",
        other => other,
    };
    let folder = root.join(name);
    if name.contains(['/', '\\']) || !folder.join("annotations").is_dir() {
        return Err(Error::Layout {
            path: folder,
            layout: "FUNSD",
            reason: format!("there is no split {split:?} with a folder \"annotations\""),
        });
    }
    let mut import = Imported::default();
    let files = super::sroie::files(&folder.join("annotations"), &["json"])?;
    let images = super::sroie::files(&folder.join("images"), &["png", "jpg", "jpeg"])?;
    import.pictures = files.len();
    for (at, (stem, file)) in files.iter().enumerate() {
        let Some(image) = images.get(stem) else {
            import.missing_images.push(stem.clone());
            continue;
        };
        let path = folder.join("annotations").join(file);
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        let parsed = read.and_then(|bytes| {
            serde_json::from_slice::<Annotation>(&bytes).map_err(|error| error.to_string())
        });
        match parsed {
            Ok(annotation) => {
                let image = format!("{name}/images/{image}");
                let page = page(stem, image, &annotation.form, &mut import.unlocated);
                import.samples.extend(samples(&page, form, at, seed));
            }
            Err(reason) => import.unreadable.push((stem.clone(), reason)),
        }
    }
    if !matches!(form, Form::Duo | Form::Mixed) {
        import.unlocated.clear();
    }
    Ok(import)
}

fn page(stem: &str, image: String, entries: &[Entry], unlocated: &mut Vec<String>) -> Page {
    // Boxes of several printed lines are cut into them, so that reading order is that of the page.
    let lines: Vec<Vec<TextLine>> = entries.iter().map(printed_lines).collect();
    let starts: Vec<usize> = lines
        .iter()
        .scan(0, |next, lines| {
            let start = *next;
            *next += lines.len();
            Some(start)
        })
        .collect();
    let counts: Vec<usize> = lines.iter().map(Vec::len).collect();
    let lines: Vec<TextLine> = lines.into_iter().flatten().collect();
    // An answer that nothing is linked to answers nothing.
    let mut answers: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if entry.label == "answer" && !entry.linking.is_empty() {
            answers.entry(entry.id).or_default().push(at);
        }
    }
    let mut facts = Vec::new();
    for question in entries.iter().filter(|entry| entry.label == "question") {
        let linked: Vec<usize> = question
            .linking
            .iter()
            .filter_map(|[_, to]| answers.get(to))
            .flatten()
            .copied()
            .filter(|&at| !entries[at].text.is_empty())
            .collect();
        let texts: Vec<&str> = linked.iter().map(|&at| entries[at].text.as_str()).collect();
        let answer = texts.join(" ");
        if answer.is_empty() {
            continue;
        }
        let chosen: Vec<usize> = linked
            .iter()
            .flat_map(|&at| starts[at]..starts[at] + counts[at])
            .collect();
        let evidence = evidence(&chosen, &lines, "form");
        if evidence.is_none() {
            unlocated.push(format!("{stem}: {}", question.text));
        }
        facts.push(fact(&question.text, answer, evidence));
    }
    Page {
        name: stem.to_owned(),
        image,
        facts,
        lines,
    }
}

fn fact(field: &str, answer: String, evidence: Option<String>) -> Fact {
    let name = field.trim_end_matches([':', '.', '-', ' ', '?', '_', '#']);
    let name = if name.is_empty() { field } else { name };
    let stop = if answer.ends_with('.') { "" } else { "." };
    let why = format!(
        "What in the image tells the \"{name}\" information, and where in the picture does it stand?"
    );
    let wordings = WORDINGS.map(|wording| wording.replace("{name}", name).replace("{}", field));
    Fact {
        question: format!("what is \"{field}\" information in the image?"),
        wordings: wordings.to_vec(),
        sentence: format!("The \"{name}\" information in the image is {answer}{stop}"),
        evidence: evidence.map(|evidence| [why, evidence]),
        answer,
    }
}

/// The printed lines of a box, by the places of its words.
fn printed_lines(entry: &Entry) -> Vec<TextLine> {
    let mut lines: Vec<TextLine> = Vec::new();
    for word in entry.words.iter().filter(|w| !w.text.trim().is_empty()) {
        let [x1, y1, x2, y2] = word.bounds;
        let middle = (y1 + y2) / 2.0;
        let goes_on = |line: &&mut TextLine| {
            let [_, top, right, bottom] = line.bounds;
            (top..bottom).contains(&middle) && x1 >= right - (bottom - top)
        };
        match lines.last_mut().filter(goes_on) {
            Some(line) => {
                let [a, b, c, d] = line.bounds;
                line.bounds = [a.min(x1), b.min(y1), c.max(x2), d.max(y2)];
                line.text.push(' ');
                line.text.push_str(&word.text);
            }
            None => lines.push(TextLine {
                bounds: word.bounds,
                text: word.text.clone(),
            }),
        }
    }
    if lines.is_empty() && !entry.text.trim().is_empty() {
        lines.push(TextLine {
            bounds: entry.bounds,
            text: entry.text.clone(),
        });
    }
    lines
}
