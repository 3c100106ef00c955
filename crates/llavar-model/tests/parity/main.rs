//! Parity with the reference: every folder of reference values is walked, none is named here.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::{ops::ControlFlow, path::Path};

use fixture::{Batch, Reference, Report, distance, folders_with, shared};
use llavar_model::{
    LlavaModel,
    config::LlmFamily,
    generation::{GenerationOptions, generate},
};
use llavar_tensor::{
    Device, Param, Segments, Tape, Tensor,
    optim::{AdamW, Moments, Precision, StepState},
};
use serde_json::Value;

/// Where and how near.
struct Case {
    device: Device,
    stage: f64,
    loss: f64,
    gradient: f64,
    step: f64,
}

/// On the CPU, which is what the tolerances were set for.
fn on_cpu() -> Case {
    Case {
        device: Device::Cpu,
        stage: 1e-4,
        loss: 1e-5,
        gradient: 1e-3,
        step: 1e-4,
    }
}

/// On a GPU in f32, whose products add up in another order.
fn on_gpu() -> Case {
    Case {
        device: Device::cuda(0).unwrap(),
        stage: 1e-3,
        loss: 1e-3,
        gradient: 1e-3,
        step: 1e-3,
    }
}

/// Gradients below this part of the whole gradient are rounding noise in the reference too: those of
/// CLIP's key biases are zero in exact arithmetic, because they add the same to all scores of a query.
const NOISE: f64 = 1e-5;

