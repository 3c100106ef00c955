//! Every row of every file under `metric-vectors`: the score that the published code gives.
#![allow(clippy::expect_used)]

use std::io::Write as _;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use llavar_metrics::{
    Metric, Row, bleu::bleu, cider_d::cider_d, meteor, multimodal_ocr::Protocol, ocrbench, ptb,
    rouge_l::rouge_l,
};
use serde_json::Value;

/// The folder of vectors, where this machine has it.
fn vectors(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LLAVAR_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let path = path.join("metric-vectors");
    if path.is_dir() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: LLAVAR_SHARED has no metric-vectors"
    );
    None
}

/// Every file of rows under `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.to_string_lossy().contains(".jsonl") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn rows(path: &Path) -> Vec<Value> {
    let bytes = fs::read(path).expect("readable file");
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .expect("gzip of text");
    } else {
        text = String::from_utf8(bytes).expect("text");
    }
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect()
}

fn name(path: &Path) -> &str {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.split('.').next().unwrap_or_default()
}

fn text<'v>(row: &'v Value, keys: &[&str]) -> &'v str {
    keys.iter()
        .find_map(|key| row[*key].as_str())
        .unwrap_or_else(|| panic!("no {keys:?} in {row}"))
}

/// A text or a list of texts under the first of `keys` that is there.
fn texts(row: &Value, keys: &[&str]) -> Vec<String> {
    let value = keys
        .iter()
        .map(|key| &row[*key])
        .find(|value| !value.is_null());
    match value.unwrap_or_else(|| panic!("no {keys:?} in {row}")) {
        Value::Array(items) => items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        one => vec![
            one.as_str()
                .unwrap_or_else(|| panic!("no text in {row}"))
                .to_owned(),
        ],
    }
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .or_else(|| value.as_bool().map(f64::from))
        .unwrap_or_else(|| panic!("{value}"))
}

/// Which metric made the column `key` of a row in `file`; `None` for a column that is no score.
fn metric_of(file: &str, row: &Value, key: &str) -> Option<Metric> {
    let of_protocol = |protocol| match protocol {
        Protocol::Vqa => Metric::MultimodalOcrVqa,
        Protocol::Recognition => Metric::MultimodalOcrRecognition,
        Protocol::Chinese => Metric::MultimodalOcrChinese,
        Protocol::Formula => Metric::MultimodalOcrFormula,
    };
    Some(match key {
        "score" | "mmocr" => of_protocol(Protocol::of_data_set(file)),
        "contain" => Metric::OcrBench,
        "result" if row["dataset_name"] == ocrbench::FORMULA_DATA_SET => Metric::OcrBenchFormula,
        "result" => Metric::OcrBench,
        "anls" | "anls_rrc" => Metric::Anls,
        "anls_pypi" => Metric::AnlsPypi,
        "m4c" => Metric::TextVqaM4c,
        "qwen_vl" | "pix2struct" | "vlmevalkit" | "lmms_eval" => Metric::ChartQaRelaxed,
        _ => return None,
    })
}

const ANSWERS: &[&str] = &["answer", "prediction", "predict"];
const REFERENCES: &[&str] = &["gt", "answers", "target"];

