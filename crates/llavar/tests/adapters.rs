//! Adapters from the command line: trained, asked, merged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::World;

const LORA: [&str; 6] = [
    "--set",
    "lora_enable=true",
    "--set",
    "lora_r=4",
    "--set",
    "learning_rate=1e-2",
];

#[test]
fn an_adapter_is_trained_asked_and_merged() {
    let world = World::new("adapters");
    let trained = world.train("docs/data.json", "run", &LORA);
    assert!(trained.err.contains("LoRA: rank 4"), "{}", trained.err);
    trained.ok();
    let answer = |args: &[&str]| {
        let question = [
            "ask",
            "--image",
            &world.picture(),
            "what is it?",
            "--max-new-tokens",
            "8",
        ];
        world.run(&question, args).ok()
    };
    let want = answer(&["--model", "run/model"]);
    assert_eq!(
        answer(&["--model", "model", "--adapter", "run/model"]),
        want
    );
    let merged = world.run(
        &[
            "model",
            "merge",
            "--adapter",
            "run/model",
            "--out",
            "merged",
        ],
        &["--json"],
    );
    let merged = merged.json();
    assert_eq!(
        (&merged["kind"], &merged["layers"]),
        (&"LoRA".into(), &14.into())
    );
    assert_eq!(answer(&["--model", "merged"]), want);
    assert!(!world.path("merged/adapter_config.json").exists());
    world
        .run(
            &[
                "model",
                "merge",
                "--adapter",
                "run/model",
                "--out",
                "merged",
            ],
            &[],
        )
        .fails(2, &["merged"]);
    world
        .run(
            &["model", "merge", "--adapter", "model", "--out", "other"],
            &[],
        )
        .fails(3, &["adapter_config.json"]);
    for (adapter, reason) in [
        ("nope", "nope cannot be used: there is no such folder"),
        ("docs/data.json", "it is a file and no folder"),
    ] {
        let merge = ["model", "merge", "--adapter", adapter, "--out", "other"];
        world.run(&merge, &[]).fails(3, &[reason]);
        let ask = ["ask", "--model", "model", "--adapter", adapter, "hi"];
        world.run(&ask, &[]).fails(3, &[reason]);
    }
    // The base has moved: it is named, and so is what to do.
    fs::rename(world.path("model"), world.path("moved")).unwrap();
    let lost = [
        "ask",
        "--model",
        "run/model",
        "--image",
        &world.picture(),
        "what?",
    ];
    world
        .run(&lost, &[])
        .fails(3, &["give the base with the adapter"]);
    assert_eq!(
        answer(&["--model", "moved", "--adapter", "run/model"]),
        want
    );
}

#[test]
fn an_adapter_on_four_bits_says_what_merging_does() {
    let world = World::new("adapters-coded");
    let coded = [&LORA[..], &["--set", "bits=4", "--set", "use_dora=true"]].concat();
    let trained = world.train("docs/data.json", "run", &coded);
    assert!(trained.err.contains("in 4 bits"), "{}", trained.err);
    trained.ok();
    let merge = ["model", "merge", "--adapter", "run/model", "--out"];
    let one = world.run(&merge, &["merged"]);
    assert!(one.err.contains("trained on 4-bit weights"), "{}", one.err);
    one.ok();
    let other = world
        .run(&merge, &["onto", "--original-weights", "--json"])
        .json();
    assert_eq!(other["dequantized"], false);
    world
        .train("docs/data.json", "wrong", &["--set", "bits=4"])
        .fails(2, &["lora.bits", "lora_enable"]);
    let typo = [&LORA[..], &["--set", "lora_target_modules=[\"q_prj\"]"]].concat();
    world
        .train("docs/data.json", "typo", &typo)
        .fails(2, &["q_prj", "did you mean `q_proj`?"]);
}
