//! What a DeepSpeed file says about a run (spec 6.4): ZeRO's stage, clipping, element types.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{super::Problem, Note};

/// What was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct DeepSpeed {
    pub(super) stage: u8,
    /// Largest gradient norm; `None`: as `--max_grad_norm` says.
    pub(super) clip: Option<f64>,
    /// Whether weights are bf16; `None`: as `--bf16` says.
    pub(super) bf16: Option<bool>,
    pub(super) notes: Vec<Note>,
}

/// Files of LLaVA's scripts, which their projects partly leave out; ours stand for them by their stage.
const PUBLISHED: [(&str, u8); 5] = [
    ("zero1.json", 1),
    ("zero2.json", 2),
    ("zero3.json", 3),
    ("zero2_offload.json", 2),
    ("zero3_offload.json", 3),
];

/// Reads a file; `folders` are looked through for it.
pub(super) fn read(name: &str, folders: &[PathBuf]) -> Result<DeepSpeed, Problem> {
    let wrong = |reason: String| Problem::new("--deepspeed", name, reason);
    let tried = folders.iter().map(|folder| folder.join(name));
    let Some(path) = tried.into_iter().find(|path| path.is_file()) else {
        return published(name).ok_or_else(|| {
            wrong(
                "a file that is there, or zero1.json, zero2.json or zero3.json for its stage alone"
                    .into(),
            )
        });
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|e| wrong(format!("a file that can be read ({e})")))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("a JSON file ({e})")))?;
    of_value(&value).map_err(wrong)
}

fn published(name: &str) -> Option<DeepSpeed> {
    let file = Path::new(name).file_name()?.to_str()?;
    let (_, stage) = PUBLISHED.iter().find(|(known, _)| *known == file)?;
    Some(DeepSpeed {
        stage: *stage,
        notes: vec![Note::new(
            "--deepspeed",
            name,
            format!(
                "the file is not here: stage {stage} is taken from its name, clipping from --max_grad_norm"
            ),
        )],
        ..DeepSpeed::default()
    })
}

fn of_value(value: &Value) -> Result<DeepSpeed, String> {
    let Some(all) = value.as_object() else {
        return Err("a JSON object".into());
    };
    let mut found = DeepSpeed::default();
    let mut note = |key: &str, shown: &Value, why: &str| {
        found.notes.push(Note::new(
            format!("deepspeed {key}"),
            shown.to_string(),
            why,
        ));
    };
    let zero = all.get("zero_optimization").unwrap_or(&Value::Null);
    let stage = match zero.get("stage") {
        None => 0,
        Some(stage) => stage
            .as_u64()
            .filter(|stage| *stage <= 3)
            .ok_or_else(|| format!("zero_optimization.stage 0 to 3, it has {stage}"))?,
    };
    for (key, shown) in zero.as_object().into_iter().flatten() {
        match key.as_str() {
            "stage" => {}
            "offload_optimizer" | "offload_param" => note(
                key,
                shown.get("device").unwrap_or(shown),
                "nothing is moved to main memory or disk: a higher stage or more GPUs make room",
            ),
            _ => note(key, shown, "tunes DeepSpeed's own exchange of tensors"),
        }
    }
    let mut bf16 = None;
    // DeepSpeed does not clip unless the file says so; transformers fill in "auto" alone.
    let mut clip = Some(0.0);
    for (key, shown) in all {
        let enabled = shown.get("enabled").unwrap_or(&Value::Null);
        match (key.as_str(), shown) {
            ("zero_optimization", _) => {}
            ("gradient_clipping", Value::String(word)) if word == "auto" => clip = None,
            ("gradient_clipping", value) => match value.as_f64().filter(|v| *v >= 0.0) {
                Some(value) => clip = Some(value),
                None => {
                    return Err(format!(
                        "gradient_clipping \"auto\" or 0 or above, it has {value}"
                    ));
                }
            },
            ("bf16" | "bfloat16", _) => bf16 = enabled.as_bool(),
            ("fp16", _) if enabled == &Value::Bool(true) => note(
                key,
                enabled,
                "there is no fp16 training; bf16 needs no loss scale and is what a GPU gets",
            ),
            ("fp16", _) => {}
            (
                "train_batch_size"
                | "train_micro_batch_size_per_gpu"
                | "gradient_accumulation_steps",
                Value::String(word),
            ) if word == "auto" => {}
            (
                "train_batch_size"
                | "train_micro_batch_size_per_gpu"
                | "gradient_accumulation_steps"
                | "optimizer"
                | "scheduler",
                shown,
            ) => note(
                key,
                shown,
                "the flags decide, as transformers demand that both agree",
            ),
            (_, shown) => note(key, shown, "tunes DeepSpeed's own work"),
        }
    }
    if clip == Some(0.0) && !all.contains_key("gradient_clipping") {
        note(
            "gradient_clipping",
            &Value::Null,
            "the file has no such key, so that DeepSpeed does not clip: train.max_grad_norm=0 (the built-in \
             recipes clip at 1)",
        );
    }
    found.stage = stage as u8;
    (found.clip, found.bf16) = (clip, bf16);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stage_clipping_and_types_are_read_and_the_rest_is_named() {
        let zero3 = json!({
            "fp16": {"enabled": "auto", "loss_scale": 0},
            "bf16": {"enabled": "auto"},
            "train_micro_batch_size_per_gpu": "auto",
            "zero_optimization": {"stage": 3, "overlap_comm": true},
        });
        let found = of_value(&zero3).unwrap();
        assert_eq!((found.stage, found.clip, found.bf16), (3, Some(0.0), None));
        let named: Vec<&str> = found.notes.iter().map(|n| n.flag.as_str()).collect();
        assert_eq!(
            named,
            ["deepspeed overlap_comm", "deepspeed gradient_clipping"]
        );

        let offload = json!({
            "gradient_clipping": "auto", "bf16": {"enabled": true}, "train_batch_size": 64,
            "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
            "optimizer": {"type": "AdamW"},
        });
        let found = of_value(&offload).unwrap();
        assert_eq!((found.stage, found.clip, found.bf16), (3, None, Some(true)));
        assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
        let clipped = of_value(&json!({"gradient_clipping": 0.5})).unwrap();
        assert_eq!((clipped.stage, clipped.clip), (0, Some(0.5)));
    }

    #[test]
    fn wrong_files_say_what_is_allowed() {
        for (value, word) in [
            (json!([]), "object"),
            (json!({"zero_optimization": {"stage": 4}}), "0 to 3"),
            (json!({"gradient_clipping": "much"}), "\"auto\""),
        ] {
            assert!(of_value(&value).unwrap_err().contains(word));
        }
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        assert!(read("mine.json", &folders).is_err());
        assert_eq!(read("scripts/zero2.json", &folders).unwrap().stage, 2);
        std::fs::write(dir.path().join("mine.json"), "{").unwrap();
        let problem = read("mine.json", &folders).unwrap_err().to_string();
        assert!(problem.contains("JSON"), "{problem}");
    }
}
