//! Pairs without a model: only what OCR and layout say, in plain sentences.
//!
//! Nothing is inferred from the picture. A value is asked for by the label that stands before or beside it;
//! dates, amounts, addresses by their form where the page has only one of them; the largest and the first
//! text by size and place. Lines that OCR was not sure of are not used. All pairs pass the same checks as a
//! model's.

use llavar_ocr::Line;

use crate::{
    Duo, Picture, PictureResult, Settings, State,
    checks::{Evidence, SURE},
    generate::rejection,
};

/// Writes caption and duos of a picture.
pub(crate) fn write(picture: &Picture, settings: &Settings, result: &mut PictureResult) {
    let lines: Vec<&Line> = picture.lines.iter().filter(|line| is_text(line)).collect();
    if lines.is_empty() {
        result.state = State::Unusable {
            reason: "no text found that OCR is sure of".into(),
        };
        return;
    }
    // How many lines there are is known of the picture too.
    let count = lines.len().to_string();
    let told = picture.caption.as_deref();
    let size = (picture.width, picture.height);
    let evidence = Evidence::of_page(&picture.lines, size, told.into_iter().chain([&*count]));
    let rules = &settings.rules;
    let caption = caption(picture, &lines);
    match rules.caption(&caption, &evidence) {
        Ok(()) => result.caption = Some(caption),
        Err(broken) => result
            .rejected
            .push(rejection("caption", 1, broken, caption)),
    }
    for duo in facts(picture, &lines) {
        if result.duos.len() == settings.duos {
            break;
        }
        result.proposed += 1;
        match rules.duo(&duo, &result.duos, &evidence) {
            Ok(()) => result.duos.push(duo),
            Err(broken) => {
                let text = duo.texts().join(" | ");
                result.rejected.push(rejection("duos", 1, broken, text));
            }
        }
    }
}

fn is_text(line: &Line) -> bool {
    line.score >= SURE
        && !is_turned(line)
        && line.text.chars().filter(|c| c.is_alphanumeric()).count() >= 2
        && !line.text.contains(['"', '“', '”', '{', '}', '<', '[', '`'])
}

/// A text that runs up or down the picture, as the name of an axis: nothing stands beside it.
fn is_turned(line: &Line) -> bool {
    let [x1, y1, x2, y2] = line.bounds();
    line.text.chars().count() >= 3 && y2 - y1 > 1.5 * (x2 - x1)
}

fn height(line: &Line) -> f64 {
    let [_, y1, _, y2] = line.bounds();
    y2 - y1
}

/// The place in words, as `at the top left`.
fn at_place(picture: &Picture, line: &Line) -> String {
    match picture.place(line).as_str() {
        "middle" => "in the middle".to_owned(),
        place if place.starts_with("middle") => format!("at the {}", place.replace("middle ", "")),
        place => format!("at the {place}"),
    }
}

/// The largest line, if it is larger than the others.
fn title<'a>(lines: &[&'a Line]) -> Option<&'a Line> {
    let mut by_height: Vec<&Line> = lines.to_vec();
    by_height.sort_by(|a, b| height(b).total_cmp(&height(a)));
    match by_height.as_slice() {
        [first, second, ..] if height(first) > 1.25 * height(second) => Some(first),
        _ => None,
    }
}

fn caption(picture: &Picture, lines: &[&Line]) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(told) = &picture.caption {
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        parts.push(match told.ends_with(['.', '!', '?']) {
            true => told,
            false => told + ".",
        });
    }
    let n = lines.len();
    parts.push(match n {
        1 => "The image shows one line of text.".to_owned(),
        n => format!("The image shows {n} lines of text."),
    });
    let title = title(lines);
    if let Some(title) = title {
        parts.push(format!(
            "The largest text reads \"{}\" and stands {}.",
            title.text,
            at_place(picture, title)
        ));
    }
    let quote = |line: &Line| format!("\"{}\"", line.text);
    for (area, name) in [
        ("top", "At the top"),
        ("middle", "In the middle"),
        ("bottom", "At the bottom"),
    ] {
        let here = lines.iter().filter(|line| {
            picture.place(line).starts_with(area) && title.is_none_or(|t| !std::ptr::eq(t, **line))
        });
        let quotes: Vec<String> = here.take(4).map(|line| quote(line)).collect();
        if let Some((last, before)) = quotes.split_last() {
            parts.push(match before.is_empty() {
                true => format!("{name} stands {last}."),
                false => format!("{name} stand {} and {last}.", before.join(", ")),
            });
        }
    }
    parts.join(" ")
}

