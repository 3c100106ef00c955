//! Orders of an epoch and exact resume.
#![allow(clippy::unwrap_used)]

use llavar_data::sampler::{
    GroupingVariant, SampleOrder, Sampler, SamplerState, epoch_permutation,
    group_by_modality_length,
};
use proptest::prelude::*;

fn grouped(lengths: &[i64], batch: usize, chunks: usize, variant: GroupingVariant) -> Vec<usize> {
    // The identity in place of a random order shows the rule itself.
    group_by_modality_length(lengths, batch, chunks, variant, &mut |n| (0..n).collect()).unwrap()
}

#[test]
fn one_modality_is_grouped_by_length() {
    use GroupingVariant::Llava;
    // Megabatch 4 = 2 chunks of 2: sorted 40 30 20 10 is dealt as (40, 10), (30, 20).
    assert_eq!(grouped(&[10, 20, 30, 40], 2, 2, Llava), [3, 0, 2, 1]);
    // Equal lengths stay in order; the odd last megabatch is dealt in turn.
    assert_eq!(
        grouped(&[5, 5, 5, 5, 7, 9, 8], 2, 2, Llava),
        [0, 2, 1, 3, 5, 4, 6]
    );
    // Text alone keeps its signs: the shortest is the greatest.
    assert_eq!(grouped(&[-1, -2, -3, -4], 4, 1, Llava), [0, 1, 2, 3]);
    // Signed totals: what was given something stays the smallest until it is full.
    assert_eq!(grouped(&[-1, -2, -3, -4], 2, 2, Llava), [0, 1, 2, 3]);
}

#[test]
fn modalities_are_kept_apart() {
    let lengths = [3, -9, 5, -2, 4, 6, -7, 8, -1];
    // Images 0 2 4 5 7 (3 5 4 6 8), text 1 3 6 8 (9 2 7 1); megabatch 2, one chunk.
    // Images: [2 0] [5 4] | [7]; text: [1 3] | [6 8].
    assert_eq!(
        grouped(&lengths, 2, 1, GroupingVariant::Llava),
        [2, 0, 5, 4, 1, 3, 6, 7, 8]
    );
    // LLaVA-HR: the remainder 7 6 8 gives a first megabatch (7, 6); 8 stays at the end.
    assert_eq!(
        grouped(&lengths, 2, 1, GroupingVariant::LlavaHr),
        [7, 6, 2, 0, 5, 4, 1, 3, 8]
    );
    // The third random order shuffles whole megabatches.
    let mut calls = Vec::new();
    let order = group_by_modality_length(&lengths, 2, 1, GroupingVariant::Llava, &mut |n| {
        calls.push(n);
        (0..n).rev().collect()
    })
    .unwrap();
    assert_eq!(calls, [5, 4, 3]);
    // Images reversed: 7 5 | 4 2 | 0; text 8 6 | 3 1 sorted by length: 6 8, then the last 1 3.
    assert_eq!(order, [6, 8, 2, 4, 7, 5, 0, 1, 3]);
}

/// Orders computed by a plain transcription of the published Python code.
#[test]
fn both_variants_equal_the_published_code() {
    let lengths: Vec<i64> = (0..50)
        .map(|i| ((i * 37) % 23 + 1) * if i % 3 == 1 { -1 } else { 1 })
        .collect();
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut permutation = |n: usize| -> Vec<usize> {
        let step = [7, 11, 13, 17, 1]
            .into_iter()
            .find(|&k| n == 0 || gcd(k, n) == 1)
            .unwrap();
        (0..n).map(|i| (i * step + 3) % n).collect()
    };
    let llava =
        group_by_modality_length(&lengths, 2, 3, GroupingVariant::Llava, &mut permutation).unwrap();
    assert_eq!(
        llava,
        [
            6, 38, 27, 48, 45, 17, 36, 5, 8, 15, 26, 47, 41, 20, 9, 2, 12, 30, 18, 0, 21, 29, 39,
            11, 13, 10, 31, 43, 1, 22, 3, 35, 24, 32, 42, 14, 16, 46, 34, 25, 37, 4, 7, 19, 23, 28,
            33, 40, 44, 49,
        ]
    );
    let hr = group_by_modality_length(&lengths, 2, 3, GroupingVariant::LlavaHr, &mut permutation)
        .unwrap();
    assert_eq!(
        hr,
        [
            44, 33, 23, 49, 7, 19, 6, 38, 27, 48, 45, 17, 36, 5, 8, 15, 26, 47, 41, 20, 9, 2, 12,
            30, 18, 0, 21, 29, 39, 11, 13, 10, 31, 43, 1, 22, 3, 35, 24, 32, 42, 14, 16, 46, 34,
            25, 37, 4, 28, 40,
        ]
    );
}

