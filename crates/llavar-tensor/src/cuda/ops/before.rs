//! `Before`: what stands before an activation, so that the product behind it can give its gradient there at once.

use std::sync::Arc;

use crate::{
    DType, Grads, Param, Result, Tensor, Var,
    cuda::{Cuda, Product, TILE},
    ops::Activation,
};

/// What a value is the activation of.
#[derive(Debug)]
pub(crate) enum Before {
    /// `f(x)`; `bias` was added to make `x` and gets its gradient together with it.
    Activation {
        x: Var,
        kind: Activation,
        bias: Option<Param>,
    },
    /// SwiGLU of gate and up, side by side in one value or in two.
    Swiglu(Vec<Var>),
}

impl Before {
    /// Adds the gradient that a linear layer of weight `w [k, ..]` behind the activation has from `dy [.., k]`:
    /// `(dy W) f'(x)`. Whether there is a kernel for it; nothing is done where there is none.
    pub(super) fn add_gradient(
        &self,
        cuda: &Arc<Cuda>,
        dy: &Tensor,
        w: &Tensor,
        grads: &mut Grads,
    ) -> Result<bool> {
        let (m, k) = (dy.rows(), dy.last_dim());
        // A convolution's weight may have axes behind these.
        let n = w.numel() / k.max(1);
        let product = Product {
            a: dy,
            layers: &[(w, None)],
            sizes: [m, n, k],
        };
        let (inputs, width) = match self {
            Self::Activation { x, .. } => (std::slice::from_ref(x), n),
            Self::Swiglu(sides) => (sides.as_slice(), 2 * n),
        };
        let inputs = inputs.iter().map(Var::value);
        let mut fits = inputs.clone().map(Tensor::last_dim).sum::<usize>() == width
            && cuda.takes_product(&product)?;
        for x in inputs {
            fits &= x.dtype() == DType::BF16 && x.cuda_address()?.is_multiple_of(16);
        }
        if !fits {
            return Ok(false);
        }
        let empty = |x: &Var| cuda.empty(x.shape(), DType::BF16);
        match self {
            Self::Activation { x, kind, bias } => {
                let mut dx = empty(x)?;
                match bias.as_ref().filter(|bias| bias.requires_grad()) {
                    None => cuda.product_slope(&product, *kind, x.value(), &mut dx, None)?,
                    Some(bias) => {
                        let parts = m.div_ceil(TILE);
                        let mut sums = cuda.empty(&[parts, n], DType::F32)?;
                        cuda.product_slope(&product, *kind, x.value(), &mut dx, Some(&mut sums))?;
                        grads.add_parts(bias, sums, parts)?;
                    }
                }
                grads.add(x, dx)?;
            }
            Self::Swiglu(sides) => {
                let dx = sides.iter().map(empty).collect::<Result<Vec<_>>>()?;
                let values: Vec<&Tensor> = sides.iter().map(Var::value).collect();
                cuda.product_swiglu_slope(&product, &values, &dx)?;
                for (x, dx) in sides.iter().zip(dx) {
                    grads.add(x, dx)?;
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        DType, Device, Param, Tape, Tensor, Var,
        cuda::testing::{compare, gpu, product_sizes},
        ops::{
            Activation, GateUp,
            testing::{Rng, close},
        },
    };

    /// As [`product_sizes`], with more tiles than a card has multiprocessors too.
    fn sizes(rng: &mut Rng) -> Vec<[usize; 3]> {
        let mut sizes = product_sizes(rng);
        sizes.push([9000, 1024, 64]);
        sizes
    }

    /// `[n, k]`, so that products of values near one are near one.
    fn weight(rng: &mut Rng, [n, k]: [usize; 2]) -> Tensor {
        let scale = 1.0 / (k.max(1) as f32).sqrt();
        let values = rng.vec(n * k).iter().map(|x| x * scale).collect();
        Tensor::from_vec(values, &[n, k]).unwrap()
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gradients_before_activations_agree_with_the_cpu() {
        let mut rng = Rng::new(560);
        for [rows, n, k] in sizes(&mut rng) {
            let x = [rng.tensor(&[rows, k])];
            let params = [
                weight(&mut rng, [n, k]),
                rng.tensor(&[n]),
                weight(&mut rng, [k, n]),
                rng.tensor(&[k]),
            ];
            for kind in [Activation::Gelu, Activation::QuickGelu] {
                let what = format!("{kind:?} between products {rows} x {n} x {k}");
                compare(&what, &x, &params, |tape, x, p| {
                    let y = tape.linear_activation(&x[0], &p[0], Some(&p[1]), kind)?;
                    Ok(vec![tape.linear_residual(
                        &y,
                        &p[2],
                        Some(&p[3]),
                        Some(&x[0]),
                    )?])
                });
                // Two products of one activation, of which nobody knows a bias, and the activation itself.
                let params = [params[2].clone(), params[2].clone()];
                let what = format!("{kind:?} in front of products {rows} x {n} x {k}");
                compare(&what, &[rng.tensor(&[rows, n])], &params, |tape, x, p| {
                    let y = tape.activation(&x[0], kind)?;
                    let (a, b) = (tape.linear(&y, &p[0], None)?, tape.linear(&y, &p[1], None)?);
                    Ok(vec![a, b, y])
                });
            }
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gradients_under_a_layer_scale_and_before_swiglu_agree_with_the_cpu() {
        let mut rng = Rng::new(561);
        for [rows, n, k] in sizes(&mut rng) {
            let x = [rng.tensor(&[rows, k])];
            let params = [
                weight(&mut rng, [n, k]),
                rng.tensor(&[n]),
                weight(&mut rng, [k, n]),
                rng.tensor(&[k]),
                rng.tensor(&[k]),
            ];
            let what = format!("a layer scale behind a GELU {rows} x {n} x {k}");
            compare(&what, &x, &params, |tape, x, p| {
                let y = tape.linear_activation(&x[0], &p[0], Some(&p[1]), Activation::Gelu)?;
                Ok(vec![
                    tape.linear_layer_scale(&x[0], &y, &p[2], &p[3], &p[4])?,
                ])
            });
            let params = [
                weight(&mut rng, [n, k]),
                weight(&mut rng, [n, k]),
                weight(&mut rng, [k, n]),
            ];
            let what = format!("a product behind SwiGLU {rows} x {n} x {k}");
            compare(&what, &x, &params, |tape, x, p| {
                let (gate, up) = (&p[0], &p[1]);
                let y = tape.linear_swiglu(&x[0], GateUp::Split { gate, up })?;
                Ok(vec![tape.linear(&y, &p[2], None)?])
            });
            let params = [weight(&mut rng, [2 * n, k]), weight(&mut rng, [k, n])];
            let what = format!("a product behind SwiGLU of both in one {rows} x {n} x {k}");
            compare(&what, &x, &params, |tape, x, p| {
                let y = tape.linear_swiglu(&x[0], GateUp::Fused(&p[0]))?;
                Ok(vec![tape.linear(&y, &p[1], None)?])
            });
        }
    }

    /// Frozen weights, biases and inputs; gradients that add to those of a pass before.
    #[test]
    #[ignore = "needs a GPU"]
    fn only_what_is_wanted_is_made() {
        let (device, mut rng) = (gpu(), Rng::new(562));
        let (rows, n, k) = (700, 64, 40);
        let (x, seed) = (rng.tensor(&[rows, k]), rng.tensor(&[rows, k]));
        let values = [
            weight(&mut rng, [n, k]),
            rng.tensor(&[n]),
            weight(&mut rng, [k, n]).reshape(&[k, n, 1, 1]).unwrap(),
        ];
        let round = |t: &Tensor| t.cast(DType::BF16).unwrap();
        for wanted in 1u32..16 {
            let wants = |bit: u32| wanted >> bit & 1 == 1;
            let run = |device: &Device, dtype: DType| -> Vec<Option<Vec<f32>>> {
                let place = |t: &Tensor| round(t).cast(dtype).unwrap().to_device(device).unwrap();
                let params: Vec<Param> =
                    values.iter().map(|v| Param::new("p", v.clone())).collect();
                for (bit, param) in (0..).zip(&params) {
                    param.to_device(device, dtype, DType::F32).unwrap();
                    param.set_requires_grad(wants(bit));
                }
                let mut dx = None;
                for _ in 0..2 {
                    let tape = Tape::training();
                    let x = match wants(3) {
                        true => tape.leaf(place(&x)),
                        false => Var::constant(place(&x)),
                    };
                    let [w, b, v] = &params[..] else {
                        unreachable!()
                    };
                    let y = tape
                        .linear_activation(&x, w, Some(b), Activation::Gelu)
                        .unwrap();
                    let z = tape.linear(&y, v, None).unwrap();
                    let seeds = vec![(z, place(&seed))];
                    dx = tape.backward_from(seeds, &[&x]).unwrap().swap_remove(0);
                }
                let grads = params.iter().map(Param::grad).chain([dx]);
                grads.map(|g| g.map(|g| g.to_f32_vec().unwrap())).collect()
            };
            let (got, want) = (run(&device, DType::BF16), run(&Device::Cpu, DType::F32));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!(got.is_some(), want.is_some(), "{wanted:b} {i}");
                if let (Some(got), Some(want)) = (got, want) {
                    close(got, want, 1e-2, &format!("{wanted:b} {i}"));
                }
            }
        }
    }
}
