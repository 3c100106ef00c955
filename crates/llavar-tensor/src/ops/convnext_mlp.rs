//! What follows the convolution of a ConvNeXt block: `y = x + gamma (GELU(norm(v) W1^T + b1) W2^T + b2)`.
//!
//! Its parts are operations of their own: [`Tape::layer_norm`], [`Tape::linear_activation`],
//! [`Tape::linear_layer_scale`]. Hopper GPUs make all of them in one kernel in bf16 for rows of 192 elements, the first
//! stage of ConvNeXt-L, so that the hidden layer is never written.
//!
//! Shapes: `x`, `v`, `y` `[.., C]`, `W1 [K, C]`, `W2 [C, K]`.

use crate::{Param, Result, Tape, Var, cuda, error::ensure_shape};

const OP: &str = "convnext_mlp";

/// Weights behind the convolution of a ConvNeXt block.
#[derive(Debug, Clone, Copy)]
pub struct ConvNextMlp<'a> {
    /// Weight and bias of the norm, of the first and of the second layer.
    pub layers: [[&'a Param; 2]; 3],
    /// The layer scale.
    pub gamma: &'a Param,
    /// Added to the variance.
    pub eps: f32,
}

impl Tape {
    /// All of it in one kernel, where the device has one, and neither a backward pass nor a second run will want what
    /// is inside.
    ///
    /// # Shapes
    /// `x [.., C]`, what is added at the end, and `v [.., C]`, the convolution's output -> `[.., C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn convnext_mlp(&self, x: &Var, v: &Var, mlp: &ConvNextMlp<'_>) -> Result<Option<Var>> {
        let Some(cuda) = x.value().cuda() else {
            return Ok(None);
        };
        let params = mlp.layers.iter().flatten().copied();
        let params: Vec<&Param> = params.chain([mlp.gamma]).collect();
        if self.needs_grad(&[x, v], &params) || self.is_checkpointed() {
            return Ok(None);
        }
        let (c, rows) = (x.value().last_dim(), x.value().rows());
        let k = mlp.layers[1][1].numel();
        let same = v.value().last_dim() == c && v.value().rows() == rows;
        ensure_shape(OP, same, || format!("[{rows}, {c}]"), v.shape())?;
        for (param, n) in params.iter().zip([c, c, k * c, k, k * c, c, c]) {
            ensure_shape(
                OP,
                param.numel() == n,
                || format!("{n} elements"),
                param.shape(),
            )?;
        }
        let y = cuda::ops::convnext_mlp(cuda, [x.value(), v.value()], mlp)?;
        Ok(y.map(Var::constant))
    }
}
