//! Broken and hostile files are errors, quickly, without a panic and without large allocations.

use proptest::prelude::*;

use super::{folders, samples, shared};
use crate::weights::{safetensors, storage::Stored, torch, zip};

/// Opens bytes as every form and reads all that opens.
fn read_everything(bytes: &[u8]) -> usize {
    let all = [
        safetensors::read(bytes).unwrap_or_default(),
        torch::read_zip(bytes).unwrap_or_default(),
        torch::read_legacy(bytes).unwrap_or_default(),
    ];
    let mut read = 0;
    for stored in all.iter().flatten() {
        assert!(stored.bytes.end <= bytes.len());
        let mut out = vec![0.0; stored.entry.numel()];
        let data = stored.data(bytes);
        assert_eq!(data.len(), out.len() * stored.entry.dtype.size());
        stored.entry.dtype.decode_f32(&data, &mut out);
        read += 1;
    }
    read
}

fn bases() -> Vec<Vec<u8>> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I8","shape":[],"data_offsets":[24,25]}}"#;
    let mut bases = vec![
        samples::torch_zip(),
        samples::torch_legacy(),
        samples::safetensors(header, 25),
    ];
    if let Some(parity) = shared("random_damage_never_panics (published files)") {
        for folder in folders(&parity)
            .iter()
            .filter(|f| f.join("expected.safetensors").is_file())
        {
            for entry in std::fs::read_dir(folder).unwrap() {
                bases.push(std::fs::read(entry.unwrap().path()).unwrap());
            }
        }
    }
    bases
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_never_panics(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5_u8), 1..12),
    ) {
        static BASES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(bases);
        let mut bytes = which.get(&BASES).clone();
        for (at, value, kind) in edits {
            if bytes.is_empty() { break; }
            let i = at.index(bytes.len());
            match kind {
                0 => bytes[i] = value,
                1 => bytes[i] ^= 1 << (value % 8),
                2 => bytes.insert(i, value),
                3 => drop(bytes.remove(i)),
                // Extreme numbers where a length or offset may stand.
                _ => for b in bytes.iter_mut().skip(i).take(usize::from(value % 9)) { *b = 0xff },
            }
        }
        read_everything(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_everything(&bytes);
        let mut pickle = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
        pickle.extend(&bytes);
        read_everything(&pickle);
    }
}

#[test]
fn every_truncation_is_an_error() {
    for whole in [samples::torch_zip(), samples::torch_legacy()] {
        assert!(read_everything(&whole) > 0);
        for n in 0..whole.len() {
            assert_eq!(
                read_everything(&whole[..n]),
                0,
                "{n} of {} bytes",
                whole.len()
            );
        }
    }
}

