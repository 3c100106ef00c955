use std::{collections::BTreeSet, fs};

use super::*;
use crate::{config::Preset, weights::WeightFiles};

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("b", Dtype::BF16, [3, 5]),
        TensorSpec::new("a", Dtype::F32, [10]),
        TensorSpec::new("ids", Dtype::I64, [1, 2]),
        TensorSpec::new("c", Dtype::F16, [4]),
        TensorSpec::new("empty", Dtype::F32, [0, 4]),
    ]
}

fn fill(spec: &TensorSpec, sink: &mut TensorSink<'_, '_>) -> Result<(), SaveError> {
    let n: usize = spec.shape.iter().product();
    (0..n).try_for_each(|i| sink.write_f32(&[i as f32]))
}

fn save(target: &Path, options: SaveOptions) -> Result<(), SaveError> {
    let mut writer = FolderWriter::create(target, options)?;
    writer.write_config(&Preset::Nano.config(None).unwrap())?;
    writer.write_weights(&specs(), fill)?;
    writer.finish()
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn single_and_sharded_folders_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for max_shard_bytes in [1, 30, 50, 1_000_000] {
        let target = folder.path().join(format!("deep/er/{max_shard_bytes}"));
        save(
            &target,
            SaveOptions {
                max_shard_bytes,
                ..SaveOptions::default()
            },
        )
        .unwrap();
        let files = WeightFiles::open(&target).unwrap();
        assert_eq!(files.entries().len(), specs().len());
        for spec in specs() {
            let entry = files.get(&spec.name).unwrap();
            assert_eq!((entry.dtype, &entry.shape), (spec.dtype, &spec.shape));
            let expected: Vec<f32> = (0..entry.numel()).map(|i| i as f32).collect();
            assert_eq!(files.read_f32(&spec.name).unwrap(), expected);
        }
        let single = target.join("model.safetensors").is_file();
        assert_eq!(single, max_shard_bytes == 1_000_000);
        assert_eq!(
            single,
            !target.join("model.safetensors.index.json").is_file()
        );
    }
    assert_eq!(
        names(&folder.path().join("deep/er")).len(),
        4,
        "temporary folders are left"
    );
}

#[test]
fn existing_folders_are_only_replaced_when_asked_and_when_models() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    save(
        &target,
        SaveOptions {
            max_shard_bytes: 30,
            ..SaveOptions::default()
        },
    )
    .unwrap();
    fs::write(target.join("README.md"), "mine").unwrap();
    fs::create_dir(target.join("logs")).unwrap();
    assert!(matches!(
        save(&target, SaveOptions::default()),
        Err(SaveError::Exists { .. })
    ));
    save(
        &target,
        SaveOptions {
            overwrite: true,
            ..SaveOptions::default()
        },
    )
    .unwrap();
    let expected = ["README.md", "config.json", "logs", "model.safetensors"];
    assert_eq!(
        names(&target),
        expected.iter().map(|s| s.to_string()).collect()
    );
    assert_eq!(
        fs::read_to_string(target.join("README.md")).unwrap(),
        "mine"
    );

    let other = folder.path().join("documents");
    fs::create_dir(&other).unwrap();
    save(&other, SaveOptions::default()).unwrap();
    fs::remove_file(other.join("config.json")).unwrap();
    let result = save(
        &other,
        SaveOptions {
            overwrite: true,
            ..SaveOptions::default()
        },
    );
    assert!(matches!(result, Err(SaveError::NotModelFolder { .. })));
    assert_eq!(names(folder.path()).len(), 2, "temporary folders are left");
}

#[test]
fn a_full_disk_at_any_byte_leaves_the_old_folder() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    save(&target, SaveOptions::default()).unwrap();
    let size: u64 = fs::read_dir(&target)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    let before = fs::read(target.join("model.safetensors")).unwrap();
    for limit in (0..size).step_by(97).chain([size - 1]) {
        let options = SaveOptions {
            overwrite: true,
            byte_limit: Some(limit),
            ..SaveOptions::default()
        };
        let error = save(&target, options).unwrap_err();
        assert!(matches!(error, SaveError::DiskFull { .. }), "{error}");
        assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), before);
        assert_eq!(names(folder.path()).len(), 1, "temporary folders are left");
    }
    let options = SaveOptions {
        overwrite: true,
        byte_limit: Some(size),
        ..SaveOptions::default()
    };
    save(&target, options).unwrap();

    let file = folder.path().join("mm_projector.safetensors");
    write_projector(folder.path(), &specs(), fill).unwrap();
    let before = fs::read(&file).unwrap();
    assert!(matches!(
        write_safetensors(&file, &specs(), Some(50), fill),
        Err(SaveError::DiskFull { .. })
    ));
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(names(folder.path()).len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn the_systems_own_disk_full_is_recognised() {
    let mut quota = Quota::new(None);
    let mut output = Output::create(Path::new("/dev/full"), &mut quota).unwrap();
    let result = output.write(&[0; 4096]).and_then(|()| output.close());
    assert!(
        matches!(result, Err(SaveError::DiskFull { .. })),
        "{result:?}"
    );
    assert!(matches!(
        replace::check_room(Path::new("/"), u64::MAX),
        Err(SaveError::DiskFull {
            needed: u64::MAX,
            ..
        })
    ));
}

#[test]
fn wrong_lengths_names_and_doubles_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let one = [TensorSpec::new("a", Dtype::F32, [2])];
    for n in [0, 1, 3, 100] {
        let result = write_safetensors(&path, &one, None, |_, sink| sink.write_f32(&vec![0.0; n]));
        assert!(matches!(
            result,
            Err(SaveError::TensorLength { expected: 8, .. })
        ));
    }
    let twice = [one[0].clone(), one[0].clone()];
    assert!(matches!(
        write_safetensors(&path, &twice, None, fill),
        Err(SaveError::Twice { .. })
    ));
    let huge = [TensorSpec::new("a", Dtype::F32, [usize::MAX, 2])];
    assert!(matches!(
        write_safetensors(&path, &huge, None, fill),
        Err(SaveError::TooLarge { .. })
    ));
    assert!(!path.exists());
    let mut writer =
        FolderWriter::create(&folder.path().join("m"), SaveOptions::default()).unwrap();
    for name in ["../x", "/x", "a/b", "", ".."] {
        assert!(
            matches!(
                writer.write_file(name, b""),
                Err(SaveError::FileName { .. })
            ),
            "{name}"
        );
    }
    // Twice over two shards.
    let options = SaveOptions {
        max_shard_bytes: 1,
        ..SaveOptions::default()
    };
    let mut writer = FolderWriter::create(&folder.path().join("n"), options).unwrap();
    assert!(matches!(
        writer.write_weights(&twice, fill),
        Err(SaveError::Twice { .. })
    ));
    drop(writer);
}