/// Duos in order of how much they say.
fn facts(picture: &Picture, lines: &[&Line]) -> Vec<Duo> {
    let mut labels: Vec<(&str, &str, Duo)> = Vec::new();
    for line in lines {
        if let Some((label, value)) = labelled(&line.text) {
            let duo = of_label(picture, line, None, label, value);
            labels.push((label, value, duo));
        }
    }
    // A label on the left with its value beside it.
    for pair in lines.windows(2) {
        let [left, right] = pair else { continue };
        if beside(left, right)
            && let Some(label) = as_label(&left.text)
            && labelled(&left.text).is_none()
            && right.text.contains(|c: char| c.is_ascii_digit())
        {
            let duo = of_label(picture, left, Some(right), label, &right.text);
            labels.push((label, &right.text, duo));
        }
    }
    // A label with several values, as the total of each table, would be a question with several answers.
    let is_clear = |label: &str, value: &str| {
        let mut same = labels
            .iter()
            .filter(|one| one.0.eq_ignore_ascii_case(label));
        same.all(|one| one.1.eq_ignore_ascii_case(value))
    };
    let clear = labels.iter().filter(|one| is_clear(one.0, one.1));
    let mut duos: Vec<Duo> = clear.map(|one| one.2.clone()).collect();
    if let Some(line) = title(lines) {
        duos.push(of_place(
            picture,
            line,
            "What does the largest text in the image say?",
            "The largest text says",
            "Where in the image does the largest text stand?",
        ));
    }
    for form in FORMS {
        let found: Vec<(&Line, &str)> = lines
            .iter()
            .flat_map(|line| words(&line.text).map(move |word| (*line, word)))
            .filter(|(_, word)| (form.is)(word))
            .collect();
        // Where there are several, the question would have several answers.
        if let [(line, word)] = found.as_slice() {
            duos.push(Duo {
                extractive_question: format!("Which {} is written in the image?", form.name),
                extractive_answer: format!("The {} is {word}.", form.name),
                self_explain_question: format!(
                    "Which line of text in the image holds the {}, and where does it stand?",
                    form.name
                ),
                self_explain_answer: format!(
                    "The line \"{}\" {} of the image holds it.",
                    line.text,
                    at_place(picture, line)
                ),
            });
        }
    }
    for (line, end) in [(lines.first(), "first"), (lines.last(), "last")] {
        if let Some(line) = line
            && lines.len() > 2
        {
            duos.push(of_place(
                picture,
                line,
                &format!("What does the {end} line of text in the image say?"),
                &format!("The {end} line of text says"),
                &format!("Where in the image does the {end} line of text stand?"),
            ));
        }
    }
    duos
}

fn of_label(
    picture: &Picture,
    line: &Line,
    value_line: Option<&Line>,
    label: &str,
    value: &str,
) -> Duo {
    let shown = match value_line {
        None => format!(
            "The line \"{}\" {} of the image shows it.",
            line.text,
            at_place(picture, line)
        ),
        Some(value) => format!(
            "The text \"{}\" stands beside \"{}\" {} of the image.",
            value.text,
            line.text,
            at_place(picture, line)
        ),
    };
    Duo {
        extractive_question: format!("What is given for \"{label}\" in the image?"),
        extractive_answer: format!("For \"{label}\" the image gives \"{value}\"."),
        self_explain_question: format!(
            "Which text in the image shows what is given for \"{label}\"?"
        ),
        self_explain_answer: shown,
    }
}

fn of_place(picture: &Picture, line: &Line, question: &str, says: &str, explain: &str) -> Duo {
    Duo {
        extractive_question: question.to_owned(),
        extractive_answer: format!("{says} \"{}\".", line.text),
        self_explain_question: explain.to_owned(),
        self_explain_answer: format!(
            "The text \"{}\" stands {} of the image.",
            line.text,
            at_place(picture, line)
        ),
    }
}

