//! The questions of one task, put to a model in one way.

use super::{Answerer, Ask, PromptFormat, Replies, Reply, RunError};
use crate::results::{
    ERRORS_FILE, ModelInfo, OcrMode, RunSettings, SAMPLES_FILE, SETTINGS_FILE, write_json,
    write_rows,
};
use crate::run::{DataSource, RunRecord, read_record};
use crate::samples::{Recovery, SampleRow, SampleStore, Shard};
use crate::tasks::{Item, Task};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Text that stands before the prompt of a question, line break included; why there is none.
pub type Prefix<'a> = &'a (dyn Fn(&Item) -> Result<String, String> + Sync);

/// One task asked in one way.
pub struct Column<'a> {
    /// The questions.
    pub task: &'a Task,
    /// What decides the answers.
    pub settings: RunSettings,
    /// The prompts.
    pub format: PromptFormat,
    /// OCR text before every question.
    pub prefix: Option<Prefix<'a>>,
    /// Where the questions came from, for the record.
    pub source: DataSource,
    /// The column's folder.
    pub folder: PathBuf,
    /// Which part of the questions this process asks.
    pub shard: Shard,
}

/// How far a column is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunView {
    /// Questions of this process's part that can be asked.
    pub total: usize,
    /// Those that are done, of earlier runs too.
    pub done: usize,
    /// Those that earlier runs have answered.
    pub resumed: usize,
    /// Those that failed now.
    pub failed: usize,
}

/// What came of asking.
#[derive(Debug)]
pub struct Asked {
    /// All answers of this process's part.
    pub rows: Vec<SampleRow>,
    /// Questions that failed; they are asked again next time.
    pub errors: Vec<SampleRow>,
    /// How far it went.
    pub view: RunView,
    /// Whether it was stopped before the end.
    pub stopped: bool,
    /// What was wrong with the file of answers.
    pub recovery: Recovery,
}

impl RunView {
    /// Questions answered by this run.
    pub fn new_answers(&self) -> usize {
        self.done - self.resumed
    }
}

/// Name of a column: `docvqa_val`, `docvqa_val-ocr`.
pub fn column_name(task: &str, split: &str, ocr: OcrMode) -> String {
    let end = match ocr {
        OcrMode::Off => "",
        OcrMode::On => "-ocr",
    };
    match split {
        "" => format!("{task}{end}"),
        split => format!("{task}_{split}{end}"),
    }
}

