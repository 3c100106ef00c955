//! LLaVA records out of the shapes that other tools write.

use serde_json::{Map, Value};

/// Brings `conversations` into a list of turns where it is one in another dress: a struct of two lists (as
/// `datasets` writes a sequence of structs), or the JSON text of the list.
pub(super) fn normalise(record: &mut Map<String, Value>) {
    let Some(turns) = record.get_mut("conversations") else {
        return;
    };
    if let Value::String(text) = turns
        && let Ok(parsed @ Value::Array(_)) = serde_json::from_str(text)
    {
        *turns = parsed;
    }
    if let Value::Object(columns) = turns
        && let (Some(Value::Array(from)), Some(Value::Array(value))) =
            (columns.get("from"), columns.get("value"))
        && from.len() == value.len()
    {
        let pairs = from.iter().zip(value);
        *turns = pairs
            .map(|(from, value)| serde_json::json!({"from": from, "value": value}))
            .collect();
    }
}

/// Puts the names of the images that a container holds into the record; a single one as text.
pub(super) fn name_images(record: &mut Map<String, Value>, mut names: Vec<String>) {
    record.shift_remove("images");
    let value = match names.len() {
        0 => return,
        1 => Value::String(names.swap_remove(0)),
        _ => names.into(),
    };
    record.insert("image".into(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn turns_in_other_dress_become_a_list() {
        let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
        for dress in [
            turns.clone(),
            json!({"from": ["human", "gpt"], "value": ["q", "a"]}),
            json!(turns.to_string()),
        ] {
            let mut record = Map::new();
            record.insert("conversations".into(), dress);
            normalise(&mut record);
            assert_eq!(record["conversations"], turns);
        }
        let mut record = Map::new();
        record.insert(
            "conversations".into(),
            json!({"from": ["human"], "value": []}),
        );
        normalise(&mut record);
        assert!(record["conversations"].is_object());
    }
}
