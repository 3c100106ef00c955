//! Parquet as pyarrow writes it, WebDataset tars, and indexes that are kept.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_data::{Cache, Dataset, Error, ImageSource, Sample, SampleId};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The bytes of an image, which the fixtures end with their number.
fn image_ends_with(data: &Dataset, index: usize, sample: &Sample, nth: usize, end: &str) {
    match data.image(index, sample, nth).unwrap() {
        ImageSource::Bytes { bytes, .. } => {
            assert!(bytes.starts_with(b"\x89PNG"), "sample {index}");
            assert!(
                bytes.ends_with(format!("#{end}").as_bytes()),
                "sample {index} image {nth}"
            );
        }
        other => panic!("{other:?}"),
    }
}

fn check_one(data: &Dataset) {
    assert_eq!(data.len(), 60);
    assert!(data.is_container());
    // Backwards: no order is needed.
    for i in (0..60).rev() {
        let sample = data.get(i).unwrap();
        assert_eq!(sample.id, SampleId::Text(format!("s{i}")));
        assert_eq!(sample.conversations[1].value, format!("answer {i}"));
        assert_eq!(sample.extra["score"], i as f64 / 2.0);
        assert_eq!(sample.images.len(), usize::from(i % 4 != 3), "sample {i}");
        if i % 4 != 3 {
            let name = if i % 2 == 0 {
                format!("{i}.png")
            } else {
                format!("row {i} image 0")
            };
            assert_eq!(sample.images[0], name);
            image_ends_with(data, i, &sample, 0, &i.to_string());
        }
    }
}

#[test]
fn parquet_with_image_structs_small_pages_and_row_groups() {
    for name in ["one.parquet", "one_v2.parquet"] {
        check_one(&Dataset::open_with(&fixture(name), None, &Cache::none()).unwrap());
    }
    let data = Dataset::open_with(&fixture("many.parquet"), None, &Cache::none()).unwrap();
    for i in 0..20 {
        let sample = data.get(i).unwrap();
        assert_eq!(
            (sample.id.clone(), sample.images.len()),
            (SampleId::Int(i as i64), i % 3)
        );
        for nth in 0..i % 3 {
            image_ends_with(&data, i, &sample, nth, &(i * 3 + nth).to_string());
        }
    }
}

#[test]
fn parquet_read_by_many_threads_at_once() {
    let data = Arc::new(Dataset::open_with(&fixture("one.parquet"), None, &Cache::none()).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check_one(&data));
        }
    });
}

#[test]
fn records_of_a_large_parquet_go_to_the_cache_and_are_taken_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("one.parquet");
    fs::copy(fixture("one.parquet"), &source).unwrap();
    let cache = Cache {
        folder: Some(dir.path().join("cache")),
        max_memory: 100,
        ..Cache::none()
    };
    check_one(&Dataset::open_with(&source, None, &cache).unwrap());
    let kept: Vec<_> = fs::read_dir(dir.path().join("cache/records"))
        .unwrap()
        .collect();
    assert_eq!(kept.len(), 1);
    let kept = kept.into_iter().next().unwrap().unwrap().path();
    // Taken from there: a mark that was put in is seen.
    let text = fs::read_to_string(&kept)
        .unwrap()
        .replace("answer 5\"", "marked\"");
    fs::write(&kept, text).unwrap();
    let data = Dataset::open_with(&source, None, &cache).unwrap();
    assert_eq!(data.get(5).unwrap().conversations[1].value, "marked");
    // Another time of change is another file.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options()
        .append(true)
        .open(&source)
        .unwrap()
        .set_modified(later)
        .unwrap();
    check_one(&Dataset::open_with(&source, None, &cache).unwrap());
    // A cache that cannot be written is named, and what to do.
    let blocked = Cache {
        folder: Some(source.clone()),
        ..cache
    };
    let error = Dataset::open_with(&source, None, &blocked).unwrap_err();
    assert!(error.to_string().contains("LLAVAR_CACHE"), "{error}");
}