impl Column<'_> {
    /// Its name, see [`column_name`].
    pub fn name(&self) -> String {
        let RunSettings {
            task,
            split,
            prompt,
            ..
        } = &self.settings;
        column_name(task, split, prompt.ocr)
    }

    /// Asks everything that is not answered yet. Answers are on disk when they are counted in what
    /// `observe` sees; it is called after every batch and ends the run by setting `stop` (as a signal
    /// handler does).
    ///
    /// Questions are grouped by picture, so that a picture is encoded once however small the memory for
    /// it is.
    ///
    /// # Errors
    /// [`RunError::SettingsChanged`] where the folder holds answers of other settings, and where files or
    /// the model fail. Faults of single questions are in [`Asked::errors`].
    pub fn ask_all(
        &self,
        answerer: &mut dyn Answerer,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&RunView),
    ) -> Result<Asked, RunError> {
        answerer.check(&self.settings.decode)?;
        self.write_record()?;
        let run = self.settings.fingerprint();
        let samples = self.shard.file(&self.folder.join(SAMPLES_FILE));
        let (mut store, recovery) = SampleStore::open(&samples, &run)?;
        let mine = by_picture(self.shard.of(&self.task.items));
        let left: Vec<&Item> = store.left(self.task, mine.iter().copied());
        let resumed = mine.len() - left.len();
        let mut view = RunView {
            total: mine.len(),
            done: resumed,
            resumed,
            failed: 0,
        };
        let mut errors = Vec::new();
        observe(&view);
        for some in left.chunks(answerer.at_once().max(1)) {
            if stop.load(Relaxed) {
                break;
            }
            let mut asks = Vec::with_capacity(some.len());
            let mut items = Vec::with_capacity(some.len());
            // OCR takes longer than anything else before the model. The questions of a picture stand together and are
            // one piece of work: asked about at once, it would be read by several threads.
            let of_one_picture = some.chunk_by(|a, b| a.image_path == b.image_path);
            let pictures: Vec<&[&Item]> = of_one_picture.collect();
            let prepared: Vec<_> = pictures
                .par_iter()
                .flat_map_iter(|items| items.iter().map(|item| self.ask(item)))
                .collect();
            for (item, ask) in some.iter().zip(prepared) {
                match ask {
                    Ok(ask) => {
                        asks.push(ask);
                        items.push(*item);
                    }
                    Err(error) => errors.push(self.error_row(item, &run, error)),
                }
            }
            let mut fault = None;
            let mut keep = |replies: Replies| {
                let mut rows = Vec::with_capacity(replies.len());
                for (number, reply) in replies {
                    let Some(item) = items.get(number) else {
                        continue;
                    };
                    match reply {
                        Ok(reply) => rows.push(self.row(item, &run, reply)),
                        Err(error) => errors.push(self.error_row(item, &run, error)),
                    }
                }
                let count = rows.len();
                match store.append_all(rows) {
                    Ok(()) => {
                        view.done += count;
                        observe(&view);
                    }
                    Err(error) => fault = Some(error),
                }
                match fault.is_some() || stop.load(Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let answered = answerer.answer(&asks, &self.settings.decode, stop, &mut keep);
            if let Some(fault) = fault {
                return Err(fault.into());
            }
            view.failed = errors.len();
            observe(&view);
            answered?;
        }
        let path = self.shard.file(&self.folder.join(ERRORS_FILE));
        if !errors.is_empty() || path.exists() {
            write_rows(&path, &errors)?;
        }
        Ok(Asked {
            rows: store.rows().to_vec(),
            stopped: view.done + view.failed < view.total,
            errors,
            view,
            recovery,
        })
    }

    /// Refuses answers of other settings by name, and writes `run.json`.
    fn write_record(&self) -> Result<(), RunError> {
        let record = RunRecord {
            settings: self.settings.clone(),
            source: self.source.clone(),
        };
        let known = read_record(&self.folder)?;
        if let Some(known) = &known
            && let Some((setting, found, now)) = known.settings.difference(&self.settings)
        {
            return Err(RunError::SettingsChanged {
                folder: self.folder.clone(),
                setting,
                found,
                now,
            });
        }
        if known.as_ref() != Some(&record) {
            write_json(&self.folder.join(SETTINGS_FILE), &record)?;
        }
        Ok(())
    }

    fn ask<'i>(&self, item: &'i Item) -> Result<Ask<'i>, String> {
        let Some(image) = &item.image_path else {
            return Err("its picture is absent".into());
        };
        let before = self
            .prefix
            .map_or(Ok(String::new()), |prefix| prefix(item))?;
        Ok(Ask {
            id: &item.id,
            image,
            prompt: before + &self.format.prompt(&item.question),
        })
    }

    fn row(&self, item: &Item, run: &str, reply: Reply) -> SampleRow {
        let ModelInfo { id, .. } = &self.settings.model;
        let mut row = SampleRow::new(self.task, item, reply.text, id, run);
        row.prompt = self.format.prompt(&item.question);
        row.metadata = reply.metadata;
        if self.settings.prompt.ocr == OcrMode::On {
            row.metadata
                .insert("ocr".into(), OcrMode::On.as_str().into());
        }
        row.seal();
        row
    }

    fn error_row(&self, item: &Item, run: &str, error: String) -> SampleRow {
        let reply = Reply {
            text: String::new(),
            metadata: Default::default(),
        };
        let mut row = self.row(item, run, reply);
        row.error = Some(error);
        row
    }
}

/// Those questions that can be asked, all of one picture together, else in their order.
fn by_picture(items: &[Item]) -> Vec<&Item> {
    let mut places: HashMap<&Path, usize> = HashMap::new();
    let mut groups: Vec<Vec<&Item>> = Vec::new();
    for item in items {
        let Some(path) = &item.image_path else {
            continue;
        };
        let place = *places.entry(path).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(item);
    }
    groups.into_iter().flatten().collect()
}
