//! Reading the answers file of any tool.

use super::error::{BadLine, LineFault, SampleError};
use super::line_numbers::LineNumbers;
use super::row::SampleRow;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::path::Path;

/// Keys under which tools keep the id of a question; the first that is there counts.
pub(super) const ID_KEYS: [&str; 10] = [
    "question_id",
    "questionId",
    "questionid",
    "question_idx",
    "qid",
    "id",
    "doc_id",
    "index",
    "image_id",
    "idx",
];

/// Keys under which tools keep the answer. `answer` comes last: where another key is there, it is
/// the reference.
pub(super) const TEXT_KEYS: [&str; 17] = [
    "text",
    "prediction",
    "predicted_answer",
    "predict",
    "pred_answer",
    "pred",
    "response",
    "model_answer",
    "model_output",
    "output",
    "generated_text",
    "generated_answer",
    "filtered_resps",
    "resps",
    "outputs",
    "caption",
    "answer",
];

/// Keys under which tools repeat the references; `answer` too, where the answer has another key.
const REFERENCE_KEYS: [&str; 13] = [
    "gt",
    "gt_answers",
    "answers",
    "references",
    "reference",
    "ground_truth",
    "ground_truths",
    "gold",
    "golds",
    "target",
    "targets",
    "label",
    "labels",
];
const CATEGORY_KEYS: [&str; 3] = ["category", "type", "question_type"];
const QUESTION_KEYS: [&str; 3] = ["question", "prompt", "query"];
const IMAGE_KEYS: [&str; 7] = [
    "image",
    "image_path",
    "image_file",
    "img_path",
    "imgname",
    "file_name",
    "image_id",
];
/// Keys that hold the list of answers in a file that is one object.
const LIST_KEYS: [&str; 8] = [
    "data",
    "answers",
    "predictions",
    "results",
    "annotations",
    "samples",
    "logs",
    "rows",
];

/// Ids that count the questions of the file from 0, where they name no question.
const POSITION_KEYS: [&str; 3] = ["doc_id", "index", "idx"];

/// One answer as a tool wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Line (of JSONL, or on which the row of an array starts), from 1.
    pub line: usize,
    /// Id of the question; absent where the row names it by picture and text only.
    pub id: Option<String>,
    /// The id as a position in the list of questions, if its key says so (`doc_id`, `index`).
    pub position: Option<usize>,
    /// The picture, if the row names it.
    pub image: Option<String>,
    /// The question, if the row has it.
    pub question: Option<String>,
    /// The answer.
    pub text: String,
    /// References that the row repeats.
    pub references: Vec<String>,
    /// Kind of the question, if the row names it.
    pub category: Option<String>,
    /// Why there is no answer, if the row says so; `text` then does not count.
    pub error: Option<String>,
}

/// All answers of a file, and the lines that hold none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswersFile {
    /// Answers in file order.
    pub answers: Vec<Answer>,
    /// Lines that were left out, with the reason. Their questions count as missing.
    pub bad_lines: Vec<BadLine>,
}

/// Reads JSONL, a JSON array, an object that holds such a list, or an object from id to answer.
///
/// Bytes that are not UTF-8 cost only the row in which they stand.
///
/// # Errors
/// [`SampleError::Io`], [`SampleError::Json`] for an array that does not parse,
/// [`SampleError::NoAnswers`]: a file without any answer is an error, never a score of zero.
pub fn read_answers(path: &Path) -> Result<AnswersFile, SampleError> {
    let io = |source| SampleError::Io {
        path: path.to_path_buf(),
        source,
    };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let (text, mark) = mark_invalid(bytes);
    let file = match text.trim_start().chars().next() {
        Some('[') => read_array(path, &text, 0, mark)?,
        Some('{') => read_objects(path, &text, mark)?,
        _ => read_lines(&text, mark),
    };
    if file.answers.is_empty() {
        return Err(SampleError::NoAnswers {
            path: path.to_path_buf(),
            first: file.bad_lines.first().map(BadLine::to_string),
        });
    }
    Ok(file)
}

