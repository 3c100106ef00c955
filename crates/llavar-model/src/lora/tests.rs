use std::{fs, path::Path};

use llavar_tensor::{Param, Segments, Tape, Tensor};

use super::*;
use crate::{
    LlavaModel, ModelError,
    config::{ModelConfig, Preset},
};

/// A model small enough for many passes, with towers.
fn model() -> LlavaModel {
    let config = Preset::Nano.config(Some(40)).unwrap();
    let small = [
        ("hidden_size", 16),
        ("intermediate_size", 24),
        ("num_hidden_layers", 2),
    ];
    let heads = [("num_attention_heads", 2), ("num_key_value_heads", 1)];
    let changes = small
        .iter()
        .chain(&heads)
        .map(|(key, value)| ((*key).to_owned(), (*value).into()));
    let model = LlavaModel::init(config.with(changes).unwrap(), 5).unwrap();
    model.with_adapters(5).unwrap()
}

fn phi3() -> LlavaModel {
    let text = r#"{"model_type": "phi3", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;
    LlavaModel::init(ModelConfig::from_json("config.json", text).unwrap(), 6).unwrap()
}

fn config(targets: &[&str], dora: bool) -> LoraConfig {
    LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.1,
        use_dora: dora,
        target_modules: targets.iter().map(|t| (*t).to_owned()).collect(),
        ..LoraConfig::default()
    }
}

/// Gives every adapter values that change what the model computes.
fn train_a_little(model: &LlavaModel) {
    for param in model.params().iter().filter(|p| is_adapter(p.name())) {
        let mut value = param.value();
        let seed = param.name().len() as f32;
        for (i, x) in value.data_mut::<f32>().unwrap().iter_mut().enumerate() {
            *x += 0.1 * ((i as f32 + seed) * 0.7).sin();
        }
        param.set_value(value).unwrap();
    }
}

fn logits(model: &LlavaModel) -> Vec<f32> {
    let ids = [1, 5, 9, 13, 2, 30];
    let tape = Tape::inference();
    let hidden = model
        .hidden(&tape, &ids, &Segments::from_lengths([4, 2]), None, false)
        .unwrap();
    model
        .logits(&tape, &hidden)
        .unwrap()
        .value()
        .to_f32_vec()
        .unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn features(model: &LlavaModel) -> Vec<f32> {
    let side = model.image_size().unwrap();
    let pixels: Vec<f32> = (0..side * side * 3)
        .map(|i| (i as f32 * 0.01).sin())
        .collect();
    let pixels = Tensor::from_vec(pixels, &[1, side, side, 3]).unwrap();
    let seen = model
        .encode_images(&Tape::inference(), &pixels, false)
        .unwrap();
    seen.value().to_f32_vec().unwrap()
}

#[test]
fn patterns_choose_layers_and_a_wrong_one_names_the_nearest() {
    let modules = linear_modules(&model().parameters());
    let pick = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        select_targets(&modules, &patterns)
    };
    let all = pick(&["all-linear"]).unwrap();
    assert_eq!(all.len(), 2 * 7);
    assert!(all.iter().all(|m| m.starts_with("model.layers.")));
    assert_eq!(
        pick(&["q_proj", "mlp.up_proj"]).unwrap(),
        [
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.up_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.mlp.up_proj",
        ]
    );
    assert_eq!(
        pick(&["?_proj", "model.layers.1.mlp.*"]).unwrap().len(),
        2 * 4 + 3
    );
    // Not in the language model: the towers' own.
    let towers = pick(&["out_proj"]).unwrap();
    assert!(!towers.is_empty() && towers.iter().all(|m| m.contains("vision_tower")));
    assert!(
        pick(&["*.vision_model.*.q_proj", "model.mm_projector.*"])
            .unwrap()
            .len()
            > 2
    );
    let error = pick(&["q_proj", "qkv_prj"]).unwrap_err().to_string();
    assert!(
        error.contains("`qkv_prj`") && error.contains("did you mean `q_proj`?"),
        "{error}"
    );
    assert!(
        pick(&["lm_head"])
            .unwrap_err()
            .to_string()
            .contains("train.trainable")
    );
    assert!(pick(&["*.nothing.*"]).is_err());
    // Phi-3's fused layers under their published names.
    let fused = linear_modules(&phi3().parameters());
    let chosen = select_targets(&fused, &["qkv_proj".into(), "gate_up_proj".into()]).unwrap();
    assert_eq!(chosen.len(), 4);
}

