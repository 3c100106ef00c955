//! Weights of 4 bits, widened where a product takes them.

use std::sync::Arc;

use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    nf4::{Nf4, Scales},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "nf4",
    code: include_str!("../kernels/nf4.cu"),
};
const PLAIN: Kernel = SOURCE.kernel("nf4_plain");
const DOUBLE: Kernel = SOURCE.kernel("nf4_double");

/// The weight in the activations' type; itself where it is in no fewer bits.
pub(crate) fn widened(cuda: &Arc<Cuda>, weight: &Tensor, dtype: DType) -> Result<Tensor> {
    match weight.nf4() {
        None => Ok(weight.clone()),
        Some((nf4, _)) => decode(cuda, nf4, weight.shape(), dtype),
    }
}

fn decode(cuda: &Arc<Cuda>, nf4: &Nf4, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let mut out = cuda.empty(shape, dtype)?;
    let n = nf4.len();
    let grid = Grid::items(n.div_ceil(8));
    match &nf4.scales {
        Scales::Plain(scales) => cuda.launch(
            &PLAIN,
            dtype,
            grid,
            args![&nf4.codes, scales, &mut out, n as i64],
        )?,
        Scales::Double {
            codes,
            groups,
            map,
            mean,
        } => cuda.launch(
            &DOUBLE,
            dtype,
            grid,
            args![&nf4.codes, codes, groups, map, *mean, &mut out, n as i64],
        )?,
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LoraAdapter, Param, Tape, Var,
        cuda::testing::{TOLERANCE, gpu},
        ops::testing::{Rng, close},
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn nf4_agrees_with_the_cpu() {
        let (device, mut rng) = (gpu(), Rng::new(550));
        let cuda = device.as_cuda().unwrap();
        for shape in [[1, 1], [3, 21], [64, 64], [200, 330], [257, 1024]] {
            for double in [false, true] {
                let coded = rng.tensor(&shape).to_nf4(double).unwrap();
                let want = coded.to_f32_vec().unwrap();
                let there = coded.to_device(&device).unwrap();
                assert_eq!((there.dtype(), there.bytes()), (DType::Nf4, coded.bytes()));
                let wide = widened(cuda, &there, DType::F32).unwrap();
                assert_eq!(wide.to_f32_vec().unwrap(), want, "{shape:?} {double}");
                let short = widened(cuda, &there, DType::BF16).unwrap();
                let want = coded.cast(DType::BF16).unwrap().to_f32_vec().unwrap();
                assert_eq!(short.to_f32_vec().unwrap(), want, "{shape:?} {double}");
                assert_eq!(there.to_f32_vec().unwrap(), coded.to_f32_vec().unwrap());
            }
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn adapters_on_four_bits_agree_with_the_cpu() {
        let (device, mut rng) = (gpu(), Rng::new(551));
        let (rows, n, k, rank) = (70, 96, 128, 8);
        let weight = rng.tensor(&[n, k]).to_nf4(true).unwrap();
        let parts = [
            rng.tensor(&[rank, k]),
            rng.tensor(&[n, rank]),
            rng.tensor(&[n]),
        ];
        let (x, seed) = (rng.tensor(&[rows, k]), rng.tensor(&[rows, n]));
        for (dtype, tolerance) in TOLERANCE {
            let round = |t: &Tensor| t.cast(dtype).unwrap().cast(DType::F32).unwrap();
            let run = |device: &crate::Device, dtype: DType| -> Vec<Vec<f32>> {
                let param = |name: &str, value: &Tensor| {
                    let param = Param::new(name, round(value));
                    param.to_device(device, dtype, DType::F32).unwrap();
                    param.set_requires_grad(true);
                    param
                };
                let frozen = Param::new("w", weight.to_device(device).unwrap());
                let lora = LoraAdapter {
                    a: param("a", &parts[0]),
                    b: param("b", &parts[1]),
                    magnitude: Some(param("m", &parts[2])),
                    scaling: 0.5,
                    dropout: 0.1,
                    key: 3,
                };
                let place = |t: &Tensor| round(t).cast(dtype).unwrap().to_device(device).unwrap();
                let tape = Tape::training().with_dropout(9);
                let leaf: Var = tape.leaf(place(&x));
                let y = tape.lora_linear(&leaf, &frozen, None, None, &lora).unwrap();
                let value = y.value().to_f32_vec().unwrap();
                let dx = tape
                    .backward_from(vec![(y, place(&seed))], &[&leaf])
                    .unwrap();
                let dx = dx[0].as_ref().unwrap().to_f32_vec().unwrap();
                let grads = lora
                    .params()
                    .map(|p| p.grad().unwrap().to_f32_vec().unwrap());
                grads.chain([value, dx]).collect()
            };
            let (want, got) = (run(&crate::Device::Cpu, DType::F32), run(&device, dtype));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                close(got, want, tolerance, &format!("{dtype} value {i}"));
            }
        }
    }
}