#[test]
fn every_row_of_answers_has_its_published_score() {
    let Some(folder) = vectors("every_row_of_answers_has_its_published_score") else {
        return;
    };
    let mut counts: BTreeMap<Metric, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for path in files(&folder) {
        let rows = rows(&path);
        if rows.first().is_none_or(|row| row.get("hyp").is_some()) {
            continue;
        }
        let before: usize = counts.values().sum();
        for row in &rows {
            let references = texts(row, REFERENCES);
            let answer = text(row, ANSWERS);
            for (key, value) in row.as_object().expect("an object") {
                let Some(metric) = metric_of(name(&path), row, key) else {
                    continue;
                };
                let score = metric.score(Row {
                    answer,
                    references: &references,
                });
                *counts.entry(metric).or_default() += 1;
                if score.is_none_or(|score| (score - number(value)).abs() > 1e-12) {
                    wrong.push(format!("{} {metric} {score:?} {row}", path.display()));
                }
            }
        }
        assert!(
            counts.values().sum::<usize>() > before,
            "{}: no column is known",
            path.display()
        );
    }
    println!("{counts:?}");
    assert!(
        wrong.is_empty(),
        "{} wrong, first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    assert!(!counts.is_empty(), "no rows of answers");
}

#[test]
fn published_sums_where_all_rows_are_there() {
    let Some(folder) = vectors("published_sums_where_all_rows_are_there") else {
        return;
    };
    let mut compared = 0;
    for path in files(&folder) {
        let beside = path.with_file_name("published_scores.json");
        let Ok(published) = fs::read_to_string(&beside) else {
            continue;
        };
        let published: Value = serde_json::from_str(&published).expect("JSON");
        let set = &published[name(&path)];
        let mut by_model: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for row in rows(&path) {
            let metric = metric_of(name(&path), &row, "score").expect("the column of this folder");
            let references = texts(&row, REFERENCES);
            let row_score = metric.score(Row {
                answer: text(&row, ANSWERS),
                references: &references,
            });
            by_model
                .entry(text(&row, &["model"]).into())
                .or_default()
                .extend(row_score);
        }
        for (model, scores) in by_model {
            let entry = &set[&model];
            let Some(n) = entry["n"].as_u64() else {
                continue;
            };
            // Some files hold a sample, of which the sum says nothing.
            if scores.len() as u64 != n {
                continue;
            }
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            assert!(
                (mean - number(&entry["here"])).abs() < 1e-9,
                "{} {model}",
                path.display()
            );
            compared += 1;
        }
    }
    // The data set as distributed here has samples only; the count says so.
    println!("published sums compared: {compared}");
}

#[test]
fn published_anls_of_whole_runs() {
    let Some(folder) = vectors("published_anls_of_whole_runs") else {
        return;
    };
    for path in files(&folder) {
        let summary = path.with_file_name(format!("{}_summary.json", name(&path)));
        let Ok(summary) = fs::read_to_string(&summary) else {
            continue;
        };
        let summary: Value = serde_json::from_str(&summary).expect("JSON");
        let mut runs: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        for row in rows(&path) {
            let references = texts(&row, REFERENCES);
            let row_score = Metric::Anls.score(Row {
                answer: text(&row, ANSWERS),
                references: &references,
            });
            let run = runs.entry(text(&row, &["run"]).into()).or_default();
            run.0 += row_score.unwrap_or(f64::NAN);
            run.1 += 1;
        }
        let mut compared = 0;
        for (run, (sum, n)) in runs {
            if summary[&run]["n"].as_u64() == Some(n) {
                assert!(
                    (sum / n as f64 - number(&summary[&run]["anls"])).abs() < 1e-9,
                    "{run}"
                );
                compared += 1;
            }
        }
        println!("whole runs compared: {compared}");
    }
}

/// A caption set: tokenised rows and the raw values beside them.
struct Captions {
    answers: Vec<String>,
    references: Vec<Vec<String>>,
    values: Vec<Value>,
}

impl Captions {
    fn rows(&self) -> Vec<Row<'_>> {
        let pairs = self.answers.iter().zip(&self.references);
        pairs
            .map(|(answer, references)| Row { answer, references })
            .collect()
    }
}

/// The caption sets of every caption file, and the published values of the corpora.
fn captions(folder: &Path, raw: bool) -> Vec<(String, Captions, Option<Value>)> {
    let mut found = Vec::new();
    for path in files(folder) {
        let mut sets: BTreeMap<String, Captions> = BTreeMap::new();
        for row in rows(&path)
            .into_iter()
            .filter(|row| row.get("hyp").is_some())
        {
            let (answer, references) = if raw {
                ("hyp", "refs")
            } else {
                ("hyp_ptb", "refs_ptb")
            };
            let set = sets
                .entry(text(&row, &["set"]).into())
                .or_insert_with(|| Captions {
                    answers: vec![],
                    references: vec![],
                    values: vec![],
                });
            set.answers.extend(texts(&row, &[answer]));
            set.references.push(texts(&row, &[references]));
            set.values.push(row);
        }
        let corpus = path.with_file_name(format!("{}_corpus.json", name(&path)));
        let corpus: Value = fs::read_to_string(&corpus)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        for (set, captions) in sets {
            // A corpus value holds where all of its rows are there.
            let entry = &corpus[&set];
            let whole = entry["n"].as_u64() == Some(captions.answers.len() as u64);
            found.push((
                set.clone(),
                captions,
                whole.then(|| entry["corpus"].clone()),
            ));
        }
    }
    found
}

fn near(found: f64, value: &Value, tolerance: f64, what: &str) {
    let value = number(value);
    assert!(
        (found - value).abs() <= tolerance,
        "{what}: {found}, published {value}"
    );
}

#[test]
fn captions_score_as_published_on_the_given_tokens() {
    let Some(folder) = vectors("captions_score_as_published_on_the_given_tokens") else {
        return;
    };
    let mut compared = 0;
    for (set, captions, corpus) in captions(&folder, false) {
        let rows = captions.rows();
        let (bleu, cider) = (bleu(&rows), cider_d(&rows));
        let mut rouge_sum = 0.0;
        for (at, value) in captions.values.iter().enumerate() {
            let what = format!("{set} row {at}");
            for n in 1..=4 {
                near(
                    bleu.rows[at][n - 1],
                    &value[format!("Bleu_{n}")],
                    1e-4,
                    &what,
                );
            }
            let rouge = rouge_l(rows[at].answer, rows[at].references);
            near(rouge, &value["ROUGE_L"], 1e-4, &what);
            rouge_sum += rouge;
            // CIDEr's weights come from all rows.
            if corpus.is_some() {
                near(cider[at], &value["CIDEr"], 1e-4, &what);
            }
            compared += 1;
        }
        let Some(corpus) = corpus else {
            continue;
        };
        for n in 1..=4 {
            near(bleu.corpus[n - 1], &corpus[format!("Bleu_{n}")], 1e-4, &set);
        }
        near(
            rouge_sum / rows.len() as f64,
            &corpus["ROUGE_L"],
            1e-4,
            &set,
        );
        near(
            cider.iter().sum::<f64>() / rows.len() as f64,
            &corpus["CIDEr"],
            1e-4,
            &set,
        );
    }
    assert!(compared > 0, "no captions");
}

