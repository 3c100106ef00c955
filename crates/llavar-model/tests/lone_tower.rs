//! One pathway of the vision tower alone: what it sees, its gradients, its layers.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use llavar_model::{LlavaModel, config::Pathways};
use llavar_tensor::{Param, Tape, Tensor, Var};
use serde_json::{Value, json};

use common::{PATCH, config, features, loss, pixels, single};

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
