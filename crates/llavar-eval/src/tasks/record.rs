//! Reading rows of annotation files.

use super::error::{BadRow, RowFault, TaskError};
use serde_json::{Map, Value};
use std::path::Path;

/// One row as a JSON object with typed access.
pub(super) struct Record<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Record<'a> {
    pub(super) fn new(value: &'a Value) -> Result<Self, RowFault> {
        value
            .as_object()
            .map(Self)
            .ok_or_else(|| RowFault::NotAnObject {
                reason: "the row is not a JSON object".into(),
            })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A string.
    pub(super) fn text(&self, key: &'static str) -> Result<&'a str, RowFault> {
        let value = self.get(key).ok_or(RowFault::MissingKey { key })?;
        value.as_str().ok_or(RowFault::WrongType {
            key,
            expected: "a string",
        })
    }

    /// A string or a number, as text.
    pub(super) fn id(&self, key: &'static str) -> Result<String, RowFault> {
        let value = self.get(key).ok_or(RowFault::MissingKey { key })?;
        scalar(value).ok_or(RowFault::WrongType {
            key,
            expected: "a string or a number",
        })
    }

    /// A string, a number or a list of them; none where the key is absent.
    pub(super) fn texts(&self, key: &'static str) -> Result<Vec<String>, RowFault> {
        let fault = || RowFault::WrongType {
            key,
            expected: "a string or a list of strings",
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|v| scalar(v).ok_or_else(fault)).collect(),
            Some(value) => scalar(value).map(|text| vec![text]).ok_or_else(fault),
        }
    }

    /// Copies of the keys that are there.
    pub(super) fn keep(&self, keys: &[&str]) -> Map<String, Value> {
        let kept = keys.iter().filter_map(|&key| {
            let value = self.get(key)?;
            Some((key.to_string(), value.clone()))
        });
        kept.collect()
    }
}

/// Text of a string, a number or a truth value.
pub(crate) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Reads a regular file; devices and pipes are refused, because reading them may never end.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, TaskError> {
    let io = |source| TaskError::Io {
        path: path.to_path_buf(),
        source,
    };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    let mut bytes = std::fs::read(path).map_err(io)?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// A whole JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value, TaskError> {
    parse(path, &read_file(path)?)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value, TaskError> {
    serde_json::from_slice(bytes).map_err(|error| TaskError::Json {
        path: path.to_path_buf(),
        line: error.line(),
        column: error.column(),
        reason: plain(&error),
    })
}

/// What serde says, without the place that the message gives already.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}

/// The list under `data`, which all robust-reading challenges use, or the file itself if it is one.
pub(super) fn data_rows(path: &Path) -> Result<Vec<Value>, TaskError> {
    let rows = match read_json(path)? {
        Value::Array(rows) => Some(rows),
        Value::Object(mut map) => match map.remove("data") {
            Some(Value::Array(rows)) => Some(rows),
            _ => None,
        },
        _ => None,
    };
    rows.ok_or_else(|| TaskError::Form {
        path: path.to_path_buf(),
        expected: "an object whose \"data\" is a list, or a list",
    })
}

/// Content of a file that is a JSON array, an object, or one JSON object a line.
pub(super) enum Content {
    Object(Map<String, Value>),
    /// Rows with where they stand; lines that are no JSON come as faults.
    Rows(Vec<(String, Result<Value, RowFault>)>),
}

/// Reads an array, an object or JSONL; the content tells which, not the extension.
pub(super) fn read_content(path: &Path) -> Result<Content, TaskError> {
    let bytes = read_file(path)?;
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'[') {
        let Value::Array(rows) = parse(path, &bytes)? else {
            return Ok(Content::Rows(Vec::new()));
        };
        let rows = rows.into_iter().enumerate();
        return Ok(Content::Rows(
            rows.map(|(i, row)| (at_row(path, i), Ok(row))).collect(),
        ));
    }
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    let is_row = |line: &&[u8]| !line.trim_ascii().is_empty();
    let several = lines.iter().filter(|l| is_row(l)).count() > 1;
    // A pretty-printed object has many lines too, but its first is no object.
    let first_line = lines.iter().copied().find(is_row).unwrap_or_default();
    let lines_are_rows = serde_json::from_slice::<Value>(first_line).is_ok_and(|v| v.is_object());
    if !lines_are_rows || !several {
        // One object: a whole file of COCO or TextCaps, or JSONL of one row.
        if let Value::Object(map) = parse(path, &bytes)? {
            return Ok(Content::Object(map));
        }
        return Err(TaskError::Form {
            path: path.to_path_buf(),
            expected: "a JSON array, a JSON object, or one JSON object a line",
        });
    }
    let rows = lines.iter().enumerate().filter(|(_, line)| is_row(line));
    let rows = rows.map(|(i, line)| {
        let row = serde_json::from_slice(line).map_err(|error| RowFault::NotAnObject {
            reason: plain(&error),
        });
        (at_line(path, i), row)
    });
    Ok(Content::Rows(rows.collect()))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// `file row 7`, from 0.
pub(super) fn at_row(path: &Path, row: usize) -> String {
    format!("{} row {row}", file_name(path))
}

/// `file:7`, from 1 for index 0.
pub(super) fn at_line(path: &Path, index: usize) -> String {
    format!("{}:{}", file_name(path), index + 1)
}

/// Turns rows into drafts; rows that fail are kept apart with their reason.
pub(super) fn convert<T, D>(
    path: &Path,
    rows: &[T],
    mut draft: impl FnMut(usize, &T) -> Result<D, RowFault>,
) -> (Vec<D>, Vec<BadRow>) {
    let mut good = Vec::with_capacity(rows.len());
    let mut bad = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match draft(i, row) {
            Ok(one) => good.push(one),
            Err(fault) => bad.push(BadRow {
                at: at_row(path, i),
                fault,
            }),
        }
    }
    (good, bad)
}
