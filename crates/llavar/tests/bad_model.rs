//! Model folders and pictures that cannot be used: each a clear error, and the folder as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, process::Command};

use common::World;

/// Replaces a text in a file, which must hold it.
fn edit(path: &std::path::Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn damaged_model_folders() {
    let world = World::new("damaged_model_folders");
    let picture = world.picture();
    let ask = |model: &str| world.ask(model, &picture);
    ask("model").ok();

    ask("nowhere").fails(3, &["nowhere", "does not exist", "llavar init"]);
    ask("model/config.json").fails(3, &["model/config.json", "is a file"]);
    fs::create_dir(world.path("empty")).unwrap();
    ask("empty").fails(3, &["empty/config.json", "hint:"]);

    let weights = world.copy_model("m").join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    ask("m").fails(3, &["m holds no weights", "model.safetensors", "hint:"]);

    let whole = fs::read(world.path("model/model.safetensors")).unwrap();
    for keep in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..keep]).unwrap();
        ask("m").fails(3, &["m/model.safetensors", "hint:"]);
    }
    fs::write(&weights, "no weights at all, but a text of some length").unwrap();
    ask("m").fails(3, &["m/model.safetensors", "safetensors file"]);

    // The header says another type of the same width, or of another.
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for (other, what) in [("I32", "I32"), ("F16", "F16"), ("XYZ", "XYZ")] {
        let text = String::from_utf8(whole[8..header].to_vec()).unwrap();
        let mut bytes = whole[..8].to_vec();
        bytes.extend(text.replacen("F32", other, 1).bytes());
        bytes.extend(&whole[header..]);
        fs::write(&weights, bytes).unwrap();
        ask("m").fails(3, &["m/model.safetensors", what]);
    }

    let folder = world.copy_model("m");
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    ask("m").fails(3, &["m/tokenizer.json", "copy tokenizer.json into it"]);
    fs::write(folder.join("tokenizer.model"), "pieces").unwrap();
    ask("m").fails(3, &["m/tokenizer.json", "tokenizer.model is not read"]);
    fs::create_dir_all(world.path("run")).unwrap();
    fs::rename(world.copy_model("other"), world.path("run/model")).unwrap();
    for (model, word) in [
        ("run", "the folder `model` in it"),
        ("docs", "no model folder"),
    ] {
        let stats = ["data", "stats", "docs/data.json", "--model", model];
        let file = format!("{model}/tokenizer.json");
        world.run(&stats, &[]).fails(3, &[&file, word]);
    }
    for broken in ["", "{", "{}", "[1]", "{\"model\": {\"type\": \"BPE\"}}"] {
        fs::write(folder.join("tokenizer.json"), broken).unwrap();
        ask("m").fails(3, &["m/tokenizer.json", "hint:"]);
    }
    // Here the tokenizer library panics: caught, and nothing of it on stderr.
    let text = fs::read_to_string(world.path("model/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    tokenizer["normalizer"] =
        serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let run = ask("m").fails(3, &["m/tokenizer.json", "hint:"]);
    let known = |line: &str| {
        ["device: ", "error: ", "  hint: "]
            .iter()
            .any(|start| line.starts_with(start))
    };
    assert!(run.err.lines().all(known), "{run:#?}");

    let config = world.copy_model("m").join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    for broken in ["", "[]", &text[..text.len() / 2]] {
        fs::write(&config, broken).unwrap();
        ask("m").fails(3, &["m/config.json", "hint:"]);
    }
    fs::write(&config, &text).unwrap();
    edit(&config, "\"hidden_size\": 64", "\"hidden_size\": \"big\"");
    ask("m").fails(
        3,
        &["m/config.json", "hidden_size = \"big\"", "whole number"],
    );
    fs::write(&config, &text).unwrap();
    edit(
        &config,
        "\"input_image_size\": 64",
        "\"input_image_size\": 70",
    );
    ask("m").fails(3, &["input_image_size = 70", "64, 128"]);
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_one_message_with_all_names() {
    let world = World::new("contradiction");
    let config = world.copy_model("m").join("config.json");
    let weights = fs::read(world.path("m/model.safetensors")).unwrap();
    // One layer fewer, one more embedding row, and a tensor renamed in the file.
    edit(
        &config,
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 1",
    );
    edit(&config, "\"vocab_size\": 300", "\"vocab_size\": 301");
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(weights[8..header].to_vec()).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    assert!(text.contains(name));
    let text = text.replace(name, "model.layers.0.mlp.xx_proj.weight");
    let mut bytes = weights[..8].to_vec();
    bytes.extend(text.bytes());
    bytes.extend(&weights[header..]);
    fs::write(world.path("m/model.safetensors"), bytes).unwrap();

    let names = [
        "m/model.safetensors",
        "1 missing",
        "model.layers.0.mlp.up_proj.weight",
        "10 unexpected",
        "model.layers.0.mlp.xx_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.v_proj.weight",
        "2 of another shape",
        "lm_head.weight: expected [301, 64], got [300, 64]",
        "model.embed_tokens.weight: expected [301, 64], got [300, 64]",
    ];
    world.ask("m", &world.picture()).fails(3, &names);
    let run = world.train("docs/data.json", "run", &["--set", "model_name_or_path=m"]);
    run.fails(3, &names);
}

/// A valid PNG header of any size over no picture.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = chunk.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 {
                (c >> 1) ^ 0xEDB8_8320
            } else {
                c >> 1
            }
        })
    });
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk);
    png.extend((!crc).to_be_bytes());
    png
}

