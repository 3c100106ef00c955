//! Prompts, ids, labels and spans against the public preprocessing code.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::{
    EncodeError, Encoded, Error, IGNORE_INDEX, IMAGE_TOKEN_INDEX, MaskMode, Message, Role, Sample,
    Template, TemplateName, Tokenizer,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// The tokenizer that a row of masks.jsonl names.
fn load(shared: &Path, name: &str) -> Tokenizer {
    let folder = |name: &str| shared.join("tokenizers").join(name);
    match name {
        // The Phi-3.5 vocabulary with the post-processor that adds BOS.
        "phi3_bos" => {
            let read = |name: &str| -> Value {
                let text = std::fs::read_to_string(folder(name).join("tokenizer.json")).unwrap();
                serde_json::from_str(&text).unwrap()
            };
            let mut json = read("phi3.5");
            json["post_processor"] = read("phi3_vision_bos")["post_processor"].clone();
            let config = json!({"bos_token": "<s>", "eos_token": "<|endoftext|>"});
            Tokenizer::from_json(&json.to_string(), &config).unwrap()
        }
        "phi3.5_nobos" => Tokenizer::from_folder(&folder("phi3.5")).unwrap(),
        other => Tokenizer::from_folder(&folder(other)).unwrap(),
    }
}

fn ints(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_i64().unwrap())
        .collect()
}

