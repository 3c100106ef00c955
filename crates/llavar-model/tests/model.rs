//! The whole model on tiny random weights: sizes, towers, adapters, saving.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use llavar_model::{
    LlavaModel, ModelError,
    config::{ModelConfig, Pathways, Preset, parameters},
    expand_image_tokens,
    weights::Dtype,
};
use llavar_tensor::{Param, Segments, Tape, Tensor, Var};
use serde_json::{Value, json};

const PATCH: usize = 14;

/// A model with every part of the architecture; keys of `changes` replace its keys.
fn config(changes: Value) -> ModelConfig {
    let mut config = json!({
        "model_type": "llava", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 4096,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "vision_tower_slow": "convnext_large_mlp", "is_multipath_encoder": true,
        "input_image_size": 256, "freeze_vision": false,
        "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 16, "image_aspect_ratio": "pad",
        "clip_vision_config": {
            "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
            "intermediate_size": 24, "patch_size": PATCH, "image_size": 8 * PATCH
        },
        "convnext_config": {
            "dims": [4, 6, 8, 12], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.5
        },
        "a_key_of_someone_else": [1, {"b": null}]
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    ModelConfig::from_json("test", &config.to_string()).unwrap()
}

fn single(changes: Value) -> ModelConfig {
    let mut all = json!({
        "is_multipath_encoder": false, "input_image_size": null, "mm_vision_select_layer": -2
    });
    all.as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    config(all)
}

/// A smooth picture with some detail in every channel.
fn pixels(batch: usize, size: usize) -> Tensor {
    let data = (0..batch * size * size * 3).map(|i| {
        let (c, x, y) = (i % 3, i / 3 % size, i / 3 / size);
        ((x as f32 * 0.07 + c as f32).sin() + (y as f32 * 0.05).cos()) * 0.8
    });
    Tensor::from_vec(data.collect(), &[batch, size, size, 3]).unwrap()
}

fn features(model: &LlavaModel, pixels: &Tensor) -> Vec<f32> {
    let features = model
        .encode_images(&Tape::inference(), pixels, false)
        .unwrap();
    features.value().to_f32_vec().unwrap()
}

fn loss(model: &LlavaModel, tape: &Tape, pixels: &Tensor, checkpoint: bool) -> (Var, usize) {
    let n = model.tokens_per_image().unwrap();
    let text = [1, -200, 7, 8, 9, 4];
    let rows = pixels.shape()[0];
    let one = expand_image_tokens(&text, n);
    let ids: Vec<i32> = one.iter().copied().cycle().take(rows * one.len()).collect();
    let labels: Vec<i32> = ids
        .iter()
        .map(|id| if *id < 0 { -100 } else { *id })
        .collect();
    let segments = Segments::from_lengths(vec![one.len(); rows]);
    let loss = model
        .loss(tape, &ids, &labels, &segments, Some(pixels), checkpoint)
        .unwrap();
    (loss.sum, loss.count)
}

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

/// A model of one pathway with the weights that a model of both has for it.
fn alone(both: &LlavaModel, pathways: Pathways) -> LlavaModel {
    let model = LlavaModel::init(both.config.with_pathways(pathways).unwrap(), 8).unwrap();
    let beside = format!("model.vision_tower.{}_vision_tower.", pathways.name());
    for param in model.params() {
        let Some(rest) = param.name().strip_prefix("model.vision_tower.") else {
            continue;
        };
        let all = both.params();
        let name = format!("{beside}{rest}");
        let found = all.iter().find(|p| p.name() == name);
        param.set_value(found.unwrap().value()).unwrap();
    }
    model
}

#[test]
fn a_lone_convnext_sees_what_the_slow_path_sees() {
    let both = LlavaModel::init(config(json!({})), 3).unwrap();
    let model = alone(&both, Pathways::Slow);
    assert_eq!(model.tokens_per_image(), Some(8 * 8));
    assert_eq!(model.config.projector.unwrap().mm_hidden_size, 12);
    let pixels = pixels(2, 256);
    let stages = |model: &LlavaModel| {
        let mut seen = BTreeMap::new();
        let mut note = |name: &str, value: &Var| {
            let values = value.value().to_f32_vec().unwrap();
            seen.insert(name.to_owned(), (value.shape().to_vec(), values));
        };
        let tape = Tape::inference();
        model
            .encode_images_observed(&tape, &pixels, false, &mut note)
            .unwrap();
        seen
    };
    let (one, two) = (stages(&model), stages(&both));
    for stage in [
        "slow.stem",
        "slow.stage0",
        "slow.stage1",
        "slow.stage2",
        "slow.stage3",
    ] {
        assert_eq!(one[stage], two[stage], "{stage}");
    }
    let (shape, values) = &one["vision_tower"];
    assert_eq!(
        (shape.as_slice(), values),
        ([2, 64, 12].as_slice(), &two["slow.stage3"].1)
    );
    // Frozen, it is computed once and taken from there.
    let kept = model.tower_features(&pixels).unwrap();
    let shapes: Vec<Vec<usize>> = kept
        .parts()
        .iter()
        .map(|t| t.shape()[1..].to_vec())
        .collect();
    assert_eq!(
        shapes,
        model.vision_tower.as_ref().unwrap().feature_shapes()
    );
    let rows = model.encode_features(&Tape::inference(), &kept).unwrap();
    assert_eq!(
        rows.value().to_f32_vec().unwrap(),
        features(&model, &pixels)
    );
    // Its folder says what it is.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model.save(&path, None).unwrap();
    let loaded = LlavaModel::load(&path).unwrap();
    assert_eq!(features(&loaded, &pixels), features(&model, &pixels));
    assert!(!loaded.vision_tower.unwrap().has_adapters());
}

/// The gradient of every kind of weight of a lone ConvNeXt against differences of the loss.
#[test]
fn gradients_of_a_lone_convnext_are_those_of_differences() {
    // Weights so large that differences stand out of the rounding.
    let large = json!({
        "input_image_size": 64, "initializer_range": 0.4, "convnext_config": {
            "dims": [4, 6, 8, 12], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.5,
            "initializer": "fan_in"
        }
    });
    let both = LlavaModel::init(config(large), 3).unwrap();
    let model = alone(&both, Pathways::Slow);
    let pixels = pixels(1, 64);
    model
        .params()
        .iter()
        .for_each(|p| p.set_requires_grad(true));
    let gradients = |checkpoint: bool| -> Vec<Vec<f32>> {
        let tape = Tape::training();
        let (sum, _) = loss(&model, &tape, &pixels, checkpoint);
        tape.backward(&sum, 1.0).unwrap();
        let params = model.params();
        let grads = params
            .iter()
            .map(|p| p.grad().unwrap().to_f32_vec().unwrap());
        let grads = grads.collect();
        params.iter().for_each(Param::zero_grad);
        grads
    };
    let all = gradients(false);
    assert_eq!(all, gradients(true), "blocks that run again");
    let value = || {
        f64::from(
            loss(&model, &Tape::inference(), &pixels, false)
                .0
                .value()
                .to_f32_vec()
                .unwrap()[0],
        )
    };
    let mut checked = 0;
    for (param, grad) in model.params().iter().zip(&all) {
        if !param.name().contains("vision_tower") {
            continue;
        }
        // Along the gradient itself, where the difference is the largest that a step of its length can make.
        let norm = grad
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(norm > 0.0, "{} has no gradient", param.name());
        let at = param.value();
        let along = |step: f64| {
            let moved = at.to_f32_vec().unwrap().into_iter().zip(grad);
            let moved = moved.map(|(w, g)| (f64::from(w) + step * f64::from(*g) / norm) as f32);
            let moved = Tensor::from_vec(moved.collect(), param.shape()).unwrap();
            param.set_value(moved).unwrap();
            value()
        };
        let step = 2e-3;
        let slope = (along(step) - along(-step)) / (2.0 * step);
        param.set_value(at.clone()).unwrap();
        assert!(
            (slope - norm).abs() < 0.03 * norm,
            "{}: {slope} for {norm}",
            param.name()
        );
        checked += 1;
    }
    assert_eq!(checked, 52);
}

#[test]
fn a_lone_clip_gives_the_layers_that_are_asked_for() {
    let build = |changes: Value| LlavaModel::init(single(changes), 9).unwrap();
    let picture = pixels(2, 8 * PATCH);
    let tower = |model: &LlavaModel| -> (Vec<usize>, Vec<f32>) {
        let tape = Tape::inference();
        let tower = model.vision_tower.as_ref().unwrap();
        let out = tower
            .forward(&tape, &picture.clone().into(), false, &mut |_, _| {})
            .unwrap();
        (out.shape().to_vec(), out.value().to_f32_vec().unwrap())
    };
    // -2 of 4 layers is the output of the third.
    let (shape, patches) = tower(&build(json!({})));
    assert_eq!(shape, [2, 64, 16]);
    let (shape, all) = tower(&build(json!({ "mm_vision_select_feature": "cls_patch" })));
    assert_eq!(shape, [2, 65, 16]);
    let without_class: Vec<f32> = all
        .chunks_exact(65 * 16)
        .flat_map(|image| image[16..].to_vec())
        .collect();
    assert_eq!(without_class, patches);
    let third = tower(&build(json!({ "mm_vision_select_layer": 3 }))).1;
    assert_eq!(third, patches);

    // 200 of 4 layers: the second and the fourth side by side.
    let several = build(json!({ "mm_vision_select_layer": 200, "mm_hidden_size": 32 }));
    let (shape, both) = tower(&several);
    assert_eq!(shape, [2, 64, 32]);
    let second = tower(&build(json!({ "mm_vision_select_layer": 2 }))).1;
    let fourth = tower(&build(json!({ "mm_vision_select_layer": -1 }))).1;
    for (row, both) in both.chunks_exact(32).enumerate() {
        assert_eq!(both[..16], second[row * 16..(row + 1) * 16]);
        assert_eq!(both[16..], fourth[row * 16..(row + 1) * 16]);
    }
    assert_eq!(features(&several, &picture).len(), 2 * 64 * 32);
}

#[test]
fn gradients_of_a_lone_clip_agree_with_differences() {
    let model = LlavaModel::init(
        single(json!({ "mm_vision_select_layer": 200, "mm_hidden_size": 32 })),
        9,
    )
    .unwrap();
    let picture = pixels(2, 8 * PATCH);
    model
        .params()
        .iter()
        .for_each(|p| p.set_requires_grad(true));
    let tape = Tape::training();
    let (sum, _) = loss(&model, &tape, &picture, true);
    tape.backward(&sum, 1.0).unwrap();
    let value = || {
        f64::from(
            loss(&model, &Tape::inference(), &picture, false)
                .0
                .value()
                .item()
                .unwrap(),
        )
    };
    let mut checked = 0;
    for name in [
        "class_embedding",
        "position_embedding.weight",
        "layers.1.mlp.fc1.weight",
        "v_proj.bias",
    ] {
        for param in model.params().iter().filter(|p| p.name().ends_with(name)) {
            let grad = param.grad().unwrap().to_f32_vec().unwrap();
            let norm = grad
                .iter()
                .map(|g| f64::from(*g).powi(2))
                .sum::<f64>()
                .sqrt();
            let original = param.value();
            // Along the gradient itself, a step that changes the loss far more than its rounding.
            let step = (0.02 / norm).min(0.1);
            let moved = |sign: f64| {
                let values = original.to_f32_vec().unwrap();
                let values = values
                    .iter()
                    .zip(&grad)
                    .map(|(x, g)| x + (sign * step * f64::from(*g) / norm) as f32);
                param
                    .set_value(Tensor::from_vec(values.collect(), param.shape()).unwrap())
                    .unwrap();
                let loss = value();
                param.set_value(original.clone()).unwrap();
                loss
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            assert!(
                (slope - norm).abs() < 0.05 * norm,
                "{}: norm {norm}, by differences {slope}",
                param.name()
            );
            checked += 1;
        }
    }
    assert!(checked >= 4, "{checked}");
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
