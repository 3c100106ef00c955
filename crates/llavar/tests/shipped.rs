//! The model that is used where none is named, pictures before the question, and folders in 8 bits.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, process::Stdio};

use common::{Run, World, finish};
use serde_json::Value;

/// Runs the program with variables set.
fn with(world: &World, variables: &[(&str, &str)], args: &[&str]) -> Run {
    let mut command = world.command(args, &["--max-new-tokens", "3"]);
    command.env_remove("LLAVAR_MODEL");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    finish(
        format!("{variables:?} llavar {args:?}"),
        command.spawn().unwrap(),
    )
}

#[test]
fn pictures_come_before_the_question_wherever_the_flags_are() {
    let world = World::new("words");
    let picture = world.picture();
    let json = |args: &[&str]| -> Value {
        let args = [&["ask", "--json", "--max-new-tokens", "2"], args].concat();
        world.run(&args, &[]).json()
    };
    let flagged = json(&["--model", "model", "--image", &picture, "what is it?"]);
    for args in [
        [&picture, "what is it?", "--model", "model"],
        [&picture, "--model", "model", "what is it?"],
        ["--model", "model", &picture, "what is it?"],
    ] {
        let found = json(&args);
        for key in ["images", "question", "answer", "prompt_tokens"] {
            assert_eq!(found[key], flagged[key]);
        }
    }
    let two = json(&[&picture, "-m", "model", &picture, "what is it?"]);
    assert_eq!(two["images"].as_array().unwrap().len(), 2);
    assert!(flagged["load_seconds"].as_f64().unwrap() > 0.0);
    let first = flagged["first_token_seconds"].as_f64();
    assert!(first.is_none_or(|first| first <= flagged["seconds"].as_f64().unwrap()));

    let ask = ["ask", "-m", "model", &picture];
    world.run(&ask, &[]).fails(2, &["question is missing"]);
    for empty in ["", " \n"] {
        world.run(&ask, &[empty]).fails(2, &["question is empty"]);
    }
    world
        .run(&ask, &["what", "is", "it?"])
        .fails(2, &["`what`", "in quotes"]);
    world
        .run(&["ask", "-m", "model", "no.png", "what?"], &[])
        .fails(3, &["no.png"]);
    assert_eq!(world.run(&["ask", "-m", "model"], &[]).code, Some(2));
}

#[test]
fn an_installed_model_and_one_that_the_environment_names_are_used() {
    let world = World::new("installed");
    let picture = world.picture();
    let ask = ["ask", &picture, "what is it?"];
    let data = world.path("data");
    let data = [("XDG_DATA_HOME", data.to_str().unwrap())];
    let install = |model: &str| {
        let mut command = world.command(&["model", "install", model], &[]);
        command.envs(data);
        finish(format!("install {model}"), command.spawn().unwrap())
    };
    // Nothing that cannot be used is installed.
    let broken = world.copy_model("broken");
    fs::write(broken.join("model.safetensors"), "no").unwrap();
    install("broken").fails(3, &["model.safetensors"]);
    assert!(!world.path("data").exists());

    let folder = install("model").ok();
    assert!(
        folder.trim().ends_with("llavar/models/llavar-nano"),
        "{folder}"
    );
    let named = with(&world, &[], &[&ask[..], &["--model", "model"]].concat()).ok();
    let found = with(&world, &data, &ask);
    assert!(found.err.contains("llavar-nano"), "{found:#?}");
    assert_eq!(found.ok(), named);
    // Again, over what is there, and onto itself.
    install("model").ok();
    install(folder.trim()).ok();
    assert_eq!(with(&world, &data, &ask).ok(), named);
    let chat = with(&world, &data, &["chat", &picture]);
    assert!(chat.err.contains("llavar-nano"), "{chat:#?}");

    // The environment goes before the installed one, and is never passed over.
    let other = with(&world, &[data[0], ("LLAVAR_MODEL", "model")], &ask);
    assert!(other.err.contains("model: model"), "{other:#?}");
    assert_eq!(other.ok(), named);
    with(&world, &[data[0], ("LLAVAR_MODEL", "nowhere")], &ask).fails(3, &["nowhere"]);
}

