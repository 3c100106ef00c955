//! Losses and ratios against values computed one by one, in any batch size.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use llavar_assistant::Assistant;
use llavar_data::Dataset;
use llavar_eval::samples::Shard;
use llavar_select::{
    Journal, Part, RunInfo, ScoreOptions, ScoreRow, ScoreRun, ScoreTable, Scorer, merge,
    score_dataset,
};
use serde_json::Value;

/// Rounding of f32 sums in another order; the losses are about 6 nats.
const TOLERANCE: f64 = 1e-5;

/// Folders of reference scores: those below parity/ that hold data, a model and expected scores.
fn folders() -> Vec<PathBuf> {
    let shared = std::env::var("LLAVAR_SHARED").unwrap_or_else(|_| "../../../shared".into());
    let Ok(all) = std::fs::read_dir(Path::new(&shared).join("parity")) else {
        let _ = writeln!(std::io::stderr(), "SKIPPED scores: no {shared}/parity");
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file() && path.join("data.json").is_file())
        .collect();
    found.sort();
    if found.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED scores: no folder of {shared}/parity holds expected scores"
        );
    }
    found
}

fn run(
    folder: &Path,
    assistant: &Assistant,
    options: ScoreOptions,
    shard: Shard,
    journal: &Path,
    mut observe: impl FnMut() -> ControlFlow<()>,
) -> ScoreRun {
    let data = Dataset::open(&folder.join("data.json"), Some(folder)).unwrap();
    let scorer = Scorer::new(assistant, options).unwrap();
    let info = RunInfo::new(&scorer, folder).unwrap();
    let mut journal = Journal::open(journal, &info).unwrap();
    score_dataset(&scorer, &data, shard, &mut journal, &mut |_| observe()).unwrap()
}

fn check(rows: &[ScoreRow], expected: &[Value], what: &str) {
    assert_eq!(rows.len(), expected.len(), "{what}");
    let mut worst = 0f64;
    for (row, expected) in rows.iter().zip(expected) {
        let place = format!("{what}: {} {}", row.id, row.qa_id);
        assert_eq!(row.id, expected["id"].as_str().unwrap(), "{place}");
        assert_eq!(u64::from(row.qa_id), expected["qa_id"], "{place}");
        assert_eq!(row.reason, None, "{place}");
        let own = serde_json::to_value(row).unwrap();
        for (name, want) in expected.as_object().unwrap() {
            let (Some(got), Some(want)) = (own[name].as_f64(), want.as_f64()) else {
                continue;
            };
            worst = worst.max((got - want).abs());
            assert!(
                (got - want).abs() <= TOLERANCE,
                "{place} {name}: {got} {want}"
            );
        }
        for name in ["mifd", "s_a", "n_answer", "n_qa"] {
            assert!(own[name].is_number(), "{place} {name}");
        }
        assert_eq!(row.ffd.is_some(), expected.get("ffd").is_some(), "{place}");
    }
    println!("{what}: at most {worst:.1e} off");
}

#[test]
fn scores_are_the_reference_s_in_any_batch() {
    for folder in folders() {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
        let assistant = Assistant::load(&folder, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (tokens, images) in [(1, 1), (1500, 2), (1 << 20, 8)] {
            let options = ScoreOptions {
                batch_tokens: tokens,
                batch_images: images,
                ..ScoreOptions::default()
            };
            let journal = dir.path().join(format!("{tokens}.jsonl"));
            let go_on = || ControlFlow::Continue(());
            let all = run(
                &folder,
                &assistant,
                options,
                Shard::default(),
                &journal,
                go_on,
            );
            check(&all.rows, &expected, &format!("{tokens} tokens a pass"));
            // Two pictures, whatever the number of samples on them.
            let pictures: std::collections::HashSet<_> = all
                .rows
                .iter()
                .filter_map(|row| row.image.clone())
                .collect();
            assert_eq!(all.view.pictures, pictures.len());
        }

        // In parts, the second of which finds a torn line and goes on behind the first rows.
        let options = ScoreOptions::default();
        let mut parts = Vec::new();
        for k in 0..3 {
            let shard = Shard::new(3, k).unwrap();
            let journal = dir.path().join(format!("part{k}.jsonl"));
            let go_on = || ControlFlow::Continue(());
            let whole = run(&folder, &assistant, options, shard, &journal, go_on);
            let bytes = std::fs::read(&journal).unwrap();
            let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
            let kept: usize = lines[..2].iter().map(|line| line.len()).sum();
            std::fs::write(&journal, &bytes[..kept + 10]).unwrap();
            let again = run(&folder, &assistant, options, shard, &journal, go_on);
            assert_eq!(again.rows.len(), whole.rows.len());
            let once_more = run(&folder, &assistant, options, shard, &journal, go_on);
            assert_eq!(once_more.view.pairs, 0, "nothing is scored twice");
            assert_eq!(once_more.view.resumed, whole.rows.len());
            assert_eq!(once_more.rows, again.rows);
            parts.extend(again.rows);
        }
        check(&parts, &expected, "three parts, resumed");

        // Through Parquet files of three ranks and back: the same rows to the last bit.
        let samples = Dataset::open(&folder.join("data.json"), None)
            .unwrap()
            .len();
        let info = RunInfo::new(&Scorer::new(&assistant, options).unwrap(), &folder).unwrap();
        let paths: Vec<PathBuf> = (0..3)
            .map(|k| {
                let range = Shard::new(3, k).unwrap().range(samples);
                let own = |row: &&ScoreRow| range.contains(&(row.record as usize));
                let table = ScoreTable {
                    rows: parts.iter().filter(own).cloned().collect(),
                    info: Some(info.clone()),
                    part: Some(Part {
                        part: k,
                        of: 3,
                        samples,
                    }),
                };
                let path = dir.path().join(format!("{k}.parquet"));
                std::fs::write(&path, table.to_parquet(&path).unwrap()).unwrap();
                path
            })
            .collect();
        let merged = merge(&[paths[2].clone(), paths[0].clone(), paths[1].clone()]).unwrap();
        assert_eq!(merged.rows, parts);
        assert_eq!(merged.info, Some(info));
        assert!(merge(&paths[..2]).is_err() && merge(&[&paths[..], &paths[..1]].concat()).is_err());
    }
}
