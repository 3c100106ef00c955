//! Plain PyTorch code of our own (`torch/llavar2.py`) opens the same folder and computes the same logits.
//!
//! `LLAVAR_TORCH_PYTHON` (`python3` by default) is a Python with torch, safetensors, numpy and Pillow; without it the
//! tests say SKIPPED.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use llavar_assistant::Assistant;
use llavar_data::tokenizer::{BpeOptions, train_bpe};
use llavar_image::{Aspect, DecodeLimits, ImageProcessor, decode_file, encode_png};
use llavar_model::config::ImageAspectRatio;
use llavar_model::{
    LlavaModel,
    config::{Pathways, Preset},
    expand_image_tokens, quantize_folder,
    weights::{Dtype, WeightFiles},
};
use llavar_tensor::{Segments, Tape, Var};
use serde_json::json;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The Python to ask, if it has what is needed.
fn python(test: &str) -> Option<String> {
    let python = std::env::var("LLAVAR_TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = ["-c", "import torch, safetensors.torch, numpy, PIL"];
    let has = Command::new(&python).args(imports).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: {python} has not torch, safetensors, numpy and Pillow (LLAVAR_TORCH_PYTHON names another)"
    );
    None
}

/// Asks both for the features of a real picture and the logits of a text around it; how far they are apart, as a
/// share of the largest value.
fn apart(python: &str, folder: &Path) -> (f32, f32) {
    let picture = Path::new(ROOT).join("docs/quickstart.png");
    let assistant = Assistant::load(folder, None).unwrap();
    let model = assistant.model();
    let rows = model.config.llm.vocab_size as i32;
    let mut ids: Vec<i32> = (0..40).map(|i| 3 + i * 37 % (rows - 3)).collect();
    ids[7] = -200;
    let features = assistant.see_file(&picture).unwrap();
    let expanded = expand_image_tokens(&ids, model.tokens_per_image().unwrap());
    let tape = Tape::inference();
    let segments = Segments::single(expanded.len());
    let seen = Var::constant(features.clone());
    let hidden = model.hidden(&tape, &expanded, &segments, Some(&seen), false);
    let logits = model.logits(&tape, &hidden.unwrap()).unwrap();

    let work = tempfile::tempdir().unwrap();
    // A model that fits its pictures: the other side is given the square as it was placed.
    let fitted = work.path().join("fitted.png");
    let given = if model.config.image_aspect_ratio == ImageAspectRatio::Fit {
        let image = decode_file(&picture, &DecodeLimits::default()).unwrap();
        let processor = ImageProcessor::new(model.image_size().unwrap(), Aspect::Fit);
        let seen = processor.to_square(&image).unwrap();
        fs::write(&fitted, encode_png(&seen).unwrap()).unwrap();
        &fitted
    } else {
        &picture
    };
    let (list, out) = (
        work.path().join("ids.json"),
        work.path().join("out.safetensors"),
    );
    fs::write(&list, serde_json::to_string(&ids).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/llavar2.py");
    let run = Command::new(python)
        .args([&script, folder, given, &list, &out])
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let theirs = WeightFiles::open(&out).unwrap();
    let compare = |name: &str, ours: Vec<f32>| {
        let theirs = theirs.read_f32(name).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let largest = theirs.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
        assert!(
            largest > 0.0 && ours.iter().all(|v| v.is_finite()),
            "{name}"
        );
        off.fold(0.0, f32::max) / largest
    };
    let apart = (
        compare("features", features.to_f32_vec().unwrap()),
        compare("logits", logits.value().to_f32_vec().unwrap()),
    );
    println!(
        "{}: features {:.1e}, logits {:.1e} of the largest value apart",
        folder.display(),
        apart.0,
        apart.1
    );
    apart
}

/// A model of the full architecture: pictures of `size` px, CLIP made for `clip` px.
fn save(folder: &Path, pathways: Pathways, size: usize, clip: usize, dtype: Dtype) {
    let text = ["USER: what is the total of it ASSISTANT: the total is 7"; 4];
    let (tokenizer, settings) = train_bpe(text.iter(), &BpeOptions::new(280)).unwrap();
    let changes = json!({
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "mm_hidden_size": 64, "input_image_size": size, "initializer_range": 0.2,
        "clip_vision_config": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4,
            "intermediate_size": 96, "image_size": clip, "patch_size": 14, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5},
        "convnext_config": {"dims": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "layer_scale_init_value": 0.3}
    });
    let config = Preset::Nano.config(Some(280)).unwrap();
    let config = config.with(changes.as_object().unwrap().clone()).unwrap();
    let config = config.with_pathways(pathways).unwrap();
    let model = LlavaModel::init(config, 11).unwrap();
    // A fresh adapter changes nothing; these must.
    for param in model
        .params()
        .iter()
        .filter(|p| p.name().contains("align_stages_latent"))
    {
        let mut value = param.value();
        let values = value.data_mut::<f32>().unwrap().iter_mut().enumerate();
        values.for_each(|(i, v)| *v += 0.1 * (i as f32 * 0.7).sin());
        param.set_value(value).unwrap();
    }
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("tokenizer.json"), tokenizer).unwrap();
    fs::write(files.path().join("tokenizer_config.json"), settings).unwrap();
    model.save_as(folder, Some(files.path()), dtype).unwrap();
}

#[test]
fn pytorch_computes_the_same_from_folders_of_every_form() {
    let Some(python) = python("pytorch_computes_the_same_from_folders_of_every_form") else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str| root.path().join(name);
    // Grids of both paths equal, the slow one smaller, and CLIP's places interpolated; the slow path alone.
    for (name, pathways, size, clip, dtype) in [
        ("equal", Pathways::Both, 128, 56, Dtype::F32),
        ("smaller", Pathways::Both, 64, 112, Dtype::BF16),
        ("interpolated", Pathways::Both, 256, 56, Dtype::BF16),
        ("slow", Pathways::Slow, 256, 56, Dtype::BF16),
    ] {
        save(&folder(name), pathways, size, clip, dtype);
        let (features, logits) = apart(&python, &folder(name));
        assert!(
            features < 1e-5 && logits < 1e-5,
            "{name}: {features} {logits}"
        );
    }
    quantize_folder(&folder("interpolated"), &folder("int8"), 100_000).unwrap();
    let (features, logits) = apart(&python, &folder("int8"));
    assert!(
        features < 1e-5 && logits < 1e-5,
        "int8: {features} {logits}"
    );
}

#[test]
fn pytorch_computes_the_same_from_the_shipped_model() {
    let test = "pytorch_computes_the_same_from_the_shipped_model";
    let shipped: PathBuf = Path::new(ROOT).join("models/llavar-nano");
    if !shipped.join("config.json").is_file() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: models/llavar-nano is not there"
        );
        return;
    }
    let Some(python) = python(test) else { return };
    let (features, logits) = apart(&python, &shipped);
    assert!(features < 1e-4 && logits < 1e-4, "{features} {logits}");
    // The same weights at 16 bits, as they were before they were stored in 8.
    let plain = tempfile::tempdir().unwrap();
    let model = LlavaModel::load(&shipped).unwrap();
    let folder = plain.path().join("bf16");
    model.save_as(&folder, Some(&shipped), Dtype::BF16).unwrap();
    let (features, logits) = apart(&python, &folder);
    assert!(features < 1e-4 && logits < 1e-4, "{features} {logits}");
}
