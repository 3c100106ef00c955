//! Checks of the optimizer that hold on every device.

use super::{AdamW, Moments, Precision, StepLimits, StepState, update_average};
use crate::{
    Device, Param, Tensor,
    ops::testing::{Rng, close},
};

/// All precisions.
pub(crate) const PRECISIONS: [Precision; 3] =
    [Precision::F32, Precision::MixedBf16, Precision::PureBf16];

/// A weight on a device in the types of a precision.
pub(crate) fn param(name: &str, value: Tensor, device: &Device, precision: Precision) -> Param {
    let param = Param::new(name, value);
    param
        .to_device(device, precision.weights(), precision.grads())
        .unwrap();
    param
}

/// Gives `param` the gradient `g`; returns it as rounded to the element type of its buffer.
pub(crate) fn set_grad(param: &Param, g: &[f32]) -> Vec<f32> {
    param.zero_grad();
    param
        .accumulate_tensor(|buffer, beta| {
            assert_eq!(beta, 0.0);
            let from = Tensor::from_vec(g.to_vec(), param.shape())?.cast(buffer.dtype())?;
            match buffer.cuda().cloned() {
                None => *buffer = from,
                Some(cuda) => cuda.copy(&from.to_device(&buffer.device())?, buffer)?,
            }
            Ok(())
        })
        .unwrap();
    param.grad().unwrap().to_f32_vec().unwrap()
}

/// AdamW with the default constants in f64.
pub(crate) struct Reference {
    pub(crate) p: Vec<f64>,
    pub(crate) m: Vec<f64>,
    pub(crate) v: Vec<f64>,
}

impl Reference {
    pub(crate) fn new(param: &Param) -> Self {
        let p = param.value().to_f32_vec().unwrap();
        Self {
            m: vec![0.0; p.len()],
            v: vec![0.0; p.len()],
            p: p.into_iter().map(f64::from).collect(),
        }
    }

