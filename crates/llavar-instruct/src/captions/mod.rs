//! Captions that people wrote, in the files in which they have them.
//!
//! | form, told by content | records |
//! |---|---|
//! | Label Studio export (JSON, JSON-MIN) | `data.image` with the text areas of `annotations`, or `image` with a text |
//! | JSON object | picture to caption, or to a list of captions |
//! | JSON array, JSONL | objects with `image` (`file_name`, `filename`, `path`) and `caption` (`captions`, `text`, `description`), or LLaVA JSON |
//! | CSV, TSV | a first row that names such columns |
//!
//! Several captions of one picture are joined by a line break: all facts count.

mod csv;
mod label_studio;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde_json::Value;

use crate::{InstructError, Pictures};

const IMAGE_KEYS: [&str; 6] = [
    "image",
    "file_name",
    "filename",
    "path",
    "image_path",
    "img",
];
const TEXT_KEYS: [&str; 5] = [
    "caption",
    "captions",
    "description",
    "text",
    "human_caption",
];

/// Captions by the name under which the file has each picture.
#[derive(Debug, Clone, Default)]
pub struct Captions {
    /// In order of names.
    pub by_name: BTreeMap<String, String>,
    /// Records without a picture or without a text.
    pub empty: usize,
}

/// Captions of the pictures of a folder.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// By the picture's path below the folder.
    pub by_picture: HashMap<String, String>,
    /// Names in the file that are no picture of the folder.
    pub unmatched: Vec<String>,
    /// Names that might be several pictures, and are therefore none.
    pub ambiguous: Vec<String>,
}

impl Captions {
    /// Reads a file.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::Captions`].
    pub fn read(path: &Path) -> Result<Self, InstructError> {
        let bytes = std::fs::read(path).map_err(InstructError::io(path))?;
        let bad = |reason: String| InstructError::Captions {
            path: path.to_path_buf(),
            reason,
        };
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".into()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let captions = Self::parse(text).map_err(&bad)?;
        if captions.by_name.is_empty() {
            return Err(bad(
                "no caption was found; see `llavar instruct run --help` for the forms".into(),
            ));
        }
        Ok(captions)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut captions = Self::default();
        match text.trim_start().chars().next() {
            None => return Err("the file is empty".into()),
            Some('[' | '{') => match serde_json::from_str(text) {
                Ok(Value::Array(records)) => {
                    records.iter().for_each(|record| captions.record(record));
                }
                // One object a line, of which the file has one; or a table.
                Ok(record @ Value::Object(_)) if names_image(&record) => captions.record(&record),
                Ok(Value::Object(table)) => {
                    for (name, value) in &table {
                        captions.add(Some(name), text_of(value));
                    }
                }
                Ok(_) => {}
                Err(error) => captions.lines(text).map_err(|(line, reason)| match line {
                    1 => format!("no JSON: {error}"),
                    line => format!("line {line}: {reason}"),
                })?,
            },
            Some(_) => {
                for row in csv::records(text, &IMAGE_KEYS, &TEXT_KEYS)? {
                    captions.add(Some(&row.0), Some(row.1));
                }
            }
        }
        Ok(captions)
    }

    fn lines(&mut self, text: &str) -> Result<(), (usize, String)> {
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let record: Value =
                serde_json::from_str(line).map_err(|error| (i + 1, error.to_string()))?;
            self.record(&record);
        }
        Ok(())
    }

    fn record(&mut self, record: &Value) {
        if let Some((image, text)) = label_studio::task(record) {
            return self.add(Some(&image), Some(text));
        }
        let image = IMAGE_KEYS.iter().find_map(|key| record.get(key)?.as_str());
        let text = TEXT_KEYS.iter().find_map(|key| text_of(record.get(key)?));
        // The answer of a caption in LLaVA JSON.
        let turn = || {
            let turns = record.get("conversations")?.as_array()?;
            let answer = turns.iter().find(|turn| turn["from"] == "gpt")?;
            answer["value"].as_str().map(str::to_owned)
        };
        self.add(image, text.or_else(turn));
    }

    fn add(&mut self, image: Option<&str>, text: Option<String>) {
        let text = text
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        match (image.map(str::trim).filter(|name| !name.is_empty()), text) {
            (Some(image), Some(text)) => {
                let entry = self.by_name.entry(image.to_owned()).or_default();
                if !entry.contains(text) {
                    if !entry.is_empty() {
                        entry.push('\n');
                    }
                    entry.push_str(text);
                }
            }
            _ => self.empty += 1,
        }
    }

    /// Finds the picture of each caption: by its whole path, by the last parts of it, by its file name, by
    /// its file name without extension. A picture of exactly that name goes before others that end like it.
    pub fn matched(&self, pictures: &Pictures) -> Matched {
        let mut by_key: HashMap<String, Vec<&str>> = HashMap::new();
        for name in &pictures.names {
            for key in keys(name) {
                by_key.entry(key).or_default().push(name);
            }
        }
        let mut matched = Matched::default();
        for (name, text) in &self.by_name {
            let candidates = std::iter::once(label_studio::file_name(name))
                .flatten()
                .chain(std::iter::once(name.replace('\\', "/")));
            let candidates: Vec<String> = candidates.flat_map(|name| keys(&name)).collect();
            let found = candidates
                .iter()
                .find_map(|key| Some((key, by_key.get(key)?)));
            let one = found.and_then(|(key, found)| match found[..] {
                [one] => Some(one),
                _ => found.iter().copied().find(|name| name == key),
            });
            match one {
                Some(one) => {
                    let entry = matched.by_picture.entry(one.to_owned()).or_default();
                    if !entry.is_empty() {
                        entry.push('\n');
                    }
                    entry.push_str(text);
                }
                None if found.is_some() => matched.ambiguous.push(name.clone()),
                None => matched.unmatched.push(name.clone()),
            }
        }
        matched
    }
}

