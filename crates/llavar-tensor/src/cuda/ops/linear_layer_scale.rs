//! Linear layer under a layer scale: the weight is scaled, the rest is one product.

use std::sync::Arc;

use super::{column_sums, fp8::reusable, linear::input_gradient};
use crate::{
    DType, Device, Grads, Param, Result, Tape, Tensor, Var,
    cpu::Layout,
    cuda::{Cuda, Epilogue, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "linear_layer_scale",
    code: include_str!("../kernels/linear_layer_scale.cu"),
};
const SCALE_WEIGHT: Kernel = SOURCE.kernel("scale_weight");
const GRADIENTS_F32: Kernel = SOURCE.kernel("layer_scale_gradients_f32");
const GRADIENTS_BF16: Kernel = SOURCE.kernel("layer_scale_gradients_bf16");

/// As [`Tape::linear_layer_scale`], with checked shapes.
pub(crate) fn linear_layer_scale(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    h: &Var,
    weight: &Param,
    bias: &Param,
    gamma: &Param,
) -> Result<Var> {
    let (c, rows) = (x.value().last_dim(), x.value().rows());
    let k = h.value().last_dim();
    let mut out = cuda.empty(x.shape(), x.value().dtype())?;
    if tape.output_is_read() {
        let [scaled, scaled_bias] = scale(cuda, weight, bias, gamma, k)?;
        let epilogue = Epilogue {
            bias: Some(&scaled_bias),
            residual: Some(x.value()),
        };
        let sizes = [rows, c, k];
        cuda.gemm_epilogue(
            Layout::NT,
            sizes,
            h.value(),
            &scaled,
            &mut out,
            0.0,
            epilogue,
        )?;
    }
    if !tape.needs_grad(&[x, h], &[weight, bias, gamma]) {
        return Ok(Var::constant(out));
    }
    let (cuda, x, h) = (cuda.clone(), x.clone(), h.clone());
    let (weight, bias, gamma) = (weight.clone(), bias.clone(), gamma.clone());
    Ok(tape.record(out, move |dy, grads| {
        if weight.requires_grad() || bias.requires_grad() || gamma.requires_grad() {
            parameter_gradients(&cuda, &dy, &h, [&weight, &bias, &gamma], grads)?;
        }
        if h.requires_grad() {
            let [scaled, _] = scale(&cuda, &weight, &bias, &gamma, k)?;
            input_gradient(&cuda, &dy, &h, &scaled, grads)?;
        }
        grads.add(&x, dy)
    }))
}

/// `gamma W` and `gamma b`, made where one of the three has changed.
pub(super) fn scale(
    cuda: &Arc<Cuda>,
    weight: &Param,
    bias: &Param,
    gamma: &Param,
    k: usize,
) -> Result<[Tensor; 2]> {
    weight.scaled([bias, gamma], |[w, b, g], old| {
        let (c, dtype, device) = (g.numel(), w.dtype(), Device::Cuda(cuda.clone()));
        let mut old = old.into_iter().flatten();
        let mut room = |shape: &[usize]| match reusable(old.next(), &device, shape, dtype) {
            Some(room) => Ok(room),
            None => cuda.empty(shape, dtype),
        };
        let (mut scaled, mut scaled_bias) = (room(&[c, k])?, room(&[c])?);
        // A vector of eight a thread.
        let grid = Grid::new(c, k.div_ceil(8).next_multiple_of(32).clamp(32, 512));
        cuda.launch(
            &SCALE_WEIGHT,
            dtype,
            grid,
            args![w, b, g, &mut scaled, &mut scaled_bias, k as i32],
        )?;
        Ok([scaled, scaled_bias])
    })
}

fn parameter_gradients(
    cuda: &Arc<Cuda>,
    dy: &Tensor,
    h: &Var,
    [weight, bias, gamma]: [&Param; 3],
    grads: &mut Grads,
) -> Result<()> {
    let (w, b, g) = (weight.value(), bias.value(), gamma.value());
    let (c, k, rows) = (g.numel(), h.value().last_dim(), dy.rows());
    let mut sums = cuda.empty(&[c], DType::F32)?;
    column_sums(cuda, dy, c, &mut sums, 0.0)?;
    let mut product = cuda.empty(&[c, k], DType::F32)?;
    cuda.gemm(Layout::TN, [c, k, rows], dy, h.value(), &mut product, 0.0)?;
    let mut d_gamma = cuda.empty(&[c], DType::F32)?;
    let mut d_bias = cuda.empty(&[c], DType::F32)?;
    let mut finish = |dw: Option<&mut Tensor>, beta: f32| {
        let kernel = match dw.as_ref().map(|dw| dw.dtype()) {
            Some(DType::BF16) => &GRADIENTS_BF16,
            _ => &GRADIENTS_F32,
        };
        let arguments = args![
            &product,
            &sums,
            &w,
            &b,
            &g,
            dw,
            beta,
            &mut d_gamma,
            &mut d_bias,
            k as i32
        ];
        cuda.launch(kernel, w.dtype(), Grid::new(c, 256), arguments)
    };
    if weight.requires_grad() {
        weight.accumulate_tensor(|dw, beta| finish(Some(dw), beta))?;
    } else {
        finish(None, 0.0)?;
    }
    for (param, sums) in [(gamma, d_gamma), (bias, d_bias)] {
        if param.requires_grad() {
            grads.add_parts(param, sums, 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::scale;
    use crate::{
        DType, Param, Tensor,
        cuda::testing::{compare, gpu},
        ops::testing::Rng,
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn linear_layer_scale_agrees_with_the_cpu() {
        let mut rng = Rng::new(510);
        for (rows, c, k) in [
            (1, 1, 1),
            (5, 3, 7),
            (70, 48, 192),
            (333, 65, 40),
            (256, 192, 768),
        ] {
            let (x, h) = (rng.tensor(&[rows, c]), rng.tensor(&[rows, k]));
            let (w, b, g) = (rng.tensor(&[c, k]), rng.tensor(&[c]), rng.tensor(&[c]));
            compare(
                &format!("layer scale {rows} x {c} x {k}"),
                &[x, h],
                &[w, b, g],
                |tape, x, p| {
                    Ok(vec![
                        tape.linear_layer_scale(&x[0], &x[1], &p[0], &p[1], &p[2])?,
                    ])
                },
            );
        }
    }

    /// The scaled weight follows each of the three values that it is made from, in the memory that it had.
    #[test]
    #[ignore = "needs a GPU"]
    fn scaled_weights_follow_their_values() {
        let (device, mut rng) = (gpu(), Rng::new(511));
        let cuda = device.as_cuda().unwrap();
        let sizes: [&[usize]; 3] = [&[48, 64], &[48], &[48]];
        let params = sizes.map(|size| {
            let param = Param::new("p", rng.tensor(size));
            param.to_device(&device, DType::F32, DType::F32).unwrap();
            param
        });
        let [w, b, g] = &params;
        let check = || {
            let [scaled, bias] = scale(cuda, w, b, g, 64).unwrap();
            let host = |t: &Tensor| t.to_f32_vec().unwrap();
            let [wv, bv, gv] = [w, b, g].map(|p| host(&p.value()));
            let want: Vec<f32> = wv.iter().enumerate().map(|(i, w)| gv[i / 64] * w).collect();
            assert_eq!(host(&scaled), want);
            let want: Vec<f32> = bv.iter().zip(&gv).map(|(b, g)| g * b).collect();
            assert_eq!(host(&bias), want);
            [&scaled, &bias].map(|t| t.cuda_address().unwrap())
        };
        let first = check();
        assert_eq!(check(), first);
        for param in &params {
            let value = rng.tensor(param.shape()).to_device(&device).unwrap();
            param.set_value(value).unwrap();
            assert_eq!(check(), first);
        }
        // Who still holds the old ones keeps them.
        let held = scale(cuda, w, b, g, 64).unwrap();
        let before = held[0].to_f32_vec().unwrap();
        g.set_value(rng.tensor(&[48]).to_device(&device).unwrap())
            .unwrap();
        assert_ne!(check(), first);
        assert_eq!(held[0].to_f32_vec().unwrap(), before);
    }
}