#[test]
fn quickstart_asks_the_shipped_model_and_trains_when_told() {
    let world = World::new("quick");
    let data = world.path("data");
    let run = |args: &[&str]| {
        let mut command = world.command(&["quickstart", "--out", "quick"], args);
        command.env("XDG_DATA_HOME", &data).stdin(Stdio::null());
        finish(format!("quickstart {args:?}"), command.spawn().unwrap())
    };
    let mut install = world.command(&["model", "install", "model"], &[]);
    install.env("XDG_DATA_HOME", &data);
    finish("install".into(), install.spawn().unwrap()).ok();

    let asked = run(&["--held-out", "2", "--json"]).json();
    let answers = asked["answers"].as_array().unwrap();
    assert_eq!(asked["questions"].as_u64(), Some(answers.len() as u64));
    assert!(!answers.is_empty() && answers.iter().all(|a| a["gold"] != ""));
    let sheet = world.path(asked["contact_sheet"].as_str().unwrap());
    assert!(fs::metadata(sheet).unwrap().len() > 0);
    // Once more, as people do; every question with its gold answer, and the offer.
    let again = run(&["--held-out", "2"]);
    assert!(again.err.contains("quickstart --train"), "{again:#?}");
    let text = again.ok();
    assert_eq!(text.matches("    gold:  ").count(), answers.len(), "{text}");

    // What was asked is not in the way of training.
    let few = ["--pictures", "4", "--held-out", "1", "--json"];
    let steps = ["--set-pretrain", "max_steps=1", "--set", "max_steps=1"];
    let trained = run(&[&["--train"], &few[..], &steps].concat()).json();
    assert_eq!(trained["training_pictures"], 4);
    run(&["--train"]).fails(2, &["quick is not empty"]);
}

#[test]
fn a_folder_in_8_bits_is_written_and_read_by_commands() {
    let world = World::new("int8");
    let picture = world.picture();
    let quantize = ["model", "quantize", "model", "--out"];
    let line = world.run(&quantize, &["small"]).ok();
    assert!(line.contains("in 8 bits"), "{line}");
    let report = world
        .run(&quantize, &["again", "--json", "--max-shard-mb", "1"])
        .json();
    assert!(report["parameters_in_8_bits"].as_u64() < report["parameters"].as_u64());
    let (before, after) = (
        report["weight_bytes_before"].as_u64(),
        report["folder_bytes"].as_u64(),
    );
    assert!(after < before, "{report}");
    let file = |name: &str| fs::metadata(world.path(name)).unwrap().len();
    assert_eq!(before, Some(file("model/model.safetensors")));
    // Of a folder in 8 bits it is what the codes take, not what they stand for.
    let twice = ["model", "quantize", "small", "--out", "twice", "--json"];
    let twice = world.run(&twice, &[]).json();
    assert_eq!(
        twice["weight_bytes_before"].as_u64(),
        Some(file("small/model.safetensors"))
    );
    world
        .run(&quantize, &["small"])
        .fails(2, &["small", "exists already", "another --out"]);
    world
        .run(&["model", "quantize", "nowhere", "--out", "x"], &[])
        .fails(3, &["nowhere"]);
    assert!(!world.path("x").exists());

    world.ask("small", &picture).ok();
    world
        .train(
            "docs/data.json",
            "run",
            &["--set", "model_name_or_path=small"],
        )
        .ok();
    world.ask("run/model", &picture).ok();
    // Weights of half a file are refused by name.
    let file = world.path("small/model.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    world
        .ask("small", &picture)
        .fails(3, &["model.safetensors", "truncated"]);
}
