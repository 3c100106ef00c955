//! Answers files of many tools against a task.
#![allow(clippy::unwrap_used)]

use llavar_eval::samples::{LineFault, MatchReport, SampleError, match_answers, read_answers};
use llavar_eval::tasks::{Item, Missing, Task};
use proptest::prelude::*;

fn item(id: &str, source_id: &str, image: &str, question: &str) -> Item {
    Item {
        id: id.into(),
        source_id: source_id.into(),
        image: image.into(),
        image_path: None,
        question: question.into(),
        answers: vec!["gold".into()],
        category: None,
        extra: Default::default(),
    }
}

fn task(items: Vec<Item>) -> Task {
    Task {
        name: "docvqa".into(),
        split: "val".into(),
        folder: "".into(),
        sources: Vec::new(),
        metrics: &["anls"],
        prompt_suffix: "",
        max_new_tokens: 8,
        items,
        missing: Missing::default(),
        note: None,
    }
}

fn documents() -> Task {
    task(vec![
        item("1004", "1004", "documents/a_1.png", "What is the date?"),
        item("2", "2", "documents/a_1.png", "What is the date of birth?"),
        item("7", "7", "documents/b_1.png", "Who signed?"),
    ])
}

fn read(task: &Task, content: impl AsRef<[u8]>) -> (Vec<Option<String>>, MatchReport) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers");
    std::fs::write(&path, content).unwrap();
    let matched = match_answers(task, &read_answers(&path).unwrap());
    (matched.answers, matched.report)
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Option<String>> {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_string());
    texts.into_iter().map(text).collect()
}

#[test]
fn every_common_form_is_read() {
    for content in [
        // LLaVA
        r#"{"question_id": 1004, "prompt": "What is the date?\nShort.", "text": "x", "answer_id": "k", "model_id": "m", "metadata": {}}
{"question_id": 2, "prompt": "q", "text": "y"}
{"question_id": "7", "prompt": "q", "text": "z"}"#,
        // Challenge submissions
        r#"[{"questionId": 1004, "answer": "x"}, {"questionId": 2, "answer": "y"}, {"questionId": 7, "answer": "z"}]"#,
        "[\n  {\n    \"question_id\": 1004,\n    \"answer\": \"x\"\n  },\n {\"id\": 2, \"predict\": \"y\", \"answers\": [\"gold\"]}, {\"qid\": 7, \"prediction\": \"z\", \"answer\": \"gold\"}]",
        // Objects that hold a list, and objects from id to answer
        r#"{"model": "m", "predictions": [{"question_id": 1004, "pred": "x"}, {"question_id": 2, "output": "y"}, {"question_id": 7, "response": "z"}]}"#,
        "{\n \"1004\": \"x\",\n \"2\": \"y\",\n \"7\": {\"prediction\": \"z\"}\n}",
        r#"{"1004": "x", "2": ["y"], "7": "z"}"#,
        // Harnesses that count
        r#"{"doc_id": 0, "target": "gold", "resps": [["x"]], "filtered_resps": ["x"]}
{"doc_id": 1, "filtered_resps": ["y"]}
{"doc_id": 2, "resps": [["z"]]}"#,
        // No ids at all: picture and question, as MultimodalOCR writes them
        r#"[{"question": "What is the date?", "answer": "x", "gt_answers": ["gold"], "image_path": "./data/docVQA/val/documents/a_1.png"},
            {"question": "what is the date of birth?", "answer": "y", "image_path": "a_1.jpg"},
            {"question": "OCR: LINE 7\nWho signed?\nAnswer with one word.", "answer": "z", "image": "b_1.png"}]"#,
        // Ids of pictures, told apart by the question, with OCR text around it
        r#"{"question_id": "a_1", "prompt": "What is the date?\nReference OCR token: 1, 2", "text": "x"}
{"question_id": "a_1", "prompt": "What is the date of birth?\nReference OCR token: 1", "text": "y"}
{"question_id": "b_1", "prompt": "<image>\nWho signed?", "text": "z"}"#,
        "\u{FEFF}{\"question_id\": 1004, \"text\": \"x\"}\r\n\r\n{\"question_id\": 2, \"text\": \"y\"}\r\n{\"question_id\": 7, \"text\": \"z\"}\r\n",
    ] {
        let (answers, report) = read(&documents(), content);
        assert_eq!(answers, texts(["x", "y", "z"]), "{content}");
        assert!(
            report.is_clean() && report.answered == 3,
            "{report}\n{content}"
        );
    }
}

