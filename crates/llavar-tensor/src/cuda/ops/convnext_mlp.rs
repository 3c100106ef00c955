//! What follows the convolution of a ConvNeXt block in one kernel, where there is one.

use std::sync::Arc;

use super::linear_layer_scale::scale;
use crate::{
    Param, Result, Tape, Tensor, Var,
    cuda::{
        ConvNextRows, Cuda,
        trust::{self, Noise, near},
    },
    ops::{Activation, ConvNextMlp},
};

/// As [`crate::Tape::convnext_mlp`], with checked shapes.
pub(crate) fn convnext_mlp(
    cuda: &Arc<Cuda>,
    rows: [&Tensor; 2],
    mlp: &ConvNextMlp<'_>,
) -> Result<Option<Tensor>> {
    let [norm, first, second] = mlp.layers.map(|layer| layer.map(Param::value));
    let all = |second| ConvNextRows {
        rows,
        layers: [norm.each_ref(), first.each_ref(), second],
        eps: mlp.eps,
    };
    if !cuda.takes_convnext_mlp(&all(second.each_ref()))? || !trusted(cuda)? {
        return Ok(None);
    }
    let [weight, bias] = mlp.layers[2];
    let scaled = scale(cuda, weight, bias, mlp.gamma, first[1].numel())?;
    cuda.convnext_mlp(&all(scaled.each_ref())).map(Some)
}

/// Whether the kernel agrees with its parts here: four tiles of 128 rows and some, two chunks of the hidden layer.
fn trusted(cuda: &Arc<Cuda>) -> Result<bool> {
    const ROWS: usize = 600;
    const WIDTH: usize = 192;
    trust::trusted(cuda, ("ConvNeXt's MLP", WIDTH), || {
        let mut noise = Noise::default();
        let mut random = |shape: &[usize]| noise.tensor(cuda, shape);
        let (x, v) = (random(&[ROWS, WIDTH])?, random(&[ROWS, WIDTH])?);
        let norm = [random(&[WIDTH])?, random(&[WIDTH])?];
        let first = [random(&[WIDTH, WIDTH])?, random(&[WIDTH])?];
        let second = [random(&[WIDTH, WIDTH])?, random(&[WIDTH])?];
        let ours = cuda.convnext_mlp(&ConvNextRows {
            rows: [&x, &v],
            layers: [norm.each_ref(), first.each_ref(), second.each_ref()],
            eps: 1e-6,
        })?;
        let tape = Tape::inference();
        let param = |tensor: Tensor| Param::new("", tensor);
        let [[norm, norm_bias], [w1, b1], [w2, b2]] =
            [norm, first, second].map(|layer| layer.map(param));
        let h = tape.layer_norm(&Var::constant(v), &norm, &norm_bias, 1e-6)?;
        let h = tape.linear_activation(&h, &w1, Some(&b1), Activation::Gelu)?;
        let y = tape.linear_residual(&h, &w2, Some(&b2), Some(&Var::constant(x)))?;
        near(&ours, y.value())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType, Device,
        cuda::testing::gpu,
        memory,
        ops::testing::{Rng, close},
    };

    /// Beside its parts on the CPU in f32: whole tiles, the last one not whole, more of them than a card has
    /// multiprocessors, hidden layers of one chunk and of many; twice with the same bits. Other sizes and types have no
    /// kernel.
    #[test]
    #[ignore = "needs a GPU"]
    fn the_kernel_agrees_with_its_parts() {
        memory::set_poison(true);
        let (gpu, mut rng) = (gpu(), Rng::new(560));
        let hopper = gpu.as_cuda().unwrap().info().is_hopper();
        let cases = [
            (512, 192, 768, true),
            (577, 192, 96, true),
            (36_901, 192, 768, true),
            (1000, 192, 2304, true),
            (1000, 192, 100, false),
            (511, 192, 768, false),
            (1000, 96, 384, false),
        ];
        for (rows, width, hidden, fits) in cases {
            let sizes: [&[usize]; 7] = [
                &[width],
                &[width],
                &[hidden, width],
                &[hidden],
                &[width, hidden],
                &[width],
                &[width],
            ];
            let round = |t: Tensor| t.cast(DType::BF16).unwrap();
            let weights = sizes.map(|size| round(rng.tensor(size)));
            let inputs = [(); 2].map(|()| round(rng.tensor(&[rows, width])));
            let run = |device: &Device, dtype: DType| {
                let place = |t: &Tensor| t.cast(dtype).unwrap().to_device(device).unwrap();
                let p = weights.each_ref().map(|t| Param::new("w", place(t)));
                let [x, v] = inputs.each_ref().map(|t| Var::constant(place(t)));
                let mlp = ConvNextMlp {
                    layers: [[&p[0], &p[1]], [&p[2], &p[3]], [&p[4], &p[5]]],
                    gamma: &p[6],
                    eps: 1e-6,
                };
                let tape = Tape::inference();
                if let Some(y) = tape.convnext_mlp(&x, &v, &mlp).unwrap() {
                    return (y.value().to_f32_vec().unwrap(), true);
                }
                let y = tape.layer_norm(&v, &p[0], &p[1], 1e-6).unwrap();
                let y = tape.linear_activation(&y, &p[2], Some(&p[3]), Activation::Gelu);
                let y = tape.linear_layer_scale(&x, &y.unwrap(), &p[4], &p[5], &p[6]);
                (y.unwrap().value().to_f32_vec().unwrap(), false)
            };
            let what = format!("{rows} x {width} with {hidden} inside");
            let (want, on_cpu) = run(&Device::Cpu, DType::F32);
            let (got, in_one) = run(&gpu, DType::BF16);
            assert!(!on_cpu && in_one == (fits && hopper), "{what}");
            assert!(!run(&gpu, DType::F32).1, "{what}");
            // By tiles: one that is wrong is little of the whole.
            for (got, want) in got.chunks(64 * width).zip(want.chunks(64 * width)) {
                close(got, want, 1e-2, &what);
            }
            let again = run(&gpu, DType::BF16).0;
            assert!(
                got.iter()
                    .zip(&again)
                    .all(|(a, b)| a.to_bits() == b.to_bits()),
                "{what}"
            );
        }
    }
}
