//! `llavar runs`: folders of training runs as a user looks at them, whole and broken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::World;

#[test]
fn runs_are_listed_compared_drawn_reported_and_exported() {
    let world = World::new("run-folders");
    let steps = ["--set", "max_steps=4", "--set", "save_steps=2"];
    world.train("docs/data.json", "runs/a", &steps).ok();
    let other = [&steps[..], &["--set", "learning_rate=2e-3"]].concat();
    world.train("docs/data.json", "runs/b", &other).ok();

    let list = world.run(&["runs", "list", "runs"], &[]).ok();
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[0].contains("loss [nats/token]"), "{list}");
    for (line, name) in lines[1..].iter().zip(["a ", "b "]) {
        assert!(line.starts_with(name), "{list}");
        assert!(line.contains("finished") && line.contains("4/4"), "{list}");
    }
    let json = world.run(&["runs", "list", "runs", "--json"], &[]).json();
    assert_eq!(json[1]["step"], 4);
    assert!(json[0]["loss"].as_f64().unwrap() > 0.0);
    assert_eq!(world.run(&["runs", "list", "docs"], &[]).ok(), "");

    let compared = world
        .run(&["runs", "compare", "runs/a", "runs/b"], &[])
        .ok();
    assert!(compared.contains("train.learning_rate"), "{compared}");
    assert!(
        compared.contains("4 common steps: losses differ from step"),
        "{compared}"
    );
    let json = world
        .run(
            &["runs", "compare", "runs/a", "runs/a", "runs/b", "--json"],
            &[],
        )
        .json();
    assert_eq!(json["losses"][0]["first_step"], serde_json::Value::Null);
    assert!(json["losses"][1]["largest"].as_f64().unwrap() > 0.0);
    assert_eq!(json["recipe"].as_array().unwrap().len(), 1, "{json}");

    let drawn = world
        .run(&["runs", "plot", "runs/a", "runs/b"], &["--log"])
        .ok();
    assert!(
        drawn.contains("a a: ") && drawn.contains("b b: "),
        "{drawn}"
    );
    let drawn = world
        .run(
            &["runs", "plot", "runs/a", "--key", "tokens_per_second"],
            &[],
        )
        .ok();
    assert!(drawn.starts_with("tokens/s over steps"), "{drawn}");
    world
        .run(
            &["runs", "plot", "runs/a", "runs/b", "--svg", "loss.svg"],
            &[],
        )
        .ok();
    let svg = fs::read_to_string(world.path("loss.svg")).unwrap();
    assert!(
        svg.starts_with("<svg xmlns=") && svg.contains("nats/token"),
        "{svg}"
    );
    world
        .run(&["runs", "plot", "runs/a", "--key", "los"], &[])
        .fails(2, &["`los`", "loss, "]);

    world
        .run(&["runs", "report", "runs/a", "--out", "page.html"], &[])
        .ok();
    let page = fs::read_to_string(world.path("page.html")).unwrap();
    for part in [
        "Training run a",
        "gradient norm",
        "Worst samples",
        "data:image/",
        "learning_rate = ",
        "checkpoint",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "self-contained"
    );
    // Pictures that have gone leave their place and a reason.
    fs::rename(world.path("docs"), world.path("gone")).unwrap();
    world.run(&["runs", "report", "runs/a"], &[]).ok();
    let page = fs::read_to_string(world.path("runs/a/report.html")).unwrap();
    assert!(page.contains("Worst samples") && !page.contains("data:image/"));
    fs::rename(world.path("gone"), world.path("docs")).unwrap();

    world
        .run(&["runs", "export", "runs/b", "--wandb", "wandb"], &[])
        .ok();
    let history = fs::read_to_string(world.path("wandb/history.jsonl")).unwrap();
    assert_eq!(history.lines().count(), 4);
    assert!(history.contains("\"train/loss\""), "{history}");
    assert!(world.path("wandb/log.py").is_file());
}

