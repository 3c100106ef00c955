//! Test support: an operation on the GPU against the same operation on the CPU in f32.
//!
//! These tests need a GPU and are ignored unless asked for: `cargo test --release -p llavar-tensor -- --ignored cuda`
//! runs them where one is.

use crate::{
    DType, Device, Param, Result, Tape, Tensor, Var, memory,
    ops::testing::{Rng, close},
};

/// Relative L2 distance allowed in f32 and in bf16.
pub(crate) const TOLERANCE: [(DType, f64); 2] = [(DType::F32, 1e-5), (DType::BF16, 1e-2)];

/// The first GPU; panics with what is missing.
pub(crate) fn gpu() -> Device {
    Device::cuda(0).unwrap()
}

/// Rows, columns and inner axis of products for kernels of our own: whole tiles, odd rows, odd columns and inner
/// axis, less than one tile, nothing, and what they do not take.
pub(crate) fn product_sizes(rng: &mut Rng) -> Vec<[usize; 3]> {
    let mut sizes = vec![
        [1024, 512, 256],
        [2500, 384, 192],
        [1001, 200, 72],
        [513, 8, 8],
        [1, 64, 64],
        [0, 8, 8],
        [600, 33, 65],
    ];
    sizes.extend((0..4).map(|_| [rng.size(512, 900), 8 * rng.size(1, 60), 8 * rng.size(1, 60)]));
    sizes
}

/// Compares outputs, input gradients and parameter gradients of `f` on the GPU, in f32 and bf16 and with
/// f32 and bf16 parameter gradients, with the CPU in f32 on the same (rounded) values. Memory is poisoned,
/// so that an element that nobody wrote is NaN and fails. Each GPU pass runs twice and must give the same
/// bits.
pub(crate) fn compare(
    what: &str,
    inputs: &[Tensor],
    params: &[Tensor],
    f: impl Fn(&Tape, &[Var], &[Param]) -> Result<Vec<Var>>,
) {
    let device = gpu();
    memory::set_poison(true);
    for (dtype, tolerance) in TOLERANCE {
        let round = |t: &Tensor| match t.dtype() {
            DType::F32 => t.cast(dtype).unwrap().cast(DType::F32).unwrap(),
            _ => t.clone(),
        };
        let inputs: Vec<Tensor> = inputs.iter().map(round).collect();
        let params: Vec<Tensor> = params.iter().map(round).collect();
        let run = |device: &Device, dtype: DType, grad: DType| -> (Vec<Vec<f32>>, Vec<String>) {
            let place = |t: &Tensor| t.cast(dtype).unwrap().to_device(device).unwrap();
            let params: Vec<Param> = params
                .iter()
                .enumerate()
                .map(|(i, t)| {
                    let param = Param::new(format!("param {i}"), t.clone());
                    param.to_device(device, dtype, grad).unwrap();
                    param.set_requires_grad(true);
                    param
                })
                .collect();
            let tape = Tape::training().with_dropout(3);
            let leaves: Vec<Var> = inputs.iter().map(|t| tape.leaf(place(t))).collect();
            let outputs = f(&tape, &leaves, &params).unwrap();
            let mut rng = Rng::new(7);
            let (mut values, mut names) = (Vec::new(), Vec::new());
            let mut seeds = Vec::new();
            for (i, output) in outputs.into_iter().enumerate() {
                names.push(format!("output {i}"));
                values.push(output.value().to_f32_vec().unwrap());
                let seed = round(&rng.tensor(output.shape()));
                let seed = seed.cast(output.value().dtype()).unwrap();
                if output.requires_grad() {
                    seeds.push((output, seed.to_device(device).unwrap()));
                }
            }
            let wanted: Vec<&Var> = leaves.iter().collect();
            let grads = tape.backward_from(seeds, &wanted).unwrap();
            for (i, grad) in grads.into_iter().enumerate() {
                names.push(format!("gradient of input {i}"));
                values.push(grad.map_or(Vec::new(), |g| g.to_f32_vec().unwrap()));
            }
            for param in &params {
                names.push(format!("gradient of {}", param.name()));
                values.push(param.grad().map_or(Vec::new(), |g| g.to_f32_vec().unwrap()));
            }
            (values, names)
        };
        let (want, names) = run(&Device::Cpu, DType::F32, DType::F32);
        let grads: &[DType] = match dtype {
            DType::BF16 => &[DType::F32, DType::BF16],
            _ => &[DType::F32],
        };
        for grad in grads {
            let (got, _) = run(&device, dtype, *grad);
            let (again, _) = run(&device, dtype, *grad);
            for (((got, again), want), name) in got.iter().zip(&again).zip(&want).zip(&names) {
                let what = format!("{what}, {dtype} with {grad} gradients, {name}");
                assert!(
                    got.iter()
                        .zip(again)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{what}: two runs differ"
                );
                close(got, want, tolerance, &what);
            }
        }
    }
}
