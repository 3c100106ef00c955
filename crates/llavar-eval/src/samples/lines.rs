//! Reading the bytes of a `samples.jsonl`, whatever happened to it.

use super::error::{BadLine, LineFault, SampleError};
use super::row::{SampleKey, SampleRow};
use std::collections::HashMap;
use std::path::Path;

/// What was wrong with a file and what was done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last line, if a killed process left it unfinished.
    pub torn: Option<Torn>,
    /// Later rows of a question that has one already. The first counts.
    pub duplicates: Vec<Duplicate>,
    /// Lines that are no rows. They stay in the file; their questions count as not answered.
    pub bad_lines: Vec<BadLine>,
}

/// An unfinished last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Line, from 1.
    pub line: usize,
    /// Its length, bytes.
    pub bytes: usize,
    /// Whether only its line break was missing: the row is kept. Otherwise it is cut off and its
    /// question is asked again.
    pub kept: bool,
}

/// A question that was answered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Task and question.
    pub key: SampleKey,
    /// Line of the row that counts, from 1.
    pub first_line: usize,
    /// Line of this row, from 1.
    pub line: usize,
    /// Whether both have the same text.
    pub same: bool,
}

impl Recovery {
    /// Whether the file was in order.
    pub fn is_clean(&self) -> bool {
        self.torn.is_none() && self.duplicates.is_empty() && self.bad_lines.is_empty()
    }
}

impl std::fmt::Display for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if let Some(torn) = self.torn {
            let what = if torn.kept {
                "kept: only its line break was missing"
            } else {
                "cut off"
            };
            parts.push(format!(
                "unfinished last line {} ({} bytes) {what}",
                torn.line, torn.bytes
            ));
        }
        if let Some(first) = self.duplicates.first() {
            let other = self.duplicates.iter().filter(|d| !d.same).count();
            parts.push(format!(
                "{} repeated answer(s), {other} of them different (first: {:?} on lines {} and {}); the first counts",
                self.duplicates.len(),
                first.key.1,
                first.first_line,
                first.line
            ));
        }
        if let Some(first) = self.bad_lines.first() {
            parts.push(format!(
                "{} unusable line(s) (first: {first})",
                self.bad_lines.len()
            ));
        }
        if parts.is_empty() {
            parts.push("in order".into());
        }
        f.write_str(&parts.join("; "))
    }
}

/// Rows of a file with their lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) rows: Vec<(usize, SampleRow)>,
    pub(super) keys: HashMap<SampleKey, usize>,
    pub(super) recovery: Recovery,
    /// Bytes up to and with the last line that is kept.
    pub(super) end: usize,
}

pub(super) fn parse(bytes: &[u8]) -> Lines {
    let mut lines = Lines::default();
    let mut start = 0;
    let mut number = 0;
    while start < bytes.len() {
        number += 1;
        let rest = &bytes[start..];
        let (line, finished) = match rest.iter().position(|&b| b == b'\n') {
            Some(end) => (&rest[..end], true),
            None => (rest, false),
        };
        start += line.len() + usize::from(finished);
        let row = read_row(line);
        if !finished {
            // An object that parses was written to its closing brace: nothing of it is missing.
            lines.recovery.torn = Some(Torn {
                line: number,
                bytes: line.len(),
                kept: matches!(row, Some(Ok(_))),
            });
            if !matches!(row, Some(Ok(_))) {
                break;
            }
        }
        lines.end = start;
        match row {
            None => {}
            Some(Ok(row)) => lines.add(number, row),
            Some(Err(fault)) => lines.recovery.bad_lines.push(BadLine {
                line: number,
                fault,
            }),
        }
    }
    lines
}

impl Lines {
    fn add(&mut self, line: usize, row: SampleRow) {
        let key = row.key();
        if let Some(&at) = self.keys.get(&key) {
            let (first_line, first) = &self.rows[at];
            self.recovery.duplicates.push(Duplicate {
                first_line: *first_line,
                line,
                same: first.text == row.text,
                key,
            });
        } else {
            self.keys.insert(key, self.rows.len());
            self.rows.push((line, row));
        }
    }

    /// Refuses rows of a run with other settings.
    pub(super) fn check_run(&self, path: &Path, expected: &str) -> Result<(), SampleError> {
        match self.rows.iter().find(|(_, row)| row.run != expected) {
            None => Ok(()),
            Some((line, row)) => Err(SampleError::OtherRun {
                path: path.to_path_buf(),
                line: *line,
                found: row.run.clone(),
                expected: expected.to_string(),
            }),
        }
    }
}

/// The row of a line; none for a blank line.
fn read_row(line: &[u8]) -> Option<Result<SampleRow, LineFault>> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    let row = match std::str::from_utf8(line) {
        Err(_) => Err(LineFault::NotUtf8),
        Ok(text) => serde_json::from_str(text).map_err(|error| LineFault::NotARow {
            reason: error.to_string(),
        }),
    };
    Some(row)
}