/// `Label: value` in one line.
fn labelled(text: &str) -> Option<(&str, &str)> {
    // A colon inside a time or an address is none.
    let (label, value) = text.split_once(": ").or_else(|| {
        let (label, value) = text.split_once(':')?;
        let inside = label.ends_with(|c: char| c.is_ascii_digit()) || value.starts_with("//");
        (!inside).then_some((label, value))
    })?;
    let value = value.trim();
    let label = as_label(label)?;
    let says = value.chars().filter(|c| c.is_alphanumeric()).count() >= 1;
    (says && value.chars().count() <= 80 && is_closed(value)).then_some((label, value))
}

/// A text that can be the name of something: a few words, mostly letters.
fn as_label(text: &str) -> Option<&str> {
    let text = text.trim().trim_end_matches([':', '.', '-']).trim();
    let text = text.trim_start_matches(['-', '–', '—', '•', '*', ' ']);
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let n = text.chars().count();
    let is_name = letters >= 2 && letters * 10 >= n * 7 && text.split_whitespace().count() <= 5;
    (is_name && is_closed(text)).then_some(text)
}

/// Whether brackets come in pairs: a part of "(No: 5)" is neither a name nor a value.
fn is_closed(text: &str) -> bool {
    text.matches('(').count() == text.matches(')').count()
}

fn beside(left: &Line, right: &Line) -> bool {
    let ([_, ly1, lx2, ly2], [rx1, ry1, _, ry2]) = (left.bounds(), right.bounds());
    let middle = (ry1 + ry2) / 2.0;
    lx2 <= rx1 && ly1 < middle && middle < ly2
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let marks = |c: char| ",;()!?:".contains(c);
    text.split_whitespace()
        .map(move |word| word.trim_matches(marks).trim_end_matches('.'))
}

/// Day, month and a year of four digits, in any usual order; a telephone number is none.
fn is_date(word: &str, mark: char) -> bool {
    let part = |text: &str| {
        let is_number = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u32>().ok()).flatten()
    };
    let parts: Option<Vec<u32>> = word.split(mark).map(part).collect();
    let (year, others) = match parts.as_deref() {
        Some(&[year, a, b]) if year > 31 => (year, [a, b]),
        Some(&[a, b, year]) => (year, [a, b]),
        _ => return false,
    };
    let days = others.iter().all(|n| (1..=31).contains(n));
    (1900..2100).contains(&year) && days && others.iter().any(|n| *n <= 12)
}

struct Form {
    name: &'static str,
    is: fn(&str) -> bool,
}

