//! The gradient norm, what of a step follows from it, and moving averages. Formulas: [`crate::optim`].

use std::sync::Arc;

use crate::{
    DType, Error, Param, Result, Tensor,
    cuda::{Arg, Cuda, Grid, Kernel, Readback, Source, args},
    optim::{AdamW, StepLimits, StepResult},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "optim",
    code: include_str!("../kernels/optim.cu"),
};
const NORM_PARTS: Kernel = SOURCE.kernel("norm_parts");
const SUM_SQUARES: Kernel = SOURCE.kernel("sum_squares");
const BEGIN_STEP: Kernel = SOURCE.kernel("begin_step");
const MOVING_AVERAGE: Kernel = SOURCE.kernel("moving_average");

/// Elements of a gradient whose squares one block adds up.
const NORM_CHUNK: usize = 32 << 10;

const THREADS: usize = 256;

/// `struct Listed` of the kernels, as 32-bit words. Gradients stay where they are from step to step, so that a list is
/// the same and goes to the device once.
#[derive(Default)]
struct Listed(Vec<i32>);

impl Listed {
    fn count(&self) -> usize {
        self.0.len() / 6
    }

    /// Adds `n` elements of a tensor, whose parts begin at `slot`.
    fn push(&mut self, cuda: &Arc<Cuda>, tensor: &Tensor, n: usize, slot: usize) -> Result<()> {
        if !tensor.cuda().is_some_and(|c| Arc::ptr_eq(c, cuda)) {
            return Err(Error::DeviceMismatch {
                op: "gradient norm",
                expected: format!("cuda:{}", cuda.ordinal()),
                got: tensor.device().to_string(),
            });
        }
        for word in [tensor.cuda_address()?, n as u64, slot as u64] {
            self.0.extend([word as i32, (word >> 32) as i32]);
        }
        Ok(())
    }
}

/// The scalars of a step on a GPU: `struct Step` of `kernels/optim.cu`, as eight 32-bit words.
#[derive(Debug)]
pub(crate) struct DeviceStep {
    pub(super) cuda: Arc<Cuda>,
    adamw: AdamW,
    pub(super) scalars: Tensor,
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
        limits: Option<StepLimits<'_>>,
    ) -> Result<()> {
        let cuda = &self.cuda;
        let grads = params.into_iter().filter_map(Param::measured_grad);
        let (measured, grads): (Vec<_>, Vec<_>) =
            grads.partition(|(grad, squares)| squares.is_some() && grad.numel() > 0);
        let blocks = |grad: &Tensor| grad.numel().div_ceil(NORM_CHUNK);
        let parts: usize = grads.iter().map(|(grad, _)| blocks(grad)).sum();
        let parts = parts + measured.len();
        // One f64 in two words: there is no such element type.
        let mut slots = cuda.empty(&[parts, 2], DType::I32)?;
        let mut at = slots.cuda_address_mut()?;
        for dtype in [DType::F32, DType::BF16] {
            let (mut list, mut own) = (Listed::default(), 0);
            for (grad, _) in grads.iter().filter(|(g, _)| g.dtype() == dtype) {
                if grad.numel() > 0 {
                    list.push(cuda, grad, grad.numel(), own)?;
                    own += blocks(grad);
                }
            }
            if own > 0 {
                let (list, count) = (cuda.constant(&list.0)?, list.count());
                let arguments = args![&list, count as i32, Arg::Address(at), NORM_CHUNK as i64];
                cuda.launch(&NORM_PARTS, dtype, Grid::new(own, THREADS), arguments)?;
            }
            at += 8 * own as u64;
        }
        let mut list = Listed::default();
        for squares in measured.iter().filter_map(|(_, squares)| squares.as_ref()) {
            list.push(cuda, squares, squares.numel() / 2, list.count())?;
        }
        if list.count() > 0 {
            let grid = Grid::new(list.count(), THREADS);
            let arguments = args![&cuda.constant(&list.0)?, Arg::Address(at)];
            cuda.launch(&SUM_SQUARES, DType::F32, grid, arguments)?;
        }
        let AdamW { beta1, beta2, .. } = self.adamw;
        let scalars = &mut self.scalars;
        let losses = limits.map(|limits| limits.losses);
        let pairs = losses.map_or(0, |losses| losses.numel() / 2);
        let limit = |of: fn(StepLimits<'_>) -> f32| limits.map_or(f32::INFINITY, of);
        cuda.launch(
            &BEGIN_STEP,
            DType::F32,
            Grid::new(1, 1024),
            args![
                &slots,
                scalars,
                parts as i64,
                max_norm,
                beta1,
                beta2,
                losses,
                pairs as i64,
                limit(|limits| limits.loss),
                limit(|limits| limits.norm),
                i32::from(limits.is_some_and(|limits| limits.skip))
            ],
        )
    }

    /// The norm, `[1]`.
    pub(crate) fn norm(&self) -> Result<Tensor> {
        self.scalars.narrow(0, 1)
    }

    /// Starts copying the scalars to the host.
    pub(crate) fn read_back(&self) -> Result<Readback> {
        self.cuda.read_back(&self.scalars)
    }

    /// What the copied scalars say.
    pub(crate) fn result(scalars: &[f32]) -> Result<StepResult> {
        let &[norm, _, skipped, _, _, low, high, spikes] = scalars else {
            return Err(Error::Cuda {
                op: "optimizer step",
                reason: format!("{} scalars came back", scalars.len()),
            });
        };
        Ok(StepResult {
            norm,
            updates: u64::from(high.to_bits()) << 32 | u64::from(low.to_bits()),
            skipped: skipped != 0.0,
            loss_spike: spikes as u32 & 1 != 0,
            norm_spike: spikes as u32 & 2 != 0,
        })
    }
}

