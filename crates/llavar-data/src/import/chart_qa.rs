//! ChartQA (questions about charts) in its official layout: `train/train_human.json`,
//! `train/train_augmented.json` and `train/png/X.png`, the same for `val` and `test`.

use super::Imported;
use super::page::{Fact, Page, TextLine, evidence};
use super::turns::{Form, samples};
use crate::error::Error;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// One question.
#[derive(Deserialize)]
struct Row {
    imgname: String,
    query: String,
    label: Label,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Label {
    Text(String),
    Number(serde_json::Number),
}

impl Label {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.trim().to_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Imports one split (`train`, `val` or `test`) below `root`, human questions before augmented ones. `read` gives
/// the lines of text of a picture, by its path below `root`, where somebody has read it: the set has no labels of
/// text, so without them no form but [`Form::Short`] and [`Form::Ask`] has turns of text.
///
/// # Errors
/// [`Error::Layout`] where the split has no questions, [`Error::Io`]. Broken files and missing pictures are named,
/// never fatal.
pub fn import(
    root: &Path,
    split: &str,
    form: Form,
    seed: u64,
    read: &dyn Fn(&str) -> Vec<TextLine>,
) -> Result<Imported, Error> {
    let folder = root.join(split);
    let parts = ["human", "augmented"].map(|part| folder.join(format!("{split}_{part}.json")));
    if split.contains(['/', '\\']) || !parts.iter().any(|path| path.is_file()) {
        return Err(Error::Layout {
            path: folder,
            layout: "ChartQA",
            reason: format!("there is no {split}/{split}_human.json and no {split}_augmented.json"),
        });
    }
    let mut import = Imported::default();
    let mut by_image: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for path in parts.iter().filter(|path| path.is_file()) {
        let text = std::fs::read(path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        match serde_json::from_slice::<Vec<Row>>(&text) {
            Ok(rows) => {
                for row in rows {
                    by_image.entry(row.imgname.clone()).or_default().push(row);
                }
            }
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                import
                    .unreadable
                    .push((name.into_owned(), error.to_string()));
            }
        }
    }
    import.pictures = by_image.len();
    for (at, (name, rows)) in by_image.into_iter().enumerate() {
        let image = format!("{split}/png/{name}");
        // A name is data: it must not lead out of the folder.
        if name.contains(['/', '\\']) || !root.join(&image).is_file() {
            import.missing_images.push(name);
            continue;
        }
        let lines = match form.needs_lines() {
            true => read(&image),
            false => Vec::new(),
        };
        let stem = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(stem, _)| stem);
        let mut facts = Vec::new();
        for row in rows {
            let answer = row.label.text();
            if answer.is_empty() || row.query.trim().is_empty() {
                continue;
            }
            let fact = fact(row.query, answer, &lines);
            if fact.evidence.is_none() && matches!(form, Form::Duo | Form::Mixed) {
                import.unlocated.push(format!("{stem}: {}", fact.question));
            }
            facts.push(fact);
        }
        let page = Page {
            name: stem.to_owned(),
            image,
            facts,
            lines,
        };
        import.samples.extend(samples(&page, form, at, seed));
    }
    Ok(import)
}

fn fact(question: String, answer: String, lines: &[TextLine]) -> Fact {
    // A number that is printed alone, as on most charts, or a word of a legend.
    let same = |text: &str| {
        text.trim()
            .trim_end_matches('%')
            .eq_ignore_ascii_case(&answer)
    };
    let found: Vec<usize> = (0..lines.len())
        .filter(|&at| same(&lines[at].text))
        .collect();
    let evidence = match found[..] {
        // A value that is printed twice does not say which one is meant.
        [at] => evidence(&[at], lines, "chart"),
        _ => None,
    };
    let stop = if answer.ends_with('.') { "" } else { "." };
    Fact {
        question,
        wordings: Vec::new(),
        sentence: format!("The answer is {answer}{stop}"),
        evidence: evidence.map(|evidence| {
            let why = "What in the image tells this, and where in the picture does it stand?";
            [why.to_owned(), evidence]
        }),
        answer,
    }
}
