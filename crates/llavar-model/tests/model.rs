//! The whole model on tiny random weights: sizes, towers, adapters, saving.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_model::{
    LlavaModel, ModelError,
    config::{ModelConfig, Preset, parameters},
    weights::Dtype,
};
use llavar_tensor::{Segments, Tape, Tensor, Var};
use serde_json::{Value, json};

use common::{PATCH, config, features, loss, pixels, single};

#[test]
fn every_valid_size_gives_its_tokens_and_agrees_with_itself_under_checkpoints() {
    // Below, at and above the size at which both grids are equal.
    for (size, grid) in [(64, 8), (128, 8), (256, 8), (288, 9), (512, 16)] {
        let config = config(json!({ "input_image_size": size }));
        let model = LlavaModel::init(config, 3).unwrap();
        assert_eq!(
            (model.image_size(), model.tokens_per_image()),
            (Some(size), Some(grid * grid))
        );
        let pixels = pixels(2, size);
        let features = features(&model, &pixels);
        assert_eq!(features.len(), 2 * grid * grid * 32);
        assert!(features.iter().all(|x| x.is_finite()));

        let grads = |checkpoint: bool| -> Vec<Vec<f32>> {
            model
                .params()
                .iter()
                .for_each(|p| p.set_requires_grad(true));
            let tape = Tape::training();
            let (sum, _) = loss(&model, &tape, &pixels, checkpoint);
            tape.backward(&sum, 1.0).unwrap();
            let grads = model
                .params()
                .iter()
                .map(|p| p.grad().unwrap().to_f32_vec().unwrap())
                .collect();
            model
                .params()
                .iter()
                .for_each(|p| p.set_requires_grad(false));
            grads
        };
        assert_eq!(grads(false), grads(true), "size {size}");
    }
    let error = ModelConfig::from_map("config.json".as_ref(), {
        let mut map = config(json!({})).as_json().clone();
        map.insert("input_image_size".to_owned(), 96.into());
        map
    });
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("32, 64, 128, or every multiple of 32 from 256")
    );
}

#[test]
fn a_frozen_tower_records_nothing() {
    let model = LlavaModel::init(config(json!({})), 3).unwrap();
    for param in model.params() {
        param.set_requires_grad(param.name().contains("mm_projector"));
    }
    let tape = Tape::training();
    let tower = model.vision_tower.as_ref().unwrap();
    let out = tower
        .forward(&tape, &Var::constant(pixels(1, 256)), true, &mut |_, _| {})
        .unwrap();
    assert!(!out.requires_grad());
    let (sum, count) = loss(&model, &tape, &pixels(1, 256), true);
    tape.backward(&sum, 1.0 / count as f32).unwrap();
    for param in model.params() {
        assert_eq!(
            param.grad().is_some(),
            param.name().contains("mm_projector"),
            "{}",
            param.name()
        );
    }
}

#[test]
fn fresh_adapters_change_nothing_and_are_decided_by_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let stage_1 = LlavaModel::init(config(json!({ "freeze_vision": true })), 5).unwrap();
    assert!(!stage_1.vision_tower.as_ref().unwrap().has_adapters());
    let before = features(&stage_1, &pixels(1, 256));

    let stage_2 = stage_1.with_adapters(6).unwrap();
    assert!(stage_2.vision_tower.as_ref().unwrap().has_adapters());
    assert_eq!(features(&stage_2, &pixels(1, 256)), before);
    let names: Vec<String> = stage_2
        .params()
        .iter()
        .map(|p| p.name().to_owned())
        .collect();
    let listed: Vec<String> = parameters(&stage_2.config, true)
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert_eq!(names, listed);

    // Something other than zero in the projections, so that the adapters count.
    for param in stage_2
        .params()
        .iter()
        .filter(|p| p.name().contains("align_stages_latent"))
    {
        let values = (0..param.numel()).map(|i| (i as f32).sin() * 0.3).collect();
        param
            .set_value(Tensor::from_vec(values, param.shape()).unwrap())
            .unwrap();
    }
    let path = folder.path().join("stage2");
    stage_2.save(&path, None).unwrap();
    let config = ModelConfig::read(&path).unwrap();
    assert_eq!(config.as_json()["freeze_vision"], json!(false));
    assert_eq!(config.as_json()["torch_dtype"], json!("float32"));
    assert_eq!(
        config.as_json()["a_key_of_someone_else"],
        json!([1, {"b": null}])
    );
    // A wrong `freeze_vision` does not hide adapters that the file has.
    let mut json = config.as_json().clone();
    json.insert("freeze_vision".to_owned(), true.into());
    std::fs::write(path.join("config.json"), serde_json::to_vec(&json).unwrap()).unwrap();
    let loaded = LlavaModel::load(&path).unwrap();
    assert_eq!(
        features(&loaded, &pixels(1, 256)),
        features(&stage_2, &pixels(1, 256))
    );
    assert_ne!(features(&loaded, &pixels(1, 256)), before);
}

