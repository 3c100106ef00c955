//! Training from a plain language model and its towers, by recipe and by the original's flags.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::Path, sync::atomic::AtomicBool};

use common::{World, weights};
use llavar_model::{
    Parts,
    weights::{Dtype, TensorSpec, WeightFiles, write_safetensors},
};
use llavar_train::{Recipe, Resume, Silent, Trainer, recipe::Launch};
use serde_json::{Value, json};

/// Writes the tensors of a model that `keep` names anew.
fn cut(model: &Path, to: &Path, keep: impl Fn(&str) -> Option<String>) {
    let files = WeightFiles::open(model).unwrap();
    let kept: Vec<(String, &str, &[usize])> = files
        .entries()
        .filter_map(|e| Some((keep(&e.name)?, e.name.as_str(), e.shape.as_slice())))
        .collect();
    let specs: Vec<TensorSpec> = kept
        .iter()
        .map(|(name, _, shape)| TensorSpec::new(name, Dtype::F32, *shape))
        .collect();
    write_safetensors(to, &specs, None, |spec, sink| {
        let stored = kept.iter().find(|k| k.0 == spec.name).unwrap().1;
        sink.write_f32(&files.read_f32(stored).unwrap())
    })
    .unwrap();
}

/// `llm/`, `clip/` and `convnext_tiny.safetensors` of a world's model.
fn take_apart(world: &World) {
    let model = world.path("model");
    for name in ["llm", "clip"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    let text = fs::read_to_string(model.join("config.json")).unwrap();
    let config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let clip = config["clip_vision_config"].to_string();
    fs::write(world.path("clip/config.json"), clip).unwrap();
    let mut llm = config;
    llm.retain(|key, _| {
        ![
            "mm_",
            "vision",
            "clip",
            "convnext",
            "is_multi",
            "input_image",
        ]
        .iter()
        .any(|s| key.starts_with(s))
    });
    llm.insert("model_type".into(), "llama".into());
    fs::write(world.path("llm/config.json"), json!(llm).to_string()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(name), world.path("llm").join(name)).unwrap();
    }
    let is_llm = |name: &str| !name.contains("vision_tower") && !name.contains("mm_projector");
    cut(&model, &world.path("llm/model.safetensors"), |name| {
        is_llm(name).then(|| name.to_owned())
    });
    cut(&model, &world.path("clip/model.safetensors"), |name| {
        let at = name.find("vision_model.")?;
        Some(name[at..].to_owned())
    });
    cut(&model, &world.path("convnext_tiny.safetensors"), |name| {
        let (_, rest) = name.split_once("slow_vision_tower.vision_tower.")?;
        Some(rest.to_owned())
    });
}

#[test]
fn a_run_from_parts_is_the_run_from_the_folder_that_is_made_of_them() {
    let world = World::new(8);
    take_apart(&world);
    let path = |name: &str| world.path(name).display().to_string();
    let train = |run: &str, sets: &[String], resume: Resume| {
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let all = [
            &["num_train_epochs=2", "train.seed=9", "save_steps=1"],
            &sets[..],
        ]
        .concat();
        let mut trainer = Trainer::new(world.recipe(&all), &world.path(run), resume).unwrap();
        trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
        weights(&world.path(run))
    };
    let parts = [
        format!("model_name_or_path={}", path("llm")),
        format!("vision_tower={}", path("clip")),
        format!("vision_tower_slow={}", path("convnext_tiny.safetensors")),
        "input_image_size=64".to_owned(),
    ];
    let from_parts = train("parts", &parts, Resume::No);
    let slow = world.path("convnext_tiny.safetensors");
    let opened = Parts::open(
        &world.path("llm"),
        &world.path("clip"),
        Some(&slow),
        Some(64),
    )
    .unwrap();
    opened.write(&world.path("made"), true, None, 9).unwrap();
    let made = [
        format!("model_name_or_path={}", path("made")),
        "input_image_size=64".to_owned(),
    ];
    assert!(from_parts == train("folder", &made, Resume::No));
    // A checkpoint is whole: what resumes from it needs no parts.
    let first = world.path("parts/checkpoints/step-00000003");
    assert!(from_parts == train("resumed", &made, Resume::From(first)));

    // Adapters name the folder that they stand on.
    let lora = [&parts[..], &["lora_enable=true".to_owned()]].concat();
    let mut sets = vec![format!("data_path={}", path("data.json"))];
    sets.extend(lora);
    let error = Recipe::resolve("nano-sft", &sets).unwrap_err().to_string();
    assert!(error.contains("llavar init"), "{error}");
}

#[test]
fn the_originals_flags_take_local_parts_and_a_folder_keeps_its_own() {
    let world = World::new(4);
    take_apart(&world);
    let path = |name: &str| world.path(name).display().to_string();
    let launch = |model: &str, clip: &str| {
        let words = [
            "--version",
            "v1",
            "--data_path",
            "d.json",
            "--model_name_or_path",
            model,
            "--vision_tower",
            clip,
            "--vision_tower_slow",
            &path("convnext_tiny.safetensors"),
            "--is_multipath_encoder",
            "True",
        ];
        Launch::from_words(&words.map(str::to_owned), &[])
    };
    let plain = launch(&path("llm"), &path("clip")).unwrap();
    let model = &plain.recipe.model;
    assert_eq!(model.vision_tower.as_deref(), Some(path("clip").as_str()));
    assert!(
        model
            .vision_tower_slow
            .as_deref()
            .unwrap()
            .ends_with("convnext_tiny.safetensors")
    );
    assert!(
        !plain
            .notes
            .iter()
            .any(|n| n.flag.starts_with("--vision_tower"))
    );

    let whole = launch(&path("model"), &path("clip")).unwrap();
    assert_eq!(whole.recipe.model.vision_tower, None);
    let named = whole
        .notes
        .iter()
        .filter(|n| n.flag.starts_with("--vision_tower"));
    assert_eq!(named.count(), 2);

    let error = launch(&path("llm"), "openai/clip-vit-large-patch14-336")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--vision_tower") && error.contains("plain language model"),
        "{error}"
    );
}
