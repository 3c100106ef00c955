//! Reports of runs in any state: complete, broken, hostile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use llavar_eval::report::{BrowserOptions, ReportError, ReportRun, Summary, html, markdown};
use llavar_eval::results::{RESULTS_FILE, SCORED_FILE, write_json, write_rows};
use llavar_eval::samples::read_answers;
use llavar_eval::score::{ScoreOptions, score};
use llavar_eval::tasks::Task;
use llavar_image::{RgbImage, encode_png};
use std::fs;
use std::path::{Path, PathBuf};

/// A ChartQA folder of two pictures, one of them absent, with `answers` scored into `name`.
fn run(root: &Path, name: &str, answers: &[u8]) -> PathBuf {
    let data = root.join("ChartQA Dataset/test");
    fs::create_dir_all(data.join("png")).unwrap();
    let picture = encode_png(&RgbImage::filled(90, 60, [200, 30, 30])).unwrap();
    fs::write(data.join("png/1.png"), picture).unwrap();
    let questions = r#"[{"imgname": "1.png", "query": "How many <bars>?", "label": "14"},
        {"imgname": "gone.png", "query": "Which year?", "label": "2010"},
        {"imgname": "1.png", "query": "Largest value?", "label": "55"}]"#;
    fs::write(data.join("test_human.json"), questions).unwrap();
    fs::write(
        data.join("test_augmented.json"),
        questions.replace("2010", "1999"),
    )
    .unwrap();
    let task = Task::open("chartqa", data.parent().unwrap()).unwrap();
    let path = root.join(format!("{name}.jsonl"));
    fs::write(&path, answers).unwrap();
    let file = read_answers(&path).unwrap();
    let (mut result, rows) = score(&task, &file, &ScoreOptions::default()).unwrap();
    result.model_id = Some(name.into());
    let folder = root.join(name).join("chartqa_test");
    write_json(&folder.join(RESULTS_FILE), &result).unwrap();
    write_rows(&folder.join(SCORED_FILE), &rows).unwrap();
    root.join(name)
}

fn answers(root: &Path, texts: &[&str]) -> Vec<u8> {
    // The ids are the task's own.
    run(
        root,
        "probe",
        br#"{"question_id": 0, "image": "1.png", "question": "How many <bars>?", "text": ""}"#,
    );
    let task = Task::open("chartqa", &root.join("ChartQA Dataset")).unwrap();
    let lines = task.items.iter().zip(texts).map(|(item, text)| {
        serde_json::json!({"question_id": item.id, "text": text}).to_string() + "\n"
    });
    lines.collect::<String>().into_bytes()
}

#[test]
fn two_runs_on_one_page() {
    let root = tempfile::tempdir().unwrap();
    let first = run(
        root.path(),
        "first",
        &answers(root.path(), &["14", "2010", "3", "14", "0", "55"]),
    );
    let hostile = "<script>alert(1)</script>\u{202E}";
    let second = run(
        root.path(),
        "second",
        &answers(root.path(), &["14", hostile]),
    );
    let runs = [
        ReportRun::open(&first).unwrap(),
        ReportRun::open(&second).unwrap(),
    ];
    let summary = Summary::new(&runs);
    assert_eq!(summary.answerers(), ["first", "second"]);
    let pairing = &summary.pairings[0];
    assert_eq!(pairing.comparison.metrics[0].pairs, 6);

    let page = html(&runs, &summary, &BrowserOptions::default());
    // Both questions of the human part, and all that is said of them.
    for shown in [
        "634",
        "chartqa (test)",
        "How many &lt;bars&gt;?",
        "no answer",
        "gone.png",
        "by kind of question",
        "&lt;script&gt;alert(1)&lt;/script&gt;\u{27E8}U+202E\u{27E9}",
        "multimodal_ocr_vqa",
        "6 of 6 questions are shown",
        "Paired comparisons",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(
        !page.contains("<script>alert") && !page.contains("http://") && !page.contains("https://")
    );
    // One picture file, four questions: its bytes are there once.
    assert_eq!(page.matches("data:image/").count(), 1);
    assert_eq!(page.matches("<article").count(), 6);
    assert_eq!(
        page,
        html(&runs, &summary, &BrowserOptions::default()),
        "it repeats"
    );

    let wrong = BrowserOptions {
        only_wrong: true,
        questions: 2,
        ..BrowserOptions::default()
    };
    let page = html(&runs, &summary, &wrong);
    assert!(
        page.contains("of the 5 that are not answered right by all"),
        "all but the first"
    );
    assert_eq!(page.matches("<article").count(), 2);

    let text = markdown(&summary);
    assert!(
        text.contains("| LLaVAR-2 13B (Vicuna 1.5) (published) | on | 680 |"),
        "{text}"
    );
    assert!(text.contains("chartqa_relaxed v1"), "{text}");
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["published"][0]["values"][0], 634.0);
    assert_eq!(json["columns"][0]["result"]["counts"]["questions"], 6);
}

