//! Task builders on small folders in the published layouts, whole, incomplete and hostile.
#![allow(clippy::unwrap_used)]

use llavar_eval::tasks::{Options, RowFault, Task, TaskError};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn image(root: &Path, name: &str) {
    let picture = llavar_image::RgbImage::filled(8, 6, [250, 250, 250]);
    write(root, name, llavar_image::encode_png(&picture).unwrap());
}

fn folder(files: &[(&str, Value)], images: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        write(dir.path(), name, value.to_string());
    }
    for name in images {
        image(dir.path(), name);
    }
    dir
}

fn asked(task: &Task) -> Vec<(&str, &str, &str, bool)> {
    task.items
        .iter()
        .map(|i| {
            (
                &*i.id,
                &*i.question,
                i.answers.first().map_or("", |a| a),
                i.image_path.is_some(),
            )
        })
        .collect()
}

fn text_vqa() -> Value {
    let answers = [
        "nokia", "nokia", "nokia ", "nokia", "toshiba", "nokia", "nokia", "nokia", "nokia", "nokia",
    ];
    json!({"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [
        {"question": "what is the brand of this camera?", "image_id": "003a8ae2ef43b901", "image_classes": ["Camera"],
         "flickr_original_url": "", "image_width": 1024, "image_height": 664, "answers": answers,
         "question_tokens": ["what"], "question_id": 34602, "set_name": "val"},
        {"question": "what year?", "image_id": "gone", "answers": ["1990"], "question_id": 34603, "set_name": "val"},
    ]})
}

#[test]
fn text_vqa_0_5_1() {
    let tokens = json!({"data": [{"image_id": "003a8ae2ef43b901", "ocr_tokens": ["NOKIA", "N95"], "ocr_info": []}]});
    let dir = folder(
        &[
            ("TextVQA_0.5.1_val.json", text_vqa()),
            ("TextVQA_Rosetta_OCR_v0.2_val.json", tokens),
        ],
        &["train_images/003a8ae2ef43b901.jpg"],
    );
    let task = Task::open("textvqa", dir.path()).unwrap();
    assert_eq!(task.split, "val");
    assert_eq!(
        asked(&task),
        [
            ("34602", "what is the brand of this camera?", "nokia", true),
            ("34603", "what year?", "1990", false),
        ]
    );
    // Ten references with their repetitions and spaces: the metric counts them.
    assert_eq!(task.items[0].answers.len(), 10);
    assert_eq!(task.items[0].answers[2], "nokia ");
    assert_eq!(
        task.prompt(&task.items[0]),
        "what is the brand of this camera?\nAnswer the question using a single word or phrase."
    );
    assert_eq!(
        task.missing.line(),
        "missing: 2 of the published 5000 questions; 1 of 2 images absent (gone.jpg); 1 of 2 questions cannot be asked"
    );
    assert!(!task.items[0].extra.contains_key("ocr_tokens"));
    let options = Options {
        ocr_tokens: true,
        ..Options::default()
    };
    let task = Task::open_with("textvqa", dir.path(), &options).unwrap();
    assert_eq!(task.items[0].extra["ocr_tokens"], json!(["NOKIA", "N95"]));
    std::fs::remove_file(dir.path().join("TextVQA_Rosetta_OCR_v0.2_val.json")).unwrap();
    let task = Task::open_with("textvqa", dir.path(), &options).unwrap();
    assert_eq!(task.missing.files, ["TextVQA_Rosetta_OCR_v0.2_val.json"]);
}

