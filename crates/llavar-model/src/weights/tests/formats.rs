//! Every published form reads the same.

use std::{borrow::Cow, path::Path};

use super::{folders, samples, shared};
use crate::weights::{WeightFiles, WeightsError};

fn assert_same(files: &WeightFiles, expected: &WeightFiles, all: bool, what: &Path) {
    if all {
        assert_eq!(
            files.entries().len(),
            expected.entries().len(),
            "{}",
            what.display()
        );
    }
    for entry in files.entries() {
        assert_eq!(Some(entry), expected.get(&entry.name), "{}", what.display());
        let (got, want) = (
            files.bytes(&entry.name).unwrap(),
            expected.bytes(&entry.name).unwrap(),
        );
        assert_eq!(got, want, "{} in {}", entry.name, what.display());
        assert_eq!(files.read_f32(&entry.name).unwrap().len(), entry.numel());
    }
}

#[test]
fn all_published_forms_agree() {
    let Some(parity) = shared("all_published_forms_agree") else {
        return;
    };
    let mut seen = 0;
    for folder in folders(&parity) {
        if !folder.join("expected.safetensors").is_file() {
            continue;
        }
        let expected = WeightFiles::open(&folder.join("expected.safetensors")).unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let broken = ["hostile", "truncated", "huge_header"]
                .iter()
                .any(|b| name.starts_with(b));
            match WeightFiles::open(&path) {
                Err(error) if broken => {
                    let text = error.to_string();
                    assert!(text.contains(&name), "{text} does not name {name}");
                    if name.starts_with("hostile") {
                        let named = matches!(error, WeightsError::Pickle { .. });
                        assert!(
                            named && text.contains("the global `posix.system`"),
                            "{text}"
                        );
                    }
                }
                Ok(_) if broken => panic!("{name} was accepted"),
                Err(error) => panic!("{error}"),
                Ok(files) => assert_same(&files, &expected, !name.contains("-of-"), &path),
            }
            seen += 1;
        }
        // The folder itself: its safetensors shards are preferred.
        assert_same(
            &WeightFiles::open(&folder).unwrap(),
            &expected,
            true,
            &folder,
        );
        assert!(
            !Path::new("pwned").exists() && !folder.join("pwned").exists(),
            "a pickle was executed"
        );
    }
    assert!(seen > 0, "no folder with expected.safetensors");
}

#[test]
fn views_of_a_shared_storage_read_row_major() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("zip.bin", samples::torch_zip()),
        ("legacy.bin", samples::torch_legacy()),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let files = WeightFiles::open(&path).unwrap();
        let plain: Vec<f32> = (0..12).map(|n| n as f32).collect();
        assert_eq!(files.read_f32("plain").unwrap(), plain);
        assert!(matches!(files.bytes("plain").unwrap(), Cow::Borrowed(_)));
        let transposed = [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.];
        assert_eq!(files.read_f32("transposed").unwrap(), transposed);
        assert!(matches!(files.bytes("transposed").unwrap(), Cow::Owned(_)));
        if name == "zip.bin" {
            assert_eq!(files.read_f32("tail").unwrap(), [10., 11.]);
            assert_eq!(
                files.read_f32("repeated").unwrap(),
                [3., 4., 5., 3., 4., 5.]
            );
            assert_eq!(files.read_f32("scalar").unwrap(), [7.]);
            assert_eq!(files.read_f32("empty").unwrap(), [0.0; 0]);
            assert_eq!(
                files.read_f32("odd_stride_of_one").unwrap(),
                [4., 5., 6., 7.]
            );
        }
        assert!(matches!(
            files.read_f32("absent"),
            Err(WeightsError::NoTensor { .. })
        ));
        assert!(matches!(
            files.read_f32_into("plain", &mut [0.0; 3]),
            Err(WeightsError::BufferLength {
                expected: 12,
                got: 3,
                ..
            })
        ));
    }
}

#[test]
fn folders_without_one_clear_choice_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let open = || WeightFiles::open(folder.path());
    assert!(matches!(open(), Err(WeightsError::NoWeights { .. })));
    write("mm_projector.bin", &samples::torch_zip());
    write("training_args.bin", b"x");
    assert!(matches!(open(), Err(WeightsError::NoWeights { .. })));
    assert!(
        WeightFiles::open_projector(folder.path())
            .unwrap()
            .is_some()
    );
    write("open_clip.bin", &samples::torch_zip());
    assert_eq!(open().unwrap().entries().len(), 7);
    write("another.pt", &samples::torch_zip());
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("another.pt") && error.contains("open_clip.bin"),
        "{error}"
    );
    write("model.safetensors", b"");
    assert!(matches!(open(), Err(WeightsError::Empty { .. })));
    write(
        "model.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    );
    assert!(matches!(open(), Err(WeightsError::LfsPointer { .. })));
    assert!(matches!(
        WeightFiles::open(&folder.path().join("none")),
        Err(WeightsError::Read { .. })
    ));
}

#[test]
fn broken_indexes_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("a.bin", &samples::torch_zip());
    write("b.bin", &samples::torch_legacy());
    for (index, part) in [
        ("[]", "expected an object"),
        ("{}", "weight_map"),
        (r#"{"weight_map":{}}"#, "empty"),
        (r#"{"weight_map":{"plain":"../a.bin"}}"#, "../a.bin"),
        (r#"{"weight_map":{"plain":"/etc/passwd"}}"#, "/etc/passwd"),
        (
            r#"{"weight_map":{"plain":"no.bin","tail":"nor.bin"}}"#,
            "2 shard(s) are missing: no.bin, nor.bin",
        ),
        (
            r#"{"weight_map":{"nothing":"a.bin","tail":"a.bin"}}"#,
            "nothing (a.bin)",
        ),
        (
            r#"{"weight_map":{"tail":"a.bin","plain":"b.bin"}}"#,
            "is in two shards, a.bin and b.bin",
        ),
    ] {
        write("model.safetensors.index.json", index.as_bytes());
        let error = WeightFiles::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("model.safetensors.index.json"),
            "{error}"
        );
    }
}
