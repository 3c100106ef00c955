//! Reading what a model answers: JSON where it can, and what can be made out where not.

use serde_json::{Map, Value};

use crate::Duo;

/// A duo as it was answered; fields may be missing.
pub(crate) type RawDuo = [Option<String>; 4];

/// Keys under which models put the fields, ours first.
const ALIASES: [&[&str]; 4] = [
    &[
        "extractive_question",
        "extractive_q",
        "question",
        "q",
        "q1",
        "question_1",
    ],
    &[
        "extractive_answer",
        "extractive_a",
        "answer",
        "a",
        "a1",
        "answer_1",
    ],
    &[
        "self_explain_question",
        "self_explaining_question",
        "self_explanation_question",
        "explain_question",
        "explanation_question",
        "q2",
        "question_2",
    ],
    &[
        "self_explain_answer",
        "self_explaining_answer",
        "self_explanation_answer",
        "explain_answer",
        "explanation_answer",
        "explanation",
        "a2",
        "answer_2",
    ],
];

/// The duos of an answer: a JSON object or list, in a code block or between words, with trailing commas or
/// raw line breaks, cut off at the end; or lines such as `Extractive question: ...`. Fields may be missing.
pub fn parse_duos(answer: &str) -> Vec<[Option<String>; 4]> {
    let answer = without_thoughts(answer);
    let mut found = Vec::new();
    for value in values(answer) {
        collect(&value, &mut found);
    }
    if found.is_empty() {
        found = labelled_lines(answer);
    }
    found
}

/// The caption of an answer: the text of `{"caption": ...}`, or the answer itself.
pub fn parse_caption(answer: &str) -> String {
    let answer = without_thoughts(answer);
    let keys = [
        "caption",
        "detailed_caption",
        "enriched_caption",
        "description",
    ];
    for value in values(answer) {
        let text = keys.iter().find_map(|key| value.get(key)?.as_str());
        if let Some(text) = text {
            return tidy(text);
        }
    }
    // A preface and a wrapping in quotes are habits of models.
    let mut text = answer.trim();
    for preface in [
        "caption:",
        "description:",
        "detailed caption:",
        "**caption:**",
    ] {
        if let Some(start) = text.get(..preface.len())
            && start.eq_ignore_ascii_case(preface)
        {
            text = text[preface.len()..].trim();
        }
    }
    if let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'))
        && !inner.contains('"')
    {
        text = inner;
    }
    tidy(text)
}

/// What follows the last thought of a reasoning model.
fn without_thoughts(answer: &str) -> &str {
    answer
        .rsplit_once("</think>")
        .map_or(answer, |(_, rest)| rest)
}

/// White space in one piece.
fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn collect(value: &Value, found: &mut Vec<RawDuo>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        Value::Object(map) => {
            let duo = duo_of(map);
            if duo.iter().flatten().count() >= 2 {
                found.push(duo);
            } else {
                map.values().for_each(|value| collect(value, found));
            }
        }
        _ => {}
    }
}

fn duo_of(map: &Map<String, Value>) -> RawDuo {
    let simple = |key: &str| key.trim().to_lowercase().replace([' ', '-'], "_");
    ALIASES.map(|names| {
        names.iter().find_map(|name| {
            let (_, value) = map.iter().find(|(key, _)| simple(key) == **name)?;
            value.as_str().map(tidy)
        })
    })
}

/// Places at which JSON is looked for in one answer.
const MOST_TRIES: usize = 200;

/// The JSON values in a text.
fn values(text: &str) -> Vec<Value> {
    if let Ok(value) = serde_json::from_str(text.trim()) {
        return vec![value];
    }
    let mut found = Vec::new();
    let mut rest = text;
    // Brackets without end would be tried from every one of them.
    for _ in 0..MOST_TRIES {
        let Some(start) = rest.find(['{', '[']) else {
            break;
        };
        let candidate = &rest[start..];
        match repaired(candidate) {
            Some((value, used)) => {
                found.push(value);
                rest = &candidate[used..];
            }
            None => rest = &candidate[1..],
        }
    }
    found
}

/// The value at the beginning of a text, mended: trailing commas go, raw line breaks in strings become
/// spaces, and what is open at the end is closed after its last whole part. With it, the bytes it took.
fn repaired(text: &str) -> Option<(Value, usize)> {
    let mut out = String::with_capacity(text.len());
    let mut open = Vec::new();
    let (mut in_string, mut escaped) = (false, false);
    // The longest beginning that ends after a whole value, with what would close it.
    let mut whole: Option<(usize, Vec<char>)> = None;
    for (at, c) in text.char_indices() {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            match c {
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
            continue;
        }
        match c {
            '"' => in_string = true,
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => {
                if open.pop() != Some(c) {
                    return None;
                }
                while out.ends_with([',', ' ', '\n', '\t', '\r']) {
                    out.pop();
                }
            }
            _ => {}
        }
        out.push(c);
        if matches!(c, '}' | ']') {
            if open.is_empty() {
                let value = serde_json::from_str(&out).ok()?;
                return Some((value, at + c.len_utf8()));
            }
            whole = Some((out.len(), open.clone()));
        }
    }
    let (end, open) = whole?;
    out.truncate(end);
    out.extend(open.iter().rev());
    Some((serde_json::from_str(&out).ok()?, text.len()))
}

