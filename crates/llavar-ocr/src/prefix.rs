//! The text that is put before a question, so that the model has read the page beforehand.

use llavar_data::{IMAGE_TAG, Sample};

use crate::{Line, page_layout, paragraphs};

/// So many lines are given as paragraphs, more as a page.
const FEW_LINES: usize = 4;

/// What stands before the text of few lines, and of more.
const FEW: &str = "OCR: ";
const MANY: &str = "Given OCR-based Page Parser Results: ";

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
        return format!("{MANY}{}\n", page_layout(lines));
    }
    let texts: Vec<String> = paragraphs(lines).into_iter().map(|p| p.text).collect();
    format!("{FEW}{}\n", texts.join(" "))
}

/// Whether the first turn of a sample has the text of its pictures already, as [`put_before`] leaves it.
pub fn has_prefix(sample: &Sample) -> bool {
    let first = sample.conversations.first();
    let said = first.map_or(String::new(), |turn| turn.value.replace(IMAGE_TAG, ""));
    [MANY, FEW]
        .iter()
        .any(|begin| said.trim_start().starts_with(begin))
}

/// Puts a prefix into the first turn of a sample as a model is asked: the pictures, the prefix, the question.
/// Tags of pictures move to the front.
pub fn put_before(sample: &mut Sample, prefix: &str) {
    let Some(first) = sample.conversations.first_mut() else {
        return;
    };
    let tags = first.value.matches(IMAGE_TAG).count();
    let (after, before) = (format!("{IMAGE_TAG}\n"), format!("\n{IMAGE_TAG}"));
    let question = first.value.replace(&after, "").replace(&before, "");
    let question = question.replace(IMAGE_TAG, "");
    first.value = format!("{}{prefix}{question}", after.repeat(tags));
}

#[cfg(test)]
mod tests {
    use llavar_data::{Role, SampleId, Turn};

    use super::*;

    #[test]
    fn a_sample_that_has_its_text_is_known_by_it() {
        for (asked, has) in [
            ("<image>\nWhat?", false),
            ("What is OCR: x?\n<image>", false),
            ("<image>\nOCR: y\nWhat?", true),
        ] {
            let turn = Turn {
                from: Role::Human,
                value: asked.to_owned(),
            };
            let mut sample = Sample {
                id: SampleId::Int(1),
                images: Vec::new(),
                conversations: vec![turn],
                extra: serde_json::Map::new(),
                dropped_turns: 0,
            };
            assert_eq!(has_prefix(&sample), has, "{asked}");
            put_before(&mut sample, "OCR: x\n");
            assert!(has_prefix(&sample), "{asked}");
        }
    }

    #[test]
    fn the_prefix_stands_between_picture_and_question() {
        for (asked, expected) in [
            ("<image>\nWhat?", "<image>\nOCR: x\nWhat?"),
            ("What?\n<image>", "<image>\nOCR: x\nWhat?"),
            ("What?", "OCR: x\nWhat?"),
            ("<image>\n<image>\nBoth?", "<image>\n<image>\nOCR: x\nBoth?"),
            ("In <image> what?", "<image>\nOCR: x\nIn  what?"),
        ] {
            let turns = [
                (Role::Human, asked),
                (Role::Gpt, "That."),
                (Role::Human, "<image> why?"),
            ];
            let turn = |(from, value): (Role, &str)| Turn {
                from,
                value: value.to_owned(),
            };
            let mut sample = Sample {
                id: SampleId::Int(1),
                images: Vec::new(),
                conversations: turns.map(turn).into(),
                extra: serde_json::Map::new(),
                dropped_turns: 0,
            };
            put_before(&mut sample, "OCR: x\n");
            let values: Vec<&str> = sample
                .conversations
                .iter()
                .map(|t| t.value.as_str())
                .collect();
            assert_eq!(values, [expected, "That.", "<image> why?"]);
        }
    }

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
