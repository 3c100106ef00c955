//! One answered question.

use serde::{Deserialize, Serialize};

/// A question about a picture with its gold and its given answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Id of the sample.
    pub id: String,
    /// Image path as the data set names it.
    pub image: String,
    /// What group the question belongs to (for tables per kind), for example the document kind.
    pub group: String,
    /// The question as asked.
    pub question: String,
    /// The fact that the answer must contain.
    pub gold: String,
    /// What the model answered.
    pub answer: String,
    /// Whether the metric counts it as right.
    pub correct: bool,
}

/// Share of correct rows, 0 to 1; 0 for no rows.
pub fn accuracy(rows: &[AnswerRow]) -> f64 {
    if rows.is_empty() {
        return 0.0;
    }
    rows.iter().filter(|row| row.correct).count() as f64 / rows.len() as f64
}

/// Accuracy and number of rows of each group, in order of first appearance.
pub fn by_group(rows: &[AnswerRow]) -> Vec<(String, f64, usize)> {
    let mut groups: Vec<(String, usize, usize)> = Vec::new();
    for row in rows {
        let at = groups
            .iter()
            .position(|(name, ..)| *name == row.group)
            .unwrap_or_else(|| {
                groups.push((row.group.clone(), 0, 0));
                groups.len() - 1
            });
        groups[at].1 += usize::from(row.correct);
        groups[at].2 += 1;
    }
    groups
        .into_iter()
        .map(|(name, right, n)| (name, right as f64 / n as f64, n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, correct: bool) -> AnswerRow {
        let text = String::new;
        AnswerRow {
            id: text(),
            image: text(),
            group: group.into(),
            question: text(),
            gold: text(),
            answer: text(),
            correct,
        }
    }

    #[test]
    fn shares_are_counted_per_group() {
        let rows = [
            row("sign", true),
            row("receipt", false),
            row("sign", false),
            row("sign", true),
        ];
        assert_eq!(accuracy(&rows), 0.5);
        assert_eq!(
            by_group(&rows),
            [("sign".into(), 2.0 / 3.0, 3), ("receipt".into(), 0.0, 1)]
        );
        assert_eq!(accuracy(&[]), 0.0);
    }
}