#[test]
fn impossible_safetensors_headers_name_the_tensor() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, part) in [
        (one("F32", "[2]", "[0,9]"), "tensor `t` of shape [2]"),
        (one("F32", "[2]", "[8,0]"), "claims the bytes 8 to 0"),
        (one("F32", "[100]", "[0,400]"), "claims the bytes 0 to 400 of 16"),
        (one("F32", "[18446744073709551615,2]", "[0,8]"), "does not fit"),
        (one("F32", "[4294967296,4294967296]", "[0,0]"), "does not fit"),
        (one("F32", "[-1]", "[0,4]"), "not the expected JSON"),
        (one("F8_E4M3", "[4]", "[0,4]"), "`F8_E4M3`"),
        ("[]".to_owned(), "not the expected JSON"),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "not the expected JSON"),
        (
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#.to_owned(),
            "`a` and `b` overlap",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#.to_owned(),
            "listed twice",
        ),
    ] {
        let error = safetensors::read(&samples::safetensors(&header, 16)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // Metadata is passed over without recursion, however deep it is.
    let deep = format!(
        r#"{{"__metadata__":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(safetensors::read(&samples::safetensors(&deep, 0)).is_ok_and(|t| t.is_empty()));
    for claimed in [100_000_001_u64, 1_000_000_000_000, u64::MAX, u64::MAX - 7] {
        let mut file = claimed.to_le_bytes().to_vec();
        file.extend(b"{}");
        let error = safetensors::read(&file).unwrap_err().to_string();
        assert!(error.contains(&claimed.to_string()), "{error}");
    }
    assert!(safetensors::read(b"1234567").is_err());
}

#[test]
fn zip_tricks_are_errors() {
    let good = samples::torch_zip();
    assert!(zip::read(&good).is_ok());
    let at = |mark: &[u8]| good.windows(4).position(|w| w == mark).unwrap();
    let central = at(b"PK\x01\x02");
    let mut compressed = good.clone();
    compressed[central + 10] = 8;
    assert!(matches!(
        zip::read(&compressed),
        Err(zip::ZipError::Compressed { method: 8, .. })
    ));
    let mut outside = good.clone();
    outside[central + 42..central + 46].fill(0xfe);
    assert!(matches!(
        zip::read(&outside),
        Err(zip::ZipError::Outside { .. })
    ));
    let mut long = good.clone();
    for field in [20, 24] {
        long[central + field..central + field + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    }
    assert!(matches!(
        zip::read(&long),
        Err(zip::ZipError::Outside { .. })
    ));
    let twice = samples::zip(&[("a/data.pkl", b"."), ("a/data.pkl", b".")]);
    assert!(matches!(zip::read(&twice), Err(zip::ZipError::Name { .. })));
    let big = samples::zip(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]);
    assert!(matches!(
        torch::read_zip(&big),
        Err(torch::FileError::Torch(torch::TorchError::BigEndian))
    ));
    let script = samples::zip(&[("a/data.pkl", b"\x80\x02}."), ("a/constants.pkl", b"")]);
    assert!(matches!(
        torch::read_zip(&script),
        Err(torch::FileError::Torch(torch::TorchError::TorchScript))
    ));
}

#[test]
fn zip64_archives_read() {
    // One member whose directory record keeps sizes and offset in the extra field, as PyTorch writes
    // files beyond 4 GB.
    let data = [7_u8; 5];
    let mut file =
        b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0m"
            .to_vec();
    let start = file.len();
    file.extend(data);
    let directory = file.len() as u64;
    file.extend(
        b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\x1c\0",
    );
    file.extend([0; 10]);
    file.extend([0xff; 4]);
    file.extend(b"m\x01\0\x18\0");
    for n in [5_u64, 5, 0] {
        file.extend(n.to_le_bytes());
    }
    let record = file.len() as u64;
    file.extend(b"PK\x06\x06");
    file.extend([0; 28]);
    for n in [1_u64, 0, directory] {
        file.extend(n.to_le_bytes());
    }
    file.extend(b"PK\x06\x07\0\0\0\0");
    file.extend(record.to_le_bytes());
    file.extend([1, 0, 0, 0]);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([0xff; 12]);
    file.extend([0, 0]);
    let members = zip::read(&file).unwrap();
    assert_eq!(members.get("m"), Some(&(start..start + 5)));
}

#[test]
fn views_beyond_the_storage_are_errors() {
    use crate::weights::Dtype::F32;
    let view = |shape: &[usize], strides: &[usize], offset: usize| {
        Stored::view(
            "t".to_owned(),
            F32,
            shape.to_vec(),
            strides.to_vec(),
            offset,
            0..48,
        )
    };
    assert!(view(&[3, 4], &[4, 1], 0).is_some());
    assert!(view(&[3, 4], &[4, 1], 1).is_none());
    assert!(view(&[13], &[1], 0).is_none());
    assert!(view(&[2], &[usize::MAX], 0).is_none());
    assert!(view(&[2], &[1], usize::MAX).is_none());
    assert!(view(&[usize::MAX, usize::MAX], &[0, 0], 0).is_none());
    assert!(view(&[1 << 40], &[0], 0).is_none());
    assert!(view(&[2, 2], &[1], 0).is_none());
    assert!(view(&[usize::MAX, 0], &[1, 1], 99).is_some());
}