#[test]
fn new_adapters_change_nothing_and_depend_on_seed_and_name_only() {
    for (model, targets) in [(model(), "all-linear"), (phi3(), "qkv_proj")] {
        for dora in [false, true] {
            let before = logits(&model);
            let copy = |seed| {
                let plain = LlavaModel::init(model.config.clone(), 5).unwrap();
                for (to, from) in plain.params().iter().zip(model.params()) {
                    assert!(to.name() == from.name());
                    to.set_value(from.value()).unwrap();
                }
                plain.with_lora(&config(&[targets], dora), seed).unwrap()
            };
            let (one, two, other) = (copy(1), copy(1), copy(2));
            let d = distance(&logits(&one), &before);
            assert!(d < 1e-5, "dora {dora}: {d}");
            let a = |m: &LlavaModel| -> Vec<f32> {
                let params = m.params();
                let all = params.iter().filter(|p| p.name().contains("lora_A"));
                all.flat_map(|p| p.value().to_f32_vec().unwrap()).collect()
            };
            assert_eq!(a(&one), a(&two));
            assert_ne!(a(&one), a(&other));
            // Kaiming with a = sqrt(5): uniform within the root of one over the inputs.
            let bound = 1.0 / 4.0;
            let largest = a(&one).iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(largest <= bound && largest > 0.9 * bound, "{largest}");
        }
    }
}

fn peft_names(folder: &Path) -> Vec<String> {
    let files =
        crate::weights::WeightFiles::open(&folder.join("adapter_model.safetensors")).unwrap();
    files.entries().map(|e| e.name.clone()).collect()
}

#[test]
fn folders_have_pefts_names_and_come_back_as_they_were() {
    for dora in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("adapter"));
        let plain = model();
        plain.save(&base, None).unwrap();
        let model = plain
            .with_lora(&config(&["q_proj", "down_proj"], dora), 3)
            .unwrap();
        train_a_little(&model);
        // The projector trained too.
        let projector = model
            .params()
            .into_iter()
            .find(|p| p.name().contains("mm_projector"))
            .unwrap();
        projector
            .set_value(
                Tensor::from_vec(vec![0.25f32; projector.numel()], projector.shape()).unwrap(),
            )
            .unwrap();
        model
            .save_adapter(&out, base.to_str().unwrap(), None, Param::value)
            .unwrap();

        let names = peft_names(&out);
        let at = "base_model.model.model.layers.0.self_attn.q_proj";
        assert!(names.contains(&format!("{at}.lora_A.weight")), "{names:?}");
        assert!(names.contains(&format!("{at}.lora_B.weight")));
        assert_eq!(names.contains(&format!("{at}.lora_magnitude_vector")), dora);
        assert_eq!(names.len(), 2 * 2 * if dora { 3 } else { 2 });
        let text = fs::read_to_string(out.join("adapter_config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["peft_type"], "LORA");
        assert_eq!((&json["r"], &json["lora_alpha"]), (&4.into(), &8.into()));
        assert_eq!(
            json["target_modules"],
            serde_json::json!(["down_proj", "q_proj"])
        );
        // The towers have layers of the same names, which PEFT must leave alone.
        assert_eq!(
            json["exclude_modules"],
            r".*\.(vision_tower|mm_projector)\..*"
        );
        let others =
            crate::weights::WeightFiles::open(&out.join("non_lora_trainables.safetensors"))
                .unwrap();
        assert!(
            others
                .get("base_model.model.model.mm_projector.0.weight")
                .is_some()
        );

        let adapter = Adapter::open(&out).unwrap();
        assert_eq!(adapter.base().unwrap(), base);
        let again = LlavaModel::load_unmerged(&base, &adapter).unwrap();
        for (a, b) in model.params().iter().zip(again.params()) {
            assert_eq!(a.name(), b.name());
            assert_eq!(
                a.value().to_f32_vec().unwrap(),
                b.value().to_f32_vec().unwrap(),
                "{}",
                a.name()
            );
        }
        assert_eq!(
            model.base_fingerprint().unwrap(),
            again.base_fingerprint().unwrap()
        );

        // Merged while it is read, merged into a folder, merged by saving: the same function.
        let want = (logits(&model), features(&model));
        let merged = dir.path().join("merged");
        let report = merge_folder(&base, &adapter, &merged, None, false).unwrap();
        assert_eq!((report.layers, report.dora), (4, dora));
        assert!(
            merge_folder(&base, &adapter, &merged, None, false).is_err(),
            "it is there already"
        );
        let saved = dir.path().join("saved");
        model.save(&saved, None).unwrap();
        for folder in [&out, &merged, &saved] {
            let loaded = LlavaModel::load(folder).unwrap();
            assert!(!loaded.has_lora());
            let d = distance(&logits(&loaded), &want.0).max(distance(&features(&loaded), &want.1));
            assert!(d < 1e-5, "{}: {d}", folder.display());
        }
        let trained = distance(&logits(&LlavaModel::load(&base).unwrap()), &want.0);
        assert!(trained > 1e-3, "the adapters do something: {trained}");
    }
}

