//! The text that is put before a question, so that the model has read the page beforehand.

use crate::{Line, page_layout, paragraphs};

/// So many lines are given as paragraphs, more as a page.
const FEW_LINES: usize = 4;

/// The OCR prefix of a question about one picture: nothing where no text was found, `OCR: ` and the
/// paragraphs for up to four lines, else `Given OCR-based Page Parser Results: ` and [`page_layout`]. It
/// ends with a line break and stands between the picture and the question.
///
/// # Source
/// Spec 9.2, the inference script of LLaVAR-2.
pub fn prefix(lines: &[Line]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    if lines.len() > FEW_LINES {
        return format!(
            "Given OCR-based Page Parser Results: {}\n",
            page_layout(lines)
        );
    }
    let texts: Vec<String> = paragraphs(lines).into_iter().map(|p| p.text).collect();
    format!("OCR: {}\n", texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_few_and_many_lines() {
        let line = |at: usize| {
            let y = at as f64 * 20.0;
            Line::in_box([0.0, y, 10.0, y + 10.0], format!("l{at}"), 1.0)
        };
        let lines: Vec<Line> = (0..5).map(line).collect();
        assert_eq!(prefix(&[]), "");
        assert_eq!(prefix(&lines[..1]), "OCR: l0\n");
        assert_eq!(prefix(&lines[..4]), "OCR: l0 l1 l2 l3\n");
        let page = "Given OCR-based Page Parser Results:  l0\n l1\n l2\n l3\n l4\n";
        assert_eq!(prefix(&lines), page);
    }
}