fn runs(labels: &[i64]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for i in 0..labels.len() {
        if labels[i] == IGNORE_INDEX {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == i => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

#[test]
fn masks_agree_with_the_public_code() {
    let Some(shared) = common::shared("masks_agree_with_the_public_code") else {
        return;
    };
    let mut tokenizers: BTreeMap<String, Tokenizer> = BTreeMap::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut files = 0;
    for entry in std::fs::read_dir(shared.join("parity/text")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        files += 1;
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let row: Value = serde_json::from_str(line).unwrap();
            let name = row["tokenizer"].as_str().unwrap();
            let tokenizer = tokenizers
                .entry(name.into())
                .or_insert_with(|| load(&shared, name));
            let template = Template::new(row["template"].as_str().unwrap().parse().unwrap());
            let image = row["has_image"]
                .as_bool()
                .unwrap_or(true)
                .then_some("a.png");
            let sample =
                json!({"id": number, "image": image, "conversations": row["conversations"]});
            let sample = Sample::from_json(sample).unwrap();
            let place = format!("row {number}, {name}, {}", template.name());

            let prompt = template
                .render(&Message::from_sample(&sample), false)
                .unwrap();
            if let Some(expected) = row["prompt"].as_str() {
                assert_eq!(prompt.text(), expected, "{place}");
                assert_eq!(
                    tokenizer.tokenizer_image_token(expected).unwrap(),
                    template
                        .encode(tokenizer, &prompt, MaskMode::Exact)
                        .unwrap()
                        .ids,
                    "{place}"
                );
            }
            let exact = template
                .encode_sample(tokenizer, &sample, MaskMode::Exact)
                .unwrap();
            assert_eq!(exact.ids, ints(&row["upstream"]["input_ids"]), "{place}");
            if row["upstream"]["mismatch"] == json!(false) {
                assert_eq!(exact.labels, ints(&row["upstream"]["labels"]), "{place}");
                *counts.entry("upstream").or_default() += 1;
            }
            labelled_text_is_answers(tokenizer, &template, &sample, &exact, &place);
            let release = template
                .encode_sample(tokenizer, &sample, MaskMode::Llavar2)
                .unwrap();
            if row["llavar2"]["mismatch"] == json!(false) {
                assert_eq!(release.ids, ints(&row["llavar2"]["input_ids"]), "{place}");
                assert_eq!(release.labels, ints(&row["llavar2"]["labels"]), "{place}");
                *counts.entry("llavar2").or_default() += 1;
            }
            assert!(release.supervised() >= exact.supervised());
            *counts.entry("rows").or_default() += 1;
        }
    }
    eprintln!("{files} file(s), {counts:?}");
    assert!(
        counts["upstream"] > 100 && counts["llavar2"] > 40,
        "{counts:?}"
    );
}

/// Each answer span decodes to the answer and its separator, and nothing else is supervised.
fn labelled_text_is_answers(
    tokenizer: &Tokenizer,
    template: &Template,
    sample: &Sample,
    encoded: &Encoded,
    place: &str,
) {
    let mut union = vec![IGNORE_INDEX; encoded.ids.len()];
    let decode = |range: &Range<usize>| {
        let ids: Vec<u32> = encoded.ids[range.clone()]
            .iter()
            .filter(|&&id| id >= 0)
            .map(|&id| id as u32)
            .collect();
        tokenizer.decode(&ids, false).unwrap()
    };
    let squash = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let answers: Vec<_> = sample
        .conversations
        .iter()
        .filter(|t| t.from == Role::Gpt)
        .collect();
    let questions: Vec<_> = sample
        .conversations
        .iter()
        .filter(|t| t.from == Role::Human)
        .collect();
    assert_eq!(encoded.turns.len(), answers.len(), "{place}");
    for ((turn, answer), question) in encoded.turns.iter().zip(answers).zip(questions) {
        let range = turn.answer.clone().unwrap();
        let text = decode(&range);
        let expected = format!("{}{}", answer.value, template.stop());
        // A separator token decodes without the space that Phi-3's markers swallow.
        assert_eq!(squash(&text), squash(&expected), "{place}");
        union[range.clone()].copy_from_slice(&encoded.ids[range.clone()]);
        let asked = turn.question.clone().unwrap();
        if template.name() != TemplateName::Plain {
            let text = decode(&asked);
            assert_eq!(
                squash(&text),
                squash(&question.value.replace("<image>", "")),
                "{place}"
            );
        }
        assert!(asked.end <= range.start, "{place}");
        assert_eq!(turn.question_and_answer().unwrap(), asked.start..range.end);
    }
    assert_eq!(union, encoded.labels, "{place}");
}

fn golden(turns: usize) -> Sample {
    let texts = [
        "<image>\nWhat is the title?",
        "The title is Foo.",
        "Where is it shown?",
        "At the top.",
    ];
    let turns: Vec<Value> = (0..turns)
        .map(|i| json!({"from": (["human", "gpt"][i % 2]), "value": texts[i]}))
        .collect();
    Sample::from_json(json!({"id": "golden", "image": "a.png", "conversations": turns})).unwrap()
}

#[test]
fn golden_vectors_agree() {
    let Some(shared) = common::shared("golden_vectors_agree") else {
        return;
    };
    let check = |tokenizer: &Tokenizer,
                 name: TemplateName,
                 ids: &str,
                 exact: &[Range<usize>],
                 release: &[Range<usize>]| {
        let template = Template::new(name);
        let expected: Vec<i64> = ids
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        for (mode, spans) in [(MaskMode::Exact, exact), (MaskMode::Llavar2, release)] {
            let encoded = template.encode_sample(tokenizer, &golden(4), mode).unwrap();
            assert_eq!(encoded.ids, expected, "{name}");
            assert_eq!(runs(&encoded.labels), spans, "{name} {mode:?}");
        }
    };
    let phi = "29871 32006 3492 526 263 8444 319 29902 20255 29889 32007 32010 -200 29871 13 5618 338 278 3611 \
               29973 32007 32001 1576 3611 338 13679 29889 32007 32010 11921 338 372 4318 29973 32007 32001 4178 \
               278 2246 29889 32007";
    let slow = load(&shared, "phi3_bos").with_slow_llama_ids().unwrap();
    check(
        &slow,
        TemplateName::Phi3Instruct,
        &format!("1 {phi}"),
        &[23..29, 37..42],
        &[21..29, 35..42],
    );
    let slow = load(&shared, "phi3.5_nobos").with_slow_llama_ids().unwrap();
    check(
        &slow,
        TemplateName::Phi3Instruct,
        phi,
        &[22..28, 36..41],
        &[20..28, 34..41],
    );
    let llama = load(&shared, "llama3.1");
    check(
        &llama,
        TemplateName::Llama3,
        "128000 128000 128006 9125 128007 271 32 6369 1990 264 22999 1217 323 459 21075 11478 18328 13 578 18328 \
         6835 11190 11 11944 11 323 48887 11503 311 279 1217 596 4860 13 128009 128006 882 128007 271 -200 198 3923 \
         374 279 2316 30 128009 128006 78191 128007 271 791 2316 374 34528 13 128009 128006 882 128007 271 9241 374 \
         433 6982 30 128009 128006 78191 128007 271 1688 279 1948 13 128009",
        &[51..57, 71..76],
        &[50..57, 70..76],
    );
    let vicuna = load(&shared, "vicuna");
    let head = "1 319 13563 1546 263 12758 1404 322 385 23116 21082 20255 29889 450 20255 4076 8444 29892 13173 29892 \
                322 1248 568 6089 304 278 1404 29915 29879 5155 29889 3148 1001 29901 29871 -200 29871 13 5618 338 278 \
                3611 29973 319 1799 9047 13566 29901 450 3611 338 13679 29889 2";
    let tail = "29901 6804 338 372 4318 29973 319 1799 9047 13566 29901 2180 278 2246 29889 2";
    let spans = [48..54, 66..71];
    let slow = vicuna.with_slow_llama_ids().unwrap();
    check(
        &slow,
        TemplateName::V1,
        &format!("{head} 11889 {tail}"),
        &spans,
        &spans,
    );
    let spans = [48..54, 67..72];
    check(
        &vicuna,
        TemplateName::V1,
        &format!("{head} 3148 1001 {tail}"),
        &spans,
        &spans,
    );

    let caption = json!({"id": 1, "image": "a.png", "conversations": [
        {"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": "A red sign."}]});
    let caption = Sample::from_json(caption).unwrap();
    let plain = Template::new(TemplateName::Plain);
    for (tokenizer, expected) in [
        (&vicuna, "<s>|▁A|▁red|▁sign|.|<0x0A>"),
        (&llama, "<|begin_of_text|>|A|Ġred|Ġsign|.Ċ"),
    ] {
        let encoded = plain
            .encode_sample(tokenizer, &caption, MaskMode::Exact)
            .unwrap();
        assert_eq!(encoded.ids[1], IMAGE_TOKEN_INDEX);
        let tokens: Vec<String> = encoded
            .ids
            .iter()
            .filter(|&&id| id >= 0)
            .map(|&id| tokenizer.id_to_token(id as u32).unwrap())
            .collect();
        assert_eq!(tokens.join("|"), expected);
        assert_eq!(runs(&encoded.labels).first(), Some(&(2..encoded.ids.len())));
    }
}

#[test]
fn scored_spans_have_the_published_lengths() {
    let Some(shared) = common::shared("scored_spans_have_the_published_lengths") else {
        return;
    };
    let folder = shared.join("parity/scores_v1");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let data = llavar_data::Dataset::open(&folder.join("data.json"), Some(&folder)).unwrap();
    let expected: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap())
            .unwrap();
    let template = Template::new(TemplateName::V1);
    let mut pairs = 0;
    for sample in data.iter().map(Result::unwrap) {
        assert!(data.image_path(&sample.images[0]).is_ok());
        for (i, pair) in sample.conversations.chunks(2).enumerate() {
            let Some(row) = expected
                .iter()
                .find(|row| row["id"] == json!(sample.id) && row["qa_id"] == json!(2 * i))
            else {
                continue;
            };
            let question = pair[0].value.replace("<image>", "").trim().to_string();
            let chat = [
                Message::user(format!("<image>\n{question}")),
                Message::assistant(&pair[1].value),
            ];
            let lengths = |chat: &[Message]| {
                let prompt = template.render(chat, false).unwrap();
                let encoded = template
                    .encode(&tokenizer, &prompt, MaskMode::Exact)
                    .unwrap();
                let turn = encoded.turns.last().unwrap().clone();
                (
                    turn.answer.clone().unwrap().len(),
                    turn.question_and_answer().unwrap().len(),
                )
            };
            let want = (
                row["n_answer"].as_u64().unwrap() as usize,
                row["n_qa"].as_u64().unwrap() as usize,
            );
            assert_eq!(lengths(&chat), want);
            // The same without the picture, and the answer alone.
            assert_eq!(lengths(&[Message::user(question), chat[1].clone()]), want);
            assert_eq!(lengths(&chat[1..]), (want.0, want.0));
            pairs += 1;
        }
    }
    assert_eq!(pairs, expected.len());
}

#[test]
fn prompts_for_generation_end_with_the_open_turn() {
    let tokenizer = common::small_tokenizer();
    let chat = [
        Message::user("<image>\nHi?"),
        Message::assistant("Yes."),
        Message::user("Why?"),
    ];
    let ends = [
        (
            TemplateName::V1,
            "USER: <image>\nHi? ASSISTANT: Yes.</s>USER: Why? ASSISTANT:",
        ),
        (
            TemplateName::LlavaV1,
            "human's questions. USER: <image>\nHi? ASSISTANT: Yes.</s>USER: Why? ASSISTANT:",
        ),
        (
            TemplateName::Phi3Instruct,
            "<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
        ),
        (
            TemplateName::Llama3,
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ];
    for (name, end) in ends {
        let template = Template::new(name);
        let prompt = template.render(&chat, true).unwrap();
        assert!(prompt.text().ends_with(end), "{name}: {}", prompt.text());
        let ids = template.encode_prompt(&tokenizer, &chat).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == IMAGE_TOKEN_INDEX).count(), 1);
        // What the model then says continues the training prompt.
        let full = [&chat[..], &[Message::assistant("So.")]].concat();
        assert!(
            template
                .render(&full, false)
                .unwrap()
                .text()
                .starts_with(&prompt.text())
        );
    }
    let plain = Template::new(TemplateName::Plain);
    assert_eq!(
        plain
            .render(&[Message::user("<image>\nx")], true)
            .unwrap()
            .text(),
        "<image>"
    );
    assert!(
        "v2".parse::<TemplateName>()
            .unwrap_err()
            .to_string()
            .contains("phi3_instruct")
    );
    for name in TemplateName::ALL {
        assert_eq!(name.as_str().parse::<TemplateName>().unwrap(), name);
        assert_eq!(serde_json::to_value(name).unwrap(), json!(name.as_str()));
    }
}