/// As [`crate::optim::update_average`], with shapes that fit; `rate` is `1 - decay`.
pub(crate) fn update_average(
    average: &mut Tensor,
    value: &Tensor,
    rate: f32,
    step: &DeviceStep,
) -> Result<()> {
    let n = average.numel();
    step.cuda.launch(
        &MOVING_AVERAGE,
        value.dtype(),
        Grid::new(n.div_ceil(4 * THREADS), THREADS),
        args![average, value, &step.scalars, n as i64, rate],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device,
        cuda::testing::gpu,
        memory,
        ops::testing::Rng,
        optim::{
            Moments, Precision, StepState, global_grad_norm,
            testing::{self, PRECISIONS, param, set_grad},
        },
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn updates_agree_with_the_formula_in_f64() {
        memory::set_poison(true);
        for precision in PRECISIONS {
            testing::updates_agree_with_the_formula(&gpu(), precision);
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn pure_bf16_is_unbiased_over_many_steps() {
        memory::set_poison(true);
        testing::pure_bf16_is_unbiased(&gpu());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_not_counted() {
        memory::set_poison(true);
        testing::bad_gradients_change_nothing(&gpu());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn steps_beyond_their_limits_are_told_or_skipped() {
        memory::set_poison(true);
        testing::limits_are_kept(&gpu());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn averages_follow_the_formula_and_stand_still_where_a_step_is_skipped() {
        memory::set_poison(true);
        testing::averages_agree_with_the_formula(&gpu());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn norm_over_many_gradients_of_both_types() {
        memory::set_poison(true);
        let mut rng = Rng::new(530);
        let device = gpu();
        let mut sizes = vec![0, 1, 7, 8, NORM_CHUNK, 3 * NORM_CHUNK + 5, 5_000_003];
        sizes.extend((0..60).map(|_| rng.size(1, 3 * NORM_CHUNK)));
        let params: Vec<Param> = sizes
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let precision = [Precision::F32, Precision::PureBf16][i % 2];
                param(&format!("p{i}"), Tensor::zeros(&[*n]), &device, precision)
            })
            .collect();
        assert_eq!(global_grad_norm(&params).unwrap(), 0.0, "no gradients");
        let mut squares = 0.0f64;
        for (i, param) in params.iter().enumerate() {
            // Magnitudes far apart, so that a plain f32 sum would lose the small ones.
            let scale = [1.0f32, 1e-3, 30.0][i % 3];
            let g: Vec<f32> = rng.vec(param.numel()).iter().map(|x| x * scale).collect();
            let g = set_grad(param, &g);
            squares += g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        }
        let norm = global_grad_norm(&params).unwrap();
        let off = f64::from(norm) / squares.sqrt() - 1.0;
        assert!(off.abs() < 2e-7, "norm {norm} is off by {off:e}");
        assert_eq!(global_grad_norm(&params).unwrap(), norm, "the same bits");
        let there = StepState::new(&device, 0, &AdamW::default());
        let here = Param::new("here", Tensor::zeros(&[3]));
        set_grad(&here, &[1.0; 3]);
        assert!(there.unwrap().begin([&here], 1.0).is_err(), "two devices");
    }

    /// The random bits are the same function on both devices, so that one step leaves almost the same bits.
    #[test]
    #[ignore = "needs a GPU"]
    fn rounding_is_that_of_the_cpu_and_repeats() {
        memory::set_poison(true);
        let n = 100_003;
        let step = |device: &Device, name: &str| -> [Vec<f32>; 3] {
            let mut rng = Rng::new(531);
            let adamw = AdamW {
                seed: 9,
                ..AdamW::default()
            };
            let value = rng.tensor(&[n]);
            let param = param(name, value, device, Precision::PureBf16);
            // Values that bf16 holds, because gradients are wider on the CPU.
            let g = rng.tensor(&[n]).cast(DType::BF16).unwrap();
            set_grad(&param, &g.to_f32_vec().unwrap());
            let mut moments = Moments::new(&param, Precision::PureBf16).unwrap();
            let mut state = StepState::new(device, 3, &adamw).unwrap();
            state.begin([&param], 0.0).unwrap();
            adamw
                .update(&param, &mut moments, 1e-3, 0.01, &state)
                .unwrap();
            [param.value(), moments.exp_avg, moments.exp_avg_sq].map(|t| t.to_f32_vec().unwrap())
        };
        let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
        let (here, there) = (step(&Device::Cpu, "w"), step(&gpu(), "w"));
        let other = step(&gpu(), "another");
        assert_eq!(there, step(&gpu(), "w"), "two runs differ");
        for (i, what) in ["weight", "mean", "square"].into_iter().enumerate() {
            let count = differ(&here[i], &there[i]);
            assert!(count < n / 500, "{what}: {count} of {n} elements differ");
        }
        let count = differ(&there[0], &other[0]);
        assert!(count > n / 20, "two weights share their random bits");
    }
}
