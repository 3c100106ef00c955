//! The commands on good input: what they print and write.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;
use std::{collections::BTreeSet, fs};

use common::{World, shared};
use serde_json::{Value, json};

#[test]
fn every_command_has_help_with_its_options() {
    let world = World::empty("help");
    let commands: &[(&[&str], &[&str])] = &[
        (&[], &["quickstart", "init", "train", "ask", "chat", "130"]),
        (&["quickstart"], &["--data"]),
        (&["init"], &["--preset", "--text", "--tokenizer"]),
        (&["data"], &["synth", "import", "stats"]),
        (&["data", "synth"], &["--out", "--seed", "--split"]),
        (&["data", "import"], &["sroie", "--split"]),
        (&["data", "stats"], &["--json"]),
        (&["train"], &["--recipe", "--set", "--resume", "Example"]),
        (
            &["ask"],
            &["--image", "--json", "--temperature", "--adapter"],
        ),
        (&["model"], &["merge"]),
        (
            &["model", "merge"],
            &["--base", "--adapter", "--out", "Example"],
        ),
        (&["chat"], &["--model", "--image"]),
        (
            &["serve"],
            &["--port", "--slots", "--ocr", "LLAVAR_API_KEY", "Example"],
        ),
    ];
    for (command, words) in commands {
        for flag in ["--help", "-h"] {
            let text = world.run(command, &[flag]).ok();
            for word in *words {
                assert!(text.contains(word), "{command:?} {flag}: {word}\n{text}");
            }
        }
    }
    assert!(world.run(&["--version"], &[]).ok().starts_with("llavar "));
    world.run(&["tarin"], &[]).fails(2, &["tarin", "train"]);
    world.run(&["train"], &[]).fails(2, &["--recipe"]);
}

