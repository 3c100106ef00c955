//! `llavar ocr run`: pictures in, lines out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use llavar_ocr::{EngineChoice, Line, OcrError, Page, Reader, page_layout};
use serde::Serialize;

use super::super::{
    pictures::{Job, jobs},
    print, write_file,
};
use crate::{
    failure::{Class, Failure, Outcome},
    interrupt,
    progress::Progress,
};

/// Read pictures: text, JSON with quads and scores, or sidecar files for `--ocr sidecar:FOLDER`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llavar ocr run receipt.jpg\n         llavar ocr run scans/ --out ocr/ && llavar ask --ocr sidecar:ocr/ ..."
)]
pub(crate) struct Args {
    /// Pictures, or folders of pictures.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// ppocr, ppocr-v4, tesseract, sidecar or sidecar:FILE-OR-FOLDER.
    #[arg(long, default_value = "ppocr")]
    engine: EngineChoice,
    /// Print one JSON object a picture and line of output.
    #[arg(long)]
    json: bool,
    /// Write PICTURE.ocr.json files into this folder instead of printing.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print the page as it is laid out, as models see it.
    #[arg(long, conflicts_with = "json")]
    layout: bool,
    /// Neither use nor keep earlier results.
    #[arg(long)]
    no_cache: bool,
}

/// What is printed and written of a picture.
#[derive(Debug, Serialize)]
struct Report<'a> {
    image: &'a Path,
    engine: &'a str,
    lines: &'a [Line],
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let jobs = jobs(&args.images, ".ocr.json", args.out.is_some())?;
    let engine = args.engine.open()?;
    let reader = if args.no_cache {
        Reader::new(engine, None)
    } else {
        Reader::of_user(engine)
    };
    let flag = interrupt::stop_flag()?;
    let stop = || flag.load(Ordering::SeqCst);
    let begun = Instant::now();
    let mut progress = Progress::new("reading", "pictures", jobs.len() as u64);
    let (mut read, mut lines_read, mut bad) = (0, 0, 0);
    let outcome = in_order(&jobs, &reader, &stop, |at, result| {
        let job = &jobs[at];
        match result {
            Ok(lines) => {
                read += 1;
                lines_read += lines.len();
                show(&args, &reader, job, &lines, jobs.len() > 1)?;
            }
            // One bad picture must not end the work on thousands.
            Err(error) => {
                bad += 1;
                let said = Failure::from(error).to_string();
                let said = said.strip_prefix("error: ").unwrap_or(&said);
                progress.line(&format!("not read: {said}"));
            }
        }
        progress.set(at as u64 + 1, format!("{bad} bad"));
        Ok(())
    });
    let seconds = begun.elapsed().as_secs_f64();
    let rate = read as f64 / seconds.max(1e-9);
    progress.finish(&format!(
        "{read} of {} pictures read by {}, {lines_read} lines, {bad} bad; {seconds:.1} s, {rate:.2} pictures/s",
        jobs.len(),
        reader.engine().name(),
    ));
    outcome?;
    if stop() {
        return Err(Failure::interrupted(
            "what was read is kept; the same command goes on",
        ));
    }
    if bad > 0 {
        let what = format!("{bad} of {} pictures could not be read", jobs.len());
        let hint = match bad < jobs.len() {
            true => "the others were read; see the errors above",
            false => "see the errors above",
        };
        return Err(Failure::new(Class::Data, what).hint(hint));
    }
    Ok(())
}

/// Reads pages on all threads and hands results on in the order of the jobs.
fn in_order(
    jobs: &[Job],
    reader: &Reader,
    stop: &(dyn Fn() -> bool + Sync),
    mut each: impl FnMut(usize, Result<Arc<[Line]>, OcrError>) -> Outcome,
) -> Outcome {
    let next = AtomicUsize::new(0);
    let failed = std::sync::atomic::AtomicBool::new(false);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        let (next, failed) = (&next, &failed);
        scope.spawn(move || {
            rayon::scope(|pages| {
                // As many pages as threads, each of which also helps with the lines of the others.
                for _ in 0..rayon::current_num_threads() {
                    let sender = sender.clone();
                    pages.spawn(move |_| {
                        loop {
                            let at = next.fetch_add(1, Ordering::Relaxed);
                            if at >= jobs.len() || stop() || failed.load(Ordering::Relaxed) {
                                break;
                            }
                            let read =
                                Page::open(&jobs[at].image).and_then(|page| reader.read(&page));
                            if sender.send((at, read)).is_err() {
                                break;
                            }
                        }
                    });
                }
                drop(sender);
            });
        });
        let mut waiting = BTreeMap::new();
        let mut due = 0;
        let mut outcome = Ok(());
        for (at, read) in results {
            waiting.insert(at, read);
            while let Some(read) = waiting.remove(&due) {
                if outcome.is_ok() {
                    outcome = each(due, read);
                    failed.store(outcome.is_err(), Ordering::Relaxed);
                }
                due += 1;
            }
        }
        outcome
    })
}

fn show(args: &Args, reader: &Reader, job: &Job, lines: &[Line], many: bool) -> Outcome {
    let report = Report {
        image: &job.image,
        engine: reader.engine().name(),
        lines,
    };
    let json =
        || serde_json::to_string(&report).map_err(|error| Failure::new(Class::Failure, error));
    if let Some(out) = &args.out {
        write_file(&out.join(&job.result), (json()? + "\n").as_bytes())?;
        return Ok(());
    }
    if args.json {
        return print(json()? + "\n");
    }
    let mut text = String::new();
    if many {
        text += &format!("== {}\n", job.image.display());
    }
    if args.layout {
        text += &page_layout(lines);
        text.push('\n');
    } else {
        for line in lines {
            text += &line.text;
            text.push('\n');
        }
    }
    print(text)
}
