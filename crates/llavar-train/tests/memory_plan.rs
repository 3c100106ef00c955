//! The plan's count of activations against what a step really holds.
//!
//! Alone in its file, because byte counts are those of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use llavar_model::{Checkpointing, LlavaModel, config::Preset};
use llavar_tensor::{Device, Segments, Tape, Tensor, memory, optim::Precision};
use llavar_train::MemoryPlan;

/// A micro-batch of pictures with some text, `(ids, segments, pixels)`.
fn batch(model: &LlavaModel, images: usize) -> (Vec<i32>, Segments, Tensor) {
    let picture = model.tokens_per_image().unwrap();
    let text = 64;
    let mut ids = Vec::new();
    for sample in 0..images {
        ids.extend(vec![-200; picture]);
        ids.extend((0..text).map(|t| ((sample * 31 + t * 7) % 500) as i32));
    }
    let segments = Segments::from_lengths(vec![picture + text; images]);
    let size = model.image_size().unwrap();
    let shape = [images, size, size, 3];
    let pixels = (0..shape.iter().product()).map(|i: usize| (i % 13) as f32 / 13.0);
    (
        ids,
        segments,
        Tensor::from_vec(pixels.collect(), &shape).unwrap(),
    )
}

/// Largest ratio between plan and measurement over numbers of kept blocks, either way.
fn compare(device: &Device, precision: Precision) -> f64 {
    let config = Preset::Nano.config(None).unwrap();
    let config = config
        .with([("freeze_vision".to_owned(), false.into())])
        .unwrap();
    let model = LlavaModel::init(config, 1).unwrap();
    model.to_device(device, precision).unwrap();
    model
        .params()
        .iter()
        .for_each(|p| p.set_requires_grad(true));
    let (ids, segments, pixels) = batch(&model, 4);
    let labels: Vec<i32> = ids
        .iter()
        .map(|id| if *id < 0 { -100 } else { *id })
        .collect();
    let pixels = pixels.to_device(device).unwrap();
    let measure = |on: bool| match (device.as_cuda(), on) {
        (None, true) => {
            memory::reset_peak();
            memory::stats().in_use
        }
        (None, false) => memory::stats().peak,
        (Some(cuda), true) => {
            cuda.reset_peak();
            cuda.memory().in_use
        }
        (Some(cuda), false) => cuda.memory().peak,
    };
    let mut worst = 1.0f64;
    for keep in [0, model.blocks() / 3, model.blocks()] {
        let mut used = 0;
        // The second pass finds the gradient buffers in place.
        for _ in 0..2 {
            model.params().iter().for_each(|p| p.zero_grad());
            let before = measure(true);
            let tape = Tape::training();
            let checkpointing = Checkpointing::keeping(keep);
            let loss = model
                .loss(
                    &tape,
                    &ids,
                    &labels,
                    &segments,
                    Some(&pixels),
                    checkpointing,
                )
                .unwrap();
            tape.backward(&loss.sum, 1.0).unwrap();
            used = measure(false) - before;
        }
        let planned = MemoryPlan::activations_of(&model, precision, ids.len(), 4, keep);
        let ratio = planned as f64 / used as f64;
        println!(
            "{device} {precision} keep {keep}: planned {:.1} MB, used {:.1} MB, {ratio:.2}",
            planned as f64 / 1e6,
            used as f64 / 1e6
        );
        worst = worst.max(ratio).max(1.0 / ratio);
    }
    worst
}

#[test]
fn the_plan_is_right_within_its_factor() {
    assert!(compare(&Device::Cpu, Precision::F32) < 1.5);
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_the_plan_is_right_within_its_factor() {
    let device = Device::cuda(0).unwrap();
    for precision in [Precision::F32, Precision::MixedBf16] {
        assert!(compare(&device, precision) < 1.5, "{precision}");
    }
}