#[test]
fn st_vqa_task_3() {
    let row = |id: i64, set: &str, name: &str, path: &str| {
        json!({
        "question_id": id, "dataset": set, "file_name": name, "file_path": path,
        "question": format!("q{id}"), "answers": ["STOP", "stop"], "image_height": 1, "image_width": 1,
        "question_tokens": ["q"], "set_name": "train"})
    };
    let train = json!({"dataset_name": "st-vqa", "dataset_split": "train", "dataset_version": "1.0",
        "task_name": "task 3 - Open Dictionary", "data": [
            row(1, "coco-text", "COCO_train2014_000000209907.jpg", "coco-text/COCO_train2014_000000209907.jpg"),
            row(2, "VisualGenome", "1/2341689.jpg", "VisualGenome/1/2341689.jpg"),
            row(3, "vizwiz", "VizWiz.jpg", "elsewhere/VizWiz.jpg"),
    ]});
    let test = json!({"data": [{"question_id": 9, "dataset": "st-vqa", "file_name": "a.jpg", "file_path": "test_task3/a.jpg", "question": "q9"}]});
    let dir = folder(
        &[("train_task_3.json", train), ("test_task_3.json", test)],
        &[
            "coco-text/COCO_train2014_000000209907.jpg",
            "train_imgs/VisualGenome/1/2341689.jpg",
            "elsewhere/VizWiz.jpg",
            "test_task3/a.jpg",
        ],
    );
    let task = Task::open("ST-VQA", dir.path()).unwrap();
    assert_eq!(task.split, "train");
    assert_eq!(
        asked(&task),
        [
            ("1", "q1", "STOP", true),
            ("2", "q2", "STOP", true),
            ("3", "q3", "STOP", true)
        ]
    );
    assert_eq!(task.items[1].category.as_deref(), Some("VisualGenome"));
    assert_eq!(task.items[1].image, "VisualGenome/1/2341689.jpg");
    let test = Task::open("stvqa_test", dir.path()).unwrap();
    assert_eq!(
        (test.items.len(), test.missing.questions_without_answer),
        (1, 1)
    );
    assert!(
        test.missing
            .line()
            .contains("1 of 1 questions have no reference"),
        "{}",
        test.missing
    );
}

#[test]
fn info_vqa_1_0_and_doc_vqa_archives() {
    let row = json!({"questionId": 98313, "question": "Which platform?", "image_local_name": "37313.jpeg",
        "image_url": "", "ocr_output_file": "37313.json", "answers": ["pinterest", "Pinterest"], "data_split": "val",
        "answer_type": ["single span"], "operation/reasoning": ["comparison"]});
    let info = json!({"dataset_name": "infographicsVQA", "dataset_split": "val", "dataset_version": "1.0", "data": [row]});
    let doc = json!({"dataset_name": "SP-DocVQA", "data": [{"questionId": 7, "question": "q", "question_types": ["layout", "form"],
        "image": "documents/xnbl0037_1.png", "docId": 1, "answers": ["a"], "data_split": "val"}]});
    let dir = folder(
        &[
            ("qas/infographicsVQA_val_v1.0_withQT.json", info),
            ("spdocvqa_qas/val_v1.0_withQT.json", doc),
        ],
        &[
            "infographicsvqa_images/37313.jpeg",
            "spdocvqa_images/xnbl0037_1.png",
        ],
    );
    let task = Task::open("infovqa", dir.path()).unwrap();
    assert_eq!(
        asked(&task),
        [("98313", "Which platform?", "pinterest", true)]
    );
    assert_eq!(task.items[0].category.as_deref(), Some("single span"));
    assert_eq!(
        task.items[0].extra["operation/reasoning"],
        json!(["comparison"])
    );
    let task = Task::open("docvqa", dir.path()).unwrap();
    assert_eq!(asked(&task), [("7", "q", "a", true)]);
    assert_eq!(task.items[0].category.as_deref(), Some("layout, form"));
    let file = dir.path().join("spdocvqa_qas/val_v1.0_withQT.json");
    let error = Task::open("docvqa_train", &file).unwrap_err();
    assert!(
        matches!(&error, TaskError::NoSplit { found, .. } if found == &["val"]),
        "{error}"
    );
    let error = Task::open("docvqa_test", dir.path()).unwrap_err();
    assert!(
        matches!(&error, TaskError::NoSplit { found, .. } if found == &["val"]),
        "{error}"
    );
}

