//! Test support: random tensors, tolerances, gradients by finite differences.

use rand::{Rng as _, SeedableRng};

use crate::{Param, Result, Tape, Tensor, Var};

/// Seeded source of random sizes and tensors.
pub(crate) struct Rng(rand_chacha::ChaCha8Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(rand_chacha::ChaCha8Rng::seed_from_u64(seed))
    }

    /// A size in `low..=high`.
    pub(crate) fn size(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// Values in [-1, 1).
    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.0.random_range(-1.0..1.0)).collect()
    }

    /// A tensor with values in [-1, 1).
    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        Tensor::from_vec(self.vec(shape.iter().product()), shape).unwrap()
    }
}

/// Asserts that the relative L2 distance is below `tolerance`.
pub(crate) fn close(got: &[f32], want: &[f32], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let norm: f64 = want
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    let diff: f64 = got
        .iter()
        .zip(want)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum::<f64>()
        .sqrt();
    let rel = diff / norm.max(1e-6);
    assert!(
        rel <= tolerance,
        "{what}: relative L2 distance {rel:e} above {tolerance:e} (NaN counts)"
    );
}

/// Checks every gradient of `f` (with respect to `inputs` and `params`) against central differences of
/// a random projection of its output, along random directions.
///
/// Where `f` has dropout, the same elements are dropped each time.
///
/// Directional differences with f64 sums keep the f32 rounding of the forward pass far below the
/// tolerance of 1 %; a wrong gradient is off by tens of percent in almost every direction.
pub(crate) fn check_gradients(
    inputs: &[Tensor],
    params: &[&Param],
    f: impl Fn(&Tape, &[Var]) -> Result<Var>,
) {
    check_gradients_many(inputs, params, |tape, x| Ok(vec![f(tape, x)?]));
}

/// As [`check_gradients`] for an operation with several outputs.
pub(crate) fn check_gradients_many(
    inputs: &[Tensor],
    params: &[&Param],
    f: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>>,
) {
    let mut rng = Rng::new(99);
    params.iter().for_each(|p| p.set_requires_grad(true));
    let probe: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let seeds: Vec<Tensor> = f(&Tape::inference().with_dropout(3), &probe)
        .unwrap()
        .iter()
        .map(|v| rng.tensor(v.shape()))
        .collect();
    let objective = |inputs: &[Tensor]| -> f64 {
        let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
        let outs = f(&Tape::inference().with_dropout(3), &vars).unwrap();
        outs.iter()
            .zip(&seeds)
            .flat_map(|(o, s)| {
                o.value()
                    .to_f32_vec()
                    .unwrap()
                    .into_iter()
                    .zip(s.to_f32_vec().unwrap())
            })
            .map(|(a, b)| f64::from(a) * f64::from(b))
            .sum()
    };

    let tape = Tape::training().with_dropout(3);
    let leaves: Vec<Var> = inputs.iter().map(|t| tape.leaf(t.clone())).collect();
    let outs = f(&tape, &leaves).unwrap();
    let wanted: Vec<&Var> = leaves.iter().collect();
    let grads = tape
        .backward_from(
            outs.into_iter().zip(seeds.iter().cloned()).collect(),
            &wanted,
        )
        .unwrap();

    let step = 4e-3f32;
    let compare = |name: String, grad: &[f32], direction: &[f32], plus: f64, minus: f64| {
        let want = (plus - minus) / (2.0 * f64::from(step));
        let got: f64 = grad
            .iter()
            .zip(direction)
            .map(|(g, d)| f64::from(*g) * f64::from(*d))
            .sum();
        let scale = grad
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt()
            .max(0.05);
        assert!(
            (got - want).abs() < 1e-2 * scale,
            "{name}: gradient along a direction {got}, by differences {want}"
        );
    };
    for (i, input) in inputs.iter().enumerate() {
        let grad = grads[i]
            .as_ref()
            .unwrap_or_else(|| panic!("input {i} received no gradient"));
        for _ in 0..4 {
            let direction = rng.vec(input.numel());
            let moved = |sign: f32| {
                let mut all = inputs.to_vec();
                let data = all[i].data_mut::<f32>().unwrap();
                data.iter_mut()
                    .zip(&direction)
                    .for_each(|(x, d)| *x += sign * step * d);
                objective(&all)
            };
            compare(
                format!("input {i}"),
                grad.data().unwrap(),
                &direction,
                moved(1.0),
                moved(-1.0),
            );
        }
    }
    for param in params {
        let grad = param
            .grad()
            .unwrap_or_else(|| panic!("{} received no gradient", param.name()));
        let original = param.value();
        for _ in 0..4 {
            let direction = rng.vec(param.numel());
            let moved = |sign: f32| {
                let mut value = original.clone();
                let data = value.data_mut::<f32>().unwrap();
                data.iter_mut()
                    .zip(&direction)
                    .for_each(|(x, d)| *x += sign * step * d);
                param.set_value(value).unwrap();
                let y = objective(inputs);
                param.set_value(original.clone()).unwrap();
                y
            };
            compare(
                param.name().to_owned(),
                grad.data().unwrap(),
                &direction,
                moved(1.0),
                moved(-1.0),
            );
        }
    }
}
