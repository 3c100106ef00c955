//! Which question each answer belongs to.

use super::answers::{Answer, AnswersFile};
use super::error::BadLine;
use crate::tasks::{Task, stem};
use std::collections::HashMap;
use std::fmt;

/// Answers in the order of the task's questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// One entry for each of [`Task::items`]; none where the file has no answer.
    pub answers: Vec<Option<String>>,
    /// Which of [`AnswersFile::answers`] that is.
    pub numbers: Vec<Option<usize>>,
    /// What did not fit.
    pub report: MatchReport,
}

/// What an answers file lacks and has too much. Lines count from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatchReport {
    /// Questions of the task.
    pub questions: usize,
    /// Questions with an answer.
    pub answered: usize,
    /// Ids of questions without an answer. A score over all questions counts them as wrong.
    pub missing: Vec<String>,
    /// Answers to a question that has one already. The first counts.
    pub repeated: Vec<RepeatedAnswer>,
    /// Line and id (or picture and question) of answers that belong to no question.
    pub unknown: Vec<(usize, String)>,
    /// Lines that hold no answer.
    pub bad_lines: Vec<BadLine>,
}

/// A second answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedAnswer {
    /// Id of the question.
    pub id: String,
    /// Line of the answer that counts.
    pub first_line: usize,
    /// Line of this one.
    pub line: usize,
    /// Whether both have the same text.
    pub same: bool,
}

/// Finds the question of each answer: by the question's id; by an id that several questions share
/// (the picture's or the sample's) with the question's text; by picture and text; last, where the key
/// says that it is one (`doc_id`, `index`), by position.
pub fn match_answers(task: &Task, file: &AnswersFile) -> Matched {
    let index = Index::new(task);
    let mut taken: Vec<Option<usize>> = vec![None; task.items.len()];
    let mut report = MatchReport {
        questions: task.items.len(),
        bad_lines: file.bad_lines.clone(),
        ..MatchReport::default()
    };
    let by_position = counts_positions(task, &index, &file.answers);
    for (number, answer) in file.answers.iter().enumerate() {
        let found = if by_position {
            answer
                .position
                .filter(|&at| likeness(task, at, answer) > Likeness::Other)
        } else {
            index.find(task, answer, &taken)
        };
        let Some(item) = found else {
            report.unknown.push((answer.line, name_of(answer)));
            continue;
        };
        match taken[item] {
            None => taken[item] = Some(number),
            Some(first) => {
                let first = &file.answers[first];
                report.repeated.push(RepeatedAnswer {
                    id: task.items[item].id.clone(),
                    first_line: first.line,
                    line: answer.line,
                    same: first.text == answer.text,
                });
            }
        }
    }
    for (item, taken) in task.items.iter().zip(&taken) {
        if taken.is_none() {
            report.missing.push(item.id.clone());
        }
    }
    report.answered = report.questions - report.missing.len();
    let text = |number: Option<usize>| number.map(|number| file.answers[number].text.clone());
    Matched {
        answers: taken.iter().copied().map(text).collect(),
        numbers: taken,
        report,
    }
}

/// Questions by everything that may name them.
struct Index<'a> {
    by_id: HashMap<&'a str, usize>,
    by_source: HashMap<&'a str, Vec<usize>>,
    by_image: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(task: &'a Task) -> Self {
        let mut index = Self {
            by_id: HashMap::new(),
            by_source: HashMap::new(),
            by_image: HashMap::new(),
        };
        for (at, item) in task.items.iter().enumerate() {
            index.by_id.insert(&item.id, at);
            index.by_source.entry(&item.source_id).or_default().push(at);
            index
                .by_image
                .entry(item.image_stem())
                .or_default()
                .push(at);
        }
        index
    }

    fn find(&self, task: &Task, answer: &Answer, taken: &[Option<usize>]) -> Option<usize> {
        let by_id = answer
            .id
            .as_deref()
            .and_then(|id| self.by_id.get(id).copied());
        // A count from 0 may look like an id of the data set; then the text must agree.
        let trusted =
            |&at: &usize| answer.position.is_none() || likeness(task, at, answer) > Likeness::Other;
        if let Some(at) = by_id.filter(trusted) {
            return Some(at);
        }
        let ids = answer.id.as_deref();
        let shared = ids.and_then(|id| {
            self.by_source
                .get(id)
                .or_else(|| self.by_image.get(stem(id)))
        });
        let image = answer
            .image
            .as_deref()
            .and_then(|image| self.by_image.get(stem(image)));
        [shared, image]
            .into_iter()
            .flatten()
            .find_map(|group| choose(task, group, answer, taken))
    }
}

