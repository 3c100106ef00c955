//! The eight optimizer steps of the reference, on the models of the parity folders.

use std::io::Write as _;
use std::{
    fs,
    path::{Path, PathBuf},
};

use llavar_image::{Aspect, DecodeLimits, ImageProcessor, RgbImage, decode_file};
use llavar_model::{LlavaModel, config::LlmFamily, expand_image_tokens};
use llavar_tensor::{Device, Segments, Tape, Tensor, mapped::MappedFile, optim::Precision};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{
    optimizer::Optimizer,
    recipe::{Layout, Stage, TrainSection},
    schedule::Schedule,
    stage::select_trainable,
};

fn parity_folders() -> Vec<PathBuf> {
    let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let shared = std::env::var("LLAVAR_SHARED").unwrap_or_else(|_| fallback.into());
    let entries = fs::read_dir(Path::new(&shared).join("parity"));
    let mut folders: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("train.json").is_file() && path.join("io.safetensors").is_file())
        .collect();
    folders.sort();
    folders
}

/// One batch of the fixture: ids and labels with images expanded, and where rows begin.
struct Fixture {
    ids: Vec<i32>,
    labels: Vec<i32>,
    segments: Segments,
    pixels: Tensor,
}

fn integers(tensors: &SafeTensors<'_>, name: &str) -> (Vec<i32>, Vec<usize>) {
    let view = tensors.tensor(name).unwrap();
    let values = view.data().chunks_exact(8);
    let values = values
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32)
        .collect();
    (values, view.shape().to_vec())
}