#[test]
fn captions_are_tokenised_as_published() {
    let Some(folder) = vectors("captions_are_tokenised_as_published") else {
        return;
    };
    let (mut texts, mut different) = (0, Vec::new());
    for ((set, raw, corpus), (_, tokenised, _)) in captions(&folder, true)
        .into_iter()
        .zip(captions(&folder, false))
    {
        let pairs = raw.answers.iter().chain(raw.references.iter().flatten());
        let expected = tokenised
            .answers
            .iter()
            .chain(tokenised.references.iter().flatten());
        for (text, expected) in pairs.zip(expected) {
            texts += 1;
            if ptb::tokenise(text) != *expected {
                different.push(format!(
                    "{text:?}: {:?}, published {expected:?}",
                    ptb::tokenise(text)
                ));
            }
        }
        // From the raw text: the corpus values to half a percent.
        if let Some(corpus) = corpus {
            for (metric, key) in [
                (Metric::Bleu1, "Bleu_1"),
                (Metric::Bleu4, "Bleu_4"),
                (Metric::RougeL, "ROUGE_L"),
                (Metric::CiderD, "CIDEr"),
            ] {
                let value = number(&corpus[key]);
                let found = metric.evaluate(&raw.rows()).value;
                assert!(
                    (found / value - 1.0).abs() < 5e-3,
                    "{set} {key}: {found}, published {value}"
                );
            }
        }
    }
    println!("{} of {texts} texts differ", different.len());
    assert!(different.len() * 100 <= texts, "{}", different.join("\n"));
}

/// Values of `meteor-1.5.jar -l en -norm -m "exact stem"` on the tokens of these sets.
const EXACT_STEM: [(&str, f64); 2] = [
    ("example_1", 0.160_192_764_047_394_03),
    ("example_2", 0.208_346_049_087_649_67),
];

#[test]
fn meteor_with_exact_and_stem_matches_is_the_programs() {
    let Some(folder) = vectors("meteor_with_exact_and_stem_matches_is_the_programs") else {
        return;
    };
    let known: HashMap<&str, f64> = EXACT_STEM.into();
    for (set, captions, corpus) in captions(&folder, false) {
        let scores = meteor::Meteor::exact_stem().evaluate(&captions.rows());
        println!("{set}: exact and stem {:.6}", scores.corpus);
        if let (Some(value), Some(corpus)) = (known.get(set.as_str()), corpus) {
            assert!(
                (scores.corpus / value - 1.0).abs() < 5e-3,
                "{set}: {}, {value}",
                scores.corpus
            );
            // The published value has synonyms and paraphrases on top.
            assert!(scores.corpus < number(&corpus["METEOR"]));
        }
    }
}

#[test]
fn meteor_with_all_matches_is_the_published_value() {
    let test = "meteor_with_all_matches_is_the_published_value";
    let Some(folder) = vectors(test) else {
        return;
    };
    let Some(data) = std::env::var_os("LLAVAR_METEOR") else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: LLAVAR_METEOR does not name pycocoevalcap's meteor folder"
        );
        return;
    };
    for (set, captions, corpus) in captions(&folder, false) {
        let rows = captions.rows();
        let resources = meteor::Resources::load(Path::new(&data), &rows).expect("METEOR's files");
        let scores = meteor::Meteor::full(resources).evaluate(&rows);
        let off = captions
            .values
            .iter()
            .zip(&scores.rows)
            .filter(|(value, score)| (number(&value["METEOR"]) - **score).abs() > 1e-4)
            .count();
        println!(
            "{set}: {:.6}, {off} of {} rows off by more than 1e-4",
            scores.corpus,
            rows.len()
        );
        assert!(off * 1000 <= rows.len(), "{set}: {off} rows");
        if let Some(corpus) = corpus {
            let value = number(&corpus["METEOR"]);
            assert!(
                (scores.corpus / value - 1.0).abs() < 5e-3,
                "{set}: {}, {value}",
                scores.corpus
            );
        }
    }
}

#[test]
fn no_file_of_vectors_is_left_out() {
    let Some(folder) = vectors("no_file_of_vectors_is_left_out") else {
        return;
    };
    let unknown: HashSet<PathBuf> = files(&folder)
        .into_iter()
        .filter(|path| {
            rows(path).first().is_some_and(|row| {
                let keys = row.as_object().expect("an object").keys();
                row.get("hyp").is_none()
                    && !keys
                        .into_iter()
                        .any(|key| metric_of(name(path), row, key).is_some())
            })
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