/// What an answer says of its question.
fn name_of(answer: &Answer) -> String {
    let (image, question) = (answer.image.as_deref(), answer.question.as_deref());
    match &answer.id {
        Some(id) => id.clone(),
        None => format!(
            "{}: {}",
            image.unwrap_or("no picture"),
            question.unwrap_or("")
        ),
    }
}

/// Whether the ids of a file count the questions from 0: they say so by their key, all lie in range,
/// and they are not ids of the data set.
fn counts_positions(task: &Task, index: &Index, answers: &[Answer]) -> bool {
    let none = vec![None; task.items.len()];
    let in_range = |a: &Answer| a.position.is_some_and(|at| at < task.items.len());
    answers.iter().all(in_range) && !answers.iter().all(|a| index.find(task, a, &none).is_some())
}

/// One of several questions of a picture or a sample: the one with this text. The same text may be
/// asked twice (a form has two fields of one name); then in the order of the file.
fn choose(task: &Task, group: &[usize], answer: &Answer, taken: &[Option<usize>]) -> Option<usize> {
    if answer.question.is_none() {
        return (group.len() == 1).then(|| group[0]);
    }
    let best = group.iter().map(|&at| likeness(task, at, answer)).max()?;
    if best == Likeness::Other {
        return None;
    }
    let fits = || {
        group
            .iter()
            .copied()
            .filter(|&at| likeness(task, at, answer) == best)
    };
    fits()
        .find(|&at| taken[at].is_none())
        .or_else(|| fits().next())
}

/// How much the question that an answer names is the item's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// It names another.
    Other,
    /// The item's question stands in it: tools put OCR text before the question and instructions
    /// after it. The longest such question fits best, because short ones stand in longer ones.
    Within(usize),
    /// It names none, or exactly this.
    Same,
}

fn likeness(task: &Task, at: usize, answer: &Answer) -> Likeness {
    let (Some(asked), Some(item)) = (&answer.question, task.items.get(at)) else {
        return Likeness::Same;
    };
    let (asked, own) = (words(asked), words(&item.question));
    if asked == own {
        Likeness::Same
    } else if !own.is_empty() && asked.contains(&own) {
        Likeness::Within(own.len())
    } else {
        Likeness::Other
    }
}

/// Lower case, single spaces, no picture tag.
fn words(text: &str) -> String {
    let text = text.replace("<image>", " ").to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl MatchReport {
    /// Whether every question has one answer and every line is one.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.repeated.is_empty()
            && self.unknown.is_empty()
            && self.bad_lines.is_empty()
    }
}

impl fmt::Display for MatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![format!(
            "{} of {} questions answered",
            self.answered, self.questions
        )];
        if let Some(first) = self.missing.first() {
            parts.push(format!("{} missing (first: {first:?})", self.missing.len()));
        }
        if let Some(first) = self.repeated.first() {
            let other = self.repeated.iter().filter(|r| !r.same).count();
            parts.push(format!(
                "{} repeated, {other} of them different (first: {:?} on lines {} and {}); the first counts",
                self.repeated.len(),
                first.id,
                first.first_line,
                first.line
            ));
        }
        if let Some((line, name)) = self.unknown.first() {
            parts.push(format!(
                "{} unknown (first: {name:?} on line {line})",
                self.unknown.len()
            ));
        }
        if let Some(first) = self.bad_lines.first() {
            parts.push(format!(
                "{} unusable line(s) (first: {first})",
                self.bad_lines.len()
            ));
        }
        f.write_str(&parts.join("; "))
    }
}
