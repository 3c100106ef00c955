//! One streaming pass over a LLaVA file that finds where each sample lies.
//!
//! The file is read through a fixed buffer; only the sample at hand is in memory, and each is
//! checked to be valid JSON, so a broken file is known before training starts.

use super::index::Entry;
use crate::error::{Error, Place};
use serde::de::IgnoredAny;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// No sample of real data comes near this; a missing quote or bracket makes one that does.
pub(crate) const MAX_SAMPLE_BYTES: usize = 64 << 20;

/// Finds all samples of a JSON array or JSONL file and hands each to `sink`; the form is told by the first
/// byte. A sample has at most `limit` bytes.
pub(crate) fn scan<R: Read>(
    reader: R,
    path: &Path,
    limit: usize,
    sink: &mut dyn FnMut(Entry),
) -> Result<(), Error> {
    let mut scanner = Scanner {
        reader: BufReader::with_capacity(1 << 18, reader),
        path,
        limit,
        offset: 0,
        line: 1,
        element: Vec::new(),
        start: (0, 1),
        count: 0,
        sink,
    };
    scanner.skip_bom()?;
    match scanner.skip_whitespace()? {
        Some(b'[') => scanner.array()?,
        Some(b'{') => scanner.lines()?,
        None => {}
        Some(_) => {
            let head = scanner.reader.fill_buf().map_err(|e| io(path, e))?;
            let found = String::from_utf8_lossy(&head[..head.len().min(16)]).into_owned();
            return Err(Error::NotLlavaData {
                path: path.to_path_buf(),
                found: format!("{found:?}"),
            });
        }
    }
    if scanner.count == 0 {
        return Err(Error::NoSamples {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

struct Scanner<'a, R> {
    reader: BufReader<R>,
    path: &'a Path,
    limit: usize,
    offset: u64,
    line: u64,
    /// Bytes of the sample being read.
    element: Vec<u8>,
    /// Offset and line where it starts.
    start: (u64, u64),
    /// Samples found.
    count: usize,
    sink: &'a mut dyn FnMut(Entry),
}

impl<R: Read> Scanner<'_, R> {
    fn peek(&mut self) -> Result<Option<u8>, Error> {
        let buffer = self.reader.fill_buf().map_err(|e| io(self.path, e))?;
        Ok(buffer.first().copied())
    }

    fn bump(&mut self, byte: u8) {
        self.reader.consume(1);
        self.offset += 1;
        self.line += u64::from(byte == b'\n');
    }

    fn skip_bom(&mut self) -> Result<(), Error> {
        let buffer = self.reader.fill_buf().map_err(|e| io(self.path, e))?;
        if buffer.starts_with(b"\xEF\xBB\xBF") {
            self.reader.consume(3);
            self.offset += 3;
        }
        Ok(())
    }

    fn skip_whitespace(&mut self) -> Result<Option<u8>, Error> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.bump(byte);
        }
        Ok(None)
    }

    fn array(&mut self) -> Result<(), Error> {
        self.bump(b'[');
        let mut first = true;
        loop {
            match self.skip_whitespace()? {
                None => return Err(self.fault_here("the array is not closed by ']'")),
                Some(b']') if first => break,
                Some(b']') => return Err(self.fault_here("a sample must follow ','")),
                Some(_) => {}
            }
            first = false;
            self.value()?;
            match self.skip_whitespace()? {
                Some(b',') => self.bump(b','),
                Some(b']') => break,
                Some(other) => {
                    let reason = format!(
                        "expected ',' or ']' after a sample, got {:?}",
                        other as char
                    );
                    return Err(self.fault_here(&reason));
                }
                None => return Err(self.fault_here("the array is not closed by ']'")),
            }
        }
        self.bump(b']');
        match self.skip_whitespace()? {
            None => Ok(()),
            Some(_) => Err(self.fault_here("text follows the closing ']'")),
        }
    }

    /// Reads one array element up to its end, by brackets and quotes alone; the parser checks it.
    fn value(&mut self) -> Result<(), Error> {
        self.begin();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let buffer = self.reader.fill_buf().map_err(|e| io(self.path, e))?;
            if buffer.is_empty() {
                return Err(self.unfinished());
            }
            let (mut used, mut done) = (0, false);
            for &byte in buffer {
                if in_string {
                    if escaped {
                        escaped = false;
                    } else if byte == b'\\' {
                        escaped = true;
                    } else if byte == b'"' {
                        in_string = false;
                        // A bare string is a whole element.
                        done = depth == 0;
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' if depth > 0 => {
                            depth -= 1;
                            done = depth == 0;
                        }
                        // Separators end a bare number or word without belonging to it.
                        b',' | b']' | b'}' if depth == 0 => break,
                        _ => {}
                    }
                }
                used += 1;
                self.line += u64::from(byte == b'\n');
                // JSON has no raw line end in a string: here a closing quote is missing.
                if (in_string && byte == b'\n') || done {
                    break;
                }
            }
            let stopped = used < buffer.len() || done;
            self.element.extend_from_slice(&buffer[..used]);
            self.reader.consume(used);
            self.offset += used as u64;
            if in_string && self.element.last() == Some(&b'\n') {
                return Err(self.unfinished());
            }
            if self.element.len() > self.limit {
                return Err(self.too_large());
            }
            if stopped {
                return self.finish();
            }
        }
    }

    fn lines(&mut self) -> Result<(), Error> {
        while self.skip_whitespace()?.is_some() {
            self.begin();
            loop {
                let buffer = self.reader.fill_buf().map_err(|e| io(self.path, e))?;
                if buffer.is_empty() {
                    break;
                }
                let end = buffer.iter().position(|&b| b == b'\n');
                let used = end.unwrap_or(buffer.len());
                self.element.extend_from_slice(&buffer[..used]);
                self.reader.consume(used);
                self.offset += used as u64;
                if self.element.len() > self.limit {
                    return Err(self.too_large());
                }
                if end.is_some() {
                    break;
                }
            }
            while self.element.last().is_some_and(u8::is_ascii_whitespace) {
                self.element.pop();
            }
            self.finish()?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.element.clear();
        self.start = (self.offset, self.line);
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let Some(error) = self.syntax_error() {
            return Err(error);
        }
        let position = |what: &str| Error::Invalid {
            what: "index",
            reason: format!("{what} is too large in {}", self.path.display()),
        };
        (self.sink)(Entry {
            offset: self.start.0,
            len: u32::try_from(self.element.len()).map_err(|_| position("sample"))?,
            line: u32::try_from(self.start.1).map_err(|_| position("line count"))?,
        });
        self.count += 1;
        Ok(())
    }

    /// The first fault in the sample at hand, at its place in the file.
    fn syntax_error(&self) -> Option<Error> {
        let (line, column, reason) = match std::str::from_utf8(&self.element) {
            Err(error) => {
                let good = &self.element[..error.valid_up_to()];
                let line = 1 + good.iter().filter(|&&b| b == b'\n').count();
                let column =
                    good.len() - good.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
                (line, column + 1, "text is not UTF-8".to_string())
            }
            Ok(text) => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => return None,
                Err(error) => (error.line(), error.column(), plain_reason(&error)),
            },
        };
        let line_start = if line <= 1 {
            0
        } else {
            let ends = self
                .element
                .iter()
                .enumerate()
                .filter(|(_, b)| **b == b'\n');
            ends.map(|(i, _)| i + 1).nth(line - 2).unwrap_or(0)
        };
        let line_in_file = self.start.1 + line.saturating_sub(1) as u64;
        let byte = self.start.0 + (line_start + column.saturating_sub(1)) as u64;
        Some(Error::Syntax {
            at: self.place(line_in_file, byte, guess_id(&self.element)),
            reason,
        })
    }

    /// The file ended, or a string did not, inside a sample.
    fn unfinished(&self) -> Error {
        self.syntax_error()
            .unwrap_or_else(|| self.fault_here("the file ends inside a sample"))
    }

    fn too_large(&self) -> Error {
        // A fault inside says more than the size; running out of text is no such fault.
        if let Some(Error::Syntax { at, reason }) = self.syntax_error()
            && at.byte + 16 < self.offset
        {
            return Error::Syntax { at, reason };
        }
        Error::SampleTooLarge {
            at: self.place(self.start.1, self.start.0, guess_id(&self.element)),
            limit: self.limit,
        }
    }

    fn fault_here(&self, reason: &str) -> Error {
        Error::Syntax {
            at: self.place(self.line, self.offset, None),
            reason: reason.to_string(),
        }
    }

    fn place(&self, line: u64, byte: u64, id: Option<String>) -> Box<Place> {
        Box::new(Place {
            path: self.path.to_path_buf(),
            line,
            byte,
            index: self.count,
            id,
        })
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// The parser's message without its own line and column, which count from the sample.
pub(crate) fn plain_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_lowercase(),
        None => text.to_lowercase(),
    }
}