fn fixture(folder: &Path, model: &LlavaModel, layout: Layout) -> Fixture {
    let file = MappedFile::open(&folder.join("io.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let (ids, shape) = integers(&tensors, "input_ids");
    let (labels, _) = integers(&tensors, "labels");
    let (mask, _) = integers(&tensors, "attention_mask");
    let tokens = model.tokens_per_image().unwrap();
    let (mut all_ids, mut all_labels, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..shape[0] {
        let range = row * shape[1]..(row + 1) * shape[1];
        let keep = match layout {
            Layout::Padded => shape[1],
            Layout::Packed => mask[range.clone()].iter().filter(|m| **m != 0).count(),
        };
        let range = range.start..range.start + keep;
        let before = all_ids.len();
        all_ids.extend(expand_image_tokens(&ids[range.clone()], tokens));
        for (id, label) in ids[range.clone()].iter().zip(&labels[range]) {
            let count = if *id < 0 { tokens } else { 1 };
            all_labels.extend(std::iter::repeat_n(*label, count));
        }
        lengths.push(all_ids.len() - before);
    }
    // The batch is the picture and its mirror image.
    let image = decode_file(&folder.join("image.png"), &DecodeLimits::default()).unwrap();
    let size = model.image_size().unwrap();
    let aspect = match model.config.image_aspect_ratio {
        llavar_model::config::ImageAspectRatio::Pad => Aspect::Pad,
        llavar_model::config::ImageAspectRatio::Fit => Aspect::Fit,
        llavar_model::config::ImageAspectRatio::Square => Aspect::Square,
    };
    let processor = ImageProcessor::new(size, aspect);
    let mut pixels = processor.process(&image).unwrap();
    let mut mirror = RgbImage::filled(image.width, image.height, [0; 3]);
    let width = image.width as usize;
    for (to, from) in mirror
        .data
        .chunks_mut(3 * width)
        .zip(image.data.chunks(3 * width))
    {
        for (to, from) in to.chunks_mut(3).zip(from.chunks(3).rev()) {
            to.copy_from_slice(from);
        }
    }
    pixels.extend(processor.process(&mirror).unwrap());
    Fixture {
        ids: all_ids,
        labels: all_labels,
        segments: Segments::from_lengths(lengths),
        pixels: Tensor::from_vec(pixels, &[2, size, size, 3]).unwrap(),
    }
}

fn near(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / want.abs().max(1e-12);
    assert!(
        error <= tolerance,
        "{what}: got {got}, expected {want}, off by {error:.1e}"
    );
}

/// Relative deviations that are allowed.
#[derive(Clone, Copy)]
struct Tolerances {
    loss: f64,
    /// Of gradient norms and final weights; none is compared where this is absent.
    norms: Option<[f64; 2]>,
}

const ON_CPU: Tolerances = Tolerances {
    loss: 1e-4,
    norms: Some([1e-3, 1e-4]),
};

/// `most` steps; the final values are compared where that is all of them.
fn train(
    folder: &Path,
    layout: Layout,
    most: usize,
    device: &Device,
    precision: Precision,
    tolerances: Tolerances,
) {
    let expected: Value =
        serde_json::from_slice(&fs::read(folder.join("train.json")).unwrap()).unwrap();
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let steps = expected["steps"].as_array().unwrap();
    let model = LlavaModel::load(folder).unwrap();
    let section = TrainSection {
        stage: match expected["stage"].as_str() {
            Some("pretrain") => Stage::Pretrain,
            _ => Stage::Sft,
        },
        learning_rate: expected["lr"].as_f64().unwrap(),
        weight_decay: expected["weight_decay"].as_f64().unwrap(),
        warmup_steps: 1,
        ..TrainSection::default()
    };
    select_trainable(&model.params(), &section).unwrap();
    let phi3 = model.config.llm.family == LlmFamily::Phi3;
    let mut optimizer = Optimizer::new(model.params(), &section, phi3, precision).unwrap();
    optimizer.place_on(device, 0).unwrap();
    model.to_device(device, precision).unwrap();
    let schedule = Schedule::new(&section, steps.len() as u64);
    let batch = fixture(folder, &model, layout);
    let forward = |tape: &Tape| {
        let pixels = Some(&batch.pixels);
        let loss = model.loss(
            tape,
            &batch.ids,
            &batch.labels,
            &batch.segments,
            pixels,
            true,
        );
        let loss = loss.unwrap();
        (loss.sum.value().item().unwrap() / loss.count as f32, loss)
    };
    for (number, want) in steps.iter().enumerate().take(most) {
        let at = format!("{name} {device} {precision} {layout:?} step {number}");
        let tape = Tape::training();
        let (mean, loss) = forward(&tape);
        near(
            &format!("{at} loss"),
            mean.into(),
            want["loss"].as_f64().unwrap(),
            tolerances.loss,
        );
        tape.backward(&loss.sum, 1.0 / loss.count as f32).unwrap();
        let lr = section.learning_rate * schedule.factor(number as u64);
        assert!(
            (lr - want["lr"].as_f64().unwrap()).abs() < 1e-12,
            "{at} rate"
        );
        let factor = schedule.factor(number as u64);
        let result = optimizer.step(factor, None).unwrap().wait().unwrap();
        assert_eq!((result.updates, result.skipped), (number as u64 + 1, false));
        if let Some([gradient, _]) = tolerances.norms {
            let (norm, want) = (result.norm.into(), want["grad_norm"].as_f64().unwrap());
            near(&format!("{at} norm"), norm, want, gradient);
        }
        optimizer.zero_grad();
    }
    if most < steps.len() {
        return;
    }
    let (mean, _) = forward(&Tape::inference());
    let want = expected["final_loss"].as_f64().unwrap();
    near(
        &format!("{name} {layout:?} final loss"),
        mean.into(),
        want,
        tolerances.loss,
    );
    let Some([_, tolerance]) = tolerances.norms else {
        return;
    };
    let mut checked = 0;
    for param in model.params() {
        let Some(want) = expected["final_l2"]
            .get(param.name())
            .and_then(Value::as_f64)
        else {
            continue;
        };
        let values = param.value().to_f32_vec().unwrap();
        let norm = values
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        // A bias on all keys changes no softmax: its gradient is rounding noise, and Adam makes steps of
        // full size of it.
        let noise = param.name().ends_with("k_proj.bias");
        let tolerance = if noise {
            tolerance.max(1e-3)
        } else {
            tolerance
        };
        let ok = (norm - want).abs() <= tolerance * want.max(1e-2);
        assert!(
            ok,
            "{name} {layout:?} `{}`: norm {norm}, expected {want}",
            param.name()
        );
        checked += 1;
    }
    assert!(checked > 5, "{name}: {checked} norms");
}

#[test]
fn eight_steps_of_the_reference_in_both_layouts() {
    let folders = parity_folders();
    if folders.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED eight_steps_of_the_reference_in_both_layouts: LLAVAR_SHARED not found"
        );
        return;
    }
    for folder in folders {
        let start = std::time::Instant::now();
        let on_cpu = |layout, most| {
            train(&folder, layout, most, &Device::Cpu, Precision::F32, ON_CPU);
        };
        on_cpu(Layout::Packed, usize::MAX);
        // Two steps in the other layout: its loss and gradient, and one update by them.
        on_cpu(Layout::Padded, 2);
        eprintln!(
            "{} {:.1} s",
            folder.display(),
            start.elapsed().as_secs_f64()
        );
    }
}

/// Where there is a GPU, which is looked for on purpose.
fn on_the_gpu(precision: Precision, tolerances: Tolerances) {
    let folders = parity_folders();
    assert!(!folders.is_empty(), "LLAVAR_SHARED not found");
    let device = Device::cuda(0).unwrap();
    for folder in folders {
        for layout in [Layout::Packed, Layout::Padded] {
            train(&folder, layout, usize::MAX, &device, precision, tolerances);
        }
        eprintln!("{} {precision}", folder.display());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_eight_steps_of_the_reference_in_f32() {
    on_the_gpu(
        Precision::F32,
        Tolerances {
            loss: 1e-3,
            norms: Some([1e-3, 1e-3]),
        },
    );
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_eight_steps_of_the_reference_in_bf16() {
    let tolerances = Tolerances {
        loss: 0.02,
        norms: None,
    };
    on_the_gpu(Precision::MixedBf16, tolerances);
}
