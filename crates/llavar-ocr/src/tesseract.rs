//! The `tesseract` program, one run a picture.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Engine, Line, OcrError, Page};

/// A run that takes longer is ended: some pictures keep the program busy for hours.
const PATIENCE: Duration = Duration::from_secs(300);

/// Tesseract 4 or 5 as a program, with English data.
#[derive(Debug)]
pub struct Tesseract {
    program: String,
    version: String,
    patience: Duration,
}

impl Tesseract {
    /// The program in the search path, or `$LLAVAR_TESSERACT`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find() -> Result<Self, OcrError> {
        let program = std::env::var("LLAVAR_TESSERACT").unwrap_or_else(|_| "tesseract".to_owned());
        Self::at(program)
    }

    /// The program of that name or path.
    ///
    /// # Errors
    /// When it does not run.
    pub fn at(program: String) -> Result<Self, OcrError> {
        let run = Command::new(&program)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        match run {
            Ok(run) if run.status.success() => {
                // Version 4 says it on stderr.
                let text = [run.stdout, run.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let version = text.lines().next().unwrap_or_default().to_owned();
                Ok(Self {
                    program,
                    version,
                    patience: PATIENCE,
                })
            }
            _ => Err(OcrError::NoProgram { program }),
        }
    }

    fn failed(&self, path: &Path, reason: impl Into<String>) -> OcrError {
        OcrError::Program {
            program: self.program.clone(),
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    fn run(&self, path: &Path, picture: Vec<u8>) -> Result<String, OcrError> {
        let mut child = Command::new(&self.program)
            .args(["stdin", "stdout", "-l", "eng", "--psm", "3", "tsv"])
            // Pages are read in parallel; its own threads slow each other down.
            .env("OMP_THREAD_LIMIT", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(path, error.to_string()))?;
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // All three pipes at once: each may fill up while another is waited for.
        thread::scope(|scope| {
            scope.spawn(move || {
                // A program that ends early says why itself.
                let _ = input.map(|mut pipe| pipe.write_all(&picture));
            });
            let said = scope.spawn(move || drain(output));
            let complaints = scope.spawn(move || drain(errors));
            let ended = wait(&mut child, self.patience);
            let said = said.join().unwrap_or_default();
            let complaints = complaints.join().unwrap_or_default();
            match ended {
                Ok(Some(status)) if status.success() => Ok(said),
                Ok(Some(status)) => {
                    let last = complaints.lines().rfind(|line| !line.trim().is_empty());
                    Err(self.failed(path, last.map_or_else(|| status.to_string(), str::to_owned)))
                }
                Ok(None) => {
                    let seconds = self.patience.as_secs();
                    Err(self.failed(path, format!("no result after {seconds} s")))
                }
                Err(error) => Err(self.failed(path, error.to_string())),
            }
        })
    }
}

fn drain(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for the end; `None` where it had to be brought about.
fn wait(
    child: &mut Child,
    patience: Duration,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Engine for Tesseract {
    fn name(&self) -> &'static str {
        "tesseract"
    }

    fn fingerprint(&self) -> Option<String> {
        Some(format!("{} -l eng --psm 3", self.version))
    }

    fn read(&self, page: &Page) -> Result<Vec<Line>, OcrError> {
        // Given as PNG, so that every engine sees the same pixels whatever formats the program knows.
        let picture = llavar_image::encode_png(page.image()?)?;
        Ok(lines_of(&self.run(page.path(), picture)?))
    }
}

/// Lines out of the program's table of words: words of one block, paragraph and line belong together.
fn lines_of(table: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut last = None;
    let mut words = 0.0;
    for row in table.lines() {
        // level page block paragraph line word left top width height confidence text
        let fields: Vec<&str> = row.splitn(12, '\t').collect();
        let [
            level,
            _,
            block,
            paragraph,
            line,
            _,
            left,
            top,
            width,
            height,
            confidence,
            text,
        ] = fields[..]
        else {
            continue;
        };
        let text = text.trim();
        let numbers = [left, top, width, height, confidence].map(str::parse::<f64>);
        let [Ok(left), Ok(top), Ok(width), Ok(height), Ok(confidence)] = numbers else {
            continue;
        };
        if level != "5" || text.is_empty() {
            continue;
        }
        let score = (confidence / 100.0).clamp(0.0, 1.0);
        let word = Line::in_box([left, top, left + width, top + height], text, score);
        let place = Some((block, paragraph, line));
        match lines.last_mut() {
            Some(line) if last == place => {
                let (a, b) = (line.bounds(), word.bounds());
                let bounds = [
                    a[0].min(b[0]),
                    a[1].min(b[1]),
                    a[2].max(b[2]),
                    a[3].max(b[3]),
                ];
                let score = (line.score * words + score) / (words + 1.0);
                *line = Line::in_box(bounds, format!("{} {text}", line.text), score);
                words += 1.0;
            }
            _ => {
                lines.push(word);
                words = 1.0;
            }
        }
        last = place;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_lines() {
        let table = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n\
            1\t1\t0\t0\t0\t0\t0\t0\t90\t60\t-1\t\n\
            5\t1\t1\t1\t1\t1\t10\t5\t20\t8\t90\tTotal\n\
            5\t1\t1\t1\t1\t2\t40\t4\t20\t8\t70\t9.90\n\
            5\t1\t1\t1\t2\t1\t10\t25\t20\t8\t95\t \n\
            5\t1\t1\t1\t2\t2\t10\t25\t20\t8\t50\tThanks\n";
        let lines = lines_of(table);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text, "Total 9.90");
        assert_eq!(lines[0].bounds(), [10.0, 4.0, 60.0, 13.0]);
        assert!((lines[0].score - 0.8).abs() < 1e-9);
        assert_eq!(lines[1].text, "Thanks");
        assert_eq!(lines_of("nonsense\n\t\t\n"), []);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tesseract::at("no-such-tesseract".to_owned()).unwrap_err();
        assert!(error.to_string().contains("no-such-tesseract"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn programs_that_fail_or_hang_are_errors() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("fake");
        let fake = |body: &str, patience| {
            let text = format!("#!/bin/sh\n[ \"$1\" = --version ] && exec echo fake 1\n{body}\n");
            std::fs::write(&program, text).unwrap();
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&program, executable).unwrap();
            let mut engine = Tesseract::at(program.display().to_string()).unwrap();
            engine.patience = patience;
            let image = llavar_image::RgbImage::filled(64, 64, [9; 3]);
            engine
                .read(&Page::from_image("p.png".as_ref(), image))
                .unwrap_err()
                .to_string()
        };
        let said = fake("echo out of luck >&2; exit 1", PATIENCE);
        assert!(said.contains("p.png: out of luck"), "{said}");
        let said = fake("exec sleep 100", Duration::from_millis(50));
        assert!(said.contains("no result after"), "{said}");
    }
}