/// Reads the id out of a sample that does not parse; best effort, for messages only.
pub(crate) fn guess_id(element: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&element[..element.len().min(1 << 16)]);
    let rest = text.split_once("\"id\"")?.1.trim_start();
    let rest = rest.strip_prefix(':')?.trim_start();
    let id = match rest.strip_prefix('"') {
        Some(rest) => rest.split_once('"')?.0.to_string(),
        None => rest
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '-')
            .collect(),
    };
    (!id.is_empty() && id.len() <= 200).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_beyond_the_limit_are_refused_early() {
        let text = format!(
            "[{{\"id\": \"big\", \"k\": \"{}\"}}]",
            "x".repeat(2_000_000)
        );
        let lines = text.trim_matches(['[', ']']);
        for text in [&text, lines] {
            match scan(text.as_bytes(), Path::new("f"), 1000, &mut |_| ()) {
                Err(Error::SampleTooLarge { at, limit: 1000 }) => {
                    assert_eq!((at.id.as_deref(), at.line), (Some("big"), 1));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_fault_inside_says_more_than_the_size() {
        // The bracket is missing: the rest of the file is swallowed up to the limit.
        let rest = ",\n{\"id\": 1}".repeat(1000);
        let text = format!("[{{\"id\": \"bad\", \"k\": [1}}{rest}]");
        match scan(text.as_bytes(), Path::new("f"), 1000, &mut |_| ()) {
            Err(Error::Syntax { at, .. }) => assert_eq!((at.line, at.byte), (1, 22)),
            other => panic!("{other:?}"),
        }
    }
}