/// `Extractive question: ...` and its like, one field a line or paragraph.
fn labelled_lines(text: &str) -> Vec<RawDuo> {
    let mut found: Vec<RawDuo> = Vec::new();
    let mut last = None;
    for line in text.lines() {
        let line = line.trim().trim_start_matches(['*', '-', '#', ' ']);
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ')');
        let field = line.split_once(':').and_then(|(label, value)| {
            let label = label.trim().trim_matches('*').trim().to_lowercase();
            let label = label.replace([' ', '-'], "_");
            let field = ALIASES
                .iter()
                .position(|names| names.contains(&label.as_str()))?;
            Some((field, value.trim_start_matches('*').trim()))
        });
        match field {
            Some((field, value)) => {
                // A field that is there already begins the next duo.
                if found.last().is_none_or(|duo| duo[field].is_some()) {
                    found.push([const { None }; 4]);
                }
                if let Some(duo) = found.last_mut() {
                    duo[field] = Some(tidy(value));
                }
                last = Some(field);
            }
            None if !line.is_empty() => {
                let open = found.last_mut().zip(last);
                if let Some(text) = open.and_then(|(duo, field)| duo[field].as_mut()) {
                    *text = tidy(&format!("{text} {line}"));
                }
            }
            None => last = None,
        }
    }
    found.retain(|duo| duo.iter().flatten().count() >= 2);
    found
}

/// A duo with all fields, or the names of those that are missing or empty.
pub(crate) fn complete(raw: RawDuo) -> Result<Duo, Vec<&'static str>> {
    let missing: Vec<&str> = Duo::FIELDS
        .iter()
        .zip(&raw)
        .filter(|(_, text)| text.as_ref().is_none_or(|text| text.trim().is_empty()))
        .map(|(name, _)| *name)
        .collect();
    match missing.is_empty() {
        true => Ok(Duo::from_texts(raw.map(Option::unwrap_or_default))),
        false => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(n: usize) -> String {
        format!(
            r#"{{"extractive_question": "Q{n}?", "extractive_answer": "A{n}.",
                "self_explain_question": "S{n}?", "self_explain_answer": "It says \"x{n}\"."}}"#
        )
    }

    fn first(answer: &str) -> Vec<String> {
        let duos = parse_duos(answer);
        duos.into_iter()
            .map(|duo| complete(duo).unwrap().extractive_question)
            .collect()
    }

    #[test]
    fn whatever_a_model_wraps_json_in() {
        let two = format!("[{}, {}]", one(1), one(2));
        for answer in [
            two.clone(),
            format!("{{\"duos\": {two}}}"),
            format!("Sure! Here they are:\n```json\n{two}\n```\nHave fun [really]."),
            format!("<think>maybe [1, {{</think>{two}"),
            format!("{}\n{}", one(1), one(2)),
            two.replace("}, {", "},\n {").replace("]", ",]"),
            two.replace("\"}", "\",}"),
            // Cut off at the end.
            format!(
                "{{\"duos\": [{}, {}, {{\"extractive_question\": \"Q3?\", \"ex",
                one(1),
                one(2)
            ),
        ] {
            assert_eq!(first(&answer), ["Q1?", "Q2?"], "{answer}");
        }
        let broken_line = one(1).replace("says ", "says\n");
        assert_eq!(first(&broken_line), ["Q1?"]);
        let text = "1. **Extractive question:** Q1?\nExtractive answer: A1\n goes on.\n\
                    Self-explain question: S?\nSelf-explain answer: E.\n\n2. Question: Q2?\nAnswer: B.\n\
                    Q2: T?\nExplanation: F.";
        assert_eq!(first(text), ["Q1?", "Q2?"]);
        assert_eq!(parse_duos(text)[0][1].as_deref(), Some("A1 goes on."));
        assert!(parse_duos("I cannot do that: there is no text.").is_empty());
        assert!(parse_duos(&"[".repeat(5000)).is_empty());
    }

    #[test]
    fn missing_fields_are_named() {
        let duo = parse_duos(r#"[{"question": "Q?", "answer": "A.", "explanation": " "}]"#);
        assert_eq!(
            complete(duo[0].clone()).unwrap_err(),
            ["self_explain_question", "self_explain_answer"]
        );
    }

    #[test]
    fn captions() {
        assert_eq!(parse_caption("{\"caption\": \"A\\n b.\"}"), "A b.");
        assert_eq!(parse_caption("Caption: \"A poster.\""), "A poster.");
        assert_eq!(parse_caption("A \"b\" poster."), "A \"b\" poster.");
    }
}
