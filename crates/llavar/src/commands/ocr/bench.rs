//! `llavar ocr bench`: engines on labelled pages, one after the other on every page.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use llavar_ocr::{
    Engine, EngineChoice, Line, Page,
    bench::{LabelledPage, WordCounts, labelled_pages},
};
use serde::Serialize;
use serde_json::Value;

use super::super::{print, print_json};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::Progress,
};

/// Measure engines on labelled pages (layouts of SROIE and FUNSD, found below the folders given).
///
/// Every page is read by every engine in turn, one page at a time with all threads, so that a busy machine
/// is as busy for each of them; results are not cached. A labelled word is found if it occurs in the text
/// of a line (lower case, letters and digits alone), as often as it is labelled; it is found whole if it is
/// a word between spaces.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar ocr bench data/SROIE2019/test data/FUNSD/testing_data --engine ppocr --engine tesseract"
)]
pub(crate) struct Args {
    /// Folders with labelled pages.
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Engines: ppocr, ppocr-v4, tesseract, sidecar:FOLDER; may be repeated.
    #[arg(long = "engine", default_value = "ppocr")]
    engines: Vec<EngineChoice>,
    /// Measure RapidOCR too, in this Python, which has rapidocr-onnxruntime or rapidocr.
    #[arg(long, value_name = "PYTHON")]
    rapidocr: Option<PathBuf>,
    /// Read every N-th page only.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// One engine under measurement.
struct Subject {
    name: String,
    reads: Reads,
    /// By set: counts and seconds of each page.
    sets: Vec<(WordCounts, Vec<f64>)>,
}

enum Reads {
    Here(Box<dyn Engine>),
    There(Worker),
}

/// A Python process that reads pictures as long as it is asked to.
struct Worker {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Serialize)]
struct Row {
    set: String,
    engine: String,
    pages: usize,
    words: usize,
    found: f64,
    whole: f64,
    median_seconds: f64,
    pages_per_second: f64,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let mut pages: Vec<LabelledPage> = Vec::new();
    for folder in &args.data {
        pages.extend(
            labelled_pages(folder)?
                .into_iter()
                .step_by(args.every as usize),
        );
    }
    if pages.is_empty() {
        return Err(
            Failure::new(Class::Data, "no labelled pages below these folders").hint(
                "expected are img/ beside box/ (SROIE) or images/ beside annotations/ (FUNSD)",
            ),
        );
    }
    let mut sets: Vec<PathBuf> = pages.iter().map(|page| page.set.clone()).collect();
    sets.dedup();
    let mut subjects = Vec::new();
    for choice in &args.engines {
        subjects.push(Subject::new(
            choice.to_string(),
            Reads::Here(choice.open()?),
            sets.len(),
        ));
    }
    if let Some(python) = &args.rapidocr {
        let (worker, name) = Worker::start(python)?;
        subjects.push(Subject::new(name, Reads::There(worker), sets.len()));
    }
    let mut progress = Progress::new("measuring", "pages", pages.len() as u64);
    for (at, page) in pages.iter().enumerate() {
        let set = sets
            .iter()
            .position(|set| *set == page.set)
            .unwrap_or_default();
        for subject in &mut subjects {
            let (lines, seconds) = subject.read(&page.image)?;
            let (counts, times) = &mut subject.sets[set];
            counts.add(WordCounts::of(&page.words, &lines));
            times.push(seconds);
        }
        progress.set(at as u64 + 1, String::new());
    }
    progress.finish(&format!(
        "{} pages by {} engines",
        pages.len(),
        subjects.len()
    ));
    let rows: Vec<Row> = sets
        .iter()
        .enumerate()
        .flat_map(|(at, set)| subjects.iter().map(move |subject| subject.row(at, set)))
        .collect();
    if args.json {
        return print_json(&rows);
    }
    let mut text = format!(
        "{:<28} {:<22} {:>6} {:>7} {:>8} {:>8} {:>14} {:>9}\n",
        "set", "engine", "pages", "words", "found", "whole", "median s/page", "pages/s"
    );
    for row in rows {
        text += &format!(
            "{:<28} {:<22} {:>6} {:>7} {:>6.1} % {:>6.1} % {:>14.3} {:>9.2}\n",
            row.set,
            row.engine,
            row.pages,
            row.words,
            row.found * 100.0,
            row.whole * 100.0,
            row.median_seconds,
            row.pages_per_second,
        );
    }
    print(text)
}

impl Subject {
    fn new(name: String, reads: Reads, sets: usize) -> Self {
        Self {
            name,
            reads,
            sets: vec![Default::default(); sets],
        }
    }

    /// Lines of a picture, and how long it took from its file to them.
    fn read(&mut self, image: &Path) -> Outcome<(Vec<Line>, f64)> {
        match &mut self.reads {
            Reads::Here(engine) => {
                let begun = Instant::now();
                let lines = engine.read(&Page::open(image)?)?;
                Ok((lines, begun.elapsed().as_secs_f64()))
            }
            Reads::There(worker) => worker.read(image),
        }
    }

    fn row(&self, set: usize, path: &Path) -> Row {
        let (counts, times) = &self.sets[set];
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        Row {
            set: parts[parts.len().saturating_sub(2)..].join("/"),
            engine: self.name.clone(),
            pages: times.len(),
            words: counts.labelled,
            found: counts.found_share(),
            whole: counts.whole_share(),
            median_seconds: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            pages_per_second: times.len() as f64 / times.iter().sum::<f64>().max(1e-9),
        }
    }
}

impl Worker {
    /// Starts the process and waits until its models are loaded; gives its engine's name.
    fn start(python: &Path) -> Outcome<(Self, String)> {
        let threads = rayon::current_num_threads();
        let failed = |reason: String| {
            let what = format!("{} cannot run RapidOCR: {reason}", python.display());
            Failure::new(Class::Failure, what).hint("pip install rapidocr-onnxruntime into it")
        };
        let mut process = Command::new(python)
            .args(["-c", include_str!("rapidocr.py"), &threads.to_string()])
            .env("OMP_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (ask, answers) = pipes.ok_or_else(|| failed("it has no pipes".to_owned()))?;
        let mut worker = Self {
            process,
            ask,
            answers: BufReader::new(answers),
        };
        let ready = worker
            .answer()
            .map_err(|_| failed("it ended at once".to_owned()))?;
        let name = ready["ready"].as_str().unwrap_or("rapidocr").to_owned();
        Ok((worker, name))
    }

    fn answer(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        let broken = |error: String| {
            Failure::new(
                Class::Failure,
                format!("RapidOCR's process failed: {error}"),
            )
        };
        self.answers
            .read_line(&mut line)
            .map_err(|error| broken(error.to_string()))?;
        serde_json::from_str(&line)
            .map_err(|_| broken("it ended, or said something else".to_owned()))
    }

    fn read(&mut self, image: &Path) -> Outcome<(Vec<Line>, f64)> {
        writeln!(self.ask, "{}", image.display())
            .and_then(|()| self.ask.flush())
            .map_err(|error| Failure::new(Class::Failure, error))?;
        let answer = self.answer()?;
        let texts = answer["texts"].as_array().into_iter().flatten();
        let texts = texts.filter_map(Value::as_str);
        let lines = texts
            .map(|text| Line::in_box([0.0; 4], text, 1.0))
            .collect();
        Ok((lines, answer["seconds"].as_f64().unwrap_or_default()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