#[test]
fn differences_have_the_unit_of_their_metric() {
    let root = tempfile::tempdir().unwrap();
    let folder = run(root.path(), "run", &answers(root.path(), &["14"]));
    let scored = |anls: f64, cider: f64| {
        let mut run = ReportRun::open(&folder).unwrap();
        for row in &mut run.columns[0].rows {
            row.scores = [("anls".into(), anls), ("cider_d".into(), cider)].into();
        }
        run
    };
    let runs = [scored(0.25, 1.0), scored(0.5, 1.25)];
    let summary = Summary::new(&runs);
    let text = markdown(&summary);
    for row in [
        "| anls | +25.0 | +25.0 to +25.0 |",
        "| cider_d | +0.250 | +0.250 to +0.250 |",
    ] {
        assert!(text.contains(row), "{row}: {text}");
    }
    let page = html(&runs, &summary, &BrowserOptions::default());
    for cell in [
        "25.0 %",
        "50.0 %",
        "+25.0 to +25.0",
        "1.000",
        "1.250",
        "+0.250 to +0.250",
    ] {
        assert!(page.contains(&format!(">{cell}<")), "{cell}");
    }
    for (form, text) in [("markdown", &text), ("html", &page)] {
        assert!(text.contains("else in the metric's own unit"), "{form}");
    }
}

#[test]
fn broken_rows_are_counted_by_kind_and_the_rest_is_shown() {
    let root = tempfile::tempdir().unwrap();
    let folder = run(
        root.path(),
        "run",
        &answers(root.path(), &["14", "x", "x", "x", "x", "x"]),
    );
    let scored = folder.join("chartqa_test").join(SCORED_FILE);
    let mut bytes = fs::read(&scored).unwrap();
    bytes.extend(b"\xff\xfe broken\n{\"question_id\": 1}\n{\"question_id\": \"tor");
    fs::write(&scored, bytes).unwrap();
    fs::create_dir_all(folder.join("docvqa_val")).unwrap();
    fs::write(folder.join("docvqa_val/run.json"), "{}").unwrap();
    fs::create_dir_all(folder.join("funsd_test")).unwrap();
    fs::write(folder.join("funsd_test/scored.jsonl"), "").unwrap();
    fs::write(folder.join("funsd_test/results.json"), "{").unwrap();
    let run = ReportRun::open(&folder).unwrap();
    assert_eq!((run.columns.len(), run.columns[0].rows.len()), (1, 6));
    let faults = run.faults.join("\n");
    for said in [
        "3 line(s)",
        "1 not UTF-8",
        "2 no scored row",
        "docvqa_val: answers that are not scored yet",
        "funsd_test",
    ] {
        assert!(faults.contains(said), "{said}: {faults}");
    }
    let runs = [run];
    let page = html(&runs, &Summary::new(&runs), &BrowserOptions::default());
    assert!(page.contains("1 not UTF-8") && page.contains("not scored yet"));
}

#[test]
fn non_utf8_answers_are_named_on_the_page() {
    let root = tempfile::tempdir().unwrap();
    let mut lines = answers(root.path(), &["14", "2010"]);
    lines.extend(b"{\"question_id\": \"x\", \"text\": \"\xff\"}\nnot json\n");
    let runs = [ReportRun::open(&run(root.path(), "run", &lines)).unwrap()];
    assert_eq!(runs[0].columns[0].result.counts.unusable_lines, 2);
    let page = html(&runs, &Summary::new(&runs), &BrowserOptions::default());
    assert!(page.contains("unusable lines") && page.contains("not UTF-8"));
}

#[test]
fn a_picture_that_went_or_broke_is_said_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let runs = [ReportRun::open(&run(root.path(), "run", &answers(root.path(), &["14"]))).unwrap()];
    fs::write(
        root.path().join("ChartQA Dataset/test/png/1.png"),
        "no picture any more",
    )
    .unwrap();
    let page = html(&runs, &Summary::new(&runs), &BrowserOptions::default());
    assert_eq!(page.matches("no picture</strong>").count(), 6);
    fs::remove_file(root.path().join("ChartQA Dataset/test/png/1.png")).unwrap();
    let page = html(&runs, &Summary::new(&runs), &BrowserOptions::default());
    assert_eq!(page.matches("no picture</strong>").count(), 6);
}

#[test]
fn a_folder_without_results_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    for folder in [root.path().to_path_buf(), root.path().join("absent")] {
        let error = ReportRun::open(&folder).unwrap_err();
        assert!(
            error.to_string().contains(folder.to_str().unwrap()),
            "{error}"
        );
    }
    fs::write(root.path().join("run.json"), "{}").unwrap();
    let error = ReportRun::open(root.path()).unwrap_err();
    assert!(
        matches!(&error, ReportError::NothingScored { first: Some(f), .. } if f.contains("not scored yet")),
        "{error}"
    );
}