/// The path, its shorter and shorter ends, and its stem.
fn keys(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let mut keys = vec![path.to_owned()];
    let mut rest = path;
    while let Some((_, end)) = rest.split_once('/') {
        keys.push(end.to_owned());
        rest = end;
    }
    let stem = rest.rsplit_once('.').map_or(rest, |(stem, _)| stem);
    keys.push(format!("{stem}."));
    keys
}

fn names_image(record: &Value) -> bool {
    let known = IMAGE_KEYS.iter().chain(&["data"]);
    known.into_iter().any(|key| record.get(key).is_some())
}

/// A text, or a list of them joined.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            (!texts.is_empty()).then(|| texts.join("\n"))
        }
        Value::Object(map) => map.get("text").and_then(text_of),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        Captions::parse(text).unwrap().by_name.into_iter().collect()
    }

    #[test]
    fn every_form_gives_the_same() {
        let expected = vec![
            ("a.png".to_owned(), "A red, \"big\" sign.".to_owned()),
            ("b.png".to_owned(), "A form.\nOf a bank.".to_owned()),
        ];
        for text in [
            r#"{"a.png": "A red, \"big\" sign.", "b.png": ["A form.", "Of a bank."]}"#,
            r#"[{"image": "a.png", "caption": "A red, \"big\" sign."},
                {"file_name": "b.png", "text": "A form."}, {"image": "b.png", "captions": ["Of a bank."]}]"#,
            "{\"image\": \"a.png\", \"caption\": \"A red, \\\"big\\\" sign.\"}\n\n{\"path\": \"b.png\", \"caption\": \"A form.\\nOf a bank.\"}\n",
            "image,caption\r\na.png,\"A red, \"\"big\"\" sign.\"\r\nb.png,\"A form.\nOf a bank.\"\r\n",
            "id\tcaption\tfilename\n1\tA red, \"big\" sign.\ta.png\n2\tA form.\tb.png\n3\tOf a bank.\tb.png\n",
            r#"[{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [
                  {"type": "textarea", "from_name": "caption", "value": {"text": ["A red, \"big\" sign."]}}]}]},
                {"id": 2, "data": {"image": "b.png"}, "annotations": [
                  {"result": [{"type": "textarea", "value": {"text": "A form."}}]},
                  {"was_cancelled": true, "result": [{"type": "textarea", "value": {"text": "no"}}]},
                  {"result": [{"type": "rectanglelabels", "value": {"x": 1}}, {"type": "textarea", "value": {"text": ["Of a bank."]}}]}]}]"#,
            r#"[{"id": "x", "image": "a.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A red, \"big\" sign."}]},
                {"image": "b.png", "caption": "A form.\nOf a bank."}]"#,
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_caption_file_is_said() {
        for (text, words) in [
            ("", "empty"),
            ("{\"image\": ", "no JSON"),
            (
                "{\"image\": \"a\", \"caption\": \"b\"}\n{broken\n",
                "line 2",
            ),
            ("a,b\n1,2\n", "column"),
        ] {
            let error = Captions::parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let captions = Captions::parse(r#"[{"image": "a"}, 3, {"caption": "x"}]"#).unwrap();
        assert_eq!((captions.by_name.len(), captions.empty), (0, 3));
    }

    #[test]
    fn captions_find_their_pictures() {
        let pictures = Pictures {
            folder: "f".into(),
            names: [
                "e.png",
                "x/a.png",
                "x/b.jpg",
                "y/b.jpg",
                "y/c d.png",
                "y/e.png",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        let text = r#"{"/data/upload/3/1a2b3c4d-a.png": "1", "/home/me/x/b.jpg": "2", "b.jpg": "3",
            "/data/local-files/?d=sets/c%20d.png": "4", "z.png": "5",
            "./e.png": "6"}"#;
        let matched = Captions::parse(text).unwrap().matched(&pictures);
        let mut found: Vec<_> = matched.by_picture.into_iter().collect();
        found.sort();
        let expected = [
            ("e.png", "6"),
            ("x/a.png", "1"),
            ("x/b.jpg", "2"),
            ("y/c d.png", "4"),
        ];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(matched.ambiguous, ["b.jpg"]);
        assert_eq!(matched.unmatched, ["z.png"]);
    }
}
