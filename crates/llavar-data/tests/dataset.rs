//! Reading LLaVA JSON and JSONL from disk, hostile files included.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::{Dataset, Error, SampleError};
use std::path::PathBuf;

fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn record(id: &str, extra: &str) -> String {
    format!(
        "{{\"id\": {id}, \"image\": \"a.png\",{extra} \"conversations\": [{{\"from\": \"human\", \
         \"value\": \"<image>\\nq [\\\"{{ü\"}}, {{\"from\": \"gpt\", \"value\": \"a}}]\"}}]}}"
    )
}

#[test]
fn array_and_jsonl_are_told_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        record("\"x\"", ""),
        record("7", "\n \"k\":\t[1, {\"y\": null}],"),
    );
    let jsonl = format!("\u{FEFF}{a}\r\n\n{}\n", b.replace('\n', " "));
    // The extensions lie on purpose.
    let files = [
        write(
            &dir,
            "array.jsonl",
            format!("\n [{a},\n{b}\n] \n").as_bytes(),
        ),
        write(&dir, "lines.json", jsonl.as_bytes()),
        write(&dir, "dense.ndjson", format!("[{a},{b}]").as_bytes()),
    ];
    for path in files {
        let data = Dataset::open(&path, None).unwrap();
        assert_eq!(data.len(), 2);
        let ids: Vec<String> = data.iter().map(|s| s.unwrap().id.to_string()).collect();
        assert_eq!(ids, ["x", "7"]);
        assert_eq!(
            data.get(1).unwrap().extra["k"][1]["y"],
            serde_json::Value::Null
        );
        assert_eq!(
            data.get(0).unwrap().conversations[0].value,
            "<image>\nq [\"{ü"
        );
        assert!(matches!(
            data.get(2),
            Err(Error::OutOfRange {
                index: 2,
                len: 2,
                ..
            })
        ));
    }
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        &dir,
        "in.json",
        format!("[{},{}]", record("1", " \"w\": 2,"), record("2", "")).as_bytes(),
    );
    let data = Dataset::open(&path, None).unwrap();
    let samples: Vec<_> = data.iter().map(Result::unwrap).collect();
    let out = dir.path().join("out.json");
    assert_eq!(
        llavar_data::write::write_llava_json(&out, &samples).unwrap(),
        2
    );
    let again: Vec<_> = Dataset::open(&out, None)
        .unwrap()
        .iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(samples, again);
    assert!(
        llavar_data::write::write_llava_json(&dir.path().join("no/out.json"), &samples).is_err()
    );
}