#[test]
fn bad_input_is_an_error() {
    use GroupingVariant::{Llava, LlavaHr};
    let run = |lengths: &[i64], b, w, v, f: &mut dyn FnMut(usize) -> Vec<usize>| {
        group_by_modality_length(lengths, b, w, v, f)
    };
    let mut id = |n: usize| (0..n).collect::<Vec<_>>();
    assert!(
        run(&[1, 0, 2], 1, 1, Llava, &mut id)
            .unwrap_err()
            .to_string()
            .contains("number 1")
    );
    assert!(run(&[1, 2], 0, 1, Llava, &mut id).is_err());
    assert!(run(&[1, 2], usize::MAX, 2, Llava, &mut id).is_err());
    assert!(run(&[1, 2], 1, 1, LlavaHr, &mut id).is_err());
    assert!(run(&[1, 2], 1, 1, Llava, &mut |n| vec![0; n]).is_err());
    assert!(run(&[1, 2], 1, 1, Llava, &mut |_| vec![5]).is_err());
    let state = SamplerState {
        seed: 1,
        epoch: 0,
        position: 9,
    };
    assert!(Sampler::new(SampleOrder::Shuffled, vec![1; 3], state).is_err());
}

#[test]
fn epochs_are_fixed_by_their_seed() {
    let first = epoch_permutation(1000, 7, 0);
    assert_eq!(first, epoch_permutation(1000, 7, 0));
    assert_ne!(first, epoch_permutation(1000, 7, 1));
    assert_ne!(first, epoch_permutation(1000, 8, 0));
    // Kept here: a changed order would break the resume of every run.
    assert_eq!(epoch_permutation(8, 42, 3), [6, 4, 3, 0, 2, 5, 7, 1]);
    let moved = first.iter().enumerate().filter(|(i, v)| i != *v).count();
    assert!(moved > 950);
}

#[test]
fn a_saved_sampler_goes_on_exactly() {
    let lengths: Vec<i64> = (1..38)
        .map(|i| if i % 3 == 0 { -i } else { i * 2 })
        .collect();
    let grouped = SampleOrder::ModalityGrouped {
        batch: 2,
        chunks: 3,
        variant: GroupingVariant::Llava,
    };
    for kind in [SampleOrder::Sequential, SampleOrder::Shuffled, grouped] {
        let start = SamplerState {
            seed: 3,
            epoch: 0,
            position: 0,
        };
        let mut unbroken = Sampler::new(kind.clone(), lengths.clone(), start).unwrap();
        let all: Vec<usize> = (0..40)
            .flat_map(|_| unbroken.next_batch(5).unwrap())
            .collect();
        for epoch in all.chunks_exact(lengths.len()) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..lengths.len()).collect::<Vec<_>>());
        }
        for stop in 0..40 {
            let mut part = Sampler::new(kind.clone(), lengths.clone(), start).unwrap();
            let mut got: Vec<usize> = (0..stop)
                .flat_map(|_| part.next_batch(5).unwrap())
                .collect();
            let saved = serde_json::to_string(&part.state()).unwrap();
            let state = serde_json::from_str(&saved).unwrap();
            let mut resumed = Sampler::new(kind.clone(), lengths.clone(), state).unwrap();
            got.extend((stop..40).flat_map(|_| resumed.next_batch(5).unwrap()));
            assert_eq!(got, all);
        }
    }
}

proptest! {
    #[test]
    fn grouping_is_a_permutation(lengths in prop::collection::vec(prop_oneof![-50i64..0, 1i64..50], 0..80), batch in 1usize..5, chunks in 1usize..5, seed: u64) {
        let mut calls = 0;
        let result = group_by_modality_length(&lengths, batch, chunks, GroupingVariant::Llava, &mut |n| {
            calls += 1;
            epoch_permutation(n, seed, calls)
        });
        let mut order = result.unwrap();
        // Every whole megabatch before the remainder has one modality.
        let image = lengths.iter().filter(|&&l| l > 0).count();
        let text = lengths.len() - image;
        if image > 0 && text > 0 {
            let size = batch * chunks;
            let whole = (image - 1) / size + (text - 1) / size;
            for megabatch in order.chunks(size).take(whole) {
                let first = lengths[megabatch[0]] > 0;
                prop_assert!(megabatch.iter().all(|&i| (lengths[i] > 0) == first));
            }
        }
        order.sort_unstable();
        prop_assert_eq!(order, (0..lengths.len()).collect::<Vec<_>>());
    }
}
