//! Small folders in the layouts as they are published.

use llavar_eval::tasks::{Options, RowFault, Task, TaskError};
use serde_json::{Value, json};

use crate::{asked, folder, image, text_vqa, write};

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