#[test]
fn caption_sets() {
    let coco = json!({"images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}, {"id": 7, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 7, "id": 1, "caption": "b one"}, {"image_id": 42, "id": 2, "caption": "a one"},
            {"image_id": 42, "id": 3, "caption": "a two"}, {"image_id": 99, "id": 4, "caption": "orphan"}]});
    let dir = folder(
        &[("annotations/captions_val2014.json", coco)],
        &["val2014/COCO_val2014_000000000042.jpg", "val2014/b.jpg"],
    );
    let task = Task::open("captions", dir.path()).unwrap();
    assert_eq!(
        task.items
            .iter()
            .map(|i| (&*i.id, i.answers.len()))
            .collect::<Vec<_>>(),
        [("42", 2), ("7", 1)]
    );
    assert_eq!(task.answerable().count(), 2);
    assert_eq!(task.missing.rows.len(), 1, "{}", task.missing);

    let references = json!(["a sign", "a red sign"]);
    let row = |caption: &str| json!({"image_id": "x1", "image_name": "x1", "caption_str": caption, "reference_strs": references});
    let caps = json!({"dataset_type": "val", "data": [row("a sign"), row("a red sign")]});
    let dir = folder(&[("TextCaps_0.1_val.json", caps)], &["train_images/x1.jpg"]);
    let task = Task::open("textcaps_val", dir.path()).unwrap();
    assert_eq!(task.items.len(), 1);
    assert_eq!(task.items[0].answers, ["a sign", "a red sign"]);

    let llava = json!([{"id": "t1", "image": "t1.jpg", "conversations": [
        {"from": "human", "value": "<image>\nDescribe the poster."}, {"from": "gpt", "value": "A poster."}]}]);
    let dir = folder(&[("captions_test.json", llava)], &["images/t1.jpg"]);
    let task = Task::open("captions", dir.path()).unwrap();
    assert_eq!(
        asked(&task),
        [("t1/0", "Describe the poster.", "A poster.", true)]
    );

    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "my_captions.jsonl",
        "{\"image\":\"a.png\",\"captions\":[\"x\",\"y\"]}\n{broken\n{\"image\":\"b.png\",\"caption\":\"z\"}\n",
    );
    image(dir.path(), "a.png");
    let task = Task::open("captions", dir.path()).unwrap();
    assert_eq!(
        (task.items.len(), task.missing.rows[0].at.as_str()),
        (2, "my_captions.jsonl:2")
    );
}

#[test]
fn hybrid_instruct_asks_each_pair_alone() {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let record = |id: Value, image: &str, first: &str| {
        json!({"id": id, "image": image, "conversations": [
            turn("human", first), turn("gpt", "The title is Foo."), turn("human", "What supports it?"), turn("gpt", "The top line reads \"Foo\"."),
        ]})
    };
    let file = json!([
        record(json!("p1"), "a.jpg", "<image>\nWhat is the title?"),
        record(json!(12), "b.jpg", "What is the title?\n<image>"),
        {"id": "bad", "image": "a.jpg", "conversations": []},
        {"id": "none", "conversations": [turn("human", "hi"), turn("gpt", "hello")]},
    ]);
    let dir = folder(
        &[("Hybrid_Instruct_test/vqa_test.json", file)],
        &["LLaVAR-2_img/a.jpg"],
    );
    let task = Task::open("Hybrid-Instruct", dir.path()).unwrap();
    assert_eq!(
        asked(&task),
        [
            ("p1/0", "What is the title?", "The title is Foo.", true),
            (
                "p1/1",
                "What supports it?",
                "The top line reads \"Foo\".",
                true
            ),
            ("12/0", "What is the title?", "The title is Foo.", false),
            (
                "12/1",
                "What supports it?",
                "The top line reads \"Foo\".",
                false
            ),
        ]
    );
    assert_eq!(task.items[1].category.as_deref(), Some("self_explain"));
    assert_eq!(
        (
            &*task.items[2].source_id,
            task.items[1].extra["qa_id"].as_i64()
        ),
        ("12", Some(2))
    );
    assert_eq!(task.missing.rows.len(), 2);
    assert!(matches!(
        task.missing.rows[1].fault,
        RowFault::ImageCount { images: 0 }
    ));
    assert_eq!(task.missing.questions_without_image, 2);
}

