//! What an incomplete folder lacks, in one line.

use super::error::BadRow;
use std::fmt;

/// How many names a line shows of a long list.
const SHOWN: usize = 3;

/// How many units (questions, forms, receipts) the published set has and how many were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Official {
    /// Found here.
    pub found: usize,
    /// In the published set.
    pub published: usize,
    /// What is counted, in the plural.
    pub unit: &'static str,
}

/// Everything that keeps a task from being whole: absent files, pictures, rows and references.
///
/// Its [`Display`](fmt::Display) is one line that names the first few of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The published size, where it is known and larger than what was found.
    pub official: Option<Official>,
    /// Files that belong to the layout and are not there.
    pub files: Vec<String>,
    /// Distinct pictures that the questions name.
    pub images: usize,
    /// Pictures that are not there.
    pub images_absent: Vec<String>,
    /// Pictures that are there and cannot be used, with the reason: an unknown or broken header, or
    /// a path that leaves the folder.
    pub images_unusable: Vec<(String, String)>,
    /// All questions of the task.
    pub questions: usize,
    /// Questions that cannot be asked because their picture is absent or unusable.
    pub questions_without_image: usize,
    /// Questions without any reference (challenge test splits): they can be asked and not scored.
    pub questions_without_answer: usize,
    /// Questions with an empty reference, which every containment metric counts as right. They are
    /// kept where the published protocol asks them.
    pub empty_references: usize,
    /// Rows that were left out, with the reason.
    pub rows: Vec<BadRow>,
    /// Ids that occurred again and were told apart by a suffix `#2`, `#3`, ...
    pub repeated_ids: Vec<String>,
}

impl Missing {
    /// Whether the task is whole: every picture there, every row read, every question scorable.
    pub fn is_empty(&self) -> bool {
        self.official.is_none()
            && self.files.is_empty()
            && self.images_absent.is_empty()
            && self.images_unusable.is_empty()
            && self.questions_without_answer == 0
            && self.empty_references == 0
            && self.rows.is_empty()
            && self.repeated_ids.is_empty()
    }

    /// The report as one line; see the type.
    pub fn line(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(official) = self.official {
            let Official {
                found,
                published,
                unit,
            } = official;
            parts.push(format!("{found} of the published {published} {unit}"));
        }
        if !self.files.is_empty() {
            parts.push(format!(
                "{} file(s) absent ({})",
                self.files.len(),
                first_of(self.files.iter())
            ));
        }
        if !self.images_absent.is_empty() {
            parts.push(format!(
                "{} of {} images absent ({})",
                self.images_absent.len(),
                self.images,
                first_of(self.images_absent.iter())
            ));
        }
        if !self.images_unusable.is_empty() {
            let named = self.images_unusable.iter();
            parts.push(format!(
                "{} of {} images unusable ({})",
                self.images_unusable.len(),
                self.images,
                first_of(named.map(|(image, why)| format!("{image}: {why}")))
            ));
        }
        if self.questions_without_image > 0 {
            parts.push(format!(
                "{} of {} questions cannot be asked",
                self.questions_without_image, self.questions
            ));
        }
        if self.questions_without_answer > 0 {
            parts.push(format!(
                "{} of {} questions have no reference and cannot be scored",
                self.questions_without_answer, self.questions
            ));
        }
        if self.empty_references > 0 {
            parts.push(format!(
                "{} question(s) with an empty reference",
                self.empty_references
            ));
        }
        if !self.rows.is_empty() {
            parts.push(format!(
                "{} row(s) left out ({})",
                self.rows.len(),
                first_of(self.rows.iter())
            ));
        }
        if !self.repeated_ids.is_empty() {
            parts.push(format!(
                "{} repeated id(s) ({})",
                self.repeated_ids.len(),
                first_of(self.repeated_ids.iter())
            ));
        }
        if parts.is_empty() {
            return f.write_str("nothing missing");
        }
        // A name taken from a file may hold a line break; the report stays one line.
        let line = parts.join("; ").replace(['\n', '\r'], " ");
        write!(f, "missing: {line}")
    }
}

/// The first few of a list, and how many more.
fn first_of<T: fmt::Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let all = names.len();
    let mut shown: Vec<String> = names.take(SHOWN).map(|name| name.to_string()).collect();
    if all > SHOWN {
        shown.push(format!("and {} more", all - SHOWN));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_names_the_first_of_each_kind() {
        let mut missing = Missing {
            questions: 12,
            images: 9,
            ..Missing::default()
        };
        assert!(missing.is_empty());
        assert_eq!(missing.line(), "nothing missing");
        missing.images_absent = (0..5).map(|i| format!("{i}\n.png")).collect();
        missing.questions_without_image = 7;
        missing.files = vec!["test_augmented.json".into()];
        let line = missing.line();
        assert!(!missing.is_empty() && !line.contains('\n'), "{line}");
        assert_eq!(
            line,
            "missing: 1 file(s) absent (test_augmented.json); 5 of 9 images absent (0 .png, 1 .png, \
             2 .png, and 2 more); 7 of 12 questions cannot be asked"
        );
    }
}