#[test]
fn a_list_in_a_row_is_no_list_of_rows() {
    let one = |id: &str, question: &str| task(vec![item(id, id, "a.png", question)]);
    for (task, content) in [
        (
            one("1", "How many?"),
            r#"{"question_id": 1, "prediction": "x", "answers": ["gold"]}"#,
        ),
        (
            one("1", "How many?"),
            r#"{"question_id": 1, "text": "x", "results": [], "answers": [3]}"#,
        ),
        (
            one("1", "How many?"),
            r#"{"question": "How many?", "image": "a.png", "pred": "x", "answers": ["gold", "a"]}"#,
        ),
        // The id is that of the run.
        (
            one("1", "How many?"),
            r#"{"id": "run", "answers": [ {"question_id": 1, "text": "x"}]}"#,
        ),
    ] {
        let (answers, report) = read(&task, content);
        assert_eq!(answers, texts(["x"]), "{content}");
        assert!(report.is_clean(), "{report}\n{content}");
    }
}

#[test]
fn entries_of_an_object_have_their_lines() {
    let content = "{\n \"1004\": \"x\",\n\n \"2\": {},\n \"99\": \"who\", \"7\": \"z\"\n}";
    let (answers, report) = read(&documents(), content);
    assert_eq!(answers, texts(["x", "", "z"]));
    assert_eq!(report.bad_lines[0].line, 4);
    assert_eq!(report.unknown, [(5, "99".to_string())]);
}

#[test]
fn a_tool_that_says_that_nothing_failed_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.jsonl");
    let said = [
        "false",
        "0",
        "null",
        "\"\"",
        "true",
        "\"out of memory\"",
        "429",
    ];
    let rows =
        said.map(|error| format!("{{\"question_id\": 7, \"text\": \"z\", \"error\": {error}}}\n"));
    std::fs::write(&path, rows.concat()).unwrap();
    let answers = read_answers(&path).unwrap().answers;
    let errors: Vec<Option<&str>> = answers.iter().map(|a| a.error.as_deref()).collect();
    let failed = [Some("true"), Some("out of memory"), Some("429")];
    assert_eq!(errors, [&[None; 4][..], &failed[..]].concat());
}

#[test]
fn what_does_not_fit_is_counted_and_named() {
    let content = b"{\"question_id\": 1004, \"text\": \"x\"}\n\
        {\"question_id\": 2, \"text\": \"caf\xE9\"}\n\
        {\"question_id\": 99, \"text\": \"who\"}\n\
        {\"question_id\": 1004, \"text\": \"other\"}\n\
        {\"question_id\": 1004, \"text\": \"x\"}\n\
        {\"text\": \"lost\"}\n\
        {\"question_id\": 7, \"text\": null}\n\
        {\"question_id\": 7, \"te";
    let (answers, report) = read(&documents(), content);
    assert_eq!(answers, texts(["x", "", ""]));
    assert_eq!(report.missing, ["2", "7"]);
    assert_eq!(report.unknown, [(3, "99".to_string())]);
    let repeated: Vec<(usize, usize, bool)> = report
        .repeated
        .iter()
        .map(|r| (r.first_line, r.line, r.same))
        .collect();
    assert_eq!(repeated, [(1, 4, false), (1, 5, true)]);
    let bad: Vec<usize> = report.bad_lines.iter().map(|bad| bad.line).collect();
    assert_eq!(bad, [2, 6, 7, 8]);
    assert_eq!(report.bad_lines[0].fault, LineFault::NotUtf8);
    assert_eq!(report.bad_lines[1].fault, LineFault::NoId);
    assert_eq!(report.bad_lines[2].fault, LineFault::NoText);
    assert_eq!(
        report.to_string(),
        "1 of 3 questions answered; 2 missing (first: \"2\"); 2 repeated, 1 of them different (first: \
         \"1004\" on lines 1 and 4); the first counts; 1 unknown (first: \"99\" on line 3); 4 unusable \
         line(s) (first: line 2: not UTF-8)"
    );
}

#[test]
fn bytes_that_are_no_utf8_cost_one_row_of_an_array() {
    let content = b"[\n{\"questionId\": 1004, \"answer\": \"x\"},\n{\"questionId\": 2,\n \"answer\": \"\xFF\"},\n{\"questionId\": 7, \"answer\": \"\xE2\x82\xAC \xEF\xBF\xBD\"}\n]";
    let (answers, report) = read(&documents(), content);
    assert_eq!(answers, texts(["x", "", "\u{20AC} \u{FFFD}"]));
    assert_eq!(
        (report.bad_lines[0].line, &report.bad_lines[0].fault),
        (3, &LineFault::NotUtf8)
    );
    let (answers, report) = read(
        &documents(),
        b"{\"1004\": \"x\", \"2\": \"\xFF\", \"2\": \"y\", \"2\": \"w\"}",
    );
    assert_eq!(answers, texts(["x", "y", ""]));
    assert_eq!((report.bad_lines.len(), report.repeated.len()), (1, 1));
}