#[test]
fn samples_without_supervision_are_errors_that_name_them() {
    let tokenizer = common::small_tokenizer();
    let question = json!({"id": "lost", "conversations": [{"from": "human", "value": "q"}]});
    let question = Sample::from_json(question).unwrap();
    let template = Template::new(TemplateName::V1);
    let error = template
        .encode_sample(&tokenizer, &question, MaskMode::Exact)
        .unwrap_err();
    assert!(
        matches!(&error, Error::Encode { id, source: EncodeError::NoSupervisedToken { .. } } if id == "lost")
    );
    assert!(error.to_string().contains("lost"));
    let plain = Template::new(TemplateName::Plain);
    for sample in [golden(4), question] {
        let error = plain
            .encode_sample(&tokenizer, &sample, MaskMode::Exact)
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Encode {
                    source: EncodeError::PlainShape { .. },
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn truncation_never_splits_an_image() {
    let tokenizer = common::small_tokenizer();
    let template = Template::new(TemplateName::V1);
    let whole = template
        .encode_sample(&tokenizer, &golden(4), MaskMode::Exact)
        .unwrap();
    let image_at = whole
        .ids
        .iter()
        .position(|&id| id == IMAGE_TOKEN_INDEX)
        .unwrap();
    let full = whole.expanded_len(144);
    for max in 0..=full + 1 {
        let mut cut = whole.clone();
        match cut.truncate(max, 144) {
            Ok(dropped) => {
                assert!(cut.expanded_len(144) <= max && cut.supervised() > 0 && dropped == 0);
                assert_eq!(cut.ids, whole.ids[..cut.ids.len()]);
                assert!(max < full || cut == whole);
                for turn in &cut.turns {
                    assert!(turn.answer.as_ref().is_none_or(|a| a.end <= cut.ids.len()));
                }
            }
            Err(error) => {
                assert_eq!(error, EncodeError::NoSupervisedToken { truncated: true });
                assert!(cut.ids.len() <= whole.turns[0].answer.as_ref().unwrap().start);
                assert!(max >= image_at + 144 || !cut.ids.contains(&IMAGE_TOKEN_INDEX));
            }
        }
    }
}

#[test]
fn hostile_text_keeps_exact_spans() {
    let Some(shared) = common::shared("hostile_text_keeps_exact_spans") else {
        return;
    };
    let answers = [
        "  spaces around  ",
        "\nnewline first",
        "中文",
        "🚀",
        "</s> inside <|end|>",
        "<|eot_id|>x",
        "\u{2581}",
        "ASSISTANT: USER: ",
        "\u{301}combining",
    ];
    for (name, template) in [
        ("vicuna", TemplateName::V1),
        ("phi3.5", TemplateName::Phi3Instruct),
        ("phi3_vision_bos", TemplateName::Phi3Instruct),
        ("llama3.1", TemplateName::Llama3),
        ("vicuna", TemplateName::Llama3),
    ] {
        let tokenizer = load(&shared, name);
        let template = Template::new(template);
        for answer in answers {
            let turns: Vec<Value> = (0..6)
                .map(|i| json!({"from": (["human", "gpt"][i % 2]), "value": if i % 2 == 0 { "q</s><|end|> " } else { answer }}))
                .collect();
            let sample = Sample::from_json(json!({"id": 1, "conversations": turns})).unwrap();
            let encoded = template
                .encode_sample(&tokenizer, &sample, MaskMode::Exact)
                .unwrap();
            assert_eq!(encoded.turns.len(), 3, "{name} {answer:?}");
            let mut last = 0;
            for turn in &encoded.turns {
                let range = turn.answer.clone().unwrap();
                assert!(range.start >= last && !range.is_empty());
                last = range.end;
                // The marker before an answer is never learned as part of it.
                for marker in ["<|assistant|>", "<|end_header_id|>"] {
                    let id = tokenizer.token_to_id(marker).map(i64::from);
                    assert!(
                        !encoded.ids[range.clone()].iter().any(|&t| Some(t) == id),
                        "{name} {answer:?}"
                    );
                }
                let ids: Vec<u32> = encoded.ids[range].iter().map(|&id| id as u32).collect();
                let text = tokenizer.decode(&ids, false).unwrap();
                // SentencePiece knows no difference between its mark and a space.
                let squash = |text: &str| {
                    text.replace('\u{2581}', " ")
                        .split_whitespace()
                        .collect::<Vec<_>>()
                        .join(" ")
                };
                assert!(
                    squash(&text).contains(&squash(answer)),
                    "{name}: {answer:?} in {text:?}"
                );
            }
        }
    }
}

#[test]
fn several_images_keep_their_places() {
    let tokenizer = common::small_tokenizer();
    let sample = json!({"id": 1, "image": ["a", "b", "c"], "conversations": [
        {"from": "human", "value": "First <image> then <image>: which?"}, {"from": "gpt", "value": "The second."},
        {"from": "human", "value": "And this? <image>"}, {"from": "gpt", "value": "None."}]});
    let sample = Sample::from_json(sample).unwrap();
    let template = Template::new(TemplateName::V1);
    let messages = Message::from_sample(&sample);
    assert_eq!(messages[0].text, "First <image> then <image>: which?");
    assert_eq!(messages[2].text, "<image>\nAnd this?");
    let encoded = template
        .encode_sample(&tokenizer, &sample, MaskMode::Exact)
        .unwrap();
    assert_eq!((encoded.images(), encoded.turns.len()), (3, 2));
    assert!(
        encoded
            .ids
            .iter()
            .zip(&encoded.labels)
            .all(|(&id, &label)| id != IMAGE_TOKEN_INDEX || label == IGNORE_INDEX)
    );
}
