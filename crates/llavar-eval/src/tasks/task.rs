//! A benchmark that was opened: its questions and what it lacks.

use super::error::{BadRow, TaskError};
use super::images::{ImageCheck, Images};
use super::item::Item;
use super::missing::{Missing, Official};
use super::registry::{self, Benchmark};
use super::tree::Tree;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a task is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Split to read. Where none is given, the one on which the published figures were measured (SROIE
    /// and ST-VQA: train), or the first that is there.
    pub split: Option<String>,
    /// Where the pictures lie, if not in the benchmark's own layout. Looked at first.
    pub image_folder: Option<PathBuf>,
    /// How closely pictures are looked at.
    pub image_check: ImageCheck,
    /// Also read the data set's own OCR tokens into [`Item::extra`] (TextVQA: the Rosetta file).
    pub ocr_tokens: bool,
}

/// A benchmark with all its questions.
#[derive(Debug, Clone)]
pub struct Task {
    /// Name, as in the list of [`task_names`](super::task_names); of a word set its own name.
    pub name: String,
    /// Split that was read.
    pub split: String,
    /// Folder or file as given.
    pub folder: PathBuf,
    /// Annotation files or folders that were read.
    pub sources: Vec<PathBuf>,
    /// Names of the default metrics; the first is the one that the literature reports.
    pub metrics: &'static [&'static str],
    /// Text that is appended to every question.
    pub prompt_suffix: &'static str,
    /// Limit of the answer that the literature uses, tokens.
    pub max_new_tokens: usize,
    /// All questions in the data set's order, also those whose picture is absent.
    pub items: Vec<Item>,
    /// What keeps the task from being whole.
    pub missing: Missing,
    /// What a reader of the score must know about this split, in one line.
    pub note: Option<&'static str>,
}

/// Task and split in words; a split that nobody named is left out.
pub fn title(task: &str, split: &str) -> String {
    match split {
        "" => task.to_owned(),
        _ => format!("{task} ({split})"),
    }
}

impl Task {
    /// Opens a benchmark with the default [`Options`].
    ///
    /// `name` is one of [`task_names`](super::task_names) or an alias of it; case, spaces, `-` and
    /// `_` do not matter. `folder` is the benchmark's folder, a folder above or below it, or its
    /// annotation file.
    ///
    /// # Errors
    /// See [`TaskError`]. Absent pictures and bad rows are counted in [`Task::missing`], not errors.
    pub fn open(name: &str, folder: &Path) -> Result<Self, TaskError> {
        Self::open_with(name, folder, &Options::default())
    }

    /// Opens a benchmark; see [`Task::open`].
    ///
    /// # Errors
    /// See [`TaskError`].
    pub fn open_with(name: &str, folder: &Path, options: &Options) -> Result<Self, TaskError> {
        let (benchmark, split) = registry::find(name)?;
        let split = options.split.clone().or(split);
        let request = Request {
            benchmark,
            alias: registry::normalise(name),
            split: split.as_deref(),
            ocr_tokens: options.ocr_tokens,
            tree: Tree::read(benchmark.name, folder)?,
        };
        let draft = (benchmark.read)(&request)?;
        let own_name = benchmark.aliases_are_sets && benchmark.aliases.contains(&&*request.alias);
        let name = if own_name {
            &request.alias
        } else {
            benchmark.name
        };
        Self::finish(benchmark, name, folder, draft, options)
    }

    /// Questions that can be asked: their picture is there.
    pub fn answerable(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.image_path.is_some())
    }

    /// The text that is put to the model: the question and the task's suffix.
    pub fn prompt(&self, item: &Item) -> String {
        format!("{}{}", item.question, self.prompt_suffix)
    }

    fn finish(
        benchmark: &'static Benchmark,
        name: &str,
        folder: &Path,
        draft: Draft,
        options: &Options,
    ) -> Result<Self, TaskError> {
        let source = || {
            draft
                .sources
                .first()
                .cloned()
                .unwrap_or_else(|| folder.to_path_buf())
        };
        if draft.questions.is_empty() {
            return Err(TaskError::NoQuestions {
                task: benchmark.name,
                path: source(),
                first: draft.bad_rows.first().map(BadRow::to_string),
            });
        }
        let own = options.image_folder.iter().cloned();
        let folders: Vec<PathBuf> = own.chain(draft.image_folders).collect();
        let mut images = Images::new(&folders, options.image_check);
        let mut missing = Missing {
            official: draft.official.filter(|o| o.found < o.published),
            files: draft.absent_files,
            questions: draft.questions.len(),
            rows: draft.bad_rows,
            ..Missing::default()
        };
        let mut ids: HashMap<String, usize> = HashMap::new();
        let mut items = Vec::with_capacity(draft.questions.len());
        for question in draft.questions {
            let image_path = images.find(&question.images);
            if options.image_check != ImageCheck::None && image_path.is_none() {
                missing.questions_without_image += 1;
            }
            if question.answers.is_empty() {
                missing.questions_without_answer += 1;
            } else if question.answers.iter().all(String::is_empty) {
                missing.empty_references += 1;
            }
            let times = ids.entry(question.id.clone()).or_default();
            *times += 1;
            let id = if *times == 1 {
                question.id
            } else {
                missing.repeated_ids.push(question.id.clone());
                format!("{}#{times}", question.id)
            };
            items.push(Item {
                id,
                source_id: question.source_id,
                image: question.images.into_iter().next().unwrap_or_default(),
                image_path,
                question: question.question,
                answers: question.answers,
                category: question.category,
                extra: question.extra,
            });
        }
        missing.images = images.len();
        missing.images_absent = images.absent;
        missing.images_unusable = images.unusable;
        Ok(Self {
            name: name.to_string(),
            split: draft.split.to_string(),
            folder: folder.to_path_buf(),
            sources: draft.sources,
            metrics: benchmark.metrics,
            prompt_suffix: benchmark.prompt_suffix,
            max_new_tokens: benchmark.max_new_tokens,
            items,
            missing,
            note: draft.note,
        })
    }
}

/// What a builder is asked for.
pub(super) struct Request<'a> {
    pub(super) benchmark: &'static Benchmark,
    /// The name as given, normalised: word sets go by the name of their folder.
    pub(super) alias: String,
    pub(super) split: Option<&'a str>,
    pub(super) ocr_tokens: bool,
    pub(super) tree: Tree,
}

impl Request<'_> {
    /// [`super::split::choose`] with this request's fields.
    pub(super) fn choose<T>(
        &self,
        order: &[&'static str],
        locate: impl Fn(&'static str) -> Option<T>,
    ) -> Result<(&'static str, T), TaskError> {
        let Benchmark { name, layout, .. } = self.benchmark;
        super::split::choose(name, layout, &self.tree, self.split, order, locate)
    }
}

/// What a builder made, before pictures are looked for.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) split: &'static str,
    pub(super) sources: Vec<PathBuf>,
    pub(super) image_folders: Vec<PathBuf>,
    pub(super) questions: Vec<Question>,
    pub(super) bad_rows: Vec<BadRow>,
    pub(super) absent_files: Vec<String>,
    pub(super) official: Option<Official>,
    pub(super) note: Option<&'static str>,
}

/// One question as a builder makes it.
#[derive(Default)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) source_id: String,
    /// Paths under which the picture may lie; the first is its name.
    pub(super) images: Vec<String>,
    pub(super) question: String,
    pub(super) answers: Vec<String>,
    pub(super) category: Option<String>,
    pub(super) extra: Map<String, Value>,
}
