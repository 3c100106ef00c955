//! Tests of the resizing plans: plain direct formulas, values of the published functions, gradients.

use super::*;
use crate::ops::testing::{Rng, check_gradients, close};

/// `out = R x C^T` with dense matrices made straight from each kind's definition.
fn direct(
    x: &[f32],
    b: usize,
    c: usize,
    from: (usize, usize),
    to: (usize, usize),
    r: &[f64],
    cols: &[f64],
) -> Vec<f32> {
    let mut out = Vec::new();
    for i in 0..b * to.0 * to.1 * c {
        let (ch, ox, oy, bi) = (
            i % c,
            i / c % to.1,
            i / (c * to.1) % to.0,
            i / (c * to.1 * to.0),
        );
        let mut sum = 0.0;
        for y in 0..from.0 {
            for z in 0..from.1 {
                let at = ((bi * from.0 + y) * from.1 + z) * c + ch;
                sum += r[oy * from.0 + y] * cols[ox * from.1 + z] * f64::from(x[at]);
            }
        }
        out.push(sum as f32);
    }
    out
}

/// Triangle of width one around the aligned position.
fn bilinear(from: usize, to: usize) -> Vec<f64> {
    let step = if to > 1 {
        (from as f64 - 1.0) / (to as f64 - 1.0)
    } else {
        0.0
    };
    (0..to * from)
        .map(|i| (1.0 - ((i / from) as f64 * step - (i % from) as f64).abs()).max(0.0))
        .collect()
}

/// Kernel sampled at every pixel centre, rows normalised.
fn bicubic(from: usize, to: usize) -> Vec<f64> {
    let scale = from as f64 / to as f64;
    let mut m: Vec<f64> = (0..to * from)
        .map(|i| {
            let at = ((i / from) as f64 + 0.5) * scale - 0.5;
            cubic((at - (i % from) as f64) / scale.max(1.0))
        })
        .collect();
    for row in m.chunks_mut(from) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|w| *w /= total);
    }
    m
}

fn pool(from: usize, to: usize) -> Vec<f64> {
    let factor = from / to;
    (0..to * from)
        .map(|i| {
            if i % from / factor == i / from {
                1.0 / factor as f64
            } else {
                0.0
            }
        })
        .collect()
}

#[test]
fn forward_agrees_with_the_definitions() {
    let mut rng = Rng::new(50);
    for case in 0..60 {
        let (b, c) = (rng.size(1, 2), rng.size(1, 9));
        let from = (rng.size(1, 14), rng.size(1, 14));
        let mut to = (rng.size(1, 14), rng.size(1, 14));
        let (plan, matrix): (_, fn(usize, usize) -> Vec<f64>) = match case % 3 {
            0 => (Resample::bilinear_align_corners(from, to), bilinear),
            1 => (Resample::bicubic_antialias(from, to), bicubic),
            _ => {
                let factor = rng.size(1, from.0.min(from.1));
                let plan = Resample::avg_pool(from, factor);
                to = (from.0 / factor, from.1 / factor);
                assert_eq!(plan.to(), to);
                if from.0 / to.0 != factor || from.1 / to.1 != factor {
                    continue; // the plain matrix below is for whole squares
                }
                (plan, pool)
            }
        };
        let x = rng.tensor(&[b, from.0, from.1, c]);
        let y = Tape::inference()
            .resample(&x.clone().into(), &Arc::new(plan))
            .unwrap();
        assert_eq!(y.shape(), &[b, to.0, to.1, c]);
        let (r, cols) = (matrix(from.0, to.0), matrix(from.1, to.1));
        let want = direct(&x.to_f32_vec().unwrap(), b, c, from, to, &r, &cols);
        let what = format!("kind {} {from:?} -> {to:?}", case % 3);
        close(y.value().data().unwrap(), &want, 1e-5, &what);
    }
}

#[test]
fn weights_are_those_of_torch() {
    // torch 2.15: interpolate of the unit vectors along one axis.
    let bicubic = |from: usize, to: usize| Resample::bicubic_antialias((from, 1), (to, 1));
    let bilinear = Resample::bilinear_align_corners((3, 1), (5, 1));
    let cases: [(Resample, &[f32]); 3] = [
        (
            bicubic(5, 3),
            &[
                0.584_615_4,
                0.446_153_85,
                0.0,
                -0.030_769_23,
                0.0, //
                -0.037_209_3,
                0.246_511_63,
                0.581_395_4,
                0.246_511_63,
                -0.037_209_3, //
                0.0,
                -0.030_769_23,
                0.0,
                0.446_153_85,
                0.584_615_4,
            ],
        ),
        (
            bicubic(3, 4),
            &[
                1.052_238_8,
                -0.052_238_8,
                0.0, //
                0.373_246,
                0.696_913,
                -0.070_159, //
                -0.070_159,
                0.696_913,
                0.373_246, //
                0.0,
                -0.052_238_8,
                1.052_238_8,
            ],
        ),
        (
            bilinear,
            &[
                1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0,
            ],
        ),
    ];
    for (plan, want) in cases {
        let (from, to) = (plan.from().0, plan.to().0);
        // One channel for each unit vector: the output rows are the rows of the map.
        let unit = (0..from * from).map(|i| f32::from(u8::from(i / from == i % from)));
        let x = Tensor::from_vec(unit.collect(), &[1, from, 1, from]).unwrap();
        let y = Tape::inference()
            .resample(&x.into(), &Arc::new(plan))
            .unwrap();
        close(
            y.value().data().unwrap(),
            want,
            1e-6,
            &format!("{from} -> {to}"),
        );
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut rng = Rng::new(51);
    for plan in [
        Resample::bilinear_align_corners((4, 5), (7, 9)),
        Resample::bilinear_align_corners((9, 8), (4, 8)),
        Resample::bicubic_antialias((6, 6), (9, 4)),
        Resample::avg_pool((6, 7), 3),
    ] {
        let plan = Arc::new(plan);
        let (h, w) = plan.from();
        check_gradients(&[rng.tensor(&[2, h, w, 3])], &[], |tape, x| {
            tape.resample(&x[0], &plan)
        });
    }
}

#[test]
fn equal_grids_cost_nothing() {
    let x = Var::constant(Tensor::zeros(&[1, 5, 6, 2]));
    for plan in [
        Resample::bilinear_align_corners((5, 6), (5, 6)),
        Resample::bicubic_antialias((5, 6), (5, 6)),
        Resample::avg_pool((5, 6), 1),
    ] {
        assert!(plan.is_identity());
        let y = Tape::inference().resample(&x, &Arc::new(plan)).unwrap();
        assert!(!y.value().is_unique(), "the memory is shared");
    }
}

#[test]
fn impossible_grids_are_refused() {
    let x = Var::constant(Tensor::zeros(&[1, 5, 6, 2]));
    for plan in [
        Resample::avg_pool((5, 6), 0),
        Resample::avg_pool((5, 6), 7),
        Resample::bicubic_antialias((5, 6), (0, 3)),
        Resample::bilinear_align_corners((4, 6), (8, 8)),
    ] {
        assert!(Tape::inference().resample(&x, &Arc::new(plan)).is_err());
    }
}