const FORMS: [Form; 5] = [
    Form {
        name: "e-mail address",
        is: |word| {
            word.split_once('@').is_some_and(|(name, host)| {
                !name.is_empty() && host.contains('.') && !host.contains('@')
            })
        },
    },
    Form {
        name: "web address",
        is: |word| {
            let word = word.to_lowercase();
            word.starts_with("http://") || word.starts_with("https://") || word.starts_with("www.")
        },
    },
    Form {
        name: "date",
        is: |word| ['/', '-', '.'].iter().any(|mark| is_date(word, *mark)),
    },
    Form {
        name: "time",
        is: |word| {
            word.split_once(':').is_some_and(|(hour, rest)| {
                let minute = rest.split(':').next().unwrap_or_default();
                hour.parse::<u8>().is_ok_and(|h| h < 24)
                    && minute.len() == 2
                    && minute.parse::<u8>().is_ok_and(|m| m < 60)
            })
        },
    },
    Form {
        name: "percentage",
        is: |word| {
            let number = word.strip_suffix('%');
            number.is_some_and(|n| n.replace(',', ".").parse::<f64>().is_ok())
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Picture {
        let lines = [
            Line::in_box([100.0, 20.0, 500.0, 80.0], "ACME STORE", 0.99),
            Line::in_box([100.0, 120.0, 400.0, 145.0], "Date: 12/03/2018", 0.98),
            Line::in_box([100.0, 400.0, 180.0, 425.0], "TOTAL", 0.97),
            Line::in_box([400.0, 401.0, 480.0, 426.0], "9.90", 0.99),
            Line::in_box([100.0, 500.0, 400.0, 525.0], "smudged: l1ne", 0.3),
            Line::in_box(
                [100.0, 550.0, 400.0, 575.0],
                "Write to hello@acme.example",
                0.95,
            ),
        ];
        Picture {
            name: "a.png".into(),
            hash: "00".into(),
            width: 600,
            height: 600,
            mime: "image/png",
            bytes: vec![],
            layout: llavar_ocr::page_layout(&lines),
            lines: lines.to_vec().into(),
            caption: None,
        }
    }

    #[test]
    fn every_pair_is_on_the_page_and_passes_the_checks() {
        let picture = page();
        let mut result = PictureResult::of(&picture);
        let settings = Settings {
            duos: 20,
            ..Settings::default()
        };
        write(&picture, &settings, &mut result);
        let answers: Vec<&str> = result
            .duos
            .iter()
            .map(|d| d.extractive_answer.as_str())
            .collect();
        for expected in [
            "For \"Date\" the image gives \"12/03/2018\".",
            "For \"TOTAL\" the image gives \"9.90\".",
            "The largest text says \"ACME STORE\".",
            "The e-mail address is hello@acme.example.",
        ] {
            assert!(answers.contains(&expected), "{answers:?}");
        }
        let all = format!("{:?} {:?}", result.duos, result.caption);
        assert!(!all.contains("smudged"), "OCR was not sure");
        let total = result
            .duos
            .iter()
            .find(|d| d.extractive_answer.contains("TOTAL"))
            .unwrap();
        assert_eq!(
            total.self_explain_answer,
            "The text \"9.90\" stands beside \"TOTAL\" at the bottom left of the image."
        );
        let caption = result.caption.unwrap();
        assert!(
            caption.starts_with(
                "The image shows 5 lines of text. The largest text reads \"ACME STORE\""
            ),
            "{caption}"
        );
    }

    #[test]
    fn dates() {
        let date = FORMS.iter().find(|form| form.name == "date").unwrap();
        for (word, is_one) in [
            ("12/03/2018", true),
            ("2018-03-31", true),
            ("31.12.1999", true),
            ("415/986-5566", false),
            ("555-019-2018", false),
            ("31/31/2018", false),
            ("1/2/3", false),
            ("10.0.0.1", false),
            ("//2018", false),
        ] {
            assert_eq!((date.is)(word), is_one, "{word}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_asked() {
        let mut picture = page();
        let mut lines = picture.lines.to_vec();
        let line = |y: f64, text: &str| Line::in_box([100.0, y, 400.0, y + 20.0], text, 0.98);
        lines.extend([
            line(200.0, "Tax: 0.45"),
            line(230.0, "TAX: 0.50"),
            line(260.0, "(Reg No: 17)"),
            line(290.0, "- Cashier: Ann"),
        ]);
        lines.insert(
            0,
            Line::in_box([10.0, 100.0, 30.0, 500.0], "Operating", 0.99),
        );
        lines.insert(1, Line::in_box([50.0, 290.0, 90.0, 310.0], "400", 0.99));
        picture.lines = lines.into();
        let lines: Vec<&Line> = picture.lines.iter().filter(|line| is_text(line)).collect();
        let answers: Vec<String> = facts(&picture, &lines)
            .into_iter()
            .map(|duo| duo.extractive_answer)
            .collect();
        let told = |text: &str| answers.iter().any(|answer| answer.contains(text));
        assert!(
            told("For \"Cashier\" the image gives \"Ann\"."),
            "{answers:?}"
        );
        assert!(!told("\"Tax\"") && !told("\"TAX\""), "{answers:?}");
        assert!(
            !told("Reg No\"") && !told("\"Operating\" the"),
            "{answers:?}"
        );
    }

    #[test]
    fn an_empty_page_is_unusable() {
        let mut picture = page();
        picture.lines = vec![].into();
        let mut result = PictureResult::of(&picture);
        write(&picture, &Settings::default(), &mut result);
        assert!(matches!(result.state, State::Unusable { .. }) && result.duos.is_empty());
    }
}
