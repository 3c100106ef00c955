//! Asking the judge, with a journal that a killed run goes on with.

use super::prompt::{Better, JudgeKind, JudgePrompt, read_score, read_verdict};
use super::result::{
    FOLDER, JOURNAL_FILE, JUDGED_FILE, JudgeCounts, JudgeResult, JudgedRow, PairResult,
    RESULT_FILE, Verdict,
};
use crate::compare::compare;
use crate::fingerprint::Fingerprint;
use crate::results::{
    DecodeSettings, Estimate, ModelInfo, ResultsError, ScoredRow, write_json, write_rows,
};
use crate::run::{RemoteAsk, RemoteModel, Reply};
use crate::samples::{Recovery, SampleError, SampleKey, SampleRow, SampleStore};
use crate::score::{clusters, standard_error};
use llavar_client::ClientError;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const SCHEMA: u32 = 1;

/// Everything that decides a judge's verdicts, but the answers: those are part of each journal row's key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeSettings {
    /// Name of the task.
    pub task: String,
    /// Split.
    pub split: String,
    /// Points or pairs.
    pub kind: JudgeKind,
    /// The judge.
    pub judge: ModelInfo,
    /// Its prompt.
    pub prompt: JudgePrompt,
    /// Whether it sees the picture.
    pub picture: bool,
    /// Its decoding.
    pub decode: DecodeSettings,
    /// Whose answers are judged.
    pub a: JudgedRun,
    /// Whose answers they are judged against.
    pub b: Option<JudgedRun>,
}

/// A run that is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedRun {
    /// Its name.
    pub name: String,
    /// Name of its model, if it is known.
    pub model_id: Option<String>,
    /// Fingerprint of its settings, if they are known.
    pub run: Option<String>,
}

/// A judge that cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] SampleError),
    /// The files of results.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing to judge.
    #[error("{task}: none of the {questions} questions has an answer to judge")]
    NothingToJudge {
        /// The task.
        task: String,
        /// Questions of the column.
        questions: usize,
    },
}

/// How far a judge is, in requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JudgeView {
    /// All of them.
    pub total: usize,
    /// Those that are done, of earlier runs too.
    pub done: usize,
    /// Those that earlier runs have done.
    pub resumed: usize,
    /// Those that failed now.
    pub failed: usize,
}

/// What came of judging.
#[derive(Debug)]
pub struct JudgeRun {
    /// The result, as written.
    pub result: JudgeResult,
    /// The judge's folder.
    pub folder: PathBuf,
    /// How far it went.
    pub view: JudgeView,
    /// What was wrong with the journal.
    pub recovery: Recovery,
    /// The first error of a single request.
    pub first_error: Option<String>,
}

/// The answers of a column, or of two, before a judge.
#[derive(Debug)]
pub struct Judge<'a> {
    /// What decides the verdicts.
    pub settings: JudgeSettings,
    /// The rows of A.
    pub a: &'a [ScoredRow],
    /// The rows of B, for pairs.
    pub b: Option<&'a [ScoredRow]>,
    /// The folder of A's column; the judge's own folder is made in it.
    pub column: &'a Path,
}

/// One question before the judge.
struct Case<'a> {
    row: &'a ScoredRow,
    /// Request for each order, and its key in the journal.
    orders: Vec<(String, String)>,
}