#[test]
fn damaged_parquet_is_an_error_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(fixture("one.parquet")).unwrap();
    let path = dir.path().join("bad.parquet");
    for cut in [4, 12, 100, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..cut]).unwrap();
        let error = Dataset::open_with(&path, None, &Cache::none()).unwrap_err();
        assert!(error.to_string().contains("bad.parquet"), "{error}");
    }
    // Bytes changed anywhere: an error, or other values, and nothing worse.
    for at in (8..good.len()).step_by(61) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x5a;
        fs::write(&path, bytes).unwrap();
        if let Ok(data) = Dataset::open_with(&path, None, &Cache::none()) {
            for i in 0..data.len().min(60) {
                if let Ok(sample) = data.get(i) {
                    let _ = data.image(i, &sample, 0);
                }
            }
        }
    }
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn webdataset_groups_records_captions_and_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard-0000.tar");
    let long = format!("{}/x.jpg", "long-folder-name".repeat(12));
    let turns =
        r#""conversations": [{"from": "human", "value": "TAGq"}, {"from": "gpt", "value": "a"}]"#;
    let json = |tags: &str, head: &str| format!("{{{head}{}}}", turns.replace("TAG", tags));
    let members: Vec<(String, Vec<u8>)> = vec![
        (
            "a/000.json".into(),
            json("<image>", r#""id": "first", "image": "elsewhere.jpg", "#).into(),
        ),
        // What macOS packs beside each file.
        ("a/._000.jpg".into(), b"attributes".to_vec()),
        ("a/000.jpg".into(), b"picture a".to_vec()),
        ("a/001.jpg".into(), b"picture b".to_vec()),
        ("a/001.txt".into(), b"a caption\n".to_vec()),
        ("a/001.cls".into(), b"7".to_vec()),
        ("b/001.0.png".into(), b"one".to_vec()),
        ("b/001.1.PNG".into(), b"two".to_vec()),
        ("b/001.json".into(), json("<image><image>", "").into()),
        ("b/002.json".into(), json("", "").into()),
        (long.clone(), b"deep".to_vec()),
        ("c.json".into(), b"{broken".to_vec()),
    ];
    let borrowed: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (&**n, &**b)).collect();
    let bytes = tar_of(&borrowed);
    fs::write(&path, &bytes).unwrap();
    let data = Dataset::open_with(&path, None, &Cache::none()).unwrap();
    assert_eq!(data.len(), 6);
    let image = |index: usize, nth| match data.image(index, &data.get(index).unwrap(), nth).unwrap()
    {
        ImageSource::Bytes { bytes, name } => (bytes, name),
        other => panic!("{other:?}"),
    };
    let first = data.get(0).unwrap();
    assert_eq!(
        (first.id.to_string(), first.images),
        ("first".into(), vec!["a/000.jpg".to_string()])
    );
    assert_eq!(image(0, 0), (b"picture a".to_vec(), path.join("a/000.jpg")));
    let caption = data.get(1).unwrap();
    assert_eq!(caption.id, SampleId::Text("a/001".into()));
    assert_eq!(caption.conversations[0].value, "<image>");
    assert_eq!(caption.conversations[1].value, "a caption");
    assert_eq!(
        (image(2, 0).0, image(2, 1).0),
        (b"one".to_vec(), b"two".to_vec())
    );
    assert!(data.get(3).unwrap().images.is_empty());
    let error = data.get(4).unwrap_err().to_string();
    assert!(error.contains("/x.json nor"), "{error}");
    assert!(matches!(data.get(5), Err(Error::Sample { .. })));

    // Cut off inside a member: what lies before the cut is read, the rest is named.
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    match Dataset::open_with(&path, None, &Cache::none()) {
        Err(error) => assert!(error.to_string().contains("shard-0000.tar"), "{error}"),
        Ok(data) => {
            let last = data.len() - 1;
            let read = data.get(last).map(|s| data.image(last, &s, 0));
            assert!(!matches!(read, Ok(Ok(_))));
        }
    }
}

#[test]
fn a_kept_index_replaces_the_scan_until_the_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    let line = |i: usize, answer: &str| {
        format!(
            "{{\"id\": {i}, \"conversations\": [{{\"from\": \"human\", \"value\": \"q\"}}, {{\"from\": \"gpt\", \
             \"value\": \"{answer}\"}}]}}\n"
        )
    };
    let write = |answer: &str| {
        let text: String = (0..300).map(|i| line(i, answer)).collect();
        fs::write(&path, text).unwrap();
    };
    let cache = Cache {
        folder: Some(dir.path().join("cache")),
        min_samples: 100,
        ..Cache::none()
    };
    let open = || Dataset::open_with(&path, None, &cache);
    write("one");
    let data = open().unwrap();
    assert_eq!(
        (data.len(), data.get(299).unwrap().id),
        (300, SampleId::Int(299))
    );
    assert_eq!(
        fs::read_dir(dir.path().join("cache/index"))
            .unwrap()
            .count(),
        1
    );
    let again = open().unwrap();
    assert_eq!(again.get(123).unwrap(), data.get(123).unwrap());
    assert!(again.get(300).is_err());
    // A longer file is scanned again, and a fault in it is found.
    write("three");
    assert_eq!(
        open().unwrap().get(299).unwrap().conversations[1].value,
        "three"
    );
    fs::write(&path, line(0, "x").repeat(200) + "{\"id\": \n").unwrap();
    assert!(matches!(open(), Err(Error::Syntax { .. })));
}
