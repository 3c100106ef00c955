//! Packing plans and batches.
#![allow(clippy::unwrap_used)]

mod common;

use llavar_data::packing::{PackedBatch, PaddedBatch, pack, pack_in_windows};
use llavar_data::{Encoded, IGNORE_INDEX, IMAGE_TOKEN_INDEX};
use proptest::prelude::*;

/// First-fit-decreasing, written plainly.
fn plain_ffd(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len())
        .filter(|&i| lengths[i] <= budget)
        .collect();
    order.sort_by(|&a, &b| lengths[b].cmp(&lengths[a]).then(a.cmp(&b)));
    let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in order {
        match packs
            .iter_mut()
            .find(|(used, _)| used + lengths[i] <= budget)
        {
            Some((used, pack)) => {
                *used += lengths[i];
                pack.push(i);
            }
            None => packs.push((lengths[i], vec![i])),
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}

proptest! {
    #[test]
    fn plans_equal_the_plain_form(lengths in prop::collection::vec(1usize..120, 0..200), budget in 1usize..150) {
        let plan = pack(&lengths, budget).unwrap();
        prop_assert_eq!(&plan.packs, &plain_ffd(&lengths, budget));
        let packed: usize = plan.packs.iter().map(Vec::len).sum();
        prop_assert_eq!(packed + plan.too_long.len(), lengths.len());
        prop_assert!(plan.too_long.iter().all(|&i| lengths[i] > budget));
        prop_assert!(plan.packs.iter().all(|p| p.iter().map(|&i| lengths[i]).sum::<usize>() <= budget));
        prop_assert!((0.0..=1.0).contains(&plan.utilisation()));
    }
}

#[test]
fn plans_report_their_use() {
    let plan = pack(&[60, 50, 40, 30, 20, 200], 100).unwrap();
    assert_eq!(plan.packs, [vec![0, 2], vec![1, 3, 4]]);
    assert_eq!((plan.too_long, plan.tokens), (vec![5], 200));
    assert_eq!(pack(&[60, 50, 40, 30, 20], 100).unwrap().utilisation(), 1.0);
    assert_eq!(pack(&[], 10).unwrap().utilisation(), 0.0);
    assert!(pack(&[1], 0).is_err());
    assert!(
        pack(&[1, 0], 5)
            .unwrap_err()
            .to_string()
            .contains("number 1")
    );
    // A large plan takes no quadratic time.
    let many: Vec<usize> = (0..200_000).map(|i| 1 + (i * 7919) % 1000).collect();
    assert!(pack(&many, 2048).unwrap().utilisation() > 0.98);
}

fn encoded(ids: &[i64], first_label: usize) -> Encoded {
    let labels = ids
        .iter()
        .enumerate()
        .map(|(i, &id)| if i >= first_label { id } else { IGNORE_INDEX });
    Encoded {
        ids: ids.to_vec(),
        labels: labels.collect(),
        turns: Vec::new(),
    }
}

#[test]
fn streams_restart_positions_per_sample() {
    let a = encoded(&[1, IMAGE_TOKEN_INDEX, 5, 6], 2);
    let b = encoded(&[7, 8], 0);
    let batch = PackedBatch::new(&[&a, &b], 3).unwrap();
    assert_eq!(batch.ids, [1, -200, -200, -200, 5, 6, 7, 8]);
    // The first token of a sample is predicted by nothing of that sample.
    assert_eq!(batch.labels, [-100, -100, -100, -100, 5, 6, -100, 8]);
    assert_eq!(batch.position_ids, [0, 1, 2, 3, 4, 5, 0, 1]);
    assert_eq!(batch.cu_seqlens, [0, 6, 8]);
    let slot = batch.images[0];
    assert_eq!(
        (batch.images.len(), slot.sample, slot.start, slot.len),
        (1, 0, 1, 3)
    );
    assert_eq!((batch.len(), batch.supervised()), (8, 3));
}

#[test]
fn rows_are_padded_on_the_right() {
    let a = encoded(&[7, 8], 1);
    let b = encoded(&[1, IMAGE_TOKEN_INDEX, 5], 2);
    let batch = PaddedBatch::new(&[&a, &b], 2, 9).unwrap();
    assert_eq!((batch.rows(), batch.row_len), (2, 4));
    assert_eq!(batch.ids, [7, 8, 9, 9, 1, -200, -200, 5]);
    assert_eq!(batch.labels, [-100, 8, -100, -100, -100, -100, -100, 5]);
    assert_eq!(
        batch.attention_mask,
        [true, true, false, false, true, true, true, true]
    );
    assert_eq!(batch.position_ids, [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(batch.lengths, [2, 4]);
    let slot = batch.images[0];
    assert_eq!((slot.sample, slot.start, slot.len), (1, 1, 2));
}

#[test]
fn senseless_batches_are_errors() {
    let image = encoded(&[IMAGE_TOKEN_INDEX, 1], 1);
    assert!(PackedBatch::new(&[], 1).is_err());
    assert!(PackedBatch::new(&[&image], 0).is_err());
    assert!(PackedBatch::new(&[&encoded(&[], 0)], 1).is_err());
    assert!(PackedBatch::new(&[&image], usize::MAX / 2).is_err());
    let mut crooked = image;
    crooked.labels.pop();
    assert!(PaddedBatch::new(&[&crooked], 1, 0).is_err());
}

#[test]
fn windows_take_every_sample_once_and_keep_the_budget() {
    let lengths: Vec<u32> = (0..100_000u32).map(|i| (i * 7919) % 700).collect();
    let members: Vec<u32> = (0..100_000).collect();
    let packs = pack_in_windows(&members, &lengths, 2048, 7).unwrap();
    let mut seen = vec![0; lengths.len()];
    for number in 0..packs.len() {
        let pack = packs.get(number);
        assert!(!pack.is_empty());
        assert!(pack.iter().map(|&i| lengths[i as usize]).sum::<u32>() <= 2048);
        pack.iter().for_each(|&i| seen[i as usize] += 1);
    }
    for (i, count) in seen.into_iter().enumerate() {
        assert_eq!(count, usize::from(lengths[i] > 0), "sample {i}");
    }
    assert!(packs.utilisation() > 0.99, "{}", packs.utilisation());
    assert_eq!(packs, pack_in_windows(&members, &lengths, 2048, 7).unwrap());
    assert_ne!(packs, pack_in_windows(&members, &lengths, 2048, 8).unwrap());
    assert!(packs.get(packs.len()).is_empty());
    // A member may come twice; one that is too long is named.
    let packs = pack_in_windows(&[1, 1, 0], &[30, 9], 20, 0).unwrap();
    assert_eq!(
        (packs.len(), packs.get(0), &*packs.too_long),
        (1, &[1u32, 1][..], &[0usize][..])
    );
    assert!(pack_in_windows(&[5], &[1], 20, 0).is_err());
    assert!(pack_in_windows(&[0], &[1], 0, 0).is_err());
}

/// Tokens of real conversations, as training has them: phi-3's tokenizer and template, 576 positions an
/// image.
fn real_lengths(shared: &std::path::Path) -> Vec<(&'static str, Vec<u32>)> {
    use llavar_data::import::{Form, sroie::import};
    use llavar_data::{MaskMode, Sample, Template, TemplateName, Tokenizer};
    let tokenizer = Tokenizer::from_folder(&shared.join("tokenizers/phi3.5")).unwrap();
    let template = Template::new(TemplateName::Phi3Instruct);
    let length = |sample: &Sample| {
        let encoded = template.encode_sample(&tokenizer, sample, MaskMode::Exact);
        encoded.unwrap().expanded_len(576) as u32
    };
    let root = shared.join("data/SROIE2019");
    let of = |split, form| -> Vec<u32> {
        let imported = import(&root, split, form, 0).unwrap();
        imported.samples.iter().map(length).collect()
    };
    // One question about one picture; and the same without picture.
    let (mut single, mut text) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(shared.join("data/protocol")).unwrap() {
        let file = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in file.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let (question, answer) = (row["question"].as_str(), row["answers"][0].as_str());
            let (Some(question), Some(answer)) = (question, answer) else {
                continue;
            };
            for (tag, lengths) in [("<image>\n", &mut single), ("", &mut text)] {
                let mut record = serde_json::json!({"id": 1, "conversations": [
                    {"from": "human", "value": format!("{tag}{question}")},
                    {"from": "gpt", "value": answer}]});
                if !tag.is_empty() {
                    record["image"] = "x.jpg".into();
                }
                if let Ok(sample) = Sample::from_json(record) {
                    lengths.push(length(&sample));
                }
            }
        }
    }
    let (duos, short) = (of("test", Form::Duo), of("train", Form::Short));
    let mixed = [&duos[..], &short, &single, &text].concat();
    vec![
        ("receipts, short answers", short),
        ("receipts, duos", duos),
        ("one question a picture", single),
        ("text alone", text),
        ("all mixed", mixed),
    ]
}

#[test]
fn packs_of_real_lengths_are_full() {
    let Some(shared) = common::shared("packs_of_real_lengths_are_full") else {
        return;
    };
    for (name, lengths) in real_lengths(&shared) {
        let members: Vec<u32> = (0..lengths.len() as u32).collect();
        let mean = lengths.iter().sum::<u32>() as f64 / lengths.len() as f64;
        let used = [4096, 8192, 16384].map(|budget| {
            let packs = pack_in_windows(&members, &lengths, budget, 1).unwrap();
            assert!(packs.too_long.is_empty());
            packs.utilisation()
        });
        eprintln!(
            "{name}: {} samples of {mean:.0} tokens; filled {:.2} / {:.2} / {:.2} % of 4096 / 8192 / 16384",
            lengths.len(),
            100.0 * used[0],
            100.0 * used[1],
            100.0 * used[2]
        );
        if name == "all mixed" {
            // Six pictures of 576 tokens leave a rest of 4096 that few samples fit.
            assert!(
                used[0] >= 0.95 && used[1] >= 0.98 && used[2] >= 0.98,
                "{used:?}"
            );
            // As a set of real size of these lengths.
            let many: Vec<u32> = lengths.iter().copied().cycle().take(100_000).collect();
            let members: Vec<u32> = (0..100_000).collect();
            let start = std::time::Instant::now();
            let packs = pack_in_windows(&members, &many, 8192, 1).unwrap();
            eprintln!(
                "100000 samples of these lengths: {:.2} % of 8192 in {:.2} s",
                100.0 * packs.utilisation(),
                start.elapsed().as_secs_f64()
            );
            assert!(packs.utilisation() >= 0.98, "{}", packs.utilisation());
        }
    }
}
