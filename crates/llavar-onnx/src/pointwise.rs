//! Functions of one element, run in chains while their block is in the cache.

use llavar_tensor::{
    kernel,
    kernels::{erf, sigmoid},
};

/// A function of one element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pointwise {
    /// x + a.
    Add(f32),
    /// a x.
    Mul(f32),
    /// x within two limits.
    Clip(f32, f32),
    /// a x + b within 0 and 1.
    HardSigmoid(f32, f32),
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x / (1 + e^-x).
    Silu,
    /// x (1 + erf(x / sqrt 2)): twice GELU.
    TwoGelu,
    /// x clip(x + 3, 0, 6): six times hard swish.
    SixHardSwish,
    /// Error function.
    Erf,
    /// Square root.
    Sqrt,
    /// Square.
    Square,
}

/// Elements of a block: 16 KiB.
const BLOCK: usize = 4096;

/// Runs a chain over all elements.
pub(crate) fn apply(chain: &[Pointwise], data: &mut [f32]) {
    if chain.is_empty() {
        return;
    }
    for block in data.chunks_mut(BLOCK) {
        for function in chain {
            apply_one(*function, block);
        }
    }
}

macro_rules! each {
    ($data:ident, $x:ident, $y:expr) => {
        for element in $data.iter_mut() {
            let $x = *element;
            *element = $y;
        }
    };
}

kernel! {
    fn apply_one(function: Pointwise, data: &mut [f32]) {
        match function {
            Pointwise::Add(a) => each!(data, x, x + a),
            Pointwise::Mul(a) => each!(data, x, x * a),
            // Not `clamp`, which panics where limits are the wrong way round.
            Pointwise::Clip(low, high) => each!(data, x, x.max(low).min(high)),
            Pointwise::HardSigmoid(a, b) => each!(data, x, x.mul_add(a, b).clamp(0.0, 1.0)),
            Pointwise::Sigmoid => each!(data, x, sigmoid(x)),
            Pointwise::Silu => each!(data, x, x * sigmoid(x)),
            Pointwise::TwoGelu => each!(data, x, {
                let e = erf(x * std::f32::consts::FRAC_1_SQRT_2);
                x.mul_add(e, x)
            }),
            Pointwise::SixHardSwish => each!(data, x, x * (x + 3.0).clamp(0.0, 6.0)),
            Pointwise::Erf => each!(data, x, erf(x)),
            Pointwise::Sqrt => each!(data, x, x.sqrt()),
            Pointwise::Square => each!(data, x, x * x),
        }
    }
}

kernel! {
    /// Adds `bias` to every row.
    pub(crate) fn add_rows(data: &mut [f32], bias: &[f32]) {
        for row in data.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += b;
            }
        }
    }
}

/// A function of two elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

kernel! {
    /// `a = f(a, b)`, with `b` again for every run of its length.
    pub(crate) fn combine(function: Binary, a: &mut [f32], b: &[f32]) {
        macro_rules! all {
            ($op:tt) => {
                for row in a.chunks_exact_mut(b.len().max(1)) {
                    for (x, y) in row.iter_mut().zip(b) {
                        *x $op *y;
                    }
                }
            };
        }
        match function {
            Binary::Add => all!(+=),
            Binary::Sub => all!(-=),
            Binary::Mul => all!(*=),
            Binary::Div => all!(/=),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_beside_their_formulas() {
        let xs: Vec<f32> = (-500..500).map(|i| i as f32 * 0.0137).collect();
        let erf64 = |x: f64| {
            // Abramowitz and Stegun 7.1.26: good to 1.5e-7.
            let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
            let p = [
                0.254_829_592,
                -0.284_496_736,
                1.421_413_741,
                -1.453_152_027,
                1.061_405_429,
            ];
            let sum = p.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
            (1.0 - sum * (-x * x).exp()).copysign(x)
        };
        type Formula = Box<dyn Fn(f64) -> f64>;
        let cases: [(Pointwise, Formula); 6] = [
            (
                Pointwise::TwoGelu,
                Box::new(move |x| x * (1.0 + erf64(x / 2f64.sqrt()))),
            ),
            (Pointwise::Silu, Box::new(|x| x / (1.0 + (-x).exp()))),
            (
                Pointwise::SixHardSwish,
                Box::new(|x| x * (x + 3.0).clamp(0.0, 6.0)),
            ),
            (
                Pointwise::HardSigmoid(0.2, 0.5),
                Box::new(|x| (0.2 * x + 0.5).clamp(0.0, 1.0)),
            ),
            (Pointwise::Clip(-1.0, 2.0), Box::new(|x| x.clamp(-1.0, 2.0))),
            (Pointwise::Square, Box::new(|x| x * x)),
        ];
        for (function, expected) in cases {
            let mut ys = xs.clone();
            apply(
                &[function, Pointwise::Mul(2.0), Pointwise::Add(1.0)],
                &mut ys,
            );
            for (x, y) in xs.iter().zip(ys) {
                let want = 2.0 * expected(f64::from(*x)) + 1.0;
                assert!(
                    (f64::from(y) - want).abs() < 1e-5 * (1.0 + want.abs()),
                    "{function:?} {x}"
                );
            }
        }
    }
}
