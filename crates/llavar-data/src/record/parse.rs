//! From a JSON value to a checked [`Sample`].

use super::{Role, Sample, SampleId, Turn};
use crate::error::SampleError;
use serde_json::{Map, Value};

impl Sample {
    /// Parses and checks one record.
    ///
    /// A leading turn that is not the human's is dropped (as LLaVA's `preprocess` does) and counted
    /// in [`Sample::dropped_turns`].
    ///
    /// # Errors
    /// [`SampleError`] for missing keys, wrong types, a conversation that is empty or does not
    /// alternate, an empty answer, and a number of `<image>` tags that differs from the images.
    pub fn from_json(value: Value) -> Result<Self, SampleError> {
        let Value::Object(mut map) = value else {
            return Err(wrong_type("sample", "an object", &value));
        };
        let id = take_id(&mut map)?;
        let images = take_images(&mut map)?;
        let (conversations, dropped_turns) = take_turns(&mut map)?;
        let sample = Sample {
            id,
            images,
            conversations,
            extra: map,
            dropped_turns,
        };
        let tags = sample.image_tags();
        if tags != sample.images.len() {
            return Err(SampleError::ImageTags {
                tags,
                images: sample.images.len(),
            });
        }
        Ok(sample)
    }
}

fn take_id(map: &mut Map<String, Value>) -> Result<SampleId, SampleError> {
    match map.shift_remove("id") {
        None => Err(missing("id")),
        Some(Value::String(id)) => Ok(SampleId::Text(id)),
        Some(Value::Number(id)) if id.as_i64().is_some() => {
            Ok(SampleId::Int(id.as_i64().unwrap_or_default()))
        }
        Some(other) => Err(wrong_type("id", "a string or an integer", &other)),
    }
}

fn take_images(map: &mut Map<String, Value>) -> Result<Vec<String>, SampleError> {
    // `images` is the spelling of other trainers; `image` wins where both stand.
    let (key, value) = if map.contains_key("image") {
        ("image", map.shift_remove("image"))
    } else if matches!(map.get("images"), Some(Value::Array(_))) {
        ("images", map.shift_remove("images"))
    } else {
        ("image", None)
    };
    let images = match value {
        // Columnar files write null for a sample without image.
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(path)) => vec![path],
        Some(Value::Array(list)) => {
            let mut paths = Vec::with_capacity(list.len());
            for (i, entry) in list.into_iter().enumerate() {
                match entry {
                    Value::String(path) => paths.push(path),
                    other => return Err(wrong_type(&format!("{key}[{i}]"), "a string", &other)),
                }
            }
            paths
        }
        Some(other) => return Err(wrong_type(key, "a string or a list of strings", &other)),
    };
    if images.iter().any(|path| path.trim().is_empty()) {
        return Err(SampleError::EmptyImagePath { key: key.into() });
    }
    Ok(images)
}

fn take_turns(map: &mut Map<String, Value>) -> Result<(Vec<Turn>, usize), SampleError> {
    let list = match map.shift_remove("conversations") {
        None => return Err(missing("conversations")),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("conversations", "a list", &other)),
    };
    let mut turns: Vec<Turn> = Vec::with_capacity(list.len());
    let mut dropped = 0;
    for (i, entry) in list.into_iter().enumerate() {
        let Value::Object(mut entry) = entry else {
            return Err(wrong_type(
                &format!("conversations[{i}]"),
                "an object",
                &entry,
            ));
        };
        let from = take_string(&mut entry, i, "from")?;
        let value = take_string(&mut entry, i, "value")?;
        let role = match from.as_str() {
            "human" | "user" => Some(Role::Human),
            "gpt" | "assistant" => Some(Role::Gpt),
            "system" => None,
            _ => {
                return Err(SampleError::UnknownRole {
                    turn: i,
                    role: from,
                });
            }
        };
        if i == 0 && role != Some(Role::Human) {
            dropped = 1;
            continue;
        }
        let Some(role) = role else {
            return Err(SampleError::UnknownRole {
                turn: i,
                role: from,
            });
        };
        let expected = match turns.last() {
            Some(last) if last.from == Role::Human => Role::Gpt,
            _ => Role::Human,
        };
        if role != expected {
            return Err(SampleError::NotAlternating {
                turn: i,
                expected: expected.as_str(),
                got: role.as_str(),
            });
        }
        if role == Role::Gpt && value.trim().is_empty() {
            return Err(SampleError::EmptyAnswer { turn: i });
        }
        turns.push(Turn { from: role, value });
    }
    if turns.is_empty() {
        return Err(SampleError::NoTurns);
    }
    Ok((turns, dropped))
}

fn take_string(
    map: &mut Map<String, Value>,
    turn: usize,
    key: &str,
) -> Result<String, SampleError> {
    let path = format!("conversations[{turn}].{key}");
    match map.shift_remove(key) {
        None => Err(SampleError::MissingKey { key: path }),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(&path, "a string", &other)),
    }
}

fn missing(key: &str) -> SampleError {
    SampleError::MissingKey { key: key.into() }
}