#[test]
fn questions_that_are_asked_twice_are_answered_in_order() {
    let task = task(vec![
        item(
            "f/1",
            "f",
            "f.png",
            "what is \"DIVISION:\" information in the image?",
        ),
        item(
            "f/2",
            "f",
            "f.png",
            "what is \"DIVISION:\" information in the image?",
        ),
        item(
            "g/1",
            "g",
            "g.png",
            "what is \"DIVISION:\" information in the image?",
        ),
    ]);
    let row = |image: &str, answer: &str| {
        format!(
            "{{\"image_path\": \"x/{image}\", \"question\": \"what is \\\"DIVISION:\\\" information in the image?\", \"answer\": \"{answer}\"}}\n"
        )
    };
    let content = [
        row("h.png", "0"),
        row("f.png", "1"),
        row("g.png", "3"),
        row("f.png", "2"),
        row("f.png", "4"),
    ]
    .concat();
    let (answers, report) = read(&task, content);
    assert_eq!(answers, texts(["1", "2", "3"]));
    assert_eq!(report.repeated.len(), 1);
    let name = "x/h.png: what is \"DIVISION:\" information in the image?";
    assert_eq!(report.unknown, [(1, name.to_string())]);
}

#[test]
fn a_count_is_not_taken_for_an_id() {
    // Question ids 0 and 1 in another order than the questions.
    let task = task(vec![
        item("1", "1", "a.png", "first?"),
        item("0", "0", "b.png", "second?"),
    ]);
    let (answers, _) = read(
        &task,
        "{\"index\": 0, \"question\": \"first?\", \"prediction\": \"a\"}\n{\"index\": 1, \"question\": \"second?\", \"prediction\": \"b\"}",
    );
    assert_eq!(answers, texts(["a", "b"]));
    // A count beyond the questions is unknown, not wrapped and not dropped.
    let (answers, report) = read(
        &documents(),
        "{\"doc_id\": 0, \"resps\": [[\"x\"]]}\n{\"doc_id\": 50, \"resps\": [[\"x\"]]}",
    );
    assert_eq!(
        (answers.iter().flatten().count(), report.unknown.len()),
        (0, 2)
    );
}

#[test]
fn a_file_without_answers_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers");
    let error = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        read_answers(&path).unwrap_err()
    };
    for content in [
        &b""[..],
        b"\n \n",
        b"[]",
        b"{}",
        b"\xFF\xFE\x00",
        b"[1, \"a\"]",
        b"{\"data\": []}",
        b"not json\n",
        b"{\"text\": \"x\"}\n{\"text\": \"y\"}",
    ] {
        let error = error(content);
        assert!(
            matches!(error, SampleError::NoAnswers { .. }),
            "{error:?} {content:?}"
        );
    }
    for (content, line) in [
        (&b"[\n{\"id\": 1, \"text\": \"x\"},\n{\"id\": 2"[..], 3),
        (b"{\n\"a\": \n\"b\"\n", 4),
    ] {
        let error = error(content);
        assert!(
            matches!(error, SampleError::Json { line: found, .. } if found == line),
            "{error:?}"
        );
    }
    assert!(
        error("[".repeat(100_000).as_bytes())
            .to_string()
            .contains("answers")
    );
    assert!(matches!(
        read_answers(dir.path()),
        Err(SampleError::Io { .. })
    ));
    assert!(matches!(
        read_answers(&dir.path().join("none")),
        Err(SampleError::Io { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes, reading and matching end, and every question is answered or missing.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), prefix in 0usize..4) {
        let prefix = ["", "[{\"id\": 1004, \"text\": \"x\"},", "{\"question_id\": 2, \"text\": \"y\"}\n", "{\"data\": ["][prefix];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        std::fs::write(&path, [prefix.as_bytes(), &bytes].concat()).unwrap();
        let task = documents();
        if let Ok(file) = read_answers(&path) {
            let matched = match_answers(&task, &file);
            let report = &matched.report;
            prop_assert_eq!(report.answered + report.missing.len(), 3);
            prop_assert_eq!(matched.answers.iter().flatten().count(), report.answered);
            prop_assert_eq!(report.answered + report.repeated.len() + report.unknown.len(), file.answers.len());
        }
    }
}
