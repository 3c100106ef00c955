use serde_json::{Map, Value, json};
use std::io::Write as _;

use super::*;
use crate::generation::GenerationOptions;

fn base() -> Map<String, Value> {
    match Preset::Nano.config(None) {
        Ok(config) => config.as_json().clone(),
        Err(error) => panic!("{error}"),
    }
}

fn check(changes: Value) -> Result<ModelConfig, String> {
    let mut map = base();
    if let Value::Object(changes) = changes {
        map.extend(changes);
    }
    ModelConfig::from_map(Path::new("config.json"), map).map_err(|e| e.to_string())
}

fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("LLAVAR_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")));
    path.join("parity").is_dir().then_some(path)
}

#[test]
fn every_published_layout_reads_and_writes_back() {
    let Some(shared) = shared() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED every_published_layout_reads_and_writes_back: LLAVAR_SHARED not found"
        );
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(shared.join("parity")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("config.json").is_file() {
            continue;
        }
        let config = ModelConfig::read(&folder).unwrap_or_else(|e| panic!("{e}"));
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let original: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let keys = |m: &Map<String, Value>| m.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(config.as_json()), keys(&original));
        assert_eq!(config.as_json(), &original);
        assert_eq!(
            config.vision.is_some(),
            original.contains_key("mm_vision_tower")
        );
        seen += 1;
    }
    assert!(seen > 0, "no folder with a config.json under parity");
}

#[test]
fn grids_follow_the_published_table() {
    let config = Preset::Vicuna15.config(None).unwrap();
    for (size, slow, fast_px, fast, tokens) in [
        (384, 12, 336, 24, 576),
        (768, 24, 336, 24, 576),
        (1024, 32, 448, 32, 1024),
        (1536, 48, 672, 48, 2304),
    ] {
        let config = config
            .with([("input_image_size".to_owned(), json!(size))])
            .unwrap();
        let vision = config.vision.as_ref().unwrap();
        assert_eq!(VisionConfig::slow_grid(size), slow);
        assert_eq!(vision.fast_image_size(), Some(fast_px));
        assert_eq!(vision.grid(), fast);
        assert_eq!(config.image_tokens(), Some(tokens));
    }
}

#[test]
fn impossible_image_sizes_list_the_possible_ones() {
    let config = Preset::Vicuna15.config(None).unwrap();
    for size in [0, 1, 335, 336, 512, 672, 770, 5000] {
        let error = config
            .with([("input_image_size".to_owned(), json!(size))])
            .unwrap_err()
            .to_string();
        assert!(error.contains("input_image_size"), "{error}");
        if (1..=MAX_IMAGE_SIZE).contains(&size) {
            let list = "96, 128, 192, 256, 384, or every multiple of 32 from 768 to 4096";
            assert!(error.contains(list), "{error}");
        }
    }
}

#[test]
fn every_problem_is_in_one_message() {
    let error = check(json!({
        "num_key_value_heads": 3,
        "vocab_size": -1,
        "intermediate_size": "big",
        "hidden_act": "gelu",
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "input_image_size": 300,
        "mm_projector_type": "mlpx_gelu",
        "mm_hidden_size": 17,
        "tie_word_embeddings": 1,
    }))
    .unwrap_err();
    for key in [
        "num_key_value_heads = 3: must be a divisor of num_attention_heads = 4",
        "vocab_size = -1",
        "intermediate_size = \"big\"",
        "hidden_act = \"gelu\"",
        "rope_scaling.type = \"linear\"",
        "input_image_size = 300",
        "mm_projector_type = \"mlpx_gelu\"",
        "mm_hidden_size = 17",
        "tie_word_embeddings = 1",
        "9 problem(s)",
    ] {
        assert!(error.contains(key), "{key} is not in:\n{error}");
    }
}

