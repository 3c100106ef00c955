use std::{fs, path::Path};

use super::*;

fn write(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

fn line(step: u64, loss: f64) -> String {
    format!(
        "{{\"step\":{step},\"total_steps\":9,\"loss\":{loss},\"grad_norm\":null,\"skipped\":true,\"seconds\":2.5}}\n"
    )
}

#[test]
fn a_log_is_read_up_to_where_it_breaks_off() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a");
    let log = line(1, 3.0) + &line(2, 2.0) + "\n" + &line(3, 1.0) + "{\"step\":4,\"lo";
    write(&run, "train.jsonl", &log);
    let got = Run::with_steps(&run).unwrap();
    assert_eq!(got.values("loss"), [(1, 3.0), (2, 2.0), (3, 1.0)]);
    assert_eq!(got.values("grad_norm"), [], "null is no number");
    assert_eq!(got.values("skipped").len(), 3);
    assert_eq!((got.progress(), got.seconds()), ((3, 9), 7.5));
    assert_eq!((got.final_loss(), got.status), (Some(1.0), Status::Stopped));
    assert_eq!(got.median("loss"), Some(2.0));
    let notes = got.notes.join("; ");
    assert!(
        notes.contains("train.jsonl") && notes.contains("line 5"),
        "{notes}"
    );
    let error = got.values_of("los").unwrap_err().to_string();
    assert!(error.contains("`los`") && error.contains("loss"), "{error}");
    // Bytes that are no text at all are a bad line and no more.
    let mut bytes = line(1, 3.0).into_bytes();
    bytes.extend([0xff, 0xfe, b'\n']);
    fs::write(run.join("train.jsonl"), bytes).unwrap();
    assert_eq!(Run::open(&run).unwrap().rows.len(), 1);
}

#[test]
fn what_is_no_run_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(matches!(
        Run::open(&path.join("none")),
        Err(RunError::Io { .. })
    ));
    write(&path.join("foreign"), "notes.txt", "x");
    assert!(matches!(
        Run::open(&path.join("foreign")),
        Err(RunError::Foreign { .. })
    ));
    write(
        &path.join("other"),
        "train.jsonl",
        "{\"iteration\": 3}\n[1]\n",
    );
    let error = Run::open(&path.join("other")).unwrap_err();
    assert!(matches!(error, RunError::NoLog { lines: 2, .. }), "{error}");
    write(
        &path.join("young"),
        "recipe.toml",
        &Recipe::default().to_toml().unwrap(),
    );
    let young = Run::open(&path.join("young")).unwrap();
    assert!(young.rows.is_empty());
    assert_eq!(format!("{:.1}", young.seconds()), "0.0", "no minus");
    assert!(matches!(
        Run::with_steps(&path.join("young")),
        Err(RunError::NoSteps { .. })
    ));
    write(
        &path.join("broken"),
        "recipe.toml",
        "[train]\nlearning_rat = 1",
    );
    let broken = Run::open(&path.join("broken")).unwrap();
    assert!(broken.recipe.is_none() && broken.notes[0].contains("learning_rat"));
}

#[test]
fn runs_are_found_below_a_folder_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::default();
    for (name, rate, shift) in [("x/a", 1e-3, 0.0), ("x/b", 2e-3, 0.25)] {
        let run = dir.path().join(name);
        recipe.train.learning_rate = rate;
        write(&run, "recipe.toml", &recipe.to_toml().unwrap());
        let log: String = (1..=20)
            .map(|step| line(step, 3.0 + if step > 4 { shift } else { 0.0 }))
            .collect();
        write(&run, "train.jsonl", &log);
        // A checkpoint is no run of its own.
        let checkpoint = run.join("checkpoints/step-00000001");
        write(&checkpoint, "recipe.toml", &recipe.to_toml().unwrap());
    }
    let found = find(dir.path()).unwrap();
    let runs: Vec<Run> = found.iter().map(|path| Run::open(path).unwrap()).collect();
    let names: Vec<String> = runs.iter().map(Run::name).collect();
    assert_eq!(names, ["a", "b"]);
    let got = compare(&runs);
    assert_eq!(got.recipe.len(), 1);
    assert_eq!(got.recipe[0].0, "train.learning_rate");
    let want = Difference {
        steps: 20,
        first_step: Some(5),
        largest: 0.25,
        largest_step: got.losses[0].largest_step,
        at_the_end: Some(0.25),
    };
    assert_eq!(got.losses, [want]);
    let same = compare(&[runs[0].clone(), runs[0].clone()]);
    assert!(same.recipe.is_empty() && same.losses[0].first_step.is_none());
}

#[test]
fn the_export_for_wandb_has_the_names_of_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write(&run, "recipe.toml", &Recipe::default().to_toml().unwrap());
    write(&run, "train.jsonl", &(line(1, 3.0) + &line(2, 2.0)));
    write(
        &run,
        "events.jsonl",
        "{\"event\":\"start\",\"ranks\":2,\"device\":\"cpu\"}\n",
    );
    let export = wandb(&Run::open(&run).unwrap());
    assert_eq!(export.history.len(), 2);
    assert_eq!(export.history[1]["_step"], 2);
    assert_eq!(export.history[1]["train/loss"], 2.0);
    assert!(export.history[1].get("train/grad_norm").is_none());
    assert_eq!(export.config["ranks"], 2);
    assert_eq!(export.config["train"]["learning_rate"], 2e-5);
    assert_eq!(export.summary["name"], "run");
    let files = export.files();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["config.json", "history.jsonl", "summary.json", "log.py"]
    );
    assert!(
        files[1]
            .1
            .lines()
            .all(|l| serde_json::from_str::<Value>(l).is_ok())
    );
}