#[test]
fn funsd_links_follow_the_protocol_to_the_letter() {
    let field = |id: i64, label: &str, text: &str, links: Value| json!({"id": id, "label": label, "text": text, "linking": links, "box": [0, 0, 1, 1], "words": []});
    let form = json!({"form": [
        field(0, "question", "TO:", json!([[0, 1], [0, 2]])),
        field(1, "answer", "", json!([[0, 1]])),
        field(2, "answer", "Ms. A ", json!([[0, 2]])),
        field(3, "question", "FROM:", json!([[3, 4], [3, 1]])),
        field(4, "answer", "B", json!([[3, 4]])),
        field(5, "question", "HEADED", json!([[6, 5]])),
        field(6, "header", "HEADER", json!([[6, 5]])),
        field(7, "question", "TWICE", json!([[7, 4], [7, 4]])),
        field(8, "question", "UNLINKED ANSWER", json!([[8, 9]])),
        field(9, "answer", "x", json!([])),
        field(10, "question", "NONE", json!([])),
        field(11, "question", "REVERSED", json!([[4, 11]])),
    ]});
    let dir = folder(
        &[("dataset/testing_data/annotations/f1.json", form)],
        &[
            "dataset/testing_data/images/f1.png",
            "dataset/testing_data/images/f2.png",
        ],
    );
    write(
        dir.path(),
        "dataset/testing_data/annotations/broken.json",
        b"{\"form\": [\xFF\xFE",
    );
    let task = Task::open("funsd", dir.path()).unwrap();
    let got: Vec<(&str, &str)> = task
        .items
        .iter()
        .map(|i| (&*i.question, &*i.answers[0]))
        .collect();
    assert_eq!(
        got,
        [
            ("what is \"TO:\" information in the image?", "Ms. A "),
            ("what is \"FROM:\" information in the image?", "B "),
            ("what is \"TWICE\" information in the image?", "B B"),
        ]
    );
    assert_eq!(task.missing.files, ["annotations/f2.json"]);
    assert!(task.missing.rows[0].at.contains("broken.json"));
    let line = task.missing.line();
    assert!(
        line.contains("2 of the published 50 forms") && line.contains("annotations/f2.json"),
        "{line}"
    );
}

#[test]
fn sroie_asks_every_key_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| write(dir.path(), name, text);
    put(
        "data/SROIE/X1.txt",
        r#"{"total": "", "company": "A SDN BHD", "date": 2018}"#,
    );
    put("data/SROIE/X1(1).txt", r#"{"company": "A SDN BHD"}"#);
    put("data/SROIE/X2.txt", "TAX INVOICE, not JSON");
    image(dir.path(), "data/SROIE/X1.jpg");
    let task = Task::open("sroie", &dir.path().join("data/SROIE")).unwrap();
    assert_eq!(
        asked(&task),
        [
            (
                "X1/company",
                "what is the name of the company that issued this invoice?",
                "A SDN BHD",
                true
            ),
            ("X1/date", "when was this invoice issued?", "2018", true),
            (
                "X1/total",
                "what is the total amount of this invoice?",
                "",
                true
            ),
        ]
    );
    assert_eq!(
        (task.missing.empty_references, task.missing.rows.len()),
        (1, 1)
    );
    assert_eq!(task.split, "train");
}

