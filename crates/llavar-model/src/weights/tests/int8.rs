//! Model folders in 8 bits: what is written, what is read back, and what is refused.

use std::{fs, path::Path};

use llavar_tensor::{Segments, Tape};
use serde_json::json;

use crate::{
    LlavaModel, ModelError,
    config::{ModelConfig, Preset},
    expand_image_tokens, quantize_folder,
    weights::{Dtype, Int8Error, TensorSpec, WeightFiles, WeightsError, write_safetensors},
};

/// A model of the full architecture in which every kind of matrix is large enough for 8 bits.
fn model() -> LlavaModel {
    let nano = Preset::Nano.config(Some(96)).unwrap();
    let changes = json!({
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "mm_hidden_size": 64, "input_image_size": 128,
        "clip_vision_config": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4,
            "intermediate_size": 96, "image_size": 56, "patch_size": 14, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5},
        "convnext_config": {"dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.1}
    });
    let config = nano.with(changes.as_object().unwrap().clone()).unwrap();
    LlavaModel::init(config, 3).unwrap()
}

/// Logits of a picture and a few words.
fn logits(model: &LlavaModel) -> Vec<f32> {
    let size = model.image_size().unwrap();
    let pixels = (0..size * size * 3).map(|i| (i as f32 * 0.013).sin());
    let pixels = llavar_tensor::Tensor::from_vec(pixels.collect(), &[1, size, size, 3]).unwrap();
    let tape = Tape::inference();
    let rows = model.encode_images(&tape, &pixels, false).unwrap();
    let ids = expand_image_tokens(&[1, -200, 40, 7, 19], model.tokens_per_image().unwrap());
    let segments = Segments::single(ids.len());
    let hidden = model.hidden(&tape, &ids, &segments, Some(&rows), false);
    let logits = model.logits(&tape, &hidden.unwrap()).unwrap();
    logits.value().to_f32_vec().unwrap()
}

fn folders() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (plain, int8) = (root.path().join("plain"), root.path().join("int8"));
    model().save_as(&plain, None, Dtype::BF16).unwrap();
    (root, plain, int8)
}

