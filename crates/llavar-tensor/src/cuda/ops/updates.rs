//! AdamW of many weights in one launch. Formulas: [`crate::optim`].

use std::sync::Arc;

use super::optim::{DeviceStep, SOURCE};
use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, args},
    optim::{AdamW, Kind, Moments, RoundingKey},
};

const ADAMW_F32: Kernel = SOURCE.kernel("adamw_f32");
const ADAMW_PURE: Kernel = SOURCE.kernel("adamw_pure");

/// Threads of a block.
const THREADS: usize = 256;

/// Pairs of rates that a launch takes, as in the source file.
const RATES: usize = 16;

/// Most blocks of a launch.
const MOST_BLOCKS: usize = (1 << 31) - 1;

/// Updates that wait for their launch.
#[derive(Debug)]
pub(crate) struct DeviceUpdates<'a> {
    adamw: AdamW,
    step: &'a DeviceStep,
    lists: Vec<List>,
}

/// Updates that go together.
#[derive(Debug)]
struct List {
    kind: Kind,
    /// Of the gradients.
    dtype: DType,
    /// Learning rates, and what weight decay leaves.
    rates: Vec<[f32; 2]>,
    /// Of each weight its first block, and `struct Weight` of the source file in 32-bit words.
    firsts: Vec<i32>,
    weights: Vec<i32>,
    blocks: usize,
    /// Stays alive until the launch is queued.
    held: Vec<Tensor>,
}

/// Elements of a thread.
fn run(kind: Kind) -> usize {
    match kind {
        Kind::Pure => 8,
        Kind::F32 | Kind::Master => 4,
    }
}

impl<'a> DeviceUpdates<'a> {
    pub(crate) fn new(adamw: &AdamW, step: &'a DeviceStep) -> Self {
        Self {
            adamw: *adamw,
            step,
            lists: Vec::new(),
        }
    }

    /// Whether the step lives on this GPU.
    pub(crate) fn is_on(&self, cuda: &Arc<Cuda>) -> bool {
        self.step.is_on(cuda)
    }

    /// As [`AdamW::update`], with moments that fit.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        weight: &mut Tensor,
        grad: &Tensor,
        moments: &mut Moments,
        [lr, weight_decay]: [f32; 2],
        key: RoundingKey,
    ) -> Result<()> {
        let n = weight.numel();
        if n == 0 {
            return Ok(());
        }
        let keep = (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32;
        let Moments {
            exp_avg: m,
            exp_avg_sq: v,
            master,
        } = moments;
        let (g, mut held) = (grad.cuda_address()?, vec![grad.clone()]);
        let mut address = |tensor: &mut Tensor| {
            // What somebody else looks at moves.
            let address = tensor.cuda_address_mut();
            held.push(tensor.clone());
            address
        };
        let (m, v, weight) = (address(m)?, address(v)?, address(weight)?);
        let [p, w] = match master {
            Some(master) => [address(master)?, weight],
            None => [weight, 0],
        };
        let blocks = n.div_ceil(THREADS * run(kind));
        let list = self.list(kind, grad.dtype(), [lr, keep], blocks);
        let rate = list.rate([lr, keep]);
        list.firsts.push(list.blocks as i32);
        let words = [p, w, g, m, v, n as u64, rate as u64, key.0];
        let words = words
            .into_iter()
            .flat_map(|word| [word as i32, (word >> 32) as i32]);
        list.weights.extend(words);
        list.blocks += blocks;
        list.held.extend(held);
        Ok(())
    }

    /// The list that takes such an update.
    fn list(&mut self, kind: Kind, dtype: DType, rates: [f32; 2], blocks: usize) -> &mut List {
        let takes = |list: &List| {
            (list.kind, list.dtype) == (kind, dtype)
                && (list.rates.len() < RATES || list.rates.contains(&rates))
                && list.blocks + blocks <= MOST_BLOCKS
        };
        let at = self.lists.iter().position(takes).unwrap_or_else(|| {
            self.lists.push(List {
                kind,
                dtype,
                rates: Vec::new(),
                firsts: Vec::new(),
                weights: Vec::new(),
                blocks: 0,
                held: Vec::new(),
            });
            self.lists.len() - 1
        });
        &mut self.lists[at]
    }

    /// Queues all of them, or none where a list finds no room or a kernel cannot be loaded.
    pub(crate) fn finish(self) -> Result<()> {
        let lists = self.lists.iter();
        let content = lists.map(|list| self.step.cuda.constant(&list.words()));
        let content = content.collect::<Result<Vec<_>>>()?;
        for list in &self.lists {
            self.step.cuda.load(list.kernel(), list.dtype)?;
        }
        let mut lists = self.lists.iter().zip(&content);
        lists.try_for_each(|(list, content)| list.launch(content, &self.adamw, self.step))
    }
}

impl List {
    /// The place of a pair of rates.
    fn rate(&mut self, rates: [f32; 2]) -> usize {
        let found = self.rates.iter().position(|known| *known == rates);
        found.unwrap_or_else(|| {
            self.rates.push(rates);
            self.rates.len() - 1
        })
    }