#[test]
fn recipes_are_listed_and_printed_and_the_printed_one_works() {
    let world = World::new("recipes");
    let list = world.run(&["train", "--list"], &[]).ok();
    for backbone in ["nano", "phi3", "llama3", "vicuna"] {
        for stage in ["pretrain", "sft"] {
            let found = list
                .lines()
                .any(|l| l.starts_with(backbone) && l.contains(stage));
            assert!(found, "{backbone} {stage}: {list}");
        }
    }
    for line in list.lines() {
        let (name, description) = line.split_once(' ').unwrap();
        assert!(!description.trim().is_empty());
        world
            .run(&["train", "--dry-run", "--recipe", name], &[])
            .ok();
    }
    let sets = [
        "model_name_or_path=model",
        "data_path=docs/data.json",
        "image_folder=docs",
        "max_steps=2",
        "train.learning_rate=0.25",
    ];
    let mut args = vec!["train", "--dry-run", "--recipe", "nano-sft"];
    for set in &sets {
        args.extend(["--set", set]);
    }
    let printed = world.run(&args, &[]).ok();
    assert!(printed.contains("learning_rate = 0.25"), "{printed}");
    fs::write(world.path("mine.toml"), &printed).unwrap();
    let again = ["train", "--recipe", "mine.toml"];
    assert_eq!(world.run(&again, &["--dry-run"]).ok(), printed);
    world.run(&again, &["--out", "run"]).ok();
    let log = fs::read_to_string(world.path("run/train.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|l| l["loss"].as_f64().unwrap() > 0.0));
}

#[test]
fn init_makes_a_model_that_answers() {
    let world = World::new("init");
    fs::write(world.path("words.txt"), "the total is seven\n".repeat(50)).unwrap();
    let out = world.run(
        &["init", "--text", "words.txt", "--text", "docs/data.json"],
        &["--vocab-size", "300", "--out", "nano", "--seed", "3"],
    );
    let text = out.ok();
    let millions: f64 = text
        .split_whitespace()
        .skip_while(|w| !w.ends_with(':'))
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!((10.0..=25.0).contains(&millions), "{text}");
    world.ask("nano", &world.picture()).ok();
    // The tokenizer of one model for another, and the same seed twice.
    let given = ["init", "--tokenizer", "nano/tokenizer.json", "--seed", "3"];
    world.run(&given, &["--out", "a/b/again"]).ok();
    let weights = |name: &str| fs::read(world.path(name).join("model.safetensors")).unwrap();
    assert!(weights("nano") == weights("a/b/again"), "other bits");

    // One pathway of two; a ConvNeXt has a place for every 32 pixels.
    for (pathways, tower) in [("fast", "openai/clip-vit"), ("slow", "convnext_large")] {
        world
            .run(&given, &["--pathways", pathways, "--out", pathways])
            .ok();
        let text = fs::read_to_string(world.path(pathways).join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["is_multipath_encoder"], false);
        assert!(
            config["mm_vision_tower"]
                .as_str()
                .unwrap()
                .starts_with(tower),
            "{text}"
        );
        world.ask(pathways, &world.picture()).ok();
    }
    let made = |more: &[&str]| world.run(&["init", "--out", "no"], more);
    made(&["--pathways", "third", "--text", "words.txt"]).fails(2, &["third", "both", "slow"]);
    made(&["--preset", "micro", "--text", "words.txt"]).fails(2, &["micro", "nano", "llama3.1-8b"]);
    made(&[]).fails(2, &["--text"]);
    made(&["--text", "none.txt"]).fails(3, &["none.txt"]);
    made(&["--text", "words.txt", "--vocab-size", "9"]).fails(2, &["9", "260", "--vocab-size"]);
    made(&["--tokenizer", "words.txt"]).fails(3, &["tokenizer"]);
    made(&["--from-llm", "model"]).fails(2, &["--vision-tower"]);
    made(&["--vision-tower", "model"]).fails(2, &["--from-llm"]);
    let whole = ["--from-llm", "model", "--vision-tower", "model"];
    made(&whole).fails(3, &["model cannot be used", "vision tower already"]);
    assert!(!world.path("no").exists());
}

#[test]
fn ask_answers_in_text_and_json() {
    let world = World::new("ask");
    let picture = world.picture();
    let question = "What does it \"say\"?";
    let args = ["ask", "--model", "model", "--image", &picture, question];
    let more = ["--max-new-tokens", "5"];
    let text = world.run(&args, &more).ok();
    let value = world.run(&args, &[&more[..], &["--json"]].concat()).json();
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "question",
            "answer",
            "images",
            "model",
            "template",
            "prompt_tokens",
            "new_tokens",
            "stop_reason",
            "probability",
            "seconds",
            "load_seconds",
            "first_token_seconds",
            "tokens_per_second",
            "peak_memory_bytes"
        ]
    );
    assert_eq!(value["question"], question);
    assert_eq!(value["images"], json!([picture]));
    assert_eq!(value["template"], "v1");
    assert_eq!(value["answer"].as_str().unwrap(), text.trim());
    assert_eq!(value["stop_reason"], "max_new_tokens");
    assert_eq!(value["new_tokens"], 5);
    let probability = value["probability"].as_f64().unwrap();
    assert!(probability > 0.0 && probability < 1.0, "{probability}");
    // A model without training guesses, and it is said; of a sampled or long answer the probability says little.
    let doubt = |more: &[&str]| {
        let run = world.run(&args, more);
        let said = run.err.contains("likely a guess");
        run.ok();
        said
    };
    assert!(doubt(&more));
    assert!(!doubt(&["--max-new-tokens", "5", "--temperature", "1"]));
    assert!(!doubt(&["--max-new-tokens", "70"]));
    // Two pictures, none, and other ways to decode.
    let one = value["prompt_tokens"].as_u64().unwrap();
    let two = world.run(&args, &["--image", &picture, "--json"]).json();
    assert!(two["prompt_tokens"].as_u64().unwrap() > one);
    let ask = ["ask", "--model", "model", "hi", "--json"];
    let none = world.run(&ask, &more).json();
    assert!(none["prompt_tokens"].as_u64().unwrap() < one);
    let sampled = |seed: &str| {
        let warm = ["--temperature", "2", "--top-p", "0.9", "--seed", seed];
        world.run(&ask, &[&more[..], &warm].concat()).json()["answer"].clone()
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
    world
        .run(&ask, &[&more[..], &["--num-beams", "3"]].concat())
        .json();
    // A guess is looked at more closely, and is none the less sure for it.
    let closer = [&more[..], &["--closer"]].concat();
    let text = world.run(&args, &closer).ok();
    let value = world
        .run(&args, &[&closer[..], &["--json"]].concat())
        .json();
    assert_eq!(value["closer_look"], true);
    assert!(value["tokens_per_second"].is_null(), "it was not streamed");
    assert_eq!(value["answer"].as_str().unwrap(), text.trim());
    assert!(value["probability"].as_f64().unwrap() >= probability * 0.999);
    let two = [&closer[..], &["--image", &picture]].concat();
    world
        .run(&args, &two)
        .fails(2, &["one picture", "there are 2"]);
    let warm = [&closer[..], &["--temperature", "1"]].concat();
    world
        .run(&args, &warm)
        .fails(2, &["--closer", "--temperature"]);
}

#[test]
fn ask_and_chat_show_the_same_text_as_json_without_space_around_it() {
    let world = World::new("space-around");
    // The model's own text begins or ends with white space for these seeds.
    for seed in ["9", "32", "38"] {
        let warm = ["--temperature", "2", "--seed", seed];
        let more = [&["--model", "model", "--max-new-tokens", "4"], &warm[..]].concat();
        let ask = ["ask", "what is it?"];
        let json = world.run(&ask, &[&more[..], &["--json"]].concat()).json();
        let answer = format!("{}\n", json["answer"].as_str().unwrap());
        assert_eq!(world.run(&ask, &more).ok(), answer, "{seed}");
        let chat = world.run_with(&["chat"], &more, "what is it?\n");
        assert_eq!(chat.ok(), answer, "{seed}");
    }
}

#[test]
fn chat_takes_pictures_and_several_turns() {
    let world = World::new("chat");
    let picture = world.picture();
    let input = format!(
        "hello\n/image {picture}\nwhat is it?\nand the total?\n/nonsense\n/image\n/new\nhello\n/quit\nnever\n"
    );
    let args = ["chat", "--model", "model", "--max-new-tokens", "4"];
    let chat = world.run_with(&args, &[], &input);
    assert!(chat.err.contains("ask about it"), "{chat:#?}");
    assert!(chat.err.contains("unknown command /nonsense"), "{chat:#?}");
    assert!(chat.err.contains("/image needs a file"), "{chat:#?}");
    let out = chat.ok();
    let answers: Vec<&str> = out.split('\n').collect();
    // After /new the same question gets the same answer: nothing of the first talk is left.
    assert_eq!(answers.first(), answers.iter().rev().nth(1), "{answers:?}");
    let first = world.run(&args, &["--image", &picture]);
    assert_eq!(first.ok(), "");
}

#[test]
fn chat_looks_closer_at_the_only_picture() {
    let world = World::new("chat-closer");
    let picture = world.picture();
    let more = ["--model", "model", "--max-new-tokens", "4", "--closer"];
    let asked = ["ask", &picture, "what is it?"];
    let alone = world.run(&asked, &more).ok();
    let chat = |input: &str| {
        let chat = world.run_with(&["chat", &picture], &more, input);
        assert_eq!(chat.err.matches("no closer look").count(), 1, "{chat:#?}");
        chat.ok().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let two = format!("/image {picture}\nand both?\n/image {picture}\n");
    let first = chat(&format!("what is it?\nand the total?\n{two}"));
    assert_eq!(first.len(), 3, "{first:?}");
    assert_eq!(first[0], alone.trim_end_matches('\n'));
    // After /new there is no picture, and then one again.
    let again = chat(&format!(
        "hello\n/new\nhello\n/image {picture}\nwhat is it?\n{two}"
    ));
    assert_eq!(again.get(2), first.first(), "{again:?}");
}

#[test]
fn data_is_written_and_counted() {
    let world = World::new("data");
    let records = world.records();
    let turns: usize = records
        .iter()
        .map(|r| r["conversations"].as_array().unwrap().len())
        .sum();
    let stats = ["data", "stats", "docs/data.json"];
    let value = world.run(&stats, &["--json", "--model", "model"]).json();
    assert_eq!(value["samples"], records.len());
    assert_eq!(value["images"], records.len());
    assert_eq!(value["turns"], turns);
    assert_eq!(value["bad_samples"], 0);
    assert!(value["supervised_tokens"].as_u64().unwrap() > 0);
    let text = world.run(&stats, &[]).ok();
    assert!(text.contains(&turns.to_string()), "{text}");
    world
        .run(&stats, &["--version", "v7"])
        .fails(2, &["v7", "phi3_instruct"]);
    world
        .run(&stats, &["--model", "nowhere"])
        .fails(3, &["nowhere"]);

    let synth = |out: &str, more: &[&str]| {
        let number = if more.contains(&"--number") {
            &[][..]
        } else {
            &["-n", "4"]
        };
        let seed = ["data", "synth", "--seed", "9", "--out", out];
        world.run(&[&seed[..], number].concat(), more)
    };
    synth("one", &[]).ok();
    synth("two", &[]).ok();
    let bytes = |out: &str| fs::read(world.path(out).join("data.json")).unwrap();
    assert!(bytes("one") == bytes("two"), "a seed decides the set");
    for (more, words) in [
        (["--set", "bla=1"], ["bla", "--print-config"]),
        (["--set", "seed"], ["KEY=VALUE", "--print-config"]),
        (["--profile", "none"], ["none", "quickstart"]),
        (["--split", "half"], ["half", "held_out"]),
        (["--jpeg", "200"], ["200", "0..=100"]),
        (["--number", "0"], ["--number", "1.."]),
    ] {
        synth("no", &more).fails(2, &words);
    }
    let config = world.run(&["data", "synth", "--print-config"], &[]).ok();
    assert!(config.contains("self_explain"), "{config}");
}

#[test]
fn sroie_is_imported_from_a_small_folder() {
    let world = World::new("sroie_small");
    let jpeg = fs::read(world.path(&world.picture())).unwrap();
    for part in ["img", "box", "entities"] {
        fs::create_dir_all(world.path("set/train").join(part)).unwrap();
    }
    let write = |name: &str, bytes: &[u8]| {
        fs::write(world.path("set/train").join(name), bytes).unwrap();
    };
    let entities =
        json!({"company": "TAN SHOP", "date": "01/02/2018", "address": "1 ROAD", "total": "9.00"});
    let boxes = "1,1,90,1,90,9,1,9,TAN SHOP\n1,11,90,11,90,19,1,19,01/02/2018\n\
                 1,21,90,21,90,29,1,29,1 ROAD\n1,31,90,31,90,39,1,39,9.00\n";
    for name in ["a", "b"] {
        write(&format!("box/{name}.txt"), boxes.as_bytes());
        write(
            &format!("entities/{name}.txt"),
            entities.to_string().as_bytes(),
        );
    }
    write("img/a.jpg", &jpeg);
    write("img/c.jpg", &jpeg);
    write("entities/c.txt", b"{ no json");
    let import = ["data", "import", "sroie", "set", "--out"];
    let run = world.run(&import, &["new/folder/set.json"]);
    assert!(
        run.err.contains("1 without an image, left out: b"),
        "{run:#?}"
    );
    assert!(run.err.contains("c cannot be read, left out"), "{run:#?}");
    run.ok();
    let text = fs::read_to_string(world.path("new/folder/set.json")).unwrap();
    let samples: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0]["image"], "train/img/a.jpg");
    let answers: BTreeSet<&str> = samples[0]["conversations"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["from"] == "gpt")
        .map(|t| t["value"].as_str().unwrap())
        .collect();
    let gold = entities.as_object().unwrap().values();
    assert_eq!(answers, gold.map(|v| v.as_str().unwrap()).collect());
    world.run(&import, &["duo.json", "--duos"]).ok();
    let sets = ["--set", "image_folder=set"];
    world.train("duo.json", "run", &sets).ok();
    world.ask("run/model", "set/train/img/a.jpg").ok();

    world
        .run(&import, &["duo.json"])
        .fails(2, &["duo.json", "--force"]);
    let other = |layout: &str, root: &str, split: &str| {
        let args = ["data", "import", layout, root, "--out", "no.json"];
        world.run(&args, &["--split", split])
    };
    other("docvqa", "set", "train").fails(2, &["docvqa", "sroie"]);
    other("sroie", "set", "test").fails(3, &["set/test", "SROIE", "hint:"]);
    other("sroie", "nowhere", "train").fails(3, &["nowhere"]);
    assert!(!world.path("no.json").exists());
}

