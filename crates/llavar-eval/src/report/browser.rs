//! The questions of a task with their pictures and answers.

use super::input::{ReportColumn, ReportRun};
use super::summary::{answerer, distinct_names};
use crate::judge::shown_verdict;
use crate::results::ScoredRow;
use crate::samples::SampleKey;
use llavar_image::{DecodeLimits, ImageError, RgbImage, decode_file};
use llavar_report::{Answer, Card, Pictures, Thumbnail};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// A score from which an answer counts as right where the metric is not all or nothing: what ANLS itself
/// takes as the limit.
const RIGHT: f64 = 0.5;

/// Which questions are shown, and how much their pictures may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrowserOptions {
    /// Questions of each task at most; an even part of more.
    pub questions: usize,
    /// Only questions that somebody got wrong or did not answer.
    pub only_wrong: bool,
    /// Longest side of a picture, px.
    pub picture_side: usize,
    /// All pictures together, bytes of the page.
    pub picture_bytes: usize,
}

impl Default for BrowserOptions {
    fn default() -> Self {
        Self {
            questions: 400,
            only_wrong: false,
            picture_side: 640,
            picture_bytes: 24 << 20,
        }
    }
}

/// The questions of one task that are shown.
#[derive(Debug)]
pub struct Shown {
    /// Their cards.
    pub cards: Vec<Card>,
    /// Questions that there are.
    pub questions: usize,
    /// Those that the choice leaves: all, or the wrong ones.
    pub chosen: usize,
}

/// One question with everybody's answers.
struct Asked<'a> {
    row: &'a ScoredRow,
    verdicts: Vec<String>,
    answers: Vec<(String, &'a ScoredRow, Option<&'a str>)>,
}

/// The cards of one task (its title as in the summary).
pub(super) fn shown(
    runs: &[ReportRun],
    title: &str,
    options: &BrowserOptions,
    pictures: &mut Pictures,
) -> Shown {
    let names = distinct_names(runs);
    let mut order: Vec<Asked<'_>> = Vec::new();
    let mut known: HashMap<SampleKey, usize> = HashMap::new();
    let mut answerers = 0;
    for (run, name) in runs.iter().zip(&names) {
        for column in run.columns.iter().filter(|column| is_of(column, title)) {
            answerers += 1;
            let metric = column
                .result
                .metrics
                .first()
                .map(|metric| metric.metric.as_str());
            for row in &column.rows {
                let at = *known.entry(row.sample.key()).or_insert_with(|| {
                    order.push(Asked {
                        row,
                        verdicts: Vec::new(),
                        answers: Vec::new(),
                    });
                    order.len() - 1
                });
                let by = answerer(name, run, &column.result);
                order[at].answers.push((by, row, metric));
            }
        }
    }
    for (run, name) in runs.iter().zip(&names) {
        for column in run.columns.iter().filter(|column| is_of(column, title)) {
            for (judge, row) in column
                .judged
                .iter()
                .flat_map(|(judge, rows)| rows.iter().map(move |row| (judge, row)))
            {
                let key = (row.task.clone(), row.question_id.clone());
                if let Some(at) = known.get(&key) {
                    let said = shown_verdict(row.verdict);
                    order[*at].verdicts.push(format!(
                        "{}, {}: {said}",
                        judge.title(name),
                        judge.label
                    ));
                }
            }
        }
    }
    let questions = order.len();
    if options.only_wrong {
        order.retain(|asked| {
            asked
                .answers
                .iter()
                .any(|(_, row, m)| is_right(row, *m) != Some(true))
        });
    }
    let chosen = order.len();
    let every = chosen.div_ceil(options.questions.max(1)).max(1);
    let kept: Vec<&Asked<'_>> = order.iter().step_by(every).collect();
    prepare(&kept, pictures);
    let cards = kept
        .iter()
        .map(|asked| card(asked, answerers > 1, pictures))
        .collect();
    Shown {
        cards,
        questions,
        chosen,
    }
}

fn is_of(column: &ReportColumn, title: &str) -> bool {
    column.result.title() == title
}

/// Whether the answer is right by the task's first metric; none for graded ones (captions) and for
/// questions that are not scored.
fn is_right(row: &ScoredRow, metric: Option<&str>) -> Option<bool> {
    let metric = metric?;
    let graded = ["bleu", "meteor", "rouge", "cider", "token_f1"];
    if graded.iter().any(|prefix| metric.starts_with(prefix)) {
        return None;
    }
    row.scores.get(metric).map(|score| *score >= RIGHT)
}

fn card(asked: &Asked<'_>, several: bool, pictures: &mut Pictures) -> Card {
    let sample = &asked.row.sample;
    let mut remarks = asked.verdicts.clone();
    if asked.row.scores.is_empty() {
        remarks.push("not scored".to_owned());
    }
    Card {
        id: sample.question_id.clone(),
        picture: picture(asked, pictures),
        picture_name: sample.image.clone(),
        category: sample.category.clone().unwrap_or_default(),
        question: sample.prompt.clone(),
        gold: sample.gt.clone(),
        answers: asked
            .answers
            .iter()
            .map(|(by, row, metric)| answer(by, row, *metric, several))
            .collect(),
        remarks,
    }
}

fn answer(by: &str, row: &ScoredRow, metric: Option<&str>, several: bool) -> Answer {
    let (text, failed) = match (&row.sample.error, row.answered) {
        (Some(error), _) => (format!("failed: {error}"), true),
        (None, false) => ("no answer".to_owned(), true),
        (None, true) => (row.sample.text.clone(), false),
    };
    // The metric that is looked at first stands first.
    let mut scores: Vec<(String, f64)> = row.scores.iter().map(|(n, s)| (n.clone(), *s)).collect();
    scores.sort_by_key(|(name, _)| Some(name.as_str()) != metric);
    Answer {
        by: if several {
            by.to_owned()
        } else {
            String::new()
        },
        text,
        right: is_right(row, metric),
        failed,
        scores,
    }
}

/// The picture's file, from whichever run has found it.
fn path<'a>(asked: &Asked<'a>) -> Option<&'a Path> {
    let mut paths = asked
        .answers
        .iter()
        .filter_map(|(_, row, _)| row.image_path.as_deref());
    paths
        .find(|path| path.is_file())
        .or(asked.row.image_path.as_deref())
}

/// Decodes and shrinks the pictures on all cores; their order on the page stays that of the questions.
fn prepare(asked: &[&Asked<'_>], pictures: &mut Pictures) {
    let mut seen = HashSet::new();
    let new = asked.iter().filter_map(|asked| path(asked));
    let new: Vec<&Path> = new
        .filter(|path| !pictures.knows(&path.to_string_lossy()) && seen.insert(*path))
        .collect();
    // A stretch at a time: a full page needs no more of them.
    for some in new.chunks(64) {
        if pictures.is_full() {
            break;
        }
        let shared = &*pictures;
        let made: Vec<_> = some
            .par_iter()
            .map(|path| shared.prepare(&read(path)?))
            .collect();
        for (path, made) in some.iter().zip(made) {
            pictures.place(&path.to_string_lossy(), made);
        }
    }
}

fn picture(asked: &Asked<'_>, pictures: &mut Pictures) -> Thumbnail {
    match path(asked) {
        Some(path) => pictures.get(&path.to_string_lossy(), || read(path)),
        None if asked.row.sample.image.is_empty() => Thumbnail::None,
        None => Thumbnail::Missing("its file was not found when the answers were scored".into()),
    }
}

fn read(path: &Path) -> Result<RgbImage, ImageError> {
    decode_file(path, &DecodeLimits::default())
}
