use super::*;
use crate::weights::tests_support::{Sample, int, tensor, text};

fn error(bytes: &[u8]) -> String {
    load(bytes).unwrap_err().to_string()
}

#[test]
fn unknown_globals_are_named_in_every_spelling() {
    for bytes in [
        b"\x80\x02cposix\nsystem\n(X\x04\0\0\0echotR.".to_vec(),
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.".to_vec(),
        // Two globals from the list cannot be combined into a third.
        b"\x80\x02cbuiltins\neval\n.".to_vec(),
        b"\x80\x02ctorch.storage\n_load_from_bytes\n.".to_vec(),
        b"\x80\x02ctorch\nload\n.".to_vec(),
    ] {
        let text = error(&bytes);
        assert!(text.contains("it asks for the global `"), "{text}");
    }
    for refused in [
        &b"\x80\x02(iposix\nsystem\n."[..],
        b"(cbuiltins\nlist\no.",
        b"\x82\x01.",
        b"P0\n.",
    ] {
        assert!(load(refused).is_err());
    }
}

#[test]
fn calling_classes_or_data_is_an_error() {
    for bytes in [
        &b"ctorch\nFloatStorage\n)R."[..],
        b"X\x01\0\0\0a)R.",
        b"}}R.",
        b"ccollections\nOrderedDict\n}R.",
    ] {
        assert!(load(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn integers_of_all_spellings() {
    for (bytes, expected) in [
        (&b"K\xff."[..], 255),
        (b"M\xff\xff.", 65535),
        (b"J\xff\xff\xff\xff.", -1),
        (b"I-12\n.", -12),
        (b"L34L\n.", 34),
        (b"\x8a\x00.", 0),
        (b"\x8a\x01\xff.", -1),
        (b"\x8a\x02\x00\x01.", 256),
        (b"\x8b\x03\0\0\0\x01\x02\x03.", 0x030201),
    ] {
        let pickle = load(bytes).unwrap();
        assert!(
            matches!(pickle.node(pickle.root), Node::Int(n) if *n == expected),
            "{bytes:?}"
        );
    }
}

#[test]
fn attributes_of_a_state_dict_are_passed_over() {
    // `state_dict()` carries `_metadata`, which pickle sets with BUILD.
    for bytes in [
        &b"ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadata}sb."[..],
        b"\x80\x04\x95\0\0\0\0\0\0\0\0\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94}\x94b.",
    ] {
        let pickle = load(bytes).unwrap();
        assert!(matches!(pickle.node(pickle.root), Node::Dict(items) if items.is_empty()));
    }
}

#[test]
fn bombs_stay_small() {
    // Lists of lists, each twice in the next: 2^200 leaves if they were copied.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for _ in 0..200 {
        laughs.extend(b"](h\x00h\x00eq\x00");
    }
    laughs.push(b'.');
    assert!(load(&laughs).is_ok());

    // One long tuple used as shape by a thousand tensors.
    let mut long = b"\x80\x02(".to_vec();
    for _ in 0..60 {
        long.extend(b"K\x01");
    }
    long.extend(b"tq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02(");
    let mut storage = b"(".to_vec();
    text(&mut storage, "storage");
    storage.extend(b"ctorch\nFloatStorage\n");
    text(&mut storage, "0");
    text(&mut storage, "cpu");
    int(&mut storage, 1);
    storage.extend(b"tQ");
    long.extend(storage);
    long.extend(b"K\x00h\x01h\x01tq\x03");
    for _ in 0..1000 {
        long.extend(b"h\x02h\x03R");
    }
    long.push(b'.');
    assert!(error(&long).contains("used once"));

    // A memo number of 2^32 - 1 costs one entry, a text of 4 GB that is not there nothing.
    assert!(load(b"]r\xff\xff\xff\xff0j\xff\xff\xff\xff.").is_ok());
    assert!(error(b"X\xff\xff\xff\xffabc").contains("ends at byte 8"));
    assert!(error(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc").contains("ends at"));
    assert!(error(&vec![b'N'; (8 << 20) + 1]).contains("at most"));
}

#[test]
fn deep_and_circular_dicts_end() {
    let mut deep = b"\x80\x02".to_vec();
    for _ in 0..10_000 {
        deep.extend(b"}X\x01\0\0\0a");
    }
    tensor(
        &mut deep,
        &Sample {
            name: "",
            dtype: crate::weights::Dtype::F32,
            key: "0",
            numel: 1,
            offset: 0,
            shape: &[],
            strides: &[],
        },
    );
    deep.extend(vec![b's'; 10_000]);
    deep.push(b'.');
    let zip = crate::weights::tests_support::zip(&[("a/data.pkl", &deep), ("a/data/0", &[0; 4])]);
    assert!(crate::weights::torch::read_zip(&zip).is_err());
    let own = b"\x80\x02}q\x00(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00u.";
    let zip = crate::weights::tests_support::zip(&[("a/data.pkl", own)]);
    assert!(crate::weights::torch::read_zip(&zip).is_err());
}
