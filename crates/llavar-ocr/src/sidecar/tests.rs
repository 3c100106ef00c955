//! Every form and place of a sidecar, and what is said of wrong ones.

use super::*;

const LINE: &str =
    r#"{"quad": [[1, 2], [30, 2], [30, 9.5], [1, 9.5]], "text": "Total 9.90", "score": 0.5}"#;

fn page(path: &str) -> Page {
    Page::from_bytes(path.as_ref(), Vec::new())
}

#[test]
fn every_form_of_a_line() {
    let expected = Line {
        quad: [[1.0, 2.0], [30.0, 2.0], [30.0, 9.5], [1.0, 9.5]],
        text: "Total 9.90".to_owned(),
        score: 0.5,
    };
    for form in [
        LINE,
        r#"{"box": [1, 2, 30, 9.5], "text": "Total 9.90", "confidence": 0.5}"#,
        r#"{"points": [1, 2, 30, 2, 30, 9.5, 1, 9.5], "text": "Total 9.90", "score": "0.5"}"#,
        r#"[[[1, 2], [30, 2], [30, 9.5], [1, 9.5]], "Total 9.90", 0.5]"#,
        r#"[[[1, 2], [30, 2], [30, 9.5], [1, 9.5]], ["Total 9.90", 0.5]]"#,
    ] {
        let bare = parse_lines(&format!("[{form}]"));
        assert_eq!(bare, Ok(vec![expected.clone()]), "{form}");
        let under = parse_lines(&format!(r#"{{"lines": [{form}], "width": 4}}"#));
        assert_eq!(under, bare);
        let marked = parse_lines(&format!("\u{feff}[{form}]"));
        assert_eq!(marked, bare);
    }
    let unsure = parse_lines(r#"[{"box": [1, 2, 3, 4], "text": ""}]"#).unwrap();
    assert_eq!(unsure[0].score, 1.0);
    for none in ["null", r#"{"lines": []}"#, r#"{"lines": null}"#] {
        assert_eq!(parse_lines(none), Ok(Vec::new()), "{none}");
    }
}

#[test]
fn a_list_of_one_page_is_its_lines() {
    let [a, b] = ["SALE", "9.90"]
        .map(|text| format!(r#"[[[1, 2], [30, 2], [30, 9.5], [1, 9.5]], ["{text}", 0.5]]"#));
    let flat = r#"[[1, 2, 30, 9.5], "SALE", 0.5]"#;
    for (page, texts) in [
        (format!("[{a}, {b}]"), &["SALE", "9.90"][..]),
        (format!("[{a}]"), &["SALE"]),
        (format!("[{flat}]"), &["SALE"]),
        ("[]".to_owned(), &[]),
        ("null".to_owned(), &[]),
    ] {
        for (text, of) in [
            (format!("[{page}]"), "pages"),
            (format!(r#"{{"lines": [{page}]}}"#), "pages under `lines`"),
            (page.clone(), "lines"),
        ] {
            let lines = parse_lines(&text).unwrap();
            let read: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(read, texts, "{of}: {text}");
        }
        let many = parse::parse_many(&format!(r#"{{"p.jpg": [{page}]}}"#)).unwrap();
        assert_eq!(many["p.jpg"].len(), texts.len(), "{page}");
    }
    // Which of several pages the picture is, nobody says.
    assert!(parse_lines(&format!("[[{a}], [{b}]]")).is_err());
}

#[test]
fn wrong_lines_are_named() {
    for (text, word) in [
        ("{", "EOF"),
        ("7", "array of lines"),
        ("[7]", "text line 1"),
        (r#"[{"text": "x"}]"#, "quad"),
        (r#"[{"box": [1, 2, 3, 4]}]"#, "`text`"),
        (r#"[{"box": [1, 2, 3], "text": "x"}]"#, "corners"),
        (r#"[{"quad": [[1, 2], [3, 4]], "text": "x"}]"#, "corners"),
        (r#"[{"box": [1, 2, 3, 1e999], "text": "x"}]"#, "number"),
        (
            r#"[{"box": [1, 2, 3, 4], "text": "x", "score": []}]"#,
            "score",
        ),
        (
            r#"[{"box": [1, 2, 3, 4], "text": "x", "score": "nan"}]"#,
            "score",
        ),
        (
            r#"[{"box": [1, 2, 3, 4], "text": "x", "score": "-inf"}]"#,
            "score",
        ),
    ] {
        let error = parse_lines(text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn places() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("images")).unwrap();
    for (file, text) in [
        ("images/a.png.ocr.json", "one"),
        ("images/b.json", "two"),
        ("c.json", "three"),
    ] {
        let text = LINE.replace("Total 9.90", text);
        fs::write(at(file), format!("[{text}]")).unwrap();
    }
    let read = |sidecar: &Sidecar, path: &Path| {
        let lines = sidecar.read(&Page::from_bytes(path, Vec::new()))?;
        Ok::<String, OcrError>(lines[0].text.clone())
    };
    let beside = Sidecar::open(None).unwrap();
    assert_eq!(read(&beside, &at("images/a.png")).unwrap(), "one");
    assert_eq!(read(&beside, &at("images/b.jpg")).unwrap(), "two");
    let error = read(&beside, &at("images/c.jpg")).unwrap_err();
    assert!(error.to_string().contains("c.jpg"), "{error}");
    let folder = Sidecar::open(Some(root.path())).unwrap();
    assert_eq!(read(&folder, "images/a.png".as_ref()).unwrap(), "one");
    // Below the folder as far as the picture's path goes, wherever the picture is.
    assert_eq!(read(&folder, "/set/images/a.png".as_ref()).unwrap(), "one");
    assert_eq!(
        read(&folder, "../set/./images/b.png".as_ref()).unwrap(),
        "two"
    );
    assert_eq!(read(&folder, "/elsewhere/c.tif".as_ref()).unwrap(), "three");
    assert!(Sidecar::open(Some(&at("nothing"))).is_err());
    fs::write(at("c.json"), "[1]").unwrap();
    let error = read(&folder, "c.tif".as_ref()).unwrap_err();
    assert!(error.to_string().contains("c.json"), "{error}");
}

#[test]
fn many_pictures_in_one_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("all.json");
    let [a, b] = ["one", "two"].map(|text| LINE.replace("Total 9.90", text));
    for text in [
        format!(r#"{{"images/a.png": [{a}], "b": {{"lines": [{b}]}}}}"#),
        format!(
            r#"[{{"image": "images/a.png", "lines": [{a}]}}, {{"image": "b", "lines": [{b}]}}]"#
        ),
        format!(
            "{{\"image\": \"images/a.png\", \"lines\": [{a}]}}\n\n{{\"image\": \"b\", \"lines\": [{b}]}}\n"
        ),
    ] {
        for mark in ["", "\u{feff}"] {
            fs::write(&path, format!("{mark}{text}")).unwrap();
            let all = Sidecar::open(Some(&path)).unwrap();
            for (name, expected) in [
                ("images/a.png", "one"),
                ("/x/images/a.png", "one"),
                ("y/b.jpg", "two"),
            ] {
                assert_eq!(all.read(&page(name)).unwrap()[0].text, expected, "{name}");
            }
            assert!(matches!(
                all.read(&page("a.png")),
                Err(OcrError::NoSidecar { .. })
            ));
        }
    }
    for (text, word) in [
        ("[{}]", "record 1"),
        ("{\"image\": \"a\", \"lines\": []}\n{\"image\": ", "line 2"),
        ("{\"a\": 5}", "picture `a`"),
        ("3", "object"),
        ("{\"a\": [", "EOF"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Sidecar::open(Some(&path)).unwrap_err().to_string();
        assert!(
            error.contains(word) && error.contains("all.json"),
            "{error}"
        );
    }
}

#[test]
fn words_are_joined_to_lines() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("words.jsonl");
    let word = |x: f64, text: &str| {
        let line = Line::in_box([x, 10.0, x + 40.0, 24.0], text, 1.0);
        serde_json::json!({"quad": line.quad, "text": text})
    };
    let rows: Vec<String> = (0..3)
        .map(|at| {
            let words = [word(5.0, "Total"), word(50.0, "due"), word(300.0, "9.90")];
            serde_json::json!({"id": at, "image": format!("images/{at}.jpg"), "words": words})
                .to_string()
        })
        .collect();
    fs::write(&path, rows.join("\n")).unwrap();
    let words = Sidecar::open(Some(&path)).unwrap();
    let lines = words.read(&page("images/2.jpg")).unwrap();
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["Total due", "9.90"]);
    // No lines beside the words are none that hide them.
    let beside = rows[2].replacen('{', r#"{"lines": null, "#, 1);
    assert_eq!(parse_lines(&beside), Ok(lines));

    // Cut off in the last line or damaged in any other, the error is of that line.
    let cut = &rows[1][..rows[1].len() / 2];
    let [whole, last] = [&rows[0], &rows[2]];
    for (text, word) in [
        (format!("{whole}\n{cut}"), "line 2: EOF"),
        (format!("{whole}\n{cut}\n{last}\n"), "line 2: EOF"),
        (format!("{cut}\n{last}\n"), "line 1: EOF"),
        // One document that is cut off is none of lines.
        (cut.to_owned(), "EOF while"),
        (format!("[\n{whole},\n{last}\n"), "EOF while"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Sidecar::open(Some(&path)).unwrap_err().to_string();
        let told = error.rsplit_once("words.jsonl: ").unwrap().1;
        assert!(told.starts_with(word), "{error}");
    }
}