fn wrong_type(key: &str, expected: &'static str, got: &Value) -> SampleError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    SampleError::WrongType {
        key: key.into(),
        expected,
        got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn turns(list: &[(&str, &str)]) -> Value {
        list.iter()
            .map(|(from, value)| json!({"from": from, "value": value}))
            .collect()
    }

    fn parse(value: Value) -> Result<Sample, SampleError> {
        Sample::from_json(value)
    }

    #[test]
    fn a_record_round_trips_with_unknown_keys() {
        let value = json!({"id": 7, "image": ["a.png", "b.png"], "conversations":
            turns(&[("human", "<image><image>\nq"), ("gpt", "a")]), "source": {"x": [1]}, "w": 0.5});
        let sample = parse(value.clone()).unwrap();
        assert_eq!(sample.id, SampleId::Int(7));
        assert_eq!(sample.to_json(), value);
        assert_eq!(sample.modality_length(), 3);
    }

    #[test]
    fn ids_and_images_take_their_forms() {
        let c = turns(&[("human", "q"), ("gpt", "a")]);
        let sample = parse(json!({"id": "x", "image": null, "conversations": c})).unwrap();
        assert_eq!(
            (sample.id.to_string(), sample.images.len()),
            ("x".into(), 0)
        );
        assert_eq!(sample.modality_length(), -2);
        for bad in [json!(1.5), json!(null), json!([1]), json!(true)] {
            let error = parse(json!({"id": bad, "conversations": c})).unwrap_err();
            assert!(matches!(error, SampleError::WrongType { .. }), "{error}");
        }
        for bad in [json!(5), json!({}), json!(["a", 1])] {
            let error = parse(json!({"id": 1, "image": bad, "conversations": c})).unwrap_err();
            assert!(matches!(error, SampleError::WrongType { .. }), "{error}");
        }
        let error = parse(json!({"id": 1, "image": "", "conversations": c})).unwrap_err();
        assert!(
            matches!(error, SampleError::EmptyImagePath { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_leading_answer_is_dropped_and_counted() {
        for role in ["gpt", "system"] {
            let c = turns(&[(role, "stray"), ("human", "q"), ("gpt", "a")]);
            let sample = parse(json!({"id": 1, "conversations": c})).unwrap();
            assert_eq!((sample.conversations.len(), sample.dropped_turns), (2, 1));
        }
        let c = turns(&[("gpt", "stray")]);
        assert_eq!(
            parse(json!({"id": 1, "conversations": c})),
            Err(SampleError::NoTurns)
        );
    }

    #[test]
    fn bad_conversations_are_named() {
        let cases = [
            (turns(&[]), SampleError::NoTurns),
            (
                turns(&[("human", "a"), ("human", "b")]),
                SampleError::NotAlternating {
                    turn: 1,
                    expected: "gpt",
                    got: "human",
                },
            ),
            (
                turns(&[("gpt", "x"), ("gpt", "y")]),
                SampleError::NotAlternating {
                    turn: 1,
                    expected: "human",
                    got: "gpt",
                },
            ),
            (
                turns(&[("human", "a"), ("gpt", " ")]),
                SampleError::EmptyAnswer { turn: 1 },
            ),
            (
                turns(&[("human", "a"), ("robot", "b")]),
                SampleError::UnknownRole {
                    turn: 1,
                    role: "robot".into(),
                },
            ),
            (
                turns(&[("human", "a"), ("system", "b")]),
                SampleError::UnknownRole {
                    turn: 1,
                    role: "system".into(),
                },
            ),
        ];
        for (conversations, expected) in cases {
            assert_eq!(
                parse(json!({"id": 1, "conversations": conversations})),
                Err(expected)
            );
        }
        let missing = |key: &str| SampleError::MissingKey { key: key.into() };
        assert_eq!(parse(json!({"id": 1})), Err(missing("conversations")));
        assert_eq!(parse(json!({"conversations": []})), Err(missing("id")));
        assert_eq!(
            parse(json!({"id": 1, "conversations": [{"from": "human"}]})),
            Err(missing("conversations[0].value"))
        );
        for bad in [json!("x"), json!([1]), json!([{"from": 1, "value": ""}])] {
            let error = parse(json!({"id": 1, "conversations": bad})).unwrap_err();
            assert!(matches!(error, SampleError::WrongType { .. }), "{error}");
        }
        assert!(matches!(
            parse(json!([])),
            Err(SampleError::WrongType { .. })
        ));
    }

    #[test]
    fn tags_and_images_must_agree() {
        let cases: [(&str, Value, usize, usize); 4] = [
            ("<image>\n<image>\nq", json!("a.png"), 2, 1),
            ("q", json!("a.png"), 0, 1),
            ("<image>\nq", json!(null), 1, 0),
            ("<image>\nq", json!(["a.png", "b.png"]), 1, 2),
        ];
        for (question, image, tags, images) in cases {
            let c = turns(&[("human", question), ("gpt", "a")]);
            assert_eq!(
                parse(json!({"id": 1, "image": image, "conversations": c})),
                Err(SampleError::ImageTags { tags, images })
            );
        }
    }
}