#[test]
fn hostile_values_are_errors_not_panics() {
    let keys: Vec<String> = base().keys().cloned().collect();
    let values = [
        json!(0),
        json!(-5),
        json!(1e300),
        json!(18446744073709551615u64),
        json!(3),
        json!(""),
        json!([]),
        json!([1e300, null]),
        json!({}),
        json!({"dims": [0, 0, 0, 0], "type": 4, "patch_size": 0, "num_attention_heads": 0}),
        json!(true),
        Value::Null,
    ];
    for key in &keys {
        for value in &values {
            let result = check(json!({ key.as_str(): value }));
            if let Ok(config) = result {
                assert!(config.image_tokens().unwrap_or(0) < 1 << 20);
            }
        }
        let mut map = base();
        map.remove(key);
        let _ = ModelConfig::from_map(Path::new("x"), map);
    }
    assert!(ModelConfig::from_json("x", "[]").is_err());
    assert!(ModelConfig::from_json("x", "{").is_err());
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    assert!(matches!(
        ModelConfig::from_json("x", &deep),
        Err(ConfigError::Json { .. })
    ));
}

#[test]
fn longrope_of_phi35_has_the_published_attention_factor() {
    let config = Preset::Phi35Mini.config(None).unwrap();
    let RopeScaling::LongRope {
        attention_factor,
        short_factor,
        long_factor,
        ..
    } = &config.llm.rope_scaling
    else {
        panic!("not longrope")
    };
    assert!(
        (attention_factor - 1.190238).abs() < 1e-6,
        "{attention_factor}"
    );
    assert_eq!((short_factor.len(), long_factor.len()), (48, 48));
    assert!(short_factor.windows(2).all(|w| w[0] <= w[1]));
    assert!(long_factor.windows(2).all(|w| w[0] <= w[1]));
}

#[test]
fn longrope_lists_must_fit_the_heads() {
    let phi = Preset::Phi35Mini.config(None).unwrap();
    for kind in ["longrope", "su", "yarn"] {
        let scaling = json!({"type": kind, "short_factor": [1.0], "long_factor": vec![1.0; 48]});
        let error = phi
            .with([("rope_scaling".to_owned(), scaling)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rope_scaling.short_factor = a list of 1"),
            "{error}"
        );
        assert!(
            error.contains("head_dim / 2 = 48") && error.contains("1 problem"),
            "{error}"
        );
    }
}

#[test]
fn presets_have_the_published_numbers_of_parameters() {
    // Language model, CLIP (without its unused post_layernorm), ConvNeXt (without its head), adapters
    // (6,085,121 each), fusion (2,623,488), projector.
    for (preset, billions) in [
        (Preset::Phi35Mini, 3.8..4.5),
        (Preset::Llama31Instruct, 8.0..8.7),
        (Preset::Vicuna15, 13.0..13.8),
    ] {
        let list = parameters(&preset.config(None).unwrap(), true);
        let count = |part: &str| {
            list.iter()
                .filter(|p| p.name.contains(part))
                .map(Parameter::numel)
                .sum::<usize>()
        };
        assert_eq!(count("align_stages_latent"), 3 * 6_085_121);
        assert_eq!(count("align_stages."), 2_623_488);
        // 303,507,456 of the published transformer less the 2,048 of `post_layernorm`.
        assert_eq!(count("fast_vision_tower"), 303_507_456 - 2_048);
        let total = count("") as f64 / 1e9;
        assert!(billions.contains(&total), "{} has {total} B", preset.name());
    }
    let nano: usize = parameters(&Preset::Nano.config(None).unwrap(), true)
        .iter()
        .map(|p| p.numel())
        .sum();
    assert!((10_000_000..25_000_000).contains(&nano), "{nano}");
    let shipped: usize = parameters(&Preset::Nano768.config(Some(4096)).unwrap(), true)
        .iter()
        .map(|p| p.numel())
        .sum();
    assert!((20_000_000..40_000_000).contains(&shipped), "{shipped}");
    assert!(Preset::by_name("nano").is_ok());
    assert!(
        Preset::by_name("mega")
            .unwrap_err()
            .to_string()
            .contains("vicuna1.5-13b")
    );
}

#[test]
fn plain_language_models_and_single_towers_read() {
    let plain = ModelConfig::from_json(
        "x",
        r#"{"model_type":"llama","vocab_size":8,"hidden_size":8,"intermediate_size":8,
            "num_hidden_layers":1,"num_attention_heads":2,"eos_token_id":[1,2]}"#,
    )
    .unwrap();
    assert!(plain.vision.is_none() && plain.projector.is_none());
    assert_eq!(plain.llm.eos_token_ids, [1, 2]);
    let single = check(json!({
        "is_multipath_encoder": false, "clip_vision_config": null, "input_image_size": null,
        "mm_hidden_size": 1024
    }))
    .unwrap();
    let vision = single.vision.unwrap();
    assert_eq!(
        (vision.clip().unwrap().image_size, vision.image_tokens()),
        (336, 576)
    );
    let layers = |vision: &VisionConfig| match &vision.tower {
        VisionTower::Clip(_, select) => (select.layers.clone(), select.keep_class_token),
        other => panic!("{other:?}"),
    };
    assert_eq!(layers(&vision), (vec![23], false));
    let error =
        check(json!({"is_multipath_encoder": false, "mm_vision_select_layer": 25})).unwrap_err();
    assert!(error.contains("mm_vision_select_layer = 25"), "{error}");
    // 400: four layers side by side, so the projector is four times as wide.
    let several = check(json!({
        "is_multipath_encoder": false, "clip_vision_config": null, "input_image_size": null,
        "mm_vision_select_layer": 400, "mm_hidden_size": 4096
    }))
    .unwrap();
    let vision = several.vision.unwrap();
    assert_eq!(vision.feature_size(), 4096);
    assert_eq!(layers(&vision), (vec![6, 12, 18, 24], false));
}

