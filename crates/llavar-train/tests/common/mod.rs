//! A very small model and data set, made on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(dead_code)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_image::{RgbImage, encode_png};
use llavar_model::{
    LlavaModel,
    config::{ModelConfig, Pathways, Preset},
};
use llavar_train::Recipe;

/// Folder with `model/`, `data.json`, `images/`.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
}

const WORDS: [&str; 8] = [
    "red", "green", "blue", "total", "is", "the", "seven", "nine",
];

impl World {
    /// `samples` pictures of one colour, every third sample without picture.
    pub(crate) fn new(samples: usize) -> Self {
        Self::make(samples, false, 16)
    }

    /// With these pathways of the vision tower.
    pub(crate) fn of_pathways(samples: usize, pathways: Pathways) -> Self {
        let world = Self::new(samples);
        let folder = world.path("model");
        let config = ModelConfig::read(&folder).unwrap();
        let model = LlavaModel::init(config.with_pathways(pathways).unwrap(), 5).unwrap();
        model.save(&folder, Some(&folder)).unwrap();
        world
    }

    /// With a language model of which most weights have 4,096 elements or more.
    pub(crate) fn wide(samples: usize, freeze_vision: bool) -> Self {
        Self::make(samples, freeze_vision, 64)
    }

    /// With a tower that has no adapters, as stage 1 trains it.
    pub(crate) fn for_stage_1(samples: usize) -> Self {
        Self::make(samples, true, 16)
    }

    fn make(samples: usize, freeze_vision: bool, hidden: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_model(&dir.path().join("model"), freeze_vision, hidden);
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        let mut records = Vec::new();
        for i in 0..samples {
            let (a, b) = (WORDS[i % 3], WORDS[6 + i % 2]);
            let mut record = serde_json::json!({
                "id": format!("s{i}"),
                "conversations": [
                    {"from": "human", "value": "<image>\nwhat is the total"},
                    {"from": "gpt", "value": format!("the total is {a} {b}").repeat(1 + i % 4)},
                ],
            });
            if i % 3 == 2 {
                record["conversations"][0]["value"] = "what is seven".into();
            } else {
                record["image"] = format!("{i}.png").into();
                let mut colour = [20, 20, 20];
                colour[i % 3] = 250;
                let png = encode_png(&RgbImage::filled(40 + i, 30, colour)).unwrap();
                fs::write(images.join(format!("{i}.png")), png).unwrap();
            }
            records.push(record);
        }
        let text = serde_json::to_string(&records).unwrap();
        fs::write(dir.path().join("data.json"), text).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn recipe(&self, sets: &[&str]) -> Recipe {
        recipe(self.dir.path(), sets)
    }
}

/// A recipe on the world in `dir`.
pub(crate) fn recipe(dir: &Path, sets: &[&str]) -> Recipe {
    let mut all: Vec<String> = [
        ("model_name_or_path", "model"),
        ("data_path", "data.json"),
        ("image_folder", "images"),
    ]
    .iter()
    .map(|(key, name)| format!("{key}={}", dir.join(name).display()))
    .collect();
    for set in [
        "per_device_train_batch_size=2",
        "gradient_accumulation_steps=2",
        "learning_rate=1e-2",
        "save_steps=0",
        "num_train_epochs=2",
        "image_cache_bytes=0",
        "train.weight_decay=0.01",
        "train.device=cpu",
    ] {
        all.push(set.into());
    }
    all.extend(sets.iter().map(|s| (*s).to_owned()));
    Recipe::resolve("nano-sft", &all).unwrap()
}

fn make_model(folder: &Path, freeze_vision: bool, hidden: usize) {
    let config = Preset::Nano.config(Some(40)).unwrap();
    let tiny = serde_json::json!({
        "hidden_size": hidden, "intermediate_size": 3 * hidden / 2, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "input_image_size": 64,
        "mm_hidden_size": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    });
    let mut changes: Vec<(String, serde_json::Value)> =
        tiny.as_object().unwrap().clone().into_iter().collect();
    // Products of at most 64 columns are summed in another order where there are few rows.
    let width = if freeze_vision { 72 } else { 16 };
    changes.push(("mm_hidden_size".into(), width.into()));
    let mut clip = config.as_json()["clip_vision_config"].clone();
    for (key, value) in [
        ("hidden_size", width),
        ("intermediate_size", 24),
        ("num_hidden_layers", 4),
        ("num_attention_heads", 2),
    ] {
        clip[key] = value.into();
    }
    changes.push(("clip_vision_config".into(), clip));
    let mut convnext = config.as_json()["convnext_config"].clone();
    convnext["dims"] = serde_json::json!([4, 8, 8, 8]);
    convnext["depths"] = serde_json::json!([1, 1, 1, 1]);
    changes.push(("convnext_config".into(), convnext));
    changes.push(("freeze_vision".into(), freeze_vision.into()));
    let config = config.with(changes).unwrap();
    let model = LlavaModel::init(config, 5).unwrap();
    let tokenizer = tempfile::tempdir().unwrap();
    write_tokenizer(tokenizer.path());
    model.save(folder, Some(tokenizer.path())).unwrap();
}

/// Whole words, and `<unk>` for the rest.
fn write_tokenizer(folder: &Path) {
    let mut vocab = serde_json::Map::new();
    let words = [
        "<unk>",
        "<s>",
        "</s>",
        "USER",
        "ASSISTANT",
        ":",
        "what",
        ".",
    ];
    for word in words.iter().chain(&WORDS) {
        vocab.insert((*word).into(), vocab.len().into());
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
    let config = serde_json::json!({
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// The bytes of the trained weights of a run.
pub(crate) fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}