#[test]
fn stages_logits_loss_gradients_training_and_answers_agree_with_the_reference() {
    let test = "stages_logits_loss_gradients_training_and_answers_agree_with_the_reference";
    if let Some(root) = shared(test) {
        agree_with_the_reference(&root, &on_cpu());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_stages_logits_loss_gradients_training_and_answers_agree_with_the_reference() {
    let root = shared("cuda_stages").expect("LLAVAR_SHARED not found");
    agree_with_the_reference(&root, &on_gpu());
}

fn agree_with_the_reference(root: &Path, case: &Case) {
    let folders = folders_with(root, "io.safetensors");
    assert!(!folders.is_empty(), "no folder has io.safetensors");
    for folder in folders {
        println!("{}", folder.display());
        let mut report = Report::default();
        let model = LlavaModel::load(&folder).unwrap();
        model.to_device(&case.device, Precision::F32).unwrap();
        let io = Reference::open(&folder.join("io.safetensors"));
        let train: Value =
            serde_json::from_slice(&std::fs::read(folder.join("train.json")).unwrap()).unwrap();
        let batch = Batch::read(&folder, &model, &io);
        let sum: f64 = batch
            .both_pixels
            .data::<f32>()
            .unwrap()
            .iter()
            .map(|x| f64::from(*x))
            .sum();
        report.check(
            "pixels",
            "sum",
            (sum / f64::from(io.floats("pixel_checksum")[0]) - 1.0).abs(),
            1e-6,
        );

        forward(&model, &batch, &io, case, &mut report);
        answers(&model, &batch, &io);
        let trained = train["stage"] == "pretrain";
        for param in model.params() {
            let in_stage_1 = ["mm_projector", "align_stages"]
                .iter()
                .any(|p| param.name().contains(p));
            param.set_requires_grad(!trained || in_stage_1);
        }
        gradients(&model, &batch, &folder, &train, case, &mut report);
        training(&model, &batch, &train, case, &mut report);
        report.print(&folder);
    }
}

/// Stages of the tower, logits and loss in both layouts.
fn forward(model: &LlavaModel, batch: &Batch, io: &Reference, case: &Case, report: &mut Report) {
    let tape = Tape::inference();
    let names = io.names();
    let n = model.tokens_per_image().unwrap();
    let mut seen = 0;
    let both = model
        .encode_images_observed(&tape, &batch.both_pixels, false, &mut |name, value| {
            if names.iter().any(|n| n == name) {
                let (shape, want) = (io.shape(name), io.floats(name));
                let own_tokens = value.value().rows() / shape[0];
                let (shape, want) = if name == "fast.embeddings" && own_tokens == n {
                    without_class_token(&shape, &want)
                } else {
                    (shape, want)
                };
                let got = like_reference(value.value(), &shape, name.starts_with("slow."));
                report.check("stage", name, distance(&got, &want), case.stage);
                seen += 1;
            }
        })
        .unwrap();
    let stages = names.iter().filter(|n| {
        ["slow.", "fast.", "align_", "vision_tower", "projector"]
            .iter()
            .any(|p| n.starts_with(p))
    });
    assert_eq!(seen, stages.count(), "every stage of the reference is seen");

    let want_loss = f64::from(io.floats("loss")[0]);
    let (tail, sums) = (io.floats("logits_tail"), io.floats("logits_row_sum"));
    let (tail_rows, vocab) = (io.shape("logits_tail")[1], io.shape("logits_tail")[2]);
    let features = batch.pixels.as_ref().map(|pixels| {
        // Most batches show the picture and its mirror, whose features are there already.
        if batch.shows_both {
            both
        } else {
            model.encode_images(&tape, pixels, false).unwrap()
        }
    });
    for padded in [true, false] {
        let layout = if padded { "padded" } else { "packed" };
        let (ids, labels, segments) = batch.layout(padded);
        let hidden = model
            .hidden(&tape, &ids, &segments, features.as_ref(), false)
            .unwrap();
        let logits = model.logits(&tape, &hidden).unwrap();
        let logits = logits.value().to_f32_vec().unwrap();
        for (row, range) in segments.ranges().enumerate() {
            let valid = batch.ids[row].len();
            let row_logits = &logits[range.start * vocab..(range.start + valid) * vocab];
            // What padding positions compute is nobody's concern.
            let first = (batch.padded - tail_rows).min(valid);
            let at = row * tail_rows * vocab;
            let want = &tail[at..at + (valid - first) * vocab];
            let what = format!("{layout} row {row}");
            report.check(
                "logits",
                &what,
                distance(&row_logits[first * vocab..], want),
                case.stage,
            );
            let got: Vec<f32> = row_logits
                .chunks_exact(vocab)
                .map(|z| z.iter().map(|z| f64::from(*z)).sum::<f64>() as f32)
                .collect();
            let want = &sums[row * batch.padded..row * batch.padded + valid];
            report.check(
                "logits",
                &format!("{what} sums"),
                distance(&got, want),
                case.stage,
            );
        }
        let loss = model
            .language_model
            .loss(&tape, &hidden, &labels, &segments)
            .unwrap();
        let mean = f64::from(loss.sum.value().item().unwrap()) / loss.count as f64;
        report.check("loss", layout, (mean / want_loss - 1.0).abs(), case.loss);
    }
}

/// The reference drops the class token after the embeddings, the two-path tower before.
fn without_class_token(shape: &[usize], want: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let (tokens, c) = (shape[1], shape[2]);
    let rows = want
        .chunks_exact(tokens * c)
        .flat_map(|image| image[c..].to_vec())
        .collect();
    (vec![shape[0], tokens - 1, c], rows)
}

/// The part of a stage's output that the reference keeps: maps as `[B, C, H, W]`, possibly cut.
fn like_reference(value: &Tensor, shape: &[usize], is_map: bool) -> Vec<f32> {
    let data = value.to_f32_vec().unwrap();
    let own = value.shape();
    let mut out = Vec::new();
    if is_map {
        let &[batch, channels, height, width] = shape else {
            panic!("a map has four axes: {shape:?}")
        };
        for b in 0..batch {
            for c in 0..channels {
                for y in 0..height {
                    for x in 0..width {
                        out.push(data[((b * own[1] + y) * own[2] + x) * own[3] + c]);
                    }
                }
            }
        }
    } else {
        let (batch, tokens, c) = (shape[0], shape[1], shape[2]);
        let own_tokens = data.len() / c / batch;
        for b in 0..batch {
            out.extend_from_slice(&data[b * own_tokens * c..(b * own_tokens + tokens) * c]);
        }
    }
    out
}

/// Greedy ids after the first row's prompt, what stands before its first supervised token.
fn answers(model: &LlavaModel, batch: &Batch, io: &Reference) {
    let want: Vec<u32> = io
        .table("greedy")
        .concat()
        .iter()
        .map(|id| *id as u32)
        .collect();
    let tape = Tape::inference();
    let end = batch.labels[0]
        .iter()
        .position(|label| *label >= 0)
        .unwrap();
    let prompt = &batch.ids[0][..end];
    let images = prompt.iter().filter(|id| **id < 0).count() / model.tokens_per_image().unwrap();
    let features = (images > 0).then(|| {
        let pixels = batch.both_pixels.narrow(0, 1).unwrap();
        model
            .encode_images(&tape, &pixels, false)
            .unwrap()
            .value()
            .clone()
    });
    let options = GenerationOptions {
        max_new_tokens: want.len(),
        ..Default::default()
    };
    let mut streamed = Vec::new();
    let answer = generate(model, prompt, features.as_ref(), &options, |id| {
        streamed.push(id);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(answer.ids, want, "greedy ids");
    assert_eq!(streamed, want, "streamed ids");
}

/// Every gradient in both layouts, with recomputation in one of them.
fn gradients(
    model: &LlavaModel,
    batch: &Batch,
    folder: &Path,
    train: &Value,
    case: &Case,
    report: &mut Report,
) {
    let reference = Reference::open(&folder.join("grads.safetensors"));
    let names = reference.names();
    let squares = |name: &String| {
        reference
            .floats(name)
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
    };
    let overall = names.iter().map(squares).sum::<f64>().sqrt();
    for padded in [true, false] {
        backward(model, batch, padded, !padded);
        let params = model.params();
        for param in &params {
            match (param.grad(), names.iter().any(|n| n == param.name())) {
                (Some(grad), true) => {
                    let what = format!(
                        "{} {}",
                        param.name(),
                        if padded { "padded" } else { "packed" }
                    );
                    let want = reference.floats(param.name());
                    let mut deviation = distance(&grad.to_f32_vec().unwrap(), &want);
                    if deviation > case.gradient {
                        let norm = |x: &[f32]| distance(x, &vec![0.0; x.len()]);
                        let ratio = norm(&want) / overall;
                        deviation *= (ratio / NOISE).min(1.0);
                    }
                    report.check("gradient", &what, deviation, case.gradient);
                }
                (None, false) => {}
                (got, _) => panic!(
                    "{} has {} gradient",
                    param.name(),
                    if got.is_some() { "a" } else { "no" }
                ),
            }
            param.zero_grad();
        }
        let missing: Vec<&String> = names
            .iter()
            .filter(|n| !params.iter().any(|p| p.name() == n.as_str()))
            .collect();
        assert!(
            missing.is_empty(),
            "gradients of unknown parameters: {missing:?}"
        );
    }
    // Parameters without gradient are those that the reference names, and no others.
    let without = train["without_gradient"].as_array().unwrap();
    for name in train["final_l2"].as_object().unwrap().keys() {
        let named = without.iter().any(|n| n == name.as_str());
        assert_eq!(!names.contains(name), named, "{name}");
    }
}

/// One backward pass of the mean loss; gives it.
fn backward(model: &LlavaModel, batch: &Batch, padded: bool, checkpoint: bool) -> f64 {
    let (ids, labels, segments) = batch.layout(padded);
    let tape = Tape::training();
    let loss = model
        .loss(
            &tape,
            &ids,
            &labels,
            &segments,
            batch.pixels.as_ref(),
            checkpoint,
        )
        .unwrap();
    let mean = f64::from(loss.sum.value().item().unwrap()) / loss.count as f64;
    tape.backward(&loss.sum, 1.0 / loss.count as f32).unwrap();
    mean
}

/// The training steps of `train.json`, in the packed layout with recomputation.
fn training(model: &LlavaModel, batch: &Batch, train: &Value, case: &Case, report: &mut Report) {
    let params: Vec<Param> = model
        .params()
        .into_iter()
        .filter(Param::requires_grad)
        .collect();
    let adamw = AdamW::default();
    let mut state = StepState::new(&case.device, 0, &adamw).unwrap();
    let mut moments: Vec<Moments> = params
        .iter()
        .map(|p| Moments::new(p, Precision::F32).unwrap())
        .collect();
    let number = |value: &Value| value.as_f64().unwrap();
    let decay = number(&train["weight_decay"]) as f32;
    for (n, step) in train["steps"].as_array().unwrap().iter().enumerate() {
        let loss = backward(model, batch, false, true);
        let what = format!("step {n}");
        report.check(
            "step loss",
            &what,
            (loss / number(&step["loss"]) - 1.0).abs(),
            case.step,
        );
        state.begin(&params, 1.0).unwrap();
        let norm = f64::from(state.read_back().unwrap().wait().unwrap().norm);
        report.check(
            "step norm",
            &what,
            (norm / number(&step["grad_norm"]) - 1.0).abs(),
            case.gradient,
        );
        let mut updates = adamw.updates(&state).unwrap();
        for (param, moments) in params.iter().zip(&mut moments) {
            let lr = number(&step["lr"]) as f32;
            let decay = if decays(param.name(), model.config.llm.family) {
                decay
            } else {
                0.0
            };
            updates.add(param, moments, lr, decay).unwrap();
        }
        updates.finish().unwrap();
        params.iter().for_each(|param| param.zero_grad());
    }
    let (ids, labels, segments) = batch.layout(false);
    let tape = Tape::inference();
    let loss = model
        .loss(
            &tape,
            &ids,
            &labels,
            &segments,
            batch.pixels.as_ref(),
            false,
        )
        .unwrap();
    let mean = f64::from(loss.sum.value().item().unwrap()) / loss.count as f64;
    report.check(
        "step loss",
        "after the last",
        (mean / number(&train["final_loss"]) - 1.0).abs(),
        case.step,
    );
    for param in &params {
        let Some(want) = train["final_l2"].get(param.name()).map(number) else {
            continue;
        };
        let got = param
            .value()
            .to_f32_vec()
            .unwrap()
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let deviation = if want == 0.0 {
            got
        } else {
            (got / want - 1.0).abs()
        };
        report.check("final norm", param.name(), deviation, case.step);
    }
}

/// Whether the reference decays a weight: no bias, and none of the norms that it knows as such, which
/// leaves Phi-3's out.
fn decays(name: &str, family: LlmFamily) -> bool {
    let in_tower = name.contains("vision_tower");
    let convnext_norm = [".stem.1.", ".downsample.0.", ".norm."]
        .iter()
        .any(|part| name.contains(part));
    let is_norm = if in_tower {
        name.contains("layer_norm") || name.contains("layrnorm") || convnext_norm
    } else {
        name.contains("norm") && family == LlmFamily::Llama
    };
    !name.contains("bias") && !is_norm
}

#[test]
fn a_trained_language_model_continues_as_published() {
    if let Some(root) = shared("a_trained_language_model_continues_as_published") {
        continues_as_published(&root, &Device::Cpu);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_a_trained_language_model_continues_as_published() {
    let root = shared("cuda_continues").expect("LLAVAR_SHARED not found");
    continues_as_published(&root, &Device::cuda(0).unwrap());
}

fn continues_as_published(root: &Path, device: &Device) {
    let folders = folders_with(root, "greedy.json");
    assert!(!folders.is_empty(), "no folder has greedy.json");
    for folder in folders {
        let model = LlavaModel::load(&folder).unwrap();
        model.to_device(device, Precision::F32).unwrap();
        let text = std::fs::read(folder.join("greedy.json")).unwrap();
        let greedy: Value = serde_json::from_slice(&text).unwrap();
        let want: Vec<u32> = greedy["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_u64().unwrap() as u32)
            .collect();
        let bos = model.config.llm.bos_token_id.unwrap() as i32;
        let options = GenerationOptions {
            max_new_tokens: want.len(),
            ..Default::default()
        };
        let answer = generate(
            &model,
            &[bos],
            None,
            &options,
            |_| ControlFlow::Continue(()),
        )
        .unwrap();
        assert_eq!(answer.ids, want, "{}", folder.display());

        // The same from one pass over the whole text: the cache changes nothing.
        let ids: Vec<i32> = std::iter::once(bos)
            .chain(want.iter().map(|id| *id as i32))
            .collect();
        let tape = Tape::inference();
        let hidden = model
            .hidden(&tape, &ids, &Segments::single(ids.len()), None, false)
            .unwrap();
        let logits = model.logits(&tape, &hidden).unwrap();
        let vocab = model.config.llm.vocab_size;
        for (t, row) in logits
            .value()
            .to_f32_vec()
            .unwrap()
            .chunks_exact(vocab)
            .enumerate()
        {
            let best = (0..vocab)
                .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                .unwrap();
            if t < want.len() {
                assert_eq!(best as u32, want[t], "{}: position {t}", folder.display());
            }
        }
    }
}