#[test]
fn pictures_that_cannot_be_read() {
    let world = World::new("pictures_that_cannot_be_read");
    let jpeg = fs::read(world.path(&world.picture())).unwrap();
    // The content decides, not the name.
    for name in ["photo.png", "photo", "photo.txt"] {
        fs::write(world.path(name), &jpeg).unwrap();
        world.ask("model", name).ok();
    }
    fs::write(world.path("zero.jpg"), b"").unwrap();
    fs::write(world.path("half.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(world.path("start.jpg"), &jpeg[..30]).unwrap();
    fs::write(world.path("huge.png"), png_header(30_000, 30_000)).unwrap();
    fs::write(world.path("noimage.png"), png_header(30, 30)).unwrap();
    fs::write(world.path("text.jpg"), "hello, this is no picture").unwrap();
    let fifo = Command::new("mkfifo").arg(world.path("pipe.jpg")).status();
    assert!(fifo.unwrap().success());
    let cases: &[(&str, &[&str])] = &[
        ("zero.jpg", &["zero.jpg", "0 bytes", "again"]),
        ("half.jpg", &["half.jpg", "truncated", "again"]),
        ("start.jpg", &["start.jpg", "JPEG", "again"]),
        ("huge.png", &["huge.png", "900000000", "limit", "scale"]),
        ("noimage.png", &["noimage.png", "PNG", "again"]),
        ("text.jpg", &["text.jpg", "unknown image format", "JPEG"]),
        ("docs", &["docs", "directory", "give one picture file"]),
        ("pipe.jpg", &["pipe.jpg", "not a regular file"]),
        ("/dev/zero", &["/dev/zero", "not a regular file"]),
        (
            "nothing.jpg",
            &["nothing.jpg", "not found", "check the path"],
        ),
    ];
    for (image, words) in cases {
        world.ask("model", image).fails(3, words);
    }
    // A chat goes on after them.
    let input: String = cases
        .iter()
        .map(|(image, _)| format!("/image {image}\n"))
        .collect();
    let chat = world.run_with(
        &["chat", "--model", "model", "--max-new-tokens", "2"],
        &[],
        &(input + "hello\n"),
    );
    let errors = chat.err.lines().filter(|l| l.starts_with("error: "));
    assert_eq!(errors.count(), cases.len(), "{chat:#?}");
    assert_eq!(chat.ok().lines().count(), 1);
}

#[test]
fn impossible_options_of_an_answer_are_wrong_command_lines() {
    let world = World::new("impossible_options");
    for (option, value, words) in [
        ("--temperature", "-1", ["temperature", "0 or more"]),
        ("--temperature", "nan", ["temperature", "0 or more"]),
        ("--temperature", "warm", ["--temperature", "warm"]),
        ("--num-beams", "0", ["num_beams", "1 to 64"]),
        ("--conv-mode", "v7", ["v7", "phi3_instruct"]),
    ] {
        world
            .run(&["ask", "--model", "model", "hi", option, value], &[])
            .fails(2, &words);
    }
    let run = world.run(
        &["ask", "--model", "model", "hi", "--temperature", "1"],
        &["--top-p", "0"],
    );
    run.fails(2, &["top_p", "above 0"]);
    // Longer than the model's context.
    let long = "word ".repeat(9000);
    let run = world.run(&["ask", "--model", "model", &long], &[]);
    run.fails(3, &["context", "shorten"]);
}