/// The text with a character that occurs nowhere in it in the place of bytes that are not UTF-8: so
/// the rest of the file can be parsed, and the rows with such bytes are known.
fn mark_invalid(bytes: &[u8]) -> (String, Option<char>) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_string(), None);
    }
    let valid: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
    // The private use area: real text has next to none of them, and there are 6400.
    let mark = ('\u{E000}'..='\u{F8FF}')
        .find(|&c| !valid.contains(c))
        .unwrap_or('\u{FFFD}');
    let mut text = String::with_capacity(bytes.len() + 3);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(mark);
        }
    }
    (text, Some(mark))
}

fn json_error(path: &Path, error: &serde_json::Error) -> SampleError {
    let text = error.to_string();
    let reason = text
        .rfind(" at line ")
        .map_or(text.as_str(), |at| &text[..at]);
    SampleError::Json {
        path: path.to_path_buf(),
        line: error.line(),
        column: error.column(),
        reason: reason.to_string(),
    }
}

/// Rows of a JSON array that starts on line `before + 1`.
fn read_array(
    path: &Path,
    text: &str,
    before: usize,
    mark: Option<char>,
) -> Result<AnswersFile, SampleError> {
    let rows: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| json_error(path, &e))?;
    let mut file = AnswersFile::default();
    let mut lines = LineNumbers::of(text, before);
    for raw in rows {
        file.add(lines.at(raw), raw.get(), mark);
    }
    Ok(file)
}

/// JSONL, or one object over the whole file.
fn read_objects(path: &Path, text: &str, mark: Option<char>) -> Result<AnswersFile, SampleError> {
    let pairs = match serde_json::from_str::<Pairs>(text) {
        Ok(Pairs(pairs)) => pairs,
        Err(error) => {
            let file = read_lines(text, mark);
            // Rows that are objects, though none an answer, are JSONL all the same.
            let rows = file
                .bad_lines
                .iter()
                .any(|bad| !matches!(bad.fault, LineFault::NotARow { .. }));
            let jsonl = rows || !file.answers.is_empty();
            return if jsonl {
                Ok(file)
            } else {
                Err(json_error(path, &error))
            };
        }
    };
    let has = |key: &&str| pairs.iter().any(|(name, _)| name == key);
    let is_row = ID_KEYS.iter().chain(&QUESTION_KEYS).any(has);
    // The references of a row may have the name of a list of answers.
    let of_answers = |list: &str| {
        let rows = list.strip_prefix('[').map(str::trim_start);
        rows.is_some_and(|rows| !is_row || rows.starts_with('{'))
    };
    let list = pairs
        .iter()
        .find(|(key, raw)| LIST_KEYS.contains(&&**key) && of_answers(raw.get()));
    if let Some((_, list)) = list {
        let before = LineNumbers::of(text, 0).at(list) - 1;
        return read_array(path, list.get(), before, mark);
    }
    let mut file = AnswersFile::default();
    if is_row {
        file.add(1, text, mark);
        return Ok(file);
    }
    // From id to answer, or from id to a row.
    let mut lines = LineNumbers::of(text, 0);
    for (id, raw) in pairs {
        let line = lines.at(raw);
        match entry(&id, raw, mark) {
            Ok(text) => file.answers.push(Answer {
                line,
                id: Some(id),
                position: None,
                image: None,
                question: None,
                text,
                references: Vec::new(),
                category: None,
                error: None,
            }),
            Err(fault) => file.bad_lines.push(BadLine { line, fault }),
        }
    }
    Ok(file)
}

/// The answer of one entry of an object from id to answer.
fn entry(id: &str, raw: &RawValue, mark: Option<char>) -> Result<String, LineFault> {
    if is_marked(raw.get(), mark) || is_marked(id, mark) {
        return Err(LineFault::NotUtf8);
    }
    let text = match serde_json::from_str(raw.get()).unwrap_or(Value::Null) {
        Value::Object(row) => TEXT_KEYS.iter().find_map(|key| answer_text(row.get(*key)?)),
        other => answer_text(&other),
    };
    text.ok_or(LineFault::NoText)
}