    /// Update number `step` by `scale` times the gradient `g`.
    pub(crate) fn update(&mut self, g: &[f32], scale: f64, step: i32, lr: f64, decay: f64) {
        // The constants as they are held, in f32: 1 - 0.999 differs from 0.001 by 1.3e-5 there.
        let (b1, b2) = (f64::from(0.9f32), f64::from(0.999f32));
        for (i, g) in g.iter().enumerate() {
            let g = f64::from(*g) * scale;
            self.m[i] = b1 * self.m[i] + (1.0 - b1) * g;
            self.v[i] = b2 * self.v[i] + (1.0 - b2) * g * g;
            let mh = self.m[i] / (1.0 - b1.powi(step));
            let vh = self.v[i] / (1.0 - b2.powi(step));
            self.p[i] = self.p[i] * (1.0 - lr * decay) - lr * mh / (vh.sqrt() + 1e-8);
        }
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Five clipped updates of weights of odd sizes, with decay, against the formula in f64.
pub(crate) fn updates_agree_with_the_formula(device: &Device, precision: Precision) {
    let mut rng = Rng::new(21);
    let adamw = AdamW::default();
    let params: Vec<Param> = [1, 7, 8, 0, 1003, 16 * 1024 + 77]
        .into_iter()
        .enumerate()
        .map(|(i, n)| param(&format!("p{i}"), rng.tensor(&[n]), device, precision))
        .collect();
    let mut moments: Vec<Moments> = params
        .iter()
        .map(|p| Moments::new(p, precision).unwrap())
        .collect();
    let mut want: Vec<Reference> = params.iter().map(Reference::new).collect();
    let mut state = StepState::new(device, 0, &adamw).unwrap();
    for step in 1..=5 {
        let grads: Vec<Vec<f32>> = params
            .iter()
            .map(|p| set_grad(p, &rng.vec(p.numel())))
            .collect();
        let squares = grads.iter().flatten().map(|g| f64::from(*g).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        let max_norm = 40.0;
        assert!(norm > max_norm, "clipping is part of the test");
        state.begin(&params, max_norm as f32).unwrap();
        for (param, moments) in params.iter().zip(&mut moments) {
            adamw.update(param, moments, 0.01, 0.1, &state).unwrap();
        }
        let result = state.read_back().unwrap().wait().unwrap();
        assert!((f64::from(result.norm) / norm - 1.0).abs() < 1e-6);
        assert_eq!((result.updates, result.skipped), (step as u64, false));
        for (want, g) in want.iter_mut().zip(&grads) {
            want.update(g, max_norm / (norm + 1e-6), step, 0.01, 0.1);
        }
    }
    // f32 arithmetic, then what rounding to bf16 once (half a unit, 2^-9) or in each of five steps leaves.
    let (weights, states) = match precision {
        Precision::F32 => (1e-5, 1e-5),
        Precision::MixedBf16 => (4e-3, 1e-5),
        Precision::PureBf16 => (1e-2, 1e-2),
    };
    let all = |f: &dyn Fn(usize) -> Vec<f32>| (0..params.len()).flat_map(f).collect::<Vec<f32>>();
    let got = |f: &dyn Fn(&Moments) -> &Tensor| all(&|i| f(&moments[i]).to_f32_vec().unwrap());
    let values = all(&|i| params[i].value().to_f32_vec().unwrap());
    let exact = all(&|i| narrow(&want[i].p));
    let what = |part: &str| format!("{part}, {precision} on {device}");
    close(&values, &exact, weights, &what("weights"));
    let (m, v) = (got(&|m| &m.exp_avg), got(&|m| &m.exp_avg_sq));
    close(&m, &all(&|i| narrow(&want[i].m)), states, &what("mean"));
    close(&v, &all(&|i| narrow(&want[i].v)), states, &what("square"));
    for (i, moments) in moments.iter().enumerate() {
        assert_eq!(moments.master.is_some(), precision.has_master());
        if let Some(master) = &moments.master {
            let master = master.to_f32_vec().unwrap();
            close(&master, &narrow(&want[i].p), 1e-5, &what("master"));
        }
    }
}

/// Steps far below a bf16 unit: rounding to nearest would not move any weight.
pub(crate) fn pure_bf16_is_unbiased(device: &Device) {
    let (n, steps, lr) = (4096, 400, 1e-5);
    let mut rng = Rng::new(22);
    let adamw = AdamW::default();
    let ones = Tensor::from_vec(vec![1.0f32; n], &[n]).unwrap();
    let param = param("p", ones, device, Precision::PureBf16);
    let mut moments = Moments::new(&param, Precision::PureBf16).unwrap();
    let mut want = Reference::new(&param);
    let mut state = StepState::new(device, 0, &adamw).unwrap();
    for step in 1..=steps {
        let g: Vec<f32> = rng.vec(n).into_iter().map(|x| x + 0.5).collect();
        let g = set_grad(&param, &g);
        state.begin([&param], 0.0).unwrap();
        adamw.update(&param, &mut moments, lr, 0.0, &state).unwrap();
        want.update(&g, 1.0, step, f64::from(lr), 0.0);
    }
    let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
    let moved = mean(&narrow(&want.p)) - 1.0;
    let got = mean(&param.value().to_f32_vec().unwrap()) - 1.0;
    assert!(moved < -1e-3, "the reference moves by {moved}");
    assert!(
        (got / moved - 1.0).abs() < 0.05,
        "moved by {got}, expected {moved}"
    );
    let square = mean(&moments.exp_avg_sq.to_f32_vec().unwrap());
    let exact = mean(&narrow(&want.v));
    assert!(
        (square / exact - 1.0).abs() < 0.01,
        "{square}, expected {exact}"
    );
}

/// Norms that are not finite, between updates that are made, from a count beyond 32 bits.
pub(crate) fn bad_gradients_change_nothing(device: &Device) {
    let adamw = AdamW::default();
    let before = (1u64 << 33) - 1;
    let params: Vec<Param> = PRECISIONS
        .into_iter()
        .chain([Precision::F32])
        .enumerate()
        .map(|(i, p)| param(&format!("p{i}"), Tensor::zeros(&[37]), device, p))
        .collect();
    let mut moments: Vec<Moments> = params
        .iter()
        .zip(PRECISIONS.into_iter().chain([Precision::F32]))
        .map(|(param, precision)| Moments::new(param, precision).unwrap())
        .collect();
    let mut state = StepState::new(device, before, &adamw).unwrap();
    let early = adamw.update(&params[0], &mut moments[0], 0.1, 0.0, &state);
    assert!(early.is_err(), "an update before the step has begun");
    let content = |moments: &[Moments]| -> Vec<Vec<f32>> {
        let values = params.iter().map(Param::value);
        let states = moments
            .iter()
            .flat_map(|m| [&m.exp_avg, &m.exp_avg_sq].into_iter().chain(&m.master));
        values
            .chain(states.cloned())
            .map(|t| t.to_f32_vec().unwrap())
            .collect()
    };
    let mut updates = before;
    for bad in [f32::NAN, 0.5, f32::NEG_INFINITY, f32::INFINITY, 0.25] {
        // The last weight gets no gradient, each of the others the bad value once.
        for place in 0..3 {
            for (i, param) in params.iter().enumerate().take(3) {
                let mut g = vec![1.0; 37];
                g[36] = if i == place { bad } else { 1.0 };
                set_grad(param, &g);
            }
            let old = content(&moments);
            state.begin(&params, 1.0).unwrap();
            for (param, moments) in params.iter().zip(&mut moments) {
                adamw.update(param, moments, 0.1, 0.1, &state).unwrap();
            }
            let result = state.read_back().unwrap().wait().unwrap();
            updates += u64::from(bad.is_finite());
            assert_eq!(
                (result.updates, result.skipped),
                (updates, !bad.is_finite())
            );
            assert_eq!(result.norm.is_finite(), bad.is_finite());
            let new = content(&moments);
            for (i, (old, new)) in old.iter().zip(&new).take(3).enumerate() {
                assert_eq!(old == new, result.skipped, "weight {i} after {bad}");
            }
            if result.skipped {
                assert_eq!(old, new, "after {bad}");
            }
            assert_eq!(new[3], [0.0; 37], "no gradient, no update");
        }
    }
}

/// Loss and norm at, below and beyond their limits, with and without skipping.
pub(crate) fn limits_are_kept(device: &Device) {
    let adamw = AdamW::default();
    let param = param("p", Tensor::zeros(&[9]), device, Precision::F32);
    let mut moments = Moments::new(&param, Precision::F32).unwrap();
    let mut state = StepState::new(device, 0, &adamw).unwrap();
    // The loss is 0.5 * 4 + 0.25 * 8 = 4, the norm 3.
    let losses = Tensor::from_vec(vec![4.0, 0.5, 8.0, 0.25], &[4]).unwrap();
    let losses = losses.to_device(device).unwrap();
    let any = f32::INFINITY;
    let mut updates = 0;
    for (loss, norm, skip, spikes) in [
        (any, any, true, [false, false]),
        (4.0, 3.0, true, [false, false]),
        (3.99, any, true, [true, false]),
        (any, 2.99, true, [false, true]),
        (3.99, 2.99, false, [true, true]),
        (3.99, 2.99, true, [true, true]),
    ] {
        let what = format!("limits {loss} and {norm}, skip {skip}");
        set_grad(&param, &[1.0; 9]);
        let before = param.value().to_f32_vec().unwrap();
        let limits = StepLimits {
            losses: &losses,
            loss,
            norm,
            skip,
        };
        state.begin_within([&param], 1.0, Some(limits)).unwrap();
        adamw
            .update(&param, &mut moments, 0.1, 0.0, &state)
            .unwrap();
        let result = state.read_back().unwrap().wait().unwrap();
        let skipped = skip && spikes != [false, false];
        updates += u64::from(!skipped);
        assert_eq!([result.loss_spike, result.norm_spike], spikes, "{what}");
        assert_eq!(
            (result.skipped, result.updates),
            (skipped, updates),
            "{what}"
        );
        let same = before == param.value().to_f32_vec().unwrap();
        assert_eq!(same, skipped, "{what}");
    }
    // A gradient that is not finite is that and no spike.
    set_grad(&param, &[f32::INFINITY; 9]);
    let limits = StepLimits {
        losses: &losses,
        loss: 1.0,
        norm: 1.0,
        skip: false,
    };
    state.begin_within([&param], 1.0, Some(limits)).unwrap();
    let result = state.read_back().unwrap().wait().unwrap();
    assert!(result.skipped && !result.loss_spike && !result.norm_spike);
    // Without limits nothing of them is left.
    set_grad(&param, &[1.0; 9]);
    state.begin([&param], 1.0).unwrap();
    let result = state.read_back().unwrap().wait().unwrap();
    assert!(!result.skipped && !result.loss_spike && !result.norm_spike);
    let odd = Tensor::zeros(&[3]);
    let limits = StepLimits {
        losses: &odd,
        ..limits
    };
    assert!(state.begin_within([&param], 1.0, Some(limits)).is_err());
}

/// Averages of weights of both types over steps, one of which is skipped.
pub(crate) fn averages_agree_with_the_formula(device: &Device) {
    let mut rng = Rng::new(23);
    let adamw = AdamW::default();
    for (precision, n) in [
        (Precision::F32, 1003),
        (Precision::PureBf16, 16 * 1024 + 77),
    ] {
        let param = param("p", rng.tensor(&[n]), device, precision);
        let start = param.value().to_f32_vec().unwrap();
        let mut want: Vec<f64> = start.iter().map(|x| f64::from(*x)).collect();
        let average = Tensor::from_vec(start, &[n]).unwrap();
        let mut average = average.to_device(device).unwrap();
        let mut moments = Moments::new(&param, precision).unwrap();
        let mut state = StepState::new(device, 0, &adamw).unwrap();
        assert!(update_average(&mut average, &param.value(), 0.9, &state).is_err());
        for step in 0..6 {
            let bad = step == 3;
            let mut g = rng.vec(n);
            g[0] = if bad { f32::NAN } else { g[0] };
            set_grad(&param, &g);
            state.begin([&param], 0.0).unwrap();
            adamw
                .update(&param, &mut moments, 0.1, 0.0, &state)
                .unwrap();
            update_average(&mut average, &param.value(), 0.9, &state).unwrap();
            let values = param.value().to_f32_vec().unwrap();
            for (want, value) in want.iter_mut().zip(values).filter(|_| !bad) {
                *want += 0.1 * (f64::from(value) - *want);
            }
        }
        let what = format!("average, {precision} on {device}");
        close(&average.to_f32_vec().unwrap(), &narrow(&want), 1e-5, &what);
        let other = Tensor::zeros(&[n + 1]);
        assert!(update_average(&mut average, &other, 0.9, &state).is_err());
    }
}