impl Judge<'_> {
    /// Asks everything that the journal does not have, and writes `judge.json` and `judged.jsonl`. Replies
    /// are in the journal when `observe` counts them.
    ///
    /// # Errors
    /// [`JudgeError`]; what was judged before is kept.
    pub fn run(
        &self,
        judge: &mut RemoteModel<'_>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&JudgeView),
    ) -> Result<JudgeRun, JudgeError> {
        let (cases, mut counts) = self.cases();
        if cases.is_empty() {
            return Err(JudgeError::NothingToJudge {
                task: self.settings.task.clone(),
                questions: counts.questions,
            });
        }
        let run = self.fingerprint();
        let folder = self.column.join(format!("{FOLDER}{}", &run[..12]));
        let (mut journal, recovery) = SampleStore::open(&folder.join(JOURNAL_FILE), &run)?;
        let all = cases
            .iter()
            .flat_map(|case| case.orders.iter().map(move |order| (case, order)));
        let left: Vec<_> = all
            .clone()
            .filter(|(case, (key, _))| !journal.contains(&case.row.sample.task, key))
            .collect();
        let total = all.count();
        let mut view = JudgeView {
            total,
            done: total - left.len(),
            resumed: total - left.len(),
            failed: 0,
        };
        observe(&view);
        let asks: Vec<RemoteAsk> = left
            .iter()
            .map(|(case, (_, text))| self.ask(case, text))
            .collect();
        let (mut fault, mut first_error) = (None, None);
        let asked = judge.ask_all(&asks, &self.settings.decode, stop, &mut |number, reply| {
            let (case, (key, text)) = left[number];
            match reply {
                Ok(reply) => match journal.append(self.entry(case, key, text, &run, reply)) {
                    Ok(()) => view.done += 1,
                    Err(error) => {
                        fault = Some(error);
                        return ControlFlow::Break(());
                    }
                },
                Err(error) => {
                    view.failed += 1;
                    first_error.get_or_insert(error);
                }
            }
            observe(&view);
            ControlFlow::Continue(())
        });
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        let rows = self.verdicts(&cases, &journal, &mut counts);
        let unfinished = cases.len() - counts.judged - counts.unreadable;
        counts.failed = unfinished.min(view.failed);
        counts.left = unfinished - counts.failed;
        let result = self.result(&cases, &rows, counts);
        write_rows(&folder.join(JUDGED_FILE), &rows)?;
        write_json(&folder.join(RESULT_FILE), &result)?;
        asked?;
        Ok(JudgeRun {
            result,
            folder,
            view,
            recovery,
            first_error,
        })
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        hash.field(&serde_json::to_string(&self.settings).unwrap_or_default());
        hash.hex()
    }

    /// The questions that can be judged, and how many cannot.
    fn cases(&self) -> (Vec<Case<'_>>, JudgeCounts) {
        let of_b: Option<HashMap<SampleKey, &ScoredRow>> = self
            .b
            .map(|b| b.iter().map(|row| (row.sample.key(), row)).collect());
        let mut counts = JudgeCounts::default();
        let mut cases = Vec::new();
        for row in self.a {
            let other = match &of_b {
                None => None,
                Some(of_b) => match of_b.get(&row.sample.key()) {
                    Some(other) => Some(*other),
                    None => continue,
                },
            };
            counts.questions += 1;
            if !row.answered || other.is_some_and(|other| !other.answered) {
                counts.unanswered += 1;
                continue;
            }
            let orders = match other {
                None => vec![("one", self.text(row, &row.sample.text, None))],
                Some(other) => {
                    let (a, b) = (&row.sample.text, &other.sample.text);
                    vec![
                        ("ab", self.text(row, a, Some(b))),
                        ("ba", self.text(row, b, Some(a))),
                    ]
                }
            };
            let orders = orders.into_iter().map(|(order, text)| {
                // An answer that changed since is another request.
                let mut hash = Fingerprint::default();
                hash.field(&text);
                (
                    format!("{}#{order}#{}", row.sample.question_id, &hash.hex()[..16]),
                    text,
                )
            });
            cases.push(Case {
                row,
                orders: orders.collect(),
            });
        }
        (cases, counts)
    }

    fn text(&self, row: &ScoredRow, first: &str, second: Option<&str>) -> String {
        let mut seen = std::collections::HashSet::new();
        let references: Vec<&str> = row
            .sample
            .gt
            .iter()
            .map(String::as_str)
            .filter(|gold| seen.insert(*gold))
            .collect();
        let reference = if references.is_empty() {
            "(none is given: judge by the picture)".to_owned()
        } else {
            references.join("\nor: ")
        };
        self.settings.prompt.fill(&[
            ("{question}", &row.sample.prompt),
            ("{reference}", &reference),
            ("{answer}", first),
            ("{answer_a}", first),
            ("{answer_b}", second.unwrap_or_default()),
        ])
    }

    fn ask(&self, case: &Case<'_>, text: &str) -> RemoteAsk {
        let image = case
            .row
            .image_path
            .clone()
            .filter(|_| self.settings.picture);
        RemoteAsk {
            image,
            prompt: text.to_owned(),
        }
    }

    fn entry(&self, case: &Case<'_>, key: &str, text: &str, run: &str, reply: Reply) -> SampleRow {
        let mut row = SampleRow {
            question_id: key.to_owned(),
            prompt: text.to_owned(),
            text: reply.text,
            answer_id: String::new(),
            model_id: self.settings.judge.id.clone(),
            metadata: reply.metadata,
            gt: Vec::new(),
            task: case.row.sample.task.clone(),
            image: case.row.sample.image.clone(),
            category: None,
            run: run.to_owned(),
            error: None,
        };
        row.seal();
        row
    }

    /// Verdicts of the cases whose requests are all answered.
    fn verdicts(
        &self,
        cases: &[Case<'_>],
        journal: &SampleStore,
        counts: &mut JudgeCounts,
    ) -> Vec<JudgedRow> {
        let replies: HashMap<&str, &str> = journal
            .rows()
            .iter()
            .map(|row| (&*row.question_id, &*row.text))
            .collect();
        let mut rows = Vec::with_capacity(cases.len());
        for case in cases {
            let said: Option<Vec<String>> = case
                .orders
                .iter()
                .map(|(key, _)| replies.get(key.as_str()).map(|text| (*text).to_owned()))
                .collect();
            let Some(replies) = said else { continue };
            let verdict = match self.settings.kind {
                JudgeKind::Grade => {
                    read_score(&replies[0]).map_or(Verdict::Unreadable, Verdict::Points)
                }
                JudgeKind::Pair => both_orders(&replies),
            };
            match verdict {
                Verdict::Unreadable => counts.unreadable += 1,
                _ => counts.judged += 1,
            }
            rows.push(JudgedRow {
                task: case.row.sample.task.clone(),
                question_id: case.row.sample.question_id.clone(),
                verdict,
                replies,
            });
        }
        rows
    }

    fn result(&self, cases: &[Case<'_>], rows: &[JudgedRow], counts: JudgeCounts) -> JudgeResult {
        let label = format!(
            "judge:{}:{}",
            self.settings.judge.id, self.settings.prompt.name
        );
        let of: HashMap<SampleKey, &ScoredRow> = cases
            .iter()
            .map(|case| (case.row.sample.key(), case.row))
            .collect();
        let judged: Vec<(&ScoredRow, &JudgedRow)> = rows
            .iter()
            .filter(|row| row.verdict != Verdict::Unreadable)
            .filter_map(|row| Some((*of.get(&(row.task.clone(), row.question_id.clone()))?, row)))
            .collect();
        let grade = self.settings.kind == JudgeKind::Grade;
        JudgeResult {
            schema: SCHEMA,
            points: grade.then(|| points(&judged)).flatten(),
            pairs: (!grade).then(|| pairs(&label, &judged)),
            label,
            settings: self.settings.clone(),
            counts,
        }
    }
}

/// The verdict of a pair from its replies in both orders.
fn both_orders(replies: &[String]) -> Verdict {
    let read = |at: usize| replies.get(at).and_then(|reply| read_verdict(reply));
    let (Some(first), Some(second)) = (read(0), read(1)) else {
        return Verdict::Unreadable;
    };
    match (first, second) {
        (Better::First, Better::Second) => Verdict::A,
        (Better::Second, Better::First) => Verdict::B,
        (Better::Tie, Better::Tie) => Verdict::Tie,
        _ => Verdict::Disagreement,
    }
}

fn points(judged: &[(&ScoredRow, &JudgedRow)]) -> Option<Estimate> {
    let (rows, scores): (Vec<ScoredRow>, Vec<f64>) = judged
        .iter()
        .filter_map(|(row, judged)| match judged.verdict {
            Verdict::Points(points) => Some(((*row).clone(), f64::from(points))),
            _ => None,
        })
        .unzip();
    let clusters = clusters(&rows);
    (!scores.is_empty()).then(|| Estimate {
        value: scores.iter().sum::<f64>() / scores.len() as f64,
        standard_error: standard_error(&scores, &clusters),
        n: scores.len(),
        images: clusters.iter().max().map_or(0, |last| last + 1),
    })
}

fn pairs(label: &str, judged: &[(&ScoredRow, &JudgedRow)]) -> PairResult {
    let count = |wanted: Verdict| {
        judged
            .iter()
            .filter(|(_, row)| row.verdict == wanted)
            .count()
    };
    let (mut first, mut chosen) = (0usize, 0usize);
    for reply in judged.iter().flat_map(|(_, row)| &row.replies) {
        match read_verdict(reply) {
            Some(Better::First) => (first, chosen) = (first + 1, chosen + 1),
            Some(Better::Second) => chosen += 1,
            _ => {}
        }
    }
    let scored = |of_b: bool| -> Vec<ScoredRow> {
        let row = |(row, judged): &(&ScoredRow, &JudgedRow)| {
            let score = match (judged.verdict, of_b) {
                (Verdict::A, false) | (Verdict::B, true) => 1.0,
                (Verdict::A, true) | (Verdict::B, false) => 0.0,
                _ => 0.5,
            };
            ScoredRow {
                scores: BTreeMap::from([(label.to_owned(), score)]),
                ..(*row).clone()
            }
        };
        judged.iter().map(row).collect()
    };
    let comparison = compare(&scored(false), &scored(true)).ok();
    PairResult {
        a_better: count(Verdict::A),
        b_better: count(Verdict::B),
        ties: count(Verdict::Tie),
        disagreements: count(Verdict::Disagreement),
        first_preferred: (chosen > 0).then(|| first as f64 / chosen as f64),
        comparison: comparison.and_then(|comparison| comparison.metrics.into_iter().next()),
    }
}