#[test]
fn a_convnext_by_name_sees_alone() {
    let lone = |changes: Value| {
        let mut keys = json!({
            "is_multipath_encoder": false, "mm_vision_tower": "convnext_large_mlp.clip_laion2b_ft_320",
            "clip_vision_config": null, "convnext_config": null, "mm_hidden_size": 1536
        });
        let map = keys.as_object_mut().unwrap();
        map.extend(changes.as_object().unwrap().clone());
        check(keys)
    };
    for (size, grid) in [(json!(768), 24), (json!(1024), 32), (json!(null), 8)] {
        let vision = lone(json!({ "input_image_size": size })).unwrap().vision;
        let vision = vision.unwrap();
        assert_eq!((vision.grid(), vision.image_tokens()), (grid, grid * grid));
        assert_eq!(vision.feature_size(), 1536);
        assert!(vision.clip().is_none() && vision.fast_image_size().is_none());
        assert!(matches!(&vision.tower, VisionTower::ConvNext(c) if c.depths == [3, 3, 27, 3]));
    }
    let large =
        json!({"mm_vision_tower": "laion/CLIP-convnext_xxlarge-laion2B", "mm_hidden_size": 3072});
    assert!(lone(large).is_ok());
    // A folder above the tower may be called anything.
    let clip = json!({"mm_vision_tower": "convnext-study/clip-vit-large-patch14-336", "mm_hidden_size": 1024, "input_image_size": 336});
    assert!(lone(clip).unwrap().vision.unwrap().clip().is_some());
    for (changes, wrong) in [
        (
            json!({"mm_hidden_size": 1024}),
            "mm_hidden_size = 1024: must be 1536",
        ),
        (json!({"input_image_size": 336}), "input_image_size = 336"),
        (
            json!({"mm_vision_select_layer": 400}),
            "of a ConvNeXt alone the last stage is used",
        ),
        (
            json!({"mm_vision_select_feature": "cls_patch"}),
            "a ConvNeXt has no class token",
        ),
        (
            json!({"is_multipath_encoder": true}),
            "vision_tower_slow, and a ConvNeXt alone has",
        ),
    ] {
        let error = lone(changes).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn every_preset_has_three_choices_of_pathways() {
    for preset in PRESETS {
        let both = preset.config(None).unwrap();
        let tower = both.vision.as_ref().unwrap();
        let (clip, convnext) = (tower.clip().unwrap(), tower.convnext().unwrap());
        assert_eq!(both.with_pathways(Pathways::Both).unwrap(), both);
        let fast = both.with_pathways(Pathways::Fast).unwrap();
        let slow = both.with_pathways(Pathways::Slow).unwrap();
        // The grids are the same, so each has as many image tokens.
        for config in [&both, &fast, &slow] {
            assert_eq!(
                config.image_tokens(),
                both.image_tokens(),
                "{}",
                preset.name()
            );
        }
        let of = |config: &ModelConfig| config.vision.clone().unwrap();
        assert_eq!(of(&fast).clip(), Some(clip));
        assert_eq!(of(&slow).convnext(), Some(convnext));
        assert_eq!(of(&fast).input_image_size, clip.image_size);
        assert_eq!(of(&slow).input_image_size, tower.input_image_size);
        // What is gone is not spoken of, and what is left is all of its tower.
        assert!(!fast.as_json().contains_key("vision_tower_slow"));
        assert!(!slow.as_json().contains_key("clip_vision_config"));
        let weights = |config: &ModelConfig, part: &str| -> usize {
            let all = parameters(config, true);
            let fits = all.iter().filter(|p| p.name.starts_with(part));
            fits.map(Parameter::numel).sum()
        };
        let tower = "model.vision_tower.";
        for (config, path) in [(&fast, "fast"), (&slow, "slow")] {
            let of_both = weights(&both, &format!("{tower}{path}_vision_tower."));
            assert_eq!(weights(config, &format!("{tower}vision_tower.")), of_both);
            assert_eq!(weights(config, tower), of_both);
        }
        let error = fast.with_pathways(Pathways::Slow).unwrap_err();
        assert!(error.to_string().contains("a tower of two"), "{error}");
    }
    assert_eq!(Pathways::by_name("slow"), Some(Pathways::Slow));
    assert_eq!(Pathways::by_name("none"), None);
}

#[test]
fn what_is_off_in_a_generation_file_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("generation_config.json");
    for (text, options) in [
        (
            r#"{"do_sample": false, "top_k": -1, "top_p": 0.0}"#,
            (0.0, None, None, 1, 1.0),
        ),
        (
            r#"{"do_sample": true, "top_k": 0, "top_p": 0.9}"#,
            (1.0, None, Some(0.9), 1, 1.0),
        ),
        // transformers' own limit where a file has none; beams are for greedy answers.
        (
            r#"{"do_sample": true, "temperature": 0.6, "num_beams": 4}"#,
            (0.6, Some(50), None, 1, 1.0),
        ),
        (
            r#"{"do_sample": true, "temperature": 0}"#,
            (0.0, Some(50), None, 1, 1.0),
        ),
        (
            r#"{"num_beams": 4, "length_penalty": 0.8}"#,
            (0.0, None, None, 4, 0.8),
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let config = GenerationConfig::read(folder.path()).unwrap();
        let made =
            GenerationOptions::from_config(&Preset::Nano.config(None).unwrap(), config.as_ref());
        let seen = (
            made.temperature,
            made.top_k,
            made.top_p,
            made.num_beams,
            made.length_penalty,
        );
        assert_eq!(seen, options, "{text}");
        made.check().unwrap();
    }
}

#[test]
fn generation_file_reads_one_id_or_many() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(GenerationConfig::read(folder.path()).unwrap(), None);
    let file = folder.path().join("generation_config.json");
    std::fs::write(
        &file,
        r#"{"eos_token_id":[32007,32001,32000],"temperature":0.0,"x":[1]}"#,
    )
    .unwrap();
    let config = GenerationConfig::read(folder.path()).unwrap().unwrap();
    assert_eq!(config.eos_token_ids, [32007, 32001, 32000]);
    assert_eq!(config.temperature, Some(0.0));
    assert_eq!(config.as_json().get("x"), Some(&json!([1])));
    std::fs::write(
        &file,
        r#"{"eos_token_id":2,"top_p":"-1","num_beams":"two"}"#,
    )
    .unwrap();
    let error = GenerationConfig::read(folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("top_p") && error.contains("num_beams"),
        "{error}"
    );
}
