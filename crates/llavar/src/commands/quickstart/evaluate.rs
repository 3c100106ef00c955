//! Asking held-out questions, in parallel.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use llavar_assistant::Assistant;
use llavar_eval::AnswerRow;
use llavar_metrics::contains_words;
use llavar_model::generation::GenerationOptions;
use rayon::prelude::*;

use crate::{
    failure::{Failure, Outcome},
    interrupt::stop_flag,
    progress::Progress,
};

/// A held-out question.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Id of the sample.
    pub(super) id: String,
    /// Image path as the set names it.
    pub(super) image: String,
    /// The file.
    pub(super) picture: PathBuf,
    /// Group in tables.
    pub(super) group: String,
    /// What is asked.
    pub(super) question: String,
    /// What the answer must contain.
    pub(super) gold: String,
}

/// Answers every question greedily, with its picture or (to see what guessing gives) without.
pub(super) fn ask_all(
    name: &str,
    assistant: &Assistant,
    questions: &[Question],
    with_picture: bool,
    max_new_tokens: usize,
) -> Outcome<Vec<AnswerRow>> {
    let mut groups: Vec<(&Path, Vec<usize>)> = Vec::new();
    let mut index: HashMap<&Path, usize> = HashMap::new();
    for (i, question) in questions.iter().enumerate() {
        let at = *index.entry(&question.picture).or_insert_with(|| {
            groups.push((&question.picture, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(i);
    }
    let options = GenerationOptions {
        max_new_tokens,
        ..assistant.defaults()
    };
    let stop = stop_flag()?;
    let progress = Mutex::new((
        0u64,
        Progress::new(name, "questions", questions.len() as u64),
    ));
    let answered: Vec<Outcome<Vec<(usize, AnswerRow)>>> = groups
        .par_iter()
        .map(|(picture, members)| {
            if stop.load(Ordering::SeqCst) {
                return Err(Failure::interrupted("not all questions were asked"));
            }
            // Seen once, asked several times.
            let features = if with_picture {
                vec![assistant.see_file(picture)?]
            } else {
                Vec::new()
            };
            let rows = members
                .iter()
                .map(|i| Ok((*i, row(assistant, &features, &questions[*i], &options)?)));
            let rows = rows.collect::<Outcome<Vec<_>>>()?;
            let mut shown = progress.lock().unwrap_or_else(PoisonError::into_inner);
            shown.0 += rows.len() as u64;
            let done = shown.0;
            shown.1.set(done, String::new());
            Ok(rows)
        })
        .collect();
    let mut rows: Vec<(usize, AnswerRow)> = answered
        .into_iter()
        .collect::<Outcome<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    rows.sort_by_key(|(i, _)| *i);
    let rows: Vec<AnswerRow> = rows.into_iter().map(|(_, row)| row).collect();
    let (_, bar) = progress
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let share = 100.0 * llavar_eval::answer::accuracy(&rows);
    bar.finish(&format!(
        "{name}: {share:.1} % of {} held-out questions right",
        rows.len()
    ));
    Ok(rows)
}

fn row(
    assistant: &Assistant,
    features: &[llavar_tensor::Tensor],
    q: &Question,
    options: &GenerationOptions,
) -> Outcome<AnswerRow> {
    let answer = assistant.ask(features, &q.question, options)?;
    Ok(AnswerRow {
        id: q.id.clone(),
        image: q.image.clone(),
        group: q.group.clone(),
        question: q.question.clone(),
        gold: q.gold.clone(),
        correct: contains_words(&answer.text, &q.gold),
        answer: answer.text,
    })
}