#[test]
fn broken_json_names_line_byte_and_sample() {
    let dir = tempfile::tempdir().unwrap();
    let good = record("\"good\"", "");
    let cases: [(&str, String, u64); 7] = [
        // A comma is missing inside the second sample.
        (
            "comma",
            format!("[{good},\n{}\n]", record("\"bad\"", "\n\"a\": 1 \"b\": 2,")),
            3,
        ),
        // A closing quote is missing.
        (
            "quote",
            format!("[{good},\n{}\n]", record("\"bad\"", "\"k\": \"v,\n")),
            2,
        ),
        // A bracket is missing: everything behind is swallowed.
        (
            "bracket",
            format!("[{good},\n{},\n{good}]", record("\"bad\"", "\"k\": [1,")),
            2,
        ),
        // The wrong bracket.
        (
            "wrong",
            format!("[{good},\n{},\n{good}]", record("\"bad\"", "\"k\": [1},")),
            2,
        ),
        // The file ends in the sample.
        (
            "cut",
            format!("[{good},\n{}", &record("\"bad\"", "")[..40]),
            2,
        ),
        // The same in JSONL.
        (
            "jsonl",
            format!("{good}\n{}\n{good}\n", &record("\"bad\"", "")[..40]),
            2,
        ),
        (
            "word",
            format!("{good}\n{}", record("\"bad\"", "\"k\": NaN,")),
            2,
        ),
    ];
    for (name, text, expected_line) in cases {
        let path = write(&dir, name, text.as_bytes());
        match Dataset::open(&path, None).unwrap_err() {
            Error::Syntax { at, reason } => {
                let (line, byte, index, id) = (at.line, at.byte, at.index, at.id);
                let at = at.path;
                assert_eq!(
                    (at, line, index),
                    (path, expected_line, 1),
                    "{name}: {reason}"
                );
                assert_eq!(id.as_deref(), Some("bad"), "{name}");
                let start = text
                    .split_inclusive('\n')
                    .take(line as usize - 1)
                    .map(str::len)
                    .sum::<usize>();
                let end = start + text[start..].find('\n').unwrap_or(text.len() - start) + 1;
                assert!(
                    (start..=end).contains(&(byte as usize)),
                    "{name}: byte {byte} not in {start}..{end}"
                );
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn broken_structure_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let good = record("1", "");
    let cases = [
        ("open", format!("[{good}")),
        ("comma at the end", format!("[{good},]")),
        ("no comma", format!("[{good} {good}]")),
        ("double comma", format!("[{good},,{good}]")),
        ("tail", format!("[{good}] x")),
        ("two arrays", format!("[{good}][{good}]")),
        ("two on a line", format!("{good}{good}")),
        ("brace", "[}".to_string()),
        ("only open", "[".to_string()),
    ];
    for (name, text) in cases {
        let path = write(&dir, "f", text.as_bytes());
        let error = Dataset::open(&path, None).unwrap_err();
        assert!(matches!(error, Error::Syntax { .. }), "{name}: {error}");
    }
    for (text, what) in [
        (&b"\x1f\x8b\x08zip"[..], "gzip"),
        (b"<html>", "html"),
        (b"\xff\xfe[\0", "utf-16"),
        (b"id,image\n", "csv"),
    ] {
        let error = Dataset::open(&write(&dir, "f", text), None).unwrap_err();
        assert!(
            matches!(error, Error::NotLlavaData { .. }),
            "{what}: {error}"
        );
    }
    for text in ["", " \n ", "[]", "[ \n]", "\u{FEFF}"] {
        let error = Dataset::open(&write(&dir, "f", text.as_bytes()), None).unwrap_err();
        assert!(
            matches!(error, Error::NoSamples { .. }),
            "{text:?}: {error}"
        );
    }
    let mut latin = good.clone().into_bytes();
    latin.retain(|&b| b != 0xC3);
    let error = Dataset::open(&write(&dir, "f", &latin), None).unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
    assert!(matches!(
        Dataset::open(dir.path(), None),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        Dataset::open(&dir.path().join("none"), None),
        Err(Error::Io { .. })
    ));
    let path = write(&dir, "f", good.as_bytes());
    assert!(matches!(
        Dataset::open(&path, Some(&dir.path().join("none"))),
        Err(Error::Io { .. })
    ));
}

#[test]
fn bad_samples_do_not_hide_good_ones() {
    let dir = tempfile::tempdir().unwrap();
    let deep = format!(
        "{{\"id\": \"deep\", \"k\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let text = format!(
        "[{},\n{{\"id\": 5, \"conversations\": []}},\n3,\n\"s]\",\n{{\"id\": \"s\", \"k\": \"\\ud800\"}},\n{deep},\n{}]",
        record("1", ""),
        record("2", "")
    );
    let data = Dataset::open(&write(&dir, "f", text.as_bytes()), None).unwrap();
    assert_eq!(data.len(), 7);
    assert!(data.get(0).is_ok() && data.get(6).is_ok());
    match data.get(1).unwrap_err() {
        Error::Sample { at, source } => {
            let (line, byte, index, id) = (at.line, at.byte, at.index, at.id.clone());
            assert_eq!((line, index, id.as_deref()), (2, 1, Some("5")));
            assert_eq!(source, SampleError::NoTurns);
            assert_eq!(byte as usize, text.find("{\"id\": 5").unwrap());
        }
        other => panic!("{other}"),
    }
    assert!(matches!(
        data.get(2),
        Err(Error::Sample {
            source: SampleError::WrongType { .. },
            ..
        })
    ));
    assert!(matches!(
        data.get(3),
        Err(Error::Sample {
            source: SampleError::WrongType { .. },
            ..
        })
    ));
    for (index, name) in [(4, "s"), (5, "deep")] {
        match data.get(index).unwrap_err() {
            Error::Sample {
                source: SampleError::Json { .. },
                at,
            } => assert_eq!(at.id.as_deref(), Some(name)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn samples_across_buffer_ends_are_found() {
    let dir = tempfile::tempdir().unwrap();
    // Several times the read buffer, with lengths that put every kind of byte on its edge.
    let records: Vec<String> = (0..3000)
        .map(|i| {
            record(
                &i.to_string(),
                &format!("\"pad\": \"{}\",", "x\\\"[".repeat(i % 97)),
            )
        })
        .collect();
    for text in [format!("[{}]", records.join(",\n")), records.join("\n")] {
        assert!(text.len() > 600_000);
        let data = Dataset::open(&write(&dir, "f", text.as_bytes()), None).unwrap();
        assert_eq!(data.len(), records.len());
        for i in (0..records.len()).step_by(61) {
            assert_eq!(data.get(i).unwrap().id.to_string(), i.to_string());
        }
    }
}

#[test]
fn images_stay_below_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images")).unwrap();
    write(&dir, "images/a.png", b"x");
    let path = write(&dir, "f", record("1", "").as_bytes());
    let data = Dataset::open(&path, Some(&dir.path().join("images"))).unwrap();
    let image = data.get(0).unwrap().images[0].clone();
    assert!(data.image_path(&image).unwrap().is_file());
    assert!(data.image_path("../f").is_err());
    assert!(
        Dataset::open(&path, None)
            .unwrap()
            .image_path(&image)
            .is_err()
    );
}

proptest::proptest! {
    /// Whatever is done to a file, reading it ends with samples or typed errors.
    #[test]
    fn damaged_files_never_panic(jsonl: bool, cuts in proptest::collection::vec((0usize..10_000, 0u8..=255, 0u8..4), 1..6)) {
        let records: Vec<String> = (0..12).map(|i| record(&i.to_string(), " \"k\": {\"a\": [1, null]},")).collect();
        let mut bytes = if jsonl { records.join("\n") } else { format!("[{}]", records.join(",\n")) }.into_bytes();
        for (at, byte, action) in cuts {
            let at = at % bytes.len().max(1);
            match action {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"[]{}\",\\\n"[byte as usize % 8]),
                _ => bytes.truncate(at),
            }
        }
        let dir = tempfile::tempdir().unwrap();
        if let Ok(data) = Dataset::open(&write(&dir, "f", &bytes), None) {
            proptest::prop_assert!(data.iter().count() == data.len());
        }
    }
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        &dir,
        "f",
        format!("[{},{}]", record("1", ""), record("2", "")).as_bytes(),
    );
    let data = Dataset::open(&path, None).unwrap();
    write(&dir, "f", b"[");
    assert!(matches!(data.get(1), Err(Error::Io { .. })));
}
