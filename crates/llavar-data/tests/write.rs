//! What is written is read again by our own readers, sample for sample and byte for byte.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use llavar_data::{
    Cache, Dataset, Error, ImageSource, Sample,
    write::{write_parquet, write_webdataset},
};
use serde_json::json;

fn rows(count: usize) -> Vec<(Sample, Vec<u8>)> {
    let row = |i: usize| {
        let turns: Vec<_> = (0..2 + 2 * (i % 3))
            .map(|turn| match turn % 2 {
                0 => json!({"from": "human", "value": format!("{}Frage {i}.{turn} «ü»?", if turn == 0 { "<image>\n" } else { "" })}),
                _ => json!({"from": "gpt", "value": format!("Answer {i} \"quoted\"\nline {turn}.")}),
            })
            .collect();
        let sample = Sample::from_json(json!({
            "id": format!("sample {i}"), "image": format!("a.b/pic {i}.png"),
            "conversations": turns, "source": "test",
        }))
        .unwrap();
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        bytes.extend((0..i * 37 % 5000).map(|n| (n * i) as u8));
        (sample, bytes)
    };
    (0..count).map(row).collect()
}

fn given(rows: &[(Sample, Vec<u8>)]) -> impl Iterator<Item = Result<(Sample, Vec<u8>), Error>> {
    rows.iter().cloned().map(Ok)
}

fn bytes(data: &Dataset, i: usize, sample: &Sample) -> Vec<u8> {
    match data.image(i, sample, 0).unwrap() {
        ImageSource::Bytes { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parquet_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    let rows = rows(5000);
    assert_eq!(write_parquet(&path, given(&rows)).unwrap(), 5000);
    let data = Dataset::open_with(&path, None, &Cache::none()).unwrap();
    assert_eq!(data.len(), rows.len());
    for (i, (sample, picture)) in rows.iter().enumerate().step_by(7) {
        let read = data.get(i).unwrap();
        assert_eq!(read.to_json(), sample.to_json(), "{i}");
        if i % 49 == 0 {
            assert_eq!(&bytes(&data, i, &read), picture, "{i}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn webdataset_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let rows = rows(60);
    let shards = write_webdataset(dir.path(), "train", 40_000, given(&rows)).unwrap();
    assert!(shards.len() > 1, "{}", shards.len());
    let mut all = rows.iter();
    for shard in &shards {
        let data = Dataset::open_with(shard, None, &Cache::none()).unwrap();
        for i in 0..data.len() {
            let (sample, picture) = all.next().unwrap();
            let read = data.get(i).unwrap();
            assert_eq!(
                (&read.id, &read.conversations),
                (&sample.id, &sample.conversations)
            );
            assert_eq!(read.extra, sample.extra);
            assert_eq!(&bytes(&data, i, &read), picture);
        }
    }
    assert!(all.next().is_none());
    let again = tempfile::tempdir().unwrap();
    let same = write_webdataset(again.path(), "train", 40_000, given(&rows)).unwrap();
    assert_eq!(
        std::fs::read(&same[0]).unwrap(),
        std::fs::read(&shards[0]).unwrap()
    );
    // A set that has become smaller leaves none of its old shards, and nothing else is touched.
    for foreign in ["train-x.tar", "train-more-000001.tar", "trained-000001.tar"] {
        std::fs::write(dir.path().join(foreign), "").unwrap();
    }
    let fewer = write_webdataset(dir.path(), "train", 40_000, given(&rows[..3])).unwrap();
    assert_eq!(fewer, shards[..1]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    write_webdataset(dir.path(), "train", 40_000, given(&[])).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_fault_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.parquet");
    let fault = || Err(Error::NoSamples { path: "x".into() });
    let rows = rows(3)
        .into_iter()
        .map(Ok)
        .chain([fault()])
        .collect::<Vec<_>>();
    assert!(write_parquet(&path, rows).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let nowhere = dir.path().join("none/set.parquet");
    assert!(matches!(
        write_parquet(&nowhere, [fault()]),
        Err(Error::Io { .. })
    ));
}