/// An object's entries in order, repeated keys included: a map would drop a repeated id unseen.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    pairs.push(entry);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

fn read_lines(text: &str, mark: Option<char>) -> AnswersFile {
    let mut file = AnswersFile::default();
    for (index, line) in text.split('\n').enumerate() {
        if !line.trim().is_empty() {
            file.add(index + 1, line, mark);
        }
    }
    file
}

fn is_marked(text: &str, mark: Option<char>) -> bool {
    mark.is_some_and(|mark| text.contains(mark))
}

impl AnswersFile {
    /// Our own rows as answers; their places count from 1.
    pub(crate) fn from_rows<'a>(rows: impl Iterator<Item = &'a SampleRow>) -> Self {
        let answers = rows.enumerate().map(|(at, row)| Answer {
            line: at + 1,
            id: Some(row.question_id.clone()),
            position: None,
            image: Some(row.image.clone()),
            question: Some(row.prompt.clone()),
            text: row.text.clone(),
            references: row.gt.clone(),
            category: row.category.clone(),
            error: row.error.clone(),
        });
        Self {
            answers: answers.collect(),
            bad_lines: Vec::new(),
        }
    }

    fn add(&mut self, line: usize, row: &str, mark: Option<char>) {
        let parsed = if is_marked(row, mark) {
            Err(LineFault::NotUtf8)
        } else {
            serde_json::from_str::<Map<String, Value>>(row)
                .map_err(|error| LineFault::NotARow {
                    reason: error.to_string(),
                })
                .and_then(|row| answer(line, &row))
        };
        match parsed {
            Ok(answer) => self.answers.push(answer),
            Err(fault) => self.bad_lines.push(BadLine { line, fault }),
        }
    }
}

/// The answer of one row.
fn answer(line: usize, row: &Map<String, Value>) -> Result<Answer, LineFault> {
    let scalar = |key: &&str| row.get(*key).and_then(crate::tasks::scalar);
    let id_key = ID_KEYS.iter().find(|key| scalar(key).is_some());
    let question = QUESTION_KEYS.iter().find_map(scalar);
    if id_key.is_none() && question.is_none() {
        return Err(LineFault::NoId);
    }
    let text_of = |key: &&'static str| Some((*key, answer_text(row.get(*key)?)?));
    let (text_key, text) = TEXT_KEYS
        .iter()
        .find_map(text_of)
        .ok_or(LineFault::NoText)?;
    let own = (text_key != "answer").then_some("answer");
    let reference = |key: &str| Some(texts(row.get(key)?)).filter(|texts| !texts.is_empty());
    let id = id_key.and_then(scalar);
    let counts = id_key.is_some_and(|key| POSITION_KEYS.contains(key));
    Ok(Answer {
        line,
        position: id
            .as_ref()
            .filter(|_| counts)
            .and_then(|id| id.parse().ok()),
        id,
        image: IMAGE_KEYS.iter().find_map(scalar),
        question,
        text,
        references: REFERENCE_KEYS
            .into_iter()
            .chain(own)
            .find_map(reference)
            .unwrap_or_default(),
        category: CATEGORY_KEYS.iter().find_map(scalar),
        error: row.get("error").and_then(fault),
    })
}

/// What a tool says that went wrong; `false` and 0 say that nothing did.
fn fault(value: &Value) -> Option<String> {
    let nothing = value.as_bool() == Some(false) || value.as_f64() == Some(0.0);
    let said = crate::tasks::scalar(value).filter(|_| !nothing)?;
    (!said.is_empty()).then_some(said)
}

/// A text, or all texts of a list.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(list) => list.iter().filter_map(crate::tasks::scalar).collect(),
        other => crate::tasks::scalar(other).into_iter().collect(),
    }
}

/// Text of an answer: a string, a number, or the first of a (nested) list, as harnesses that sample
/// several answers write it.
fn answer_text(value: &Value) -> Option<String> {
    match value {
        Value::Array(list) => list.first().and_then(answer_text),
        other => crate::tasks::scalar(other),
    }
}
