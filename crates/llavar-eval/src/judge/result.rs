//! What a judge found, on disk and in numbers.

use super::prompt::JudgeKind;
use super::run::JudgeSettings;
use crate::compare::MetricComparison;
use crate::results::{Estimate, ResultsError, read_json, read_rows_of};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Prefix of the folders of judges in a column's folder.
pub(super) const FOLDER: &str = "judge-";
/// The result in a judge's folder.
pub(super) const RESULT_FILE: &str = "judge.json";
/// The verdicts in a judge's folder, one a question.
pub(super) const JUDGED_FILE: &str = "judged.jsonl";
/// The judge's replies in its folder, appended as they come.
pub(super) const JOURNAL_FILE: &str = "journal.jsonl";

/// A verdict on one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Points, 1 to 10.
    Points(u8),
    /// A is better in both orders.
    A,
    /// B is better in both orders.
    B,
    /// Neither is, in both orders.
    Tie,
    /// The two orders disagree; counts as a tie.
    Disagreement,
    /// A reply that holds no verdict.
    Unreadable,
}

/// A verdict with its question and the judge's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedRow {
    /// Name of the task.
    pub task: String,
    /// Id of the question.
    pub question_id: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The replies: one, or that to A before B and that to B before A.
    pub replies: Vec<String>,
}

/// What became of the questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeCounts {
    /// Questions of the column (of both columns, for pairs).
    pub questions: usize,
    /// Those that are not judged because there is no answer to judge.
    pub unanswered: usize,
    /// Those with a verdict.
    pub judged: usize,
    /// Those whose reply holds no verdict; they are in no mean.
    pub unreadable: usize,
    /// Those on which the judge failed; they are asked again next time.
    pub failed: usize,
    /// Those that are still to be asked.
    pub left: usize,
}

/// One run against another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairResult {
    /// Pairs of which A is better.
    pub a_better: usize,
    /// Pairs of which B is better.
    pub b_better: usize,
    /// Ties in both orders.
    pub ties: usize,
    /// Pairs that the two orders judge differently: ties too.
    pub disagreements: usize,
    /// Of the single verdicts that prefer one answer, the share that prefers the one read first; 0.5 is
    /// no preference. None without such verdicts.
    pub first_preferred: Option<f64>,
    /// A better is 0 for B and 1 for A, a tie half for both; with interval and p. None for no pair.
    pub comparison: Option<MetricComparison>,
}

/// The result of a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeResult {
    /// Version of this form.
    pub schema: u32,
    /// Under which the numbers may be quoted: `judge:MODEL:PROMPT`.
    pub label: String,
    /// Who judged what, and how.
    pub settings: JudgeSettings,
    /// What became of the questions.
    pub counts: JudgeCounts,
    /// Mean points of the judged answers, 1 to 10; for [`JudgeKind::Grade`].
    pub points: Option<Estimate>,
    /// For [`JudgeKind::Pair`].
    pub pairs: Option<PairResult>,
}

impl JudgeResult {
    /// What was judged: `name`, and against whom.
    pub fn title(&self, name: &str) -> String {
        match &self.settings.b {
            None => name.to_owned(),
            Some(b) => format!("{name} (A) against {} (B)", b.name),
        }
    }

    /// The result in one line.
    pub fn line(&self) -> String {
        let c = &self.counts;
        let mut line = format!("{}: ", self.label);
        if let Some(points) = &self.points {
            let error = points
                .standard_error
                .map_or(String::new(), |e| format!(" \u{B1} {e:.2}"));
            line += &format!("{:.2}{error} of 10 points (n {})", points.value, points.n);
        }
        if let Some(pairs) = &self.pairs {
            line += &format!(
                "A better {}, B better {}, ties {}, orders disagree {} (ties too)",
                pairs.a_better, pairs.b_better, pairs.ties, pairs.disagreements
            );
            if let Some(m) = &pairs.comparison {
                line += &format!(
                    "; B - A {:+.1} points of 100, 95 % interval {:+.1} to {:+.1}, p {:.4}",
                    100.0 * m.difference,
                    100.0 * m.interval[0],
                    100.0 * m.interval[1],
                    m.p
                );
            }
        }
        if self.settings.kind == JudgeKind::Grade && self.points.is_none() {
            line += "no verdict";
        }
        for (count, what) in [
            (c.unreadable, "replies without a verdict"),
            (c.failed, "failed"),
            (c.unanswered, "without an answer"),
            (c.left, "still to be asked"),
        ] {
            if count > 0 {
                line += &format!("; {count} {what}");
            }
        }
        line
    }
}

/// A verdict in words.
pub fn shown_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Points(points) => format!("{points} of 10 points"),
        Verdict::A => "A better".into(),
        Verdict::B => "B better".into(),
        Verdict::Tie => "tie".into(),
        Verdict::Disagreement => "orders disagree (tie)".into(),
        Verdict::Unreadable => "no verdict in the reply".into(),
    }
}

/// The results of all judges of a column's folder with their verdicts, in alphabetical order.
///
/// # Errors
/// [`ResultsError`] for the first that cannot be read.
pub fn read_judged(column: &Path) -> Result<Vec<(JudgeResult, Vec<JudgedRow>)>, ResultsError> {
    let Ok(entries) = std::fs::read_dir(column) else {
        return Ok(Vec::new());
    };
    let mut folders: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(FOLDER) && path.join(RESULT_FILE).is_file()
        })
        .collect();
    folders.sort();
    folders
        .iter()
        .map(|folder| {
            Ok((
                read_json(&folder.join(RESULT_FILE))?,
                read_rows_of(&folder.join(JUDGED_FILE))?,
            ))
        })
        .collect()
}
