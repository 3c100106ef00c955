//! AdamW and the gradient norm. Formulas: [`crate::optim`].

use std::sync::Arc;

use crate::{
    DType, Error, Param, Result, Tensor,
    cuda::{Arg, Cuda, Grid, Kernel, Readback, Source, args},
    optim::{AdamW, Kind, Moments, RoundingKey, StepResult},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "optim",
    code: include_str!("../kernels/optim.cu"),
};
const fn kernel(name: &'static str) -> Kernel {
    Kernel {
        source: &SOURCE,
        name,
    }
}
const NORM_PARTS: Kernel = kernel("norm_parts");
const BEGIN_STEP: Kernel = kernel("begin_step");
const ADAMW_F32: Kernel = kernel("adamw_f32");
const ADAMW_PURE: Kernel = kernel("adamw_pure");

/// Elements of a gradient whose squares one block adds up.
const NORM_CHUNK: usize = 32 << 10;

const THREADS: usize = 256;

/// The scalars of a step on a GPU: `struct Step` of `kernels/optim.cu`, as eight 32-bit words.
#[derive(Debug)]
pub(crate) struct DeviceStep {
    cuda: Arc<Cuda>,
    adamw: AdamW,
    scalars: Tensor,
}

impl DeviceStep {
    pub(crate) fn new(cuda: &Arc<Cuda>, updates: u64, adamw: &AdamW) -> Result<Self> {
        let [low, high] = [updates as u32, (updates >> 32) as u32].map(f32::from_bits);
        let scalars = [0.0, 1.0, 1.0, 1.0, 1.0, low, high, 0.0];
        Ok(Self {
            cuda: cuda.clone(),
            adamw: *adamw,
            scalars: cuda.upload(&scalars, &[scalars.len()])?,
        })
    }

    /// Whether it lives on this GPU.
    pub(crate) fn is_on(&self, cuda: &Arc<Cuda>) -> bool {
        Arc::ptr_eq(&self.cuda, cuda)
    }

    /// Queues the norm over all gradients and what follows from it.
    pub(crate) fn begin<'a>(
        &mut self,
        params: impl IntoIterator<Item = &'a Param>,
        max_norm: f32,
    ) -> Result<()> {
        let cuda = &self.cuda;
        let grads: Vec<Tensor> = params.into_iter().filter_map(Param::grad).collect();
        let blocks = |grad: &Tensor| grad.numel().div_ceil(NORM_CHUNK);
        let parts: usize = grads.iter().map(blocks).sum();
        // One f64 in two words: there is no such element type.
        let mut slots = cuda.empty(&[parts, 2], DType::I32)?;
        let mut slot = 0;
        for grad in &grads {
            if !grad.cuda().is_some_and(|c| Arc::ptr_eq(c, cuda)) {
                return Err(Error::DeviceMismatch {
                    op: "gradient norm",
                    expected: format!("cuda:{}", cuda.ordinal()),
                    got: grad.device().to_string(),
                });
            }
            let (n, each) = (grad.numel() as i64, NORM_CHUNK as i64);
            cuda.launch(
                &NORM_PARTS,
                grad.dtype(),
                Grid::new(blocks(grad), THREADS),
                args![grad, &mut slots, slot as i64, n, each],
            )?;
            slot += blocks(grad);
        }
        let AdamW { beta1, beta2, .. } = self.adamw;
        let scalars = &mut self.scalars;
        cuda.launch(
            &BEGIN_STEP,
            DType::F32,
            Grid::new(1, 1024),
            args![&slots, scalars, parts as i64, max_norm, beta1, beta2],
        )
    }

    /// Starts copying the scalars to the host.
    pub(crate) fn read_back(&self) -> Result<Readback> {
        self.cuda.read_back(&self.scalars)
    }

    /// What the copied scalars say.
    pub(crate) fn result(scalars: &[f32]) -> Result<StepResult> {
        let &[norm, _, skipped, _, _, low, high, _] = scalars else {
            return Err(Error::Cuda {
                op: "optimizer step",
                reason: format!("{} scalars came back", scalars.len()),
            });
        };
        Ok(StepResult {
            norm,
            updates: u64::from(high.to_bits()) << 32 | u64::from(low.to_bits()),
            skipped: skipped != 0.0,
        })
    }
}

/// As [`AdamW::update`], with moments that fit.
pub(crate) fn adamw(
    adamw: &AdamW,
    kind: Kind,
    weight: &mut Tensor,
    grad: &Tensor,
    moments: &mut Moments,
    [lr, weight_decay]: [f32; 2],
    step: &DeviceStep,
    key: RoundingKey,
) -> Result<()> {
    let n = weight.numel();
    let keep = (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32;
    let AdamW {
        beta1, beta2, eps, ..
    } = *adamw;
    let (m, v) = (&mut moments.exp_avg, &mut moments.exp_avg_sq);
    let scalars = &step.scalars;
    if kind == Kind::Pure {
        return step.cuda.launch(
            &ADAMW_PURE,
            grad.dtype(),
            Grid::new(n.div_ceil(8 * THREADS), THREADS),
            args![
                weight,
                grad,
                m,
                v,
                scalars,
                n as i64,
                lr,
                keep,
                beta1,
                beta2,
                eps,
                key.0 as i64
            ],
        );
    }
    let (p, w) = match &mut moments.master {
        Some(master) => (Arg::from(master), Arg::from(weight)),
        None => (Arg::from(weight), Arg::from(None::<&Tensor>)),
    };
    step.cuda.launch(
        &ADAMW_F32,
        grad.dtype(),
        Grid::new(n.div_ceil(4 * THREADS), THREADS),
        args![
            p, w, grad, m, v, scalars, n as i64, lr, keep, beta1, beta2, eps
        ],
    )
}