#[test]
fn a_folder_in_8_bits_is_small_and_answers_nearly_the_same() {
    let (_root, plain, int8) = folders();
    let report = quantize_folder(&plain, &int8, u64::MAX).unwrap();
    let before = LlavaModel::load(&plain).unwrap();
    let after = LlavaModel::load(&int8).unwrap();
    let total: usize = before.params().iter().map(|p| p.numel()).sum();
    assert_eq!(report.elements + report.others, total);
    // Small matrices: the rest weighs more here than in any real model.
    assert!(report.elements > 4 * report.others, "{report:?}");
    assert!(report.bytes < report.bytes_before * 7 / 10, "{report:?}");
    assert!((0.001..0.01).contains(&report.relative_error), "{report:?}");

    let files = WeightFiles::open(&int8).unwrap();
    let stored = WeightFiles::open(&plain).unwrap();
    let mut coded = 0;
    for (a, b) in before.params().iter().zip(after.params()) {
        assert_eq!((a.name(), a.shape()), (b.name(), b.shape()));
        let (a_values, b_values) = (
            a.value().to_f32_vec().unwrap(),
            b.value().to_f32_vec().unwrap(),
        );
        if files.get(a.name()).unwrap().dtype == Dtype::BF16 {
            assert_eq!(a_values, b_values, "{}", a.name());
            continue;
        }
        coded += 1;
        let columns = a_values.len() / a.shape()[0];
        for (x, y) in a_values.chunks(columns).zip(b_values.chunks(columns)) {
            let largest = x.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let off = x
                .iter()
                .zip(y)
                .fold(0.0_f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(off <= largest / 253.9, "{}: {off} of {largest}", a.name());
        }
    }
    assert_eq!(coded, report.tensors);
    // What sees pixels and places stays as it was.
    for kept in [
        "patch_embedding",
        "position_embedding",
        "stem.0",
        "conv_dw",
        "norm.weight",
    ] {
        let entry = stored.entries().find(|e| e.name.contains(kept)).unwrap();
        assert_eq!(files.get(&entry.name), Some(entry));
    }

    let (a, b) = (logits(&before), logits(&after));
    let off: f64 = a
        .iter()
        .zip(&b)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum();
    let all: f64 = a.iter().map(|a| f64::from(*a).powi(2)).sum();
    assert!((off / all).sqrt() < 0.05, "{}", (off / all).sqrt());
    assert!(off > 0.0);

    // The configuration names the form on disk and not in memory, where the weights are wide again.
    let said = ModelConfig::read(&int8).unwrap();
    let said = &said.as_json()["quantization_config"];
    assert_eq!(said["format"], "int-quantized");
    let ignored = said["ignore"].as_array().unwrap();
    assert!(
        ignored
            .iter()
            .any(|n| n.as_str().unwrap().ends_with("stem.0"))
    );
    assert!(after.config.as_json().get("quantization_config").is_none());
}

#[test]
fn a_folder_in_8_bits_is_written_again_without_loss_and_in_small_files() {
    let (root, plain, int8) = folders();
    quantize_folder(&plain, &int8, u64::MAX).unwrap();
    let again = root.path().join("again");
    let report = quantize_folder(&int8, &again, 64 << 10).unwrap();
    assert!(report.relative_error < 1e-6, "{report:?}");
    assert!(again.join("model.safetensors.index.json").is_file());
    let (a, b) = (
        LlavaModel::load(&int8).unwrap(),
        LlavaModel::load(&again).unwrap(),
    );
    let (a, b) = (logits(&a), logits(&b));
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let error = quantize_folder(&plain, &again, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_named_and_nothing_is_written() {
    let (_root, plain, int8) = folders();
    let name = "model.layers.0.mlp.up_proj.weight";
    let model = LlavaModel::load(&plain).unwrap();
    let param = model
        .params()
        .into_iter()
        .find(|p| p.name() == name)
        .unwrap();
    let mut value = param.value();
    value.data_mut::<f32>().unwrap()[5] = f32::INFINITY;
    param.set_value(value).unwrap();
    model.save(&plain, None).unwrap();
    match quantize_folder(&plain, &int8, u64::MAX) {
        Err(ModelError::NotFinite { name: found }) => assert_eq!(found, name),
        other => panic!("{other:?}"),
    }
    assert!(!int8.exists());
}

/// A file with an 8-bit tensor `w` of two rows and the given scales.
fn file(
    path: &Path,
    scale: Option<(Dtype, &[usize], &[f32])>,
) -> Result<WeightFiles, WeightsError> {
    let mut specs = vec![TensorSpec::new("w", Dtype::I8, [2, 3])];
    specs.extend(scale.map(|(dtype, shape, _)| TensorSpec::new("w_scale", dtype, shape)));
    write_safetensors(path, &specs, None, |spec, sink| match spec.name.as_str() {
        "w" => sink.write(&[1, 2, 255, 127, 128, 0]),
        _ => sink.write_f32(scale.unwrap().2),
    })
    .unwrap();
    WeightFiles::open(path)
}

#[test]
fn codes_and_scales_are_one_tensor_and_wrong_scales_are_refused_when_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for (dtype, shape) in [
        (Dtype::F32, &[2, 1][..]),
        (Dtype::BF16, &[2]),
        (Dtype::F16, &[2, 1]),
    ] {
        let files = file(&path, Some((dtype, shape, &[0.5, 2.0]))).unwrap();
        assert_eq!(files.entries().len(), 1);
        assert_eq!(files.get("w").unwrap().dtype, Dtype::F32);
        assert!(files.get("w_scale").is_none());
        let expected = [0.5, 1.0, -0.5, 254.0, -256.0, 0.0];
        assert_eq!(files.read_f32("w").unwrap(), expected);
        let bytes: Vec<u8> = expected
            .iter()
            .flat_map(|v: &f32| v.to_le_bytes())
            .collect();
        assert_eq!(&*files.bytes("w").unwrap(), &bytes);
    }
    // Alone they are what they are: 8-bit integers.
    let files = file(&path, None).unwrap();
    assert_eq!(
        files.read_f32("w").unwrap(),
        [1.0, 2.0, -1.0, 127.0, -128.0, 0.0]
    );

    let problem =
        |dtype, shape: &[usize], values: &[f32]| match file(&path, Some((dtype, shape, values))) {
            Err(WeightsError::Int8 {
                weight, problem, ..
            }) => {
                assert_eq!(weight, "w");
                problem
            }
            other => panic!("{other:?}"),
        };
    assert!(matches!(
        problem(Dtype::I8, &[2, 1], &[1.0, 1.0]),
        Int8Error::ScaleType { .. }
    ));
    for shape in [&[3, 1][..], &[1, 2], &[1], &[2, 1, 1]] {
        let values = vec![1.0; shape.iter().product()];
        let found = problem(Dtype::F32, shape, &values);
        assert!(
            matches!(found, Int8Error::ScaleShape { rows: 2, .. }),
            "{found}"
        );
    }
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let found = problem(Dtype::F32, &[2, 1], &[1.0, bad]);
        assert!(
            matches!(found, Int8Error::ScaleValue { row: 1, .. }),
            "{found}"
        );
    }
}

#[test]
fn half_of_the_form_is_a_mismatch_that_names_the_other_half() {
    let (_root, plain, int8) = folders();
    quantize_folder(&plain, &int8, u64::MAX).unwrap();
    let path = int8.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    // Renamed in the header, with names of the same length.
    let renamed = |from: &str, to: &str| {
        let text = whole
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        let mut bytes = whole.clone();
        bytes[text..text + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, bytes).unwrap();
        LlavaModel::load(&int8).unwrap_err().to_string()
    };
    let message = renamed(
        "layers.1.mlp.up_proj.weight_scale",
        "layers.1.mlp.up_proj.weight_scalX",
    );
    assert!(message.contains("1 unexpected"), "{message}");
    assert!(message.contains("I8 without its scales"), "{message}");
    assert!(
        message.contains("up_proj.weight_scale` beside it"),
        "{message}"
    );
    let message = renamed(
        "layers.1.mlp.up_proj.weight\"",
        "layers.1.mlp.up_proj.weighX\"",
    );
    assert!(message.contains("1 missing"), "{message}");
    // A file cut short is found before anything is read.
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    assert!(LlavaModel::load(&int8).is_err());
}