#[test]
fn a_layer_of_a_tower_takes_an_adapter_by_its_pattern() {
    let patterns = [
        "*.vision_model.*_proj",
        "*.blocks.*.mlp.fc1",
        "model.mm_projector.*",
        "*.align_stages.*",
    ];
    let plain = model();
    let before = features(&plain);
    let model = plain.with_lora(&config(&patterns, false), 3).unwrap();
    assert!(distance(&features(&model), &before) < 1e-5);
    train_a_little(&model);
    let want = features(&model);
    assert!(distance(&want, &before) > 1e-3);
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path().join("m").as_path(), None).unwrap();
    let merged = LlavaModel::load(&dir.path().join("m")).unwrap();
    assert!(distance(&features(&merged), &want) < 1e-5);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("adapter"));
    let plain = phi3();
    plain.save(&base, None).unwrap();
    let model = plain.with_lora(&config(&["qkv_proj"], false), 3).unwrap();
    model
        .save_adapter(&out, "somewhere/else", None, Param::value)
        .unwrap();
    let adapter = Adapter::open(&out).unwrap();
    assert!(
        adapter
            .base()
            .unwrap_err()
            .to_string()
            .contains("somewhere/else")
    );
    let other = dir.path().join("other");
    self::model().save(&other, None).unwrap();
    fs::remove_file(out.join("config.json")).unwrap();
    let adapter = Adapter::open(&out).unwrap();
    let error = LlavaModel::load_unmerged(&other, &adapter).unwrap_err();
    assert!(matches!(error, ModelError::Adapter { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("model.layers.1.self_attn.qkv_proj"),
        "{error}"
    );
    let change = |key: &str, value: serde_json::Value| {
        let path = out.join("adapter_config.json");
        let before = fs::read(&path).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&before).unwrap();
        json[key] = value;
        fs::write(&path, json.to_string()).unwrap();
        let result = Adapter::open(&out).and_then(|a| LlavaModel::load_unmerged(&base, &a));
        fs::write(&path, before).unwrap();
        result
    };
    for (key, value) in [
        ("peft_type", "IA3".into()),
        ("bias", "all".into()),
        ("r", 0.into()),
        ("lora_dropout", 1.5.into()),
        ("init_lora_weights", "pissa_niter_4".into()),
        ("use_dora", true.into()),
    ] {
        let error = change(key, value).unwrap_err().to_string();
        assert!(
            error.contains(key) || error.contains("magnitude"),
            "{key}: {error}"
        );
    }
    let scaled = change(
        "alpha_pattern",
        serde_json::json!({"1.self_attn.qkv_proj": 40}),
    )
    .unwrap();
    let adapters = scaled.adapters_of_test();
    assert_eq!(adapters["model.layers.0.self_attn.qkv_proj"].scaling, 2.0);
    assert_eq!(adapters["model.layers.1.self_attn.qkv_proj"].scaling, 10.0);
    let rs = change("use_rslora", true.into()).unwrap();
    assert_eq!(
        rs.adapters_of_test()["model.layers.0.self_attn.qkv_proj"].scaling,
        4.0
    );
}

