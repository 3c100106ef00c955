//! Rows a second of each metric on one core, beside plain Python in the same run.
//!
//! `cargo bench -p llavar-metrics --bench metrics` reads the rows of `metric-vectors` (`LLAVAR_SHARED`), times each
//! metric, and runs `metrics.py` on the same rows where `python3` is there. `metrics.py` holds the published
//! formulas written out plainly, and its scores must be ours.

use std::io::Write as _;
use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use flate2::read::GzDecoder;
use llavar_metrics::{Evaluation, Metric, Row, bleu::bleu, cider_d::cider_d, rouge_l::rouge_l};
use serde_json::{Value, json};

/// Rounds of which the fastest counts, on both sides.
const ROUNDS: usize = 5;

type Owned = (String, Vec<String>);

fn main() {
    let root = std::env::var_os("LLAVAR_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let root = root.join("metric-vectors");
    if !root.is_dir() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: LLAVAR_SHARED has no metric-vectors"
        );
        return;
    }
    let mut sets: BTreeMap<&str, Vec<Owned>> = BTreeMap::new();
    let mut read = |metric, folder: &str, answer: &str, references: &str, names: &[&str]| {
        let rows = rows(&root.join(folder), answer, references, names);
        sets.entry(metric).or_default().extend(rows);
    };
    let vqa = [
        "docVQA",
        "textVQA",
        "ocrVQA",
        "STVQA",
        "ESTVQA_EN",
        "SROIE",
        "FUNSD",
        "POIE",
    ];
    read("multimodal_ocr_vqa", "mmocr2023", "answer", "gt", &vqa);
    read(
        "multimodal_ocr_recognition",
        "mmocr2023",
        "answer",
        "gt",
        &["IIIT5K", "cocotext", "IAM"],
    );
    read(
        "ocrbench",
        ".",
        "predict",
        "answers",
        &["ocrbench_items_answered"],
    );
    read("anls", ".", "answer", "gt", &["docvqa_anls"]);
    read("anls_pypi", ".", "answer", "gt", &["docvqa_anls"]);
    read("textvqa_m4c", "textvqa_m4c", "prediction", "answers", &[]);
    read(
        "chartqa_relaxed",
        ".",
        "prediction",
        "target",
        &["chartqa_relaxed"],
    );
    read("token_f1", ".", "answer", "gt", &["docvqa_anls"]);
    for metric in ["bleu_4", "rouge_l", "cider_d"] {
        read(
            metric,
            ".",
            "hyp_ptb",
            "refs_ptb",
            &["captions_pycocoevalcap"],
        );
    }

    let python = python(&sets);
    println!("| metric | rows | ours, rows/s | Python, rows/s | ratio |");
    println!("|---|---|---|---|---|");
    let mut total = (0usize, 0.0f64, 0.0f64);
    for (name, owned) in &sets {
        let rows: Vec<Row<'_>> = owned
            .iter()
            .map(|(answer, references)| Row { answer, references })
            .collect();
        let mut best = f64::INFINITY;
        let mut scores = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            scores = black_box(score(name, black_box(&rows)));
            best = best.min(start.elapsed().as_secs_f64());
        }
        let rate = rows.len() as f64 / best;
        let Some((seconds, theirs)) = python.get(*name) else {
            println!("| {name} | {} | {rate:.0} | - | - |", rows.len());
            continue;
        };
        for (at, (ours, theirs)) in scores.iter().zip(theirs).enumerate() {
            assert!(
                (ours - theirs).abs() < 1e-6,
                "{name} row {at}: {ours}, Python {theirs}"
            );
        }
        let python_rate = rows.len() as f64 / seconds;
        let ratio = rate / python_rate;
        println!(
            "| {name} | {} | {rate:.0} | {python_rate:.0} | {ratio:.1} |",
            rows.len()
        );
        total = (total.0 + rows.len(), total.1 + best, total.2 + seconds);
    }
    let (count, ours, theirs) = total;
    if count > 0 {
        let rates = (count as f64 / ours, count as f64 / theirs);
        println!(
            "| all rows | {count} | {:.0} | {:.0} | {:.1} |",
            rates.0,
            rates.1,
            theirs / ours
        );
    }
}

/// Scores of the rows: captions are tokens already, which [`Metric`] would tokenise again.
fn score(name: &str, rows: &[Row<'_>]) -> Vec<f64> {
    match name {
        "bleu_4" => bleu(rows).rows.iter().map(|scores| scores[3]).collect(),
        "rouge_l" => rows
            .iter()
            .map(|row| rouge_l(row.answer, row.references))
            .collect(),
        "cider_d" => cider_d(rows),
        _ => {
            name.parse::<Metric>()
                .map(|metric| metric.evaluate(rows))
                .unwrap_or(Evaluation {
                    rows: vec![],
                    value: 0.0,
                })
                .rows
        }
    }
}

/// Rows of the files directly in `folder` that `names` names, or of all.
fn rows(folder: &Path, answer: &str, references: &str, names: &[&str]) -> Vec<Owned> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.gz"))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            names.is_empty() || names.contains(&name.trim_end_matches(".jsonl.gz"))
        })
        .collect();
    files.sort();
    let one = |value: &Value| value.as_str().map(str::to_owned);
    let mut rows = Vec::new();
    for file in files {
        let mut text = String::new();
        let bytes = fs::read(&file).unwrap_or_default();
        if GzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .is_err()
        {
            eprintln!("{}: not gzip", file.display());
        }
        for row in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            let first = row[answer]
                .as_array()
                .map_or(&row[answer], |items| &items[0]);
            let many = match &row[references] {
                Value::Array(items) => items.iter().filter_map(one).collect(),
                value => one(value).into_iter().collect(),
            };
            rows.extend(one(first).map(|answer| (answer, many)));
        }
    }
    rows
}

/// Seconds of the fastest round and the scores, by metric; nothing where Python does not run.
fn python(sets: &BTreeMap<&str, Vec<Owned>>) -> BTreeMap<String, (f64, Vec<f64>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/metrics.py");
    let input = std::env::temp_dir().join(format!("llavar-metrics-{}.json", std::process::id()));
    let run = || -> Option<Value> {
        fs::write(
            &input,
            json!({ "rounds": ROUNDS, "sets": sets }).to_string(),
        )
        .ok()?;
        let output = Command::new("python3")
            .arg(script)
            .arg(&input)
            .output()
            .ok()?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).ok()
    };
    let result = run();
    // Best effort: it lies in the temporary folder.
    let _ = fs::remove_file(&input);
    let Some(Value::Object(result)) = result else {
        eprintln!("no Python figures: python3 did not run metrics.py");
        return BTreeMap::new();
    };
    result
        .into_iter()
        .filter_map(|(name, value)| {
            let scores = value["scores"]
                .as_array()?
                .iter()
                .filter_map(Value::as_f64)
                .collect();
            Some((name, (value["seconds"].as_f64()?, scores)))
        })
        .collect()
}