#[test]
fn broken_and_foreign_folders_are_named() {
    let world = World::empty("broken-run-folders");
    let write = |name: &str, text: &str| {
        let path = world.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // A run where a model is needed: its model lies one folder deeper.
    write("finished/model/config.json", "{}");
    for (folder, said) in [
        ("finished", "the folder `model` in it"),
        ("nowhere", "does not exist"),
    ] {
        let ask = [
            "--device", "cpu", "--ocr", "none", "--model", folder, "x.png", "what?",
        ];
        world.run(&["ask"], &ask).fails(3, &[said]);
    }
    for command in [["runs", "report"], ["runs", "plot"]] {
        world
            .run(&command, &["nowhere"])
            .fails(3, &["nowhere", "check the path"]);
        write("foreign/readme.md", "hello");
        world
            .run(&command, &["foreign"])
            .fails(3, &["foreign is no run folder", "recipe.toml"]);
        write("young/recipe.toml", "");
        world
            .run(&command, &["young"])
            .fails(3, &["young has no step in its log"]);
        write("young/train.jsonl", "");
        world
            .run(&command, &["young"])
            .fails(3, &["young has no step in its log"]);
        write("other/train.jsonl", "epoch,loss\n1,2\n");
        world
            .run(&command, &["other"])
            .fails(3, &["other/train.jsonl is no log of a run", "2 lines"]);
        write("file", "x");
        world.run(&command, &["file"]).fails(3, &["file"]);
    }
    world
        .run(&["runs", "list", "nowhere"], &[])
        .fails(3, &["nowhere"]);
    // A log that breaks off in a line, and one that holds bytes of another kind.
    let steps =
        "{\"step\":1,\"loss\":3.5}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":2.5}\n";
    write("torn/train.jsonl", &format!("{steps}{{\"step\":4,\"lo"));
    let run = world.run(&["runs", "report", "torn"], &["--out", "torn.html"]);
    assert!(
        run.err.contains("line 4") && run.err.contains("passed over"),
        "{run:?}"
    );
    run.ok();
    let page = fs::read_to_string(world.path("torn.html")).unwrap();
    assert!(page.contains("line 4"), "the page says so too");
    assert!(page.contains("not finite"), "{page}");
    let list = world.run(&["runs", "list"], &[]);
    assert!(list.err.contains("other/train.jsonl"), "{list:?}");
    assert!(list.ok().contains("torn"));
    world
        .run(&["runs", "compare", "torn"], &[])
        .fails(2, &["2 values required"]);
}

#[test]
fn nothing_that_is_there_is_written_over() {
    let world = World::new("run-folders-kept");
    world
        .train("docs/data.json", "runs/a", &["--set", "max_steps=2"])
        .ok();
    let plot = ["runs", "plot", "runs/a", "--svg"];
    let report = ["runs", "report", "runs/a", "--out"];
    let export = ["runs", "export", "runs/a", "--wandb"];
    let recipe = ["train", "--recipe", "nano-sft", "--write-recipe"];
    let of_run = "would write over a file of runs/a";
    for (command, out, kept, words) in [
        (plot, "runs/a/train.jsonl", "", ["--svg", of_run]),
        (plot, "runs/a/model/config.json", "", ["--svg", of_run]),
        (report, "runs/a/recipe.toml", "", ["--out", of_run]),
        (report, "docs/../runs/a/events.jsonl", "", ["--out", of_run]),
        (
            report,
            "docs/data.json",
            "",
            ["--out would write over", "the data"],
        ),
        (
            export,
            "runs/a/model",
            "config.json",
            ["--wandb would write over", "no earlier export"],
        ),
        (
            recipe,
            "docs/data.json",
            "",
            ["--write-recipe would write over", "no recipe"],
        ),
        (
            recipe,
            "runs/a/train.jsonl",
            "",
            ["--write-recipe would write over", "no recipe"],
        ),
    ] {
        let file = match kept {
            "" => world.path(out),
            name => world.path(out).join(name),
        };
        let before = fs::read(&file).unwrap();
        world.run(&command, &[out]).fails(2, &words);
        assert!(fs::read(&file).unwrap() == before, "{out}");
    }
    // A recipe with a fault is one all the same.
    fs::write(world.path("faulty.toml"), "[train]\nlearning_rat = 1.0\n").unwrap();
    world.run(&recipe, &["faulty.toml"]).ok();
    // What such a command has written itself is written again.
    for (command, out) in [
        (plot, "runs/a/loss.svg"),
        (report, "runs/a/report.html"),
        (export, "wandb"),
        (recipe, "small.toml"),
    ] {
        for _ in 0..2 {
            world.run(&command, &[out]).ok();
        }
    }
    // An export that was broken off too.
    fs::remove_file(world.path("wandb/summary.json")).unwrap();
    world.run(&export, &["wandb"]).ok();
    // A folder in the place of a file is no lack of space, nor is a file in that of a folder.
    world
        .run(&plot, &["docs"])
        .fails(2, &["cannot write docs", "a file is needed here"]);
    world
        .run(&plot, &["small.toml/loss.svg"])
        .fails(2, &["small.toml/loss.svg", "a folder is needed here"]);
}
