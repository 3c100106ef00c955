//! `llavar plan`: what fits, how long it takes, what it costs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{World, finish};
use serde_json::Value;

/// The plan as JSON, whether it fits or not.
#[track_caller]
fn plan(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let run = world.run(&["plan", "--json"], args);
    let value = serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:#?}"));
    (run.code, value)
}

#[test]
fn a_published_recipe_on_eight_gpus_is_planned_with_time_and_cost() {
    let world = World::empty("plan");
    let data = [
        "--samples",
        "424000",
        "--mean-tokens",
        "900",
        "--price-per-gpu-hour",
        "2.5",
    ];
    let base = ["--recipe", "phi3-readme-sft", "--memory", "80"];
    let eight = [&base[..], &["--gpus", "8"], &data].concat();
    let (code, plan8) = plan(&world, &eight);
    assert_eq!(code, Some(0), "{plan8:#}");
    assert_eq!(
        (plan8["fits"].as_bool(), plan8["zero_stage"].as_u64()),
        (Some(true), Some(3))
    );
    let stages = plan8["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 4);
    let number = |value: &Value| value.as_f64().unwrap();
    let parameters = number(&plan8["parameters"]);
    let own = |s: &Value| {
        number(&s["weights"]) + number(&s["gradients"]) + number(&s["optimizer_states"])
    };
    assert_eq!(own(&stages[0]), 18.0 * parameters);
    for pair in stages.windows(2) {
        assert!(
            number(&pair[1]["together"]) < number(&pair[0]["together"]),
            "{pair:#?}"
        );
    }
    // 3 epochs of 424,000 samples, 128 in a step: 3312 whole steps an epoch.
    let time = &plan8["time"];
    assert_eq!(time["steps"].as_u64(), Some(3 * 3312));
    let hours = number(&time["steps"]) * number(&time["step_seconds"]) / 3600.0;
    assert!((number(&time["hours"]) / hours - 1.0).abs() < 1e-9);
    assert!((number(&time["cost"]) / (hours * 8.0 * 2.5) - 1.0).abs() < 1e-9);
    // Twice the GPUs do twice the samples in a step of the same length.
    let sixteen = [&base[..], &["--gpus", "16"], &data].concat();
    let (_, plan16) = plan(&world, &sixteen);
    let ratio = number(&plan16["time"]["hours"]) / hours;
    assert!((0.49..0.51).contains(&ratio), "{ratio}");

    // FP8 products: faster, and copies of the weights beside what ZeRO 2 and 3 share out.
    let (_, fp8) = plan(&world, &[&eight[..], &["--set", "train.fp8=true"]].concat());
    let ratio = hours / number(&fp8["time"]["hours"]);
    assert!((1.2..1.3).contains(&ratio), "{ratio}");
    assert!(number(&fp8["stages"][2]["weights"]) > number(&stages[2]["weights"]));

    let text = world.run(&["plan"], &eight).ok();
    for word in [
        "3 <--",
        "GPU-hours",
        "BENCHMARKS.md",
        "fits",
        "largest micro-batch",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // On one GPU it does not fit, and what is suggested does.
    let (code, one) = plan(&world, &base);
    assert_eq!((code, one["fits"].as_bool()), (Some(4), Some(false)));
    let ways: Vec<&str> = one["suggestions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w.as_str().unwrap())
        .collect();
    let gpus = ways.iter().find_map(|w| w.strip_prefix("--gpus ")).unwrap();
    let words: Vec<&str> = gpus.split_whitespace().collect();
    let again = [&base[..], &["--gpus"], &words].concat();
    assert_eq!(plan(&world, &again).0, Some(0), "{ways:?}");
    let run = world.run(&["plan"], &base);
    assert!(
        run.err.contains("does not fit on 1 GPU(s) of 80 GiB"),
        "{run:#?}"
    );
}

#[test]
fn data_is_measured_and_wrong_arguments_are_named() {
    let world = World::new("plan_data");
    let recipe = [
        "--recipe",
        "nano-sft",
        "--set",
        "model_name_or_path=model",
        "--data",
        "docs/data.json",
        "--image-folder",
        "docs",
    ];
    let (code, value) = plan(&world, &recipe);
    assert_eq!(code, Some(0), "{value:#}");
    let data = &value["data"];
    let records = world.records();
    assert_eq!(data["samples"].as_u64(), Some(records.len() as u64));
    let pictures = records.iter().filter(|r| r.get("image").is_some()).count();
    assert_eq!(data["images"].as_f64(), Some(pictures as f64));
    let doctor = [
        "data",
        "doctor",
        "docs/data.json",
        "--image-folder",
        "docs",
        "--model",
        "model",
    ];
    let report = world
        .run(&doctor, &["--model-max-length", "512", "--json"])
        .json();
    assert_eq!(data["tokens"].as_f64(), report["lengths"]["total"].as_f64());
    let packs = [
        &recipe[..],
        &[
            "--set",
            "group_by_modality_length=false",
            "--set",
            "pack_tokens=2048",
        ],
    ]
    .concat();
    let (_, packed) = plan(&world, &packs);
    let filled = &report["packing"][0];
    assert_eq!(filled["pack_tokens"].as_u64(), Some(2048));
    assert_eq!(packed["data"]["packs"], filled["packs"]);

    let fails = |args: &[&str], code, words: &[&str]| {
        world.run(&["plan", "--recipe"], args).fails(code, words);
    };
    fails(&["nano-stf"], 2, &["nano-sft"]);
    fails(&["nano-sft", "--memory", "0"], 2, &["--memory"]);
    fails(&["nano-sft", "--preset", "huge"], 2, &["huge", "nano"]);
    fails(
        &["nano-sft", "--data", "gone.json", "--tokenizer", "model"],
        3,
        &["gone.json"],
    );
    fs::write(world.path("rates.json"), "{}").unwrap();
    let rates = [
        "nano-sft",
        "--samples",
        "9",
        "--mean-tokens",
        "100",
        "--rates",
        "rates.json",
    ];
    fails(&rates, 3, &["rates.json", "llavar bench gpu"]);
    fs::write(world.path("own.toml"), "[train]\nlearning_rate = 1e-4\n").unwrap();
    fails(&["own.toml"], 2, &["--preset"]);
}

#[test]
fn data_for_a_recipe_without_a_model_folder_are_measured_with_the_shipped_tokenizer() {
    let world = World::new("plan_shipped");
    let plan = |more: &[&str]| {
        let args = "plan --json --recipe phi3-readme-sft --gpus 8 --data docs/data.json";
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = world.command(&args, more);
        command.env("XDG_DATA_HOME", world.path("data"));
        finish(format!("plan {more:?}"), command.spawn().unwrap())
    };
    let named = plan(&["--tokenizer", "model"]);
    assert!(!named.err.contains("llavar-nano"), "{named:#?}");
    let named = named.json();
    assert!(named["data"]["tokens"].as_f64().unwrap() > 0.0, "{named}");

    let shipped = world.path("data/llavar/models/llavar-nano");
    fs::create_dir_all(shipped.parent().unwrap()).unwrap();
    fs::rename(world.path("model"), shipped).unwrap();
    let found = plan(&[]);
    for word in ["llavar-nano's tokenizer", "--tokenizer DIR"] {
        assert!(found.err.contains(word), "{found:#?}");
    }
    assert_eq!(found.json()["data"], named["data"]);
}
