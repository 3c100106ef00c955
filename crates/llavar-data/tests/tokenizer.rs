//! Tokenizers: published ids, streaming, training.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::tokenizer::{BpeOptions, train_bpe};
use llavar_data::{IMAGE_TOKEN_INDEX, Tokenizer};

#[test]
fn llama_cpp_vectors_agree() {
    let Some(shared) = common::shared("llama_cpp_vectors_agree") else {
        return;
    };
    let folder = shared.join("tokenizers/llama.cpp-vectors");
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "inp") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let model = match name {
            name if name.contains("llama-bpe") => "llama3.1",
            name if name.contains("llama-spm") => "vicuna",
            name if name.contains("phi-3") => "phi3.5",
            other => panic!("no tokenizer is known for {other}"),
        };
        let tokenizer = Tokenizer::from_folder(&shared.join("tokenizers").join(model)).unwrap();
        let input = std::fs::read_to_string(&path).unwrap();
        let output = std::fs::read_to_string(path.with_extension("out")).unwrap();
        let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
        let lines: Vec<&str> = output.lines().collect();
        assert!(texts.len() >= lines.len(), "{name}");
        for (text, line) in texts.iter().zip(&lines) {
            let expected: Vec<u32> = line
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let got: Vec<u32> = tokenizer
                .encode_chunk(text)
                .unwrap()
                .iter()
                .map(|t| t.id)
                .collect();
            assert_eq!(got, expected, "{name}: {text:?}");
            cases += 1;
        }
    }
    assert!(cases >= 100, "only {cases} cases");
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut stream = tokenizer.decode_stream(skip);
    let mut text = String::new();
    for &id in ids {
        let piece = stream.push(id).unwrap().unwrap_or_default();
        assert!(
            !piece.contains('\u{FFFD}'),
            "half a character came out: {piece:?}"
        );
        text.push_str(&piece);
    }
    text + &stream.finish().unwrap().unwrap_or_default()
}

#[test]
fn streamed_text_equals_decoded_text() {
    let texts = [
        "The title is Foo.",
        "  two leading spaces, emoji 🚀👩‍👩‍👧 and 中文, naïve café\n\nnext\tline",
        "🚀",
        "ᚠᛇᚻ᛫ᛒᛦᚦ 𐍈𐌰",
        "",
        " ",
    ];
    let mut tokenizers = vec![common::small_tokenizer()];
    if let Some(shared) = common::shared("streamed_text_equals_decoded_text") {
        for entry in std::fs::read_dir(shared.join("tokenizers")).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("tokenizer.json").is_file() {
                tokenizers.push(Tokenizer::from_folder(&folder).unwrap());
            }
        }
    }
    for tokenizer in &tokenizers {
        for text in texts {
            let mut ids = tokenizer.encode(text).unwrap();
            // The bytes of the tokens are the text, behind a space that some vocabularies begin with.
            let own = ids.iter().filter(|id| !tokenizer.is_special(**id));
            let mut bytes = own.flat_map(|id| tokenizer.token_bytes(*id));
            let in_front = bytes.clone().count() - text.len();
            assert!(in_front <= 1, "{text:?} {ids:?}");
            assert!(bytes.by_ref().take(in_front).all(|b| b == b' '), "{text:?}");
            assert!(bytes.eq(text.bytes()), "{text:?}");
            let all = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(stream(tokenizer, &ids, true), all, "{text:?}");
            assert_eq!(
                stream(tokenizer, &ids, false),
                tokenizer.decode(&ids, false).unwrap()
            );
            // Special tokens in the middle neither add nor eat anything.
            let middle = ids.len().min(2);
            for _ in 0..20 {
                ids.insert(middle, tokenizer.eos_id().unwrap());
            }
            assert_eq!(
                stream(tokenizer, &ids, true),
                tokenizer.decode(&ids, true).unwrap(),
                "{text:?}"
            );
        }
    }
}

#[test]
fn unfinished_characters_end_as_replacement() {
    let tokenizer = common::small_tokenizer();
    let ids: Vec<u32> = tokenizer
        .encode_chunk("a🚀")
        .unwrap()
        .iter()
        .map(|t| t.id)
        .collect();
    let mut stream = tokenizer.decode_stream(true);
    let mut text = String::new();
    for &id in &ids[..ids.len() - 1] {
        text.push_str(&stream.push(id).unwrap().unwrap_or_default());
    }
    assert_eq!(text, "a");
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{FFFD}"));
    // Endless garbage comes out bit by bit instead of being kept for ever.
    let mut stream = tokenizer.decode_stream(true);
    let pieces = (0..100)
        .filter_map(|_| stream.push(ids[1]).unwrap())
        .count();
    assert!(pieces > 5, "{pieces}");
    // Ids that no vocabulary has are left out.
    assert_eq!(tokenizer.decode(&[ids[0], 4_000_000], true).unwrap(), "a");
}