#[test]
fn word_sets_of_the_old_layouts() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "svt/test_label.txt",
        b"image/1.jpg MEAT\nimage/2.jpg TACO\nimage/3.jpg \xFF\n\nlonely\n",
    );
    write(dir.path(), "ct80/test_label.txt", b"timage/1.jpg ronaldo\n");
    image(dir.path(), "svt/image/1.jpg");
    let task = Task::open("svt", dir.path()).unwrap();
    assert_eq!(
        asked(&task),
        [
            ("image/1.jpg", "what is written in the image?", "MEAT", true),
            (
                "image/2.jpg",
                "what is written in the image?",
                "TACO",
                false
            ),
        ]
    );
    let at: Vec<&str> = task.missing.rows.iter().map(|row| &*row.at).collect();
    assert_eq!(at, ["test_label.txt:3", "test_label.txt:5"]);
    // Another set is not taken for the one that was asked for.
    std::fs::rename(dir.path().join("svt"), dir.path().join("SVTP")).unwrap();
    let error = Task::open("svt", dir.path()).unwrap_err();
    assert!(matches!(error, TaskError::NoLayout { .. }), "{error}");
    assert!(Task::open("svtp", dir.path()).is_ok());
    assert!(Task::open("svt", &dir.path().join("SVTP")).is_ok());
    let task = Task::open("CT80", dir.path()).unwrap();
    assert_eq!(
        (&*task.name, &*task.items[0].answers[0]),
        ("ct80", "ronaldo")
    );
}

#[test]
fn what_cannot_be_opened_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Task::open("docvq", dir.path()).unwrap_err().to_string();
    assert!(error.contains("did you mean docvqa"), "{error}");
    let error = Task::open("docvqa", &dir.path().join("none")).unwrap_err();
    assert!(matches!(error, TaskError::NoFolder { .. }), "{error}");
    let error = Task::open("docvqa", dir.path()).unwrap_err();
    assert!(error.to_string().contains("val_v1.0.json"), "{error}");
    write(
        dir.path(),
        "val_v1.0.json",
        "{\"data\": [\n{\"questionId\": 1,,]}",
    );
    let error = Task::open("docvqa", dir.path()).unwrap_err();
    assert!(matches!(error, TaskError::Json { line: 2, .. }), "{error}");
    write(
        dir.path(),
        "val_v1.0.json",
        b"{\"data\": [{\"questionId\": \"\xFF\"}]}",
    );
    assert!(matches!(
        Task::open("docvqa", dir.path()),
        Err(TaskError::Json { .. })
    ));
    write(dir.path(), "val_v1.0.json", "{\"data\": 3}");
    assert!(matches!(
        Task::open("docvqa", dir.path()),
        Err(TaskError::Form { .. })
    ));
    write(
        dir.path(),
        "val_v1.0.json",
        "{\"data\": [{\"questionId\": 1}, 5]}",
    );
    let error = Task::open("docvqa", dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("no question") && error.contains("row 0") && error.contains("\"image\""),
        "{error}"
    );
    for name in llavar_eval::tasks::task_names() {
        for content in [
            "",
            "null",
            "[]",
            "[[[[",
            "{}",
            "\u{0}\u{0}",
            "{\"data\":[null,[],{}]}",
        ] {
            write(dir.path(), "hostile.json", content);
            assert!(
                Task::open(name, &dir.path().join("hostile.json")).is_err(),
                "{name} {content:?}"
            );
        }
        let deep = "[".repeat(100_000);
        write(dir.path(), "hostile.json", deep);
        assert!(
            Task::open(name, &dir.path().join("hostile.json")).is_err(),
            "{name}"
        );
    }
}