#[test]
fn sroie_is_imported_as_published() {
    let Some(shared) = shared("sroie_is_imported_as_published") else {
        return;
    };
    let root = shared.join("data/SROIE2019");
    if !root.is_dir() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED sroie_is_imported_as_published: {} not found",
            root.display()
        );
        return;
    }
    let world = World::new("sroie_published");
    for split in fs::read_dir(&root).unwrap() {
        let split = split.unwrap().file_name().into_string().unwrap();
        let out = format!("{split}.json");
        let run = world.run(
            &["data", "import", "sroie", root.to_str().unwrap()],
            &["--split", &split, "--out", &out],
        );
        run.ok();
        let text = fs::read_to_string(world.path(&out)).unwrap();
        let samples: Vec<Value> = serde_json::from_str(&text).unwrap();
        let images = fs::read_dir(root.join(&split).join("img")).unwrap().count();
        assert!(
            samples.len() * 10 >= images * 9,
            "{split}: {}",
            samples.len()
        );
        for sample in &samples {
            assert!(root.join(sample["image"].as_str().unwrap()).is_file());
        }
        let folder = format!("image_folder={}", root.display());
        world
            .train(&out, &format!("run-{split}"), &["--set", &folder])
            .ok();
    }
}

#[test]
fn a_command_of_the_original_scripts_becomes_a_recipe_and_trains() {
    let world = World::new("launch");
    let flags = "deepspeed llava/train/train_mem.py --deepspeed ./zero3.json --model_name_or_path model \
        --version v1 --data_path docs/data.json --image_folder docs --freeze_vision False --bf16 True \
        --output_dir run --max_steps 2 --per_device_train_batch_size 2 --save_steps 10 --model_max_length 512 \
        --report_to wandb --image_aspect_ratio pad";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    // Our own options come first, everything after is the original's.
    let ours = [
        "train",
        "--device",
        "cpu",
        "--write-recipe",
        "made.toml",
        "--from-llava-flags",
    ];
    let run = world.run(&ours, &flags);
    for word in [
        "--report_to wandb: ",
        "zero3.json: the file is not here",
        "srun",
    ] {
        assert!(run.err.contains(word), "{run:#?}");
    }
    run.ok();
    let ours = ["train", "--recipe", "made.toml", "--dry-run"];
    let text = world.run(&ours, &[]).ok();
    assert!(
        text.contains("zero_stage = 3") && text.contains("max_steps = 2"),
        "{text}"
    );

    // The same from a script, and as a run: --output_dir is the run folder.
    let script = format!(
        "MODEL=model\n{}\n",
        flags
            .join(" \\\n  ")
            .replace("path \\\n  model", "path $MODEL")
    );
    assert!(script.contains("path $MODEL"), "{script}");
    std::fs::write(world.path("train.sh"), script).unwrap();
    let dry = [
        "train",
        "--device",
        "cpu",
        "--dry-run",
        "--from-llava-script",
        "train.sh",
    ];
    assert_eq!(world.run(&dry, &[]).ok(), text);
    world
        .run(
            &["train", "--device", "cpu", "--from-llava-flags", "train.sh"],
            &[],
        )
        .ok();
    assert!(world.path("run/model/model.safetensors").is_file());

    let wrong = [
        "train",
        "--from-llava-flags",
        "--model_name_or_path",
        "m",
        "--learning_rat",
        "1",
    ];
    world.run(&wrong, &[]).fails(
        2,
        &[
            "--learning_rat",
            "did you mean `--learning_rate`?",
            "--version",
        ],
    );
    let no_folder = [
        "train",
        "--from-llava-flags",
        "--model_name_or_path",
        "model",
        "--version",
        "v1",
    ];
    world
        .run(&no_folder, &[])
        .fails(2, &["--output_dir", "--out DIR"]);
    world
        .run(
            &["train", "--from-llava-script", "gone.sh", "--dry-run"],
            &[],
        )
        .fails(3, &["gone.sh"]);
}