#[test]
fn saved_models_load_bit_equal_and_rounded_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let tied = json!({
        "model_type": "llava_phi3", "tie_word_embeddings": true, "mm_projector_type": "linear"
    });
    let model = LlavaModel::init(config(tied), 5).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let path = folder.path().join("model");
    // Twice: the second save replaces the first.
    model.save(&path, Some(folder.path())).unwrap();
    model.save(&path, Some(folder.path())).unwrap();
    assert!(path.join("tokenizer.json").is_file());
    let loaded = LlavaModel::load(&path).unwrap();
    for (a, b) in model.params().iter().zip(loaded.params()) {
        assert_eq!(
            (a.name(), a.value().to_f32_vec().unwrap()),
            (b.name(), b.value().to_f32_vec().unwrap())
        );
    }
    model.save_as(&path, None, Dtype::BF16).unwrap();
    let rounded = LlavaModel::load(&path).unwrap();
    assert_eq!(rounded.config.as_json()["torch_dtype"], json!("bfloat16"));
    for (a, b) in model.params().iter().zip(rounded.params()) {
        for (a, b) in a
            .value()
            .to_f32_vec()
            .unwrap()
            .iter()
            .zip(b.value().to_f32_vec().unwrap())
        {
            assert!((a - b).abs() <= a.abs() / 256.0, "{a} {b}");
        }
    }
}

#[test]
fn projectors_of_every_kind() {
    for (kind, width) in [
        ("linear", 32),
        ("mlp1x_gelu", 32),
        ("mlp3x_gelu", 32),
        ("identity", 16),
    ] {
        let config = config(json!({
            "mm_projector_type": kind, "hidden_size": width, "num_attention_heads": 2
        }));
        let model = LlavaModel::init(config, 1).unwrap();
        assert_eq!(
            features(&model, &pixels(1, 256)).len(),
            64 * width,
            "{kind}"
        );
    }
}

#[test]
fn wrong_inputs_are_named() {
    let model = LlavaModel::init(config(json!({})), 1).unwrap();
    let tape = Tape::inference();
    let error = model
        .encode_images(&tape, &pixels(1, 224), false)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected pixels of shape [pictures, 256, 256, 3], got [1, 224, 224, 3]"
    );
    let ids = [1, -200, 3];
    let segments = Segments::single(3);
    let error = model
        .loss(&tape, &ids, &ids, &segments, Some(&pixels(1, 256)), false)
        .unwrap_err();
    assert!(matches!(
        error,
        ModelError::ImagePositions {
            expected: 64,
            got: 1,
            tokens_per_image: 64
        }
    ));
    let error = model
        .loss(&tape, &ids, &ids[..2], &segments, None, false)
        .unwrap_err();
    assert!(error.to_string().starts_with("labels: expected 3 tokens"));
    let text = json!({ "model_type": "llama", "mm_vision_tower": null });
    let plain = LlavaModel::init(config(text), 1).unwrap();
    assert!(plain.vision_tower.is_none() && plain.tokens_per_image().is_none());
    let error = plain
        .encode_images(&tape, &pixels(1, 256), false)
        .unwrap_err();
    assert!(matches!(error, ModelError::NoVisionTower));
}

#[test]
fn tower_features_do_not_depend_on_the_batch_and_join_to_the_same_bits() {
    let frozen = |changes: Value| {
        // Products of at most 64 columns are summed in another order where there are few rows.
        let mut all = json!({"freeze_vision": true, "mm_hidden_size": 72, "clip_vision_config": {
            "hidden_size": 72, "num_hidden_layers": 4, "num_attention_heads": 2,
            "intermediate_size": 24, "patch_size": PATCH, "image_size": 8 * PATCH
        }});
        all.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        all
    };
    let nano = Preset::Nano.config(None).unwrap();
    let nano = nano.with([("freeze_vision".to_owned(), true.into())]);
    for config in [
        config(frozen(json!({}))),
        config(frozen(json!({"input_image_size": 384}))),
        single(frozen(json!({}))),
        nano.unwrap(),
    ] {
        let model = LlavaModel::init(config, 3).unwrap();
        let tower = model.vision_tower.as_ref().unwrap();
        let (size, shapes) = (tower.image_size(), tower.feature_shapes());
        let all = pixels(5, size);
        let whole = model.tower_features(&all).unwrap();
        let rows = model.encode_features(&Tape::inference(), &whole).unwrap();
        assert!(
            rows.value().to_f32_vec().unwrap() == features(&model, &all),
            "{size}"
        );
        let parts = whole.parts();
        assert_eq!(parts.len(), shapes.len());
        let values = all.to_f32_vec().unwrap();
        for (n, one) in values.chunks(size * size * 3).enumerate() {
            let one = Tensor::from_vec(one.to_vec(), &[1, size, size, 3]).unwrap();
            let alone = model.tower_features(&one).unwrap().parts();
            for ((part, alone), shape) in parts.iter().zip(alone).zip(&shapes) {
                let len: usize = shape.iter().product();
                assert_eq!(part.shape(), [&[5], shape.as_slice()].concat());
                let own = &part.data::<f32>().unwrap()[n * len..(n + 1) * len];
                assert!(
                    own == alone.data::<f32>().unwrap(),
                    "picture {n} of {size} px"
                );
            }
        }
    }
}