#[test]
fn pictures_that_cannot_be_used_are_named() {
    let row = |id: i64, image: &str| json!({"questionId": id, "question": "q", "image": image, "answers": ["a"]});
    let rows = json!({"data": [row(1, "documents/a.png"), row(2, "../secret.png"), row(3, "/etc/passwd"),
        row(4, "documents/text.png"), row(5, "documents/empty.png"), row(6, "documents/a.png"), row(6, "documents/none.png"), row(7, "documents/conv.png")]});
    let dir = folder(
        &[("v/val_v1.0.json", rows)],
        &["v/documents/a.png", "secret.png", "v/documents/conv.jpg"],
    );
    write(dir.path(), "v/documents/text.png", "not a picture");
    write(dir.path(), "v/documents/empty.png", "");
    let task = Task::open("docvqa", &dir.path().join("v")).unwrap();
    let found: Vec<bool> = task.items.iter().map(|i| i.image_path.is_some()).collect();
    assert_eq!(found, [true, false, false, false, false, true, false, true]);
    assert_eq!(task.items[6].id, "6#2");
    let m = &task.missing;
    assert_eq!((m.images, m.questions_without_image), (7, 5));
    assert_eq!(m.images_absent, ["documents/none.png"]);
    let named: Vec<&str> = m.images_unusable.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        named,
        [
            "../secret.png",
            "/etc/passwd",
            "documents/text.png",
            "documents/empty.png"
        ]
    );
    assert_eq!(m.repeated_ids, ["6"]);
    let elsewhere = tempfile::tempdir().unwrap();
    image(elsewhere.path(), "documents/none.png");
    let options = Options {
        image_folder: Some(elsewhere.path().into()),
        ..Options::default()
    };
    let task = Task::open_with("docvqa", &dir.path().join("v"), &options).unwrap();
    assert!(task.missing.images_absent.is_empty());
}

/// Paths of all values of a document.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match value {
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                pointers(value, &format!("{at}/{i}"), found);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn any_value_may_be_anything() {
    let row = json!({"questionId": 1, "question_id": 1, "question": "q", "image": "a.png", "image_id": "a",
        "image_local_name": "a.png", "answers": ["x"], "dataset": "s", "file_name": "a.png", "file_path": "s/a.png",
        "answer_type": ["t"], "question_types": ["t"], "caption_str": "c", "reference_strs": ["c"], "image_name": "a"});
    let ocrbench = json!([{"dataset_name": "s", "id": 1, "image_path": "a.png", "question": "q", "answers": "x", "type": "t"}]);
    let chart = json!([{"imgname": "a.png", "query": "q", "label": "1"}]);
    let form = json!({"form": [{"id": 0, "label": "question", "text": "A", "linking": [[0, 1]]},
        {"id": 1, "label": "answer", "text": "B", "linking": [[0, 1]]}]});
    let llava = json!([{"id": "p", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]}]);
    let coco = json!({"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "c"}]});
    let data = json!({"data": [row]});
    let mut opened = 0;
    for (task, name, whole) in [
        ("ocrbench", "OCRBench.json", &ocrbench),
        ("stvqa", "train_task_3.json", &data),
        ("textvqa", "TextVQA_0.5.1_val.json", &data),
        ("docvqa", "val_v1.0.json", &data),
        ("infovqa", "infographicsVQA_val_v1.0.json", &data),
        ("chartqa", "test_human.json", &chart),
        ("funsd", "testing_data/annotations/a.json", &form),
        (
            "sroie",
            "train/entities/a.txt",
            &json!({"company": "A", "date": "d", "address": "x", "total": "1"}),
        ),
        (
            "words",
            "test.jsonl",
            &json!({"image": "a.png", "question": "q", "answers": ["x"]}),
        ),
        ("hybrid_instruct", "vqa_test.json", &llava),
        ("captions", "captions_val.json", &coco),
        ("captions", "captions_val.json", &data),
        ("captions", "captions_val.json", &llava),
    ] {
        let mut places = Vec::new();
        pointers(whole, "", &mut places);
        for place in places {
            for hostile in [
                json!(null),
                json!(-1.5e300),
                json!([]),
                json!({}),
                json!([[null]]),
                json!("\u{0}../.."),
                json!(u64::MAX),
            ] {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).unwrap() = hostile;
                let dir = folder(&[(name, changed)], &["a.png"]);
                let Ok(opened_task) = Task::open(task, dir.path()) else {
                    continue;
                };
                opened += 1;
                let missing = &opened_task.missing;
                let found = opened_task.answerable().count();
                assert_eq!(
                    found + missing.questions_without_image,
                    opened_task.items.len()
                );
                assert!(!missing.line().contains('\n'));
            }
        }
    }
    assert!(opened > 100, "{opened}");
}