    fn kernel(&self) -> &'static Kernel {
        match self.kind {
            Kind::Pure => &ADAMW_PURE,
            Kind::F32 | Kind::Master => &ADAMW_F32,
        }
    }

    /// As the kernels take it. Weights, moments and gradients stay where they are from step to step, so that the list is
    /// the same and goes to the device once; rates change.
    fn words(&self) -> Vec<i32> {
        let mut words = self.firsts.clone();
        words.resize(self.firsts.len().next_multiple_of(4), 0);
        words.extend(&self.weights);
        words
    }

    fn launch(&self, content: &Tensor, adamw: &AdamW, step: &DeviceStep) -> Result<()> {
        let mut rates = [[0f32; RATES]; 2];
        for (at, of_weight) in self.rates.iter().enumerate() {
            for (rates, rate) in rates.iter_mut().zip(of_weight) {
                rates[at] = *rate;
            }
        }
        let rates = rates.as_flattened().chunks_exact(2);
        let rates: Vec<u64> = rates
            .map(|pair| u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32)
            .collect();
        let AdamW {
            beta1, beta2, eps, ..
        } = *adamw;
        let grid = Grid::new(self.blocks, THREADS);
        let arguments = args![
            content,
            self.firsts.len() as i32,
            &step.scalars,
            rates,
            beta1,
            beta2,
            eps
        ];
        step.cuda.launch(self.kernel(), self.dtype, grid, arguments)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Device, Param, Tensor,
        cuda::testing::gpu,
        memory,
        ops::testing::Rng,
        optim::{
            AdamW, Moments, Precision, StepState,
            testing::{PRECISIONS, param, set_grad},
        },
    };

    /// The weights with their moments, every third of a precision a view that begins at an odd element.
    fn place(weights: &[(Tensor, Precision)], device: &Device) -> Vec<(Param, Moments)> {
        let place = |(i, (value, precision)): (usize, &(Tensor, Precision))| {
            let param = param(&format!("p{i}"), value.clone(), device, *precision);
            if i / PRECISIONS.len() % 3 == 2 {
                let mut wide = vec![0.0];
                wide.extend(param.value().to_f32_vec().unwrap());
                let wide = Tensor::from_vec(wide, &[value.numel() + 1]).unwrap();
                let wide = wide.cast(precision.weights()).unwrap();
                let wide = wide.to_device(device).unwrap();
                let view = wide.narrow(1, value.numel()).unwrap();
                param.set_value(view).unwrap();
            }
            let moments = Moments::new(&param, *precision).unwrap();
            (param, moments)
        };
        weights.iter().enumerate().map(place).collect()
    }

    /// All that an update changes.
    fn state((param, moments): &(Param, Moments)) -> Vec<Vec<f32>> {
        let mut all = vec![
            param.value(),
            moments.exp_avg.clone(),
            moments.exp_avg_sq.clone(),
        ];
        all.extend(moments.master.clone());
        all.iter().map(|t| t.to_f32_vec().unwrap()).collect()
    }

    /// All precisions beside each other, weights that end at every place of a block, views without alignment, weights
    /// without a gradient, and one, two and more rates than a launch has room for: the same bits as one by one.
    #[test]
    #[ignore = "needs a GPU"]
    fn updates_together_are_those_one_by_one() {
        memory::set_poison(true);
        let (device, mut rng) = (gpu(), Rng::new(532));
        let adamw = AdamW {
            seed: 5,
            ..AdamW::default()
        };
        let mut sizes = vec![
            0, 1, 7, 8, 0, 1023, 1024, 1025, 2047, 2048, 2049, 700_001, 0,
        ];
        sizes.extend((0..200).map(|_| rng.size(0, 5000)));
        let weights: Vec<(Tensor, Precision)> = sizes
            .iter()
            .flat_map(|n| PRECISIONS.map(|precision| (*n, precision)))
            .map(|(n, precision)| (rng.tensor(&[n]), precision))
            .collect();
        for rates in [1, 2, 23] {
            let [mut together, mut single] = [(); 2].map(|()| place(&weights, &device));
            let mut step = StepState::new(&device, 0, &adamw).unwrap();
            for round in 0..3 {
                for (i, ((a, _), (b, _))) in together.iter().zip(&single).enumerate() {
                    let g = rng.vec(a.numel());
                    for param in [a, b] {
                        match (i + round) % 5 {
                            4 => param.zero_grad(),
                            _ => drop(set_grad(param, &g)),
                        }
                    }
                }
                step.begin(together.iter().map(|(param, _)| param), 40.0)
                    .unwrap();
                let rate = |i: usize| {
                    let kind = i * 7 % rates;
                    (1e-3 * (1 + kind + round) as f32, [0.1, 0.0][kind % 2])
                };
                let mut updates = adamw.updates(&step).unwrap();
                for (i, (param, moments)) in together.iter_mut().enumerate() {
                    let (lr, decay) = rate(i);
                    updates.add(param, moments, lr, decay).unwrap();
                }
                updates.finish().unwrap();
                for (i, (param, moments)) in single.iter_mut().enumerate() {
                    let (lr, decay) = rate(i);
                    adamw.update(param, moments, lr, decay, &step).unwrap();
                }
            }
            let start = place(&weights, &device);
            for (i, (a, b)) in together.iter().zip(&single).enumerate() {
                let (value, precision) = &weights[i];
                let what = format!("{} elements, {precision}, {rates} rates", value.numel());
                let (a, b) = (state(a), state(b));
                assert!(a == b, "{what}");
                // Moments move with any gradient; a single weight of bf16 may round back.
                let changed = a[1] != state(&start[i])[1];
                assert_eq!(changed, value.numel() > 0, "{what}");
                if value.numel() > 100 {
                    assert!(a[0] != state(&start[i])[0], "{what}");
                }
            }
        }
    }
}