#[test]
fn a_base_of_four_bits_is_what_adapters_are_trained_and_merged_on() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("adapter"));
    let mut model = model();
    model.save(&base, None).unwrap();
    let exact = logits(&model);
    model.quantize(Quantization { double: true }).unwrap();
    let (count, bytes) = model.quantized();
    let covered: usize = model
        .params()
        .iter()
        .filter(|p| Quantization::covers(p.name()))
        .map(|p| p.numel())
        .sum();
    assert_eq!(count, covered);
    let lists = model.parameters();
    let planned = lists
        .iter()
        .filter_map(|p| Quantization { double: true }.bytes(p));
    assert_eq!(planned.sum::<usize>(), bytes);
    let plain = lists
        .iter()
        .filter_map(|p| Quantization { double: false }.bytes(p));
    let plain: usize = plain.sum();
    assert!(
        plain * 7 < covered * 4,
        "{plain} bytes for {covered} weights"
    );
    for param in model.params() {
        let name = param.name();
        let frozen = name.contains("vision_tower")
            || name.contains("mm_projector")
            || name.contains("embed");
        assert!(
            !(frozen && param.dtype() == llavar_tensor::DType::Nf4),
            "{name}"
        );
    }
    assert!(distance(&logits(&model), &exact) > 1e-4);
    let model = model.with_lora(&config(&["all-linear"], true), 3).unwrap();
    train_a_little(&model);
    let want = logits(&model);
    model
        .save_adapter(&out, base.to_str().unwrap(), None, Param::value)
        .unwrap();
    let adapter = Adapter::open(&out).unwrap();
    // To train on: 4 bits again, with the same values.
    let again = LlavaModel::load_unmerged(&base, &adapter).unwrap();
    assert_eq!(again.quantized(), (count, bytes));
    assert_eq!(logits(&again), want);
    assert_eq!(
        model.base_fingerprint().unwrap(),
        again.base_fingerprint().unwrap()
    );
    // Merged into what the adapters correct, and it is a plain model then.
    let (merged, onto) = (dir.path().join("merged"), dir.path().join("onto"));
    assert!(
        merge_folder(&base, &adapter, &merged, None, false)
            .unwrap()
            .dequantized
    );
    assert!(
        !merge_folder(&base, &adapter, &onto, None, true)
            .unwrap()
            .dequantized
    );
    for folder in [&out, &merged] {
        let loaded = LlavaModel::load(folder).unwrap();
        assert!(!loaded.config.as_json().contains_key("quantization_config"));
        let d = distance(&logits(&loaded), &want);
        assert!(d < 1e-5, "{}: {d}", folder.display());
    }
    assert!(distance(&logits(&LlavaModel::load(&onto).unwrap()), &want) > 1e-4);
    let other =
        ModelConfig::from_json("c", &serde_json::to_string(model.config.as_json()).unwrap())
            .unwrap();
    let other = other
        .with([(
            "quantization_config".to_owned(),
            serde_json::json!({"load_in_8bit": true}),
        )])
        .unwrap();
    assert!(
        Quantization::of(&other)
            .unwrap_err()
            .to_string()
            .contains("load_in_4bit")
    );
}