#[test]
fn the_start_mark_is_known() {
    let Some(shared) = common::shared("the_start_mark_is_known") else {
        return;
    };
    let load = |name: &str| Tokenizer::from_folder(&shared.join("tokenizers").join(name)).unwrap();
    let vicuna = load("vicuna");
    assert_eq!(
        (vicuna.bos_id(), vicuna.eos_id(), vicuna.add_bos()),
        (Some(1), Some(2), true)
    );
    assert_eq!((vicuna.vocab_len(), vicuna.pad_id()), (32000, 0));
    let phi = load("phi3.5");
    assert_eq!(
        (phi.bos_id(), phi.eos_id(), phi.add_bos(), phi.vocab_len()),
        (Some(1), Some(32000), false, 32011)
    );
    assert!(load("phi3_vision_bos").add_bos());
    let llama = load("llama3.1");
    assert_eq!(
        (llama.bos_id(), llama.add_bos(), llama.vocab_len()),
        (Some(128000), true, 128256)
    );
    assert_eq!(
        vicuna.tokenizer_image_token("<image>").unwrap(),
        [1, IMAGE_TOKEN_INDEX]
    );
    assert_eq!(
        phi.tokenizer_image_token("<image>").unwrap(),
        [IMAGE_TOKEN_INDEX]
    );
    assert_eq!(
        vicuna.tokenizer_image_token("<image><image>\nHi").unwrap(),
        [1, -200, -200, 29871, 13, 18567]
    );
    // Chunks by themselves: the space before the tag stays, and the next chunk has its own mark.
    assert_eq!(
        vicuna.tokenizer_image_token("USER: <image>\n").unwrap(),
        [1, 3148, 1001, 29901, 29871, -200, 29871, 13]
    );
}

#[test]
fn a_trained_vocabulary_encodes_any_text() {
    let texts: Vec<String> = (0..200)
        .map(|i| {
            format!(
                "The total of receipt {i} is {}.{:02} at the café.",
                i * 7,
                i
            )
        })
        .collect();
    let options = BpeOptions::new(600).with_phi3_tokens();
    let (json, config) = train_bpe(texts.iter(), &options).unwrap();
    let again = train_bpe(texts.iter(), &options).unwrap();
    assert!(
        json == again.0 && config == again.1,
        "training is not deterministic"
    );
    let tokenizer = Tokenizer::from_json(&json, &serde_json::from_str(&config).unwrap()).unwrap();
    for (i, token) in ["<unk>", "<s>", "</s>", "<pad>"].iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(i as u32));
    }
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()),
        (Some(1), Some(2), 3)
    );
    assert!(
        tokenizer.add_bos() && (280..=600).contains(&tokenizer.vocab_len()),
        "{}",
        tokenizer.vocab_len()
    );
    assert!(
        tokenizer
            .token_to_id("<|end|>")
            .is_some_and(|id| tokenizer.is_added(id))
    );
    for text in ["The total is 42.", "  Übergröße\t🚀\n", "\0\u{7f}", "中文"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids[0], 1);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    // One token a digit.
    assert_eq!(tokenizer.encode_chunk("1234").unwrap().len(), 4);
    assert!(tokenizer.encode_chunk("The total").unwrap().len() <= 3);
    // The reference file form is read back from a folder.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), &json).unwrap();
    assert!(Tokenizer::from_folder(dir.path()).unwrap().add_bos());
}

#[test]
fn bad_tokenizers_are_errors() {
    assert!(train_bpe(["a"].iter(), &BpeOptions::new(100)).is_err());
    let mut twice = BpeOptions::new(1000);
    twice.extra_special = vec!["</s>".into()];
    assert!(train_bpe(["a"].iter(), &twice).is_err());
    // No text at all still gives the bytes.
    assert!(train_bpe(std::iter::empty::<&str>(), &BpeOptions::new(300)).is_ok());
    let dir = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_folder(dir.path()).is_err());
    for text in [
        "",
        "{}",
        "[1",
        "{\"model\": {\"type\": \"BPE\"}}",
        "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"x y\"]}}",
    ] {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        let error = Tokenizer::from_folder(dir.path()).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
    std::fs::write(
        dir.path().join("tokenizer.json"),
        train_bpe(["a"].iter(), &BpeOptions::new(300)).unwrap().0,
    )
    .unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::from_folder(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("tokenizer_config.json"),
        "{error}"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    /// A damaged file is a typed error or a tokenizer that works, never a panic.
    #[test]
    fn damaged_tokenizers_never_panic(changes in proptest::collection::vec((0usize..100_000, 0u8..=255, 0u8..3), 1..5)) {
        static JSON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let json = JSON.get_or_init(|| train_bpe(["The title is Foo."; 9].iter(), &BpeOptions::new(290)).unwrap().0);
        let mut bytes = json.clone().into_bytes();
        for (at, byte, action) in changes {
            let at = at % bytes.len();
            match action {
                0 => bytes[at] = b"0123456789[]{}\",:abc<>"[byte as usize % 22],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"0123456789[]{}\",:abc<>"[byte as usize % 22]),
            }
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&String::from_utf8_lossy(&bytes), &serde_json::Value::Null) {
            let ids = tokenizer.encode("The title 42 </s> 🚀").unwrap_or_default();
            let _ = tokenizer.decode(&ids, true);
        }
    }
}
