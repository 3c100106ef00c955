//! The JSON forms of OCR results.

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::Value;

use crate::{Line, join_words, line::Quad};

/// Lines of one picture: an array, or an object with `lines`.
///
/// # Errors
/// What is wrong, and with which line.
pub fn parse_lines(text: &str) -> Result<Vec<Line>, String> {
    lines_of(&serde_json::from_str(without_mark(text)).map_err(|e| e.to_string())?)
}

/// Lines of many pictures: an object by name, an array of records, or records in JSON Lines.
pub(super) fn parse_many(text: &str) -> Result<HashMap<String, Vec<Line>>, String> {
    let text = without_mark(text);
    match serde_json::from_str(text) {
        Ok(Value::Object(one)) if one.contains_key("image") => records(&[one.into()]),
        Ok(Value::Object(map)) => map
            .into_iter()
            .map(|(name, value)| {
                let lines = lines_of(&value).map_err(|e| format!("picture `{name}`: {e}"))?;
                Ok((name, lines))
            })
            .collect(),
        Ok(Value::Array(list)) => records(&list),
        Ok(_) => Err("expected an object from picture names to lines".to_owned()),
        Err(whole) => {
            let rows: Vec<(usize, &str)> = text
                .lines()
                .enumerate()
                .filter(|(_, row)| !row.trim().is_empty())
                .collect();
            // Word lists of large sets are gigabytes: parsed on all threads, and never held as JSON.
            let parsed: Result<HashMap<String, Vec<Line>>, String> = rows
                .into_par_iter()
                .map(|(at, row)| {
                    serde_json::from_str(row)
                        // Each row is a text of its own, whose only line is this one.
                        .map_err(|e| e.to_string().replace(" at line 1 column", " at column"))
                        .and_then(|value| record(&value))
                        .map_err(|e| format!("line {}: {e}", at + 1))
                })
                .collect();
            match parsed {
                Ok(many) => Ok(many),
                // A single broken document is better told by its own error.
                Err(error) => Err(match is_json_lines(text) {
                    true => error,
                    false => whole.to_string(),
                }),
            }
        }
    }
}

/// A text without the byte order mark that some editors and shells write.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// Whether a text that is no JSON document is meant as one record a line: its first line is a whole object, or is
/// broken and another one begins below it.
fn is_json_lines(text: &str) -> bool {
    let mut rows = text.lines().filter(|row| !row.trim().is_empty());
    let first = rows.next().unwrap_or_default();
    let is_object = |row: &str| serde_json::from_str(row).is_ok_and(|row: Value| row.is_object());
    let begins_one = |row: &str| row.trim_start().starts_with('{');
    is_object(first) || begins_one(first) && rows.next().is_some_and(begins_one)
}

fn records(list: &[Value]) -> Result<HashMap<String, Vec<Line>>, String> {
    list.iter()
        .enumerate()
        .map(|(at, value)| record(value).map_err(|e| format!("record {}: {e}", at + 1)))
        .collect()
}

fn record(value: &Value) -> Result<(String, Vec<Line>), String> {
    let name = value.get("image").and_then(Value::as_str);
    Ok((name.ok_or("no `image`")?.to_owned(), lines_of(value)?))
}

fn lines_of(value: &Value) -> Result<Vec<Line>, String> {
    match (value.get("lines"), value.get("words")) {
        (None | Some(Value::Null), Some(words)) => Ok(join_words(&pieces(words)?)),
        (lines, _) => pieces(lines.unwrap_or(value)),
    }
}

/// Lines, or words, each with its place.
fn pieces(list: &Value) -> Result<Vec<Line>, String> {
    // PaddleOCR gives `null` for a page without text.
    if list.is_null() {
        return Ok(Vec::new());
    }
    let list = list.as_array().ok_or("expected an array of lines")?;
    if let [page] = &list[..]
        && is_page(page)
    {
        return pieces(page);
    }
    list.iter()
        .enumerate()
        .map(|(at, line)| line_of(line).map_err(|e| format!("text line {}: {e}", at + 1)))
        .collect()
}

/// Whether the only element of a list is a page rather than a line: PaddleOCR gives a list of pages for a
/// single picture as well.
fn is_page(value: &Value) -> bool {
    let is_line = |line: &Value| line.get(0).is_some_and(|place| quad_of(place).is_ok());
    value.is_null()
        || value
            .as_array()
            .is_some_and(|lines| lines.first().is_none_or(is_line))
}

fn line_of(value: &Value) -> Result<Line, String> {
    let (place, text, score) = match value {
        Value::Object(fields) => {
            let place = ["quad", "box", "bbox", "points"]
                .iter()
                .find_map(|key| fields.get(*key));
            let score = fields.get("score").or_else(|| fields.get("confidence"));
            (place, fields.get("text"), score)
        }
        Value::Array(parts) => match parts.get(1) {
            Some(Value::Array(read)) => (parts.first(), read.first(), read.get(1)),
            text => (parts.first(), text, parts.get(2)),
        },
        _ => return Err("expected an object or an array".to_owned()),
    };
    let text = text.and_then(Value::as_str).ok_or("no `text`")?;
    let score = match score {
        None | Some(Value::Null) => 1.0,
        // RapidOCR wrote scores as texts; those may say `nan`.
        Some(Value::String(score)) => {
            let score = score.parse().ok().filter(|x: &f64| x.is_finite());
            score.ok_or("`score` is no number")?
        }
        Some(score) => score.as_f64().ok_or("`score` is no number")?,
    };
    Ok(Line {
        quad: quad_of(place.ok_or("no `quad` and no `box`")?)?,
        text: text.to_owned(),
        score,
    })
}

fn quad_of(value: &Value) -> Result<Quad, String> {
    let wrong = || "a place is four corners [x, y], or [x1, y1, x2, y2], in px".to_owned();
    let list = value.as_array().ok_or_else(wrong)?;
    let number = |v: &Value| v.as_f64().filter(|x| x.is_finite()).ok_or_else(wrong);
    if list.iter().all(Value::is_number) {
        let sides = list.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        return match sides[..] {
            [x1, y1, x2, y2] => Ok(Line::in_box([x1, y1, x2, y2], "", 0.0).quad),
            [a, b, c, d, e, f, g, h] => Ok([[a, b], [c, d], [e, f], [g, h]]),
            _ => Err(wrong()),
        };
    }
    let mut quad = Quad::default();
    if list.len() != quad.len() {
        return Err(wrong());
    }
    for (corner, value) in quad.iter_mut().zip(list) {
        match value.as_array().map(Vec::as_slice) {
            Some([x, y]) => *corner = [number(x)?, number(y)?],
            _ => return Err(wrong()),
        }
    }
    Ok(quad)
}
