//! How long a training step takes, from rates that were measured on another day.
//!
//! Time is operations by rate. The rate is that of whole training steps, so attention, norms, the optimizer and
//! launches are in it; it holds for steps of a few thousand tokens a GPU and more. What GPUs exchange is not
//! counted: it overlaps with the work, and no rate of it is known here.

use llavar_model::config::ModelConfig;
use serde::Serialize;

use crate::{Report, flops, gpu::DATA_SHEET_TFLOPS};

/// Operations a second of whole training steps on one GPU, those of recomputation among them, TFLOP/s.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rates {
    /// Where they are from.
    pub source: String,
    /// The GPU.
    pub gpu: String,
    /// bf16 weights with f32 gradients, moments and master weights; everything recomputed.
    pub mixed_recompute: f64,
    /// All bf16, everything recomputed.
    pub pure_recompute: f64,
    /// All bf16, nothing recomputed.
    pub pure_keep: f64,
    /// How many times as fast a step is with FP8 products.
    pub fp8: f64,
}

impl Rates {
    /// The rows of BENCHMARKS.md, "One GPU beside PyTorch": SFT steps of the 3.8B shape, 8 x 800 tokens, bf16 states, one
    /// H100, 2026-11-28: 169 TFLOP of the model and 56 of recomputation in 388.2 ms, the former alone in 325.1 ms, with
    /// FP8 products 314.1 ms. f32 states beside these as on an H200, 2026-11-24: 444 and 424 ms.
    pub fn measured() -> Self {
        Self {
            source: "BENCHMARKS.md, one H100, 2026-11-28; f32 states beside bf16's: one H200, 2026-11-24"
                .into(),
            gpu: "NVIDIA H100".into(),
            mixed_recompute: 225.3 / (0.3882 * 444.0 / 424.0),
            pure_recompute: 225.3 / 0.3882,
            pure_keep: 169.3 / 0.3251,
            fp8: 388.2 / 314.1,
        }
    }

    /// From the rows of `llavar bench gpu --work train,master`; `None` where one of them is missing.
    pub fn of_report(report: &Report, source: &str) -> Option<Self> {
        let rate = |precision: &str, how: &str, executed: f64| {
            let row = report.rows.iter().find(|row| {
                row.work.starts_with("SFT step")
                    && row.work.contains(&format!(", {precision}, "))
                    && row.work.ends_with(how)
            })?;
            Some(row.mfu_percent? / 100.0 * DATA_SHEET_TFLOPS * executed)
        };
        // Model FLOP utilisation counts three passes; with recomputation four are done.
        let again = 4.0 / 3.0;
        let pure_recompute = rate("bf16-pure", "full recompute", again);
        let mixed_recompute = rate("bf16", "full recompute", again);
        let pure_fp8 = rate("bf16-pure", "full recompute, FP8 products", again);
        Some(Self {
            source: source.to_owned(),
            gpu: report.machine.gpu.clone(),
            mixed_recompute: mixed_recompute.or(pure_recompute)?,
            pure_recompute: pure_recompute.or(mixed_recompute)?,
            pure_keep: rate("bf16-pure", " no recompute", 1.0).or(pure_recompute)?,
            // A report without such a row promises nothing.
            fp8: pure_fp8
                .zip(pure_recompute)
                .map_or(1.0, |(fp8, bf16)| fp8 / bf16),
        })
    }
}

/// What decides the operations of a step on one GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepWork {
    /// Tokens, those of pictures among them.
    pub tokens: f64,
    /// Pictures.
    pub images: f64,
    /// Tokens of a sample, on average: attention is quadratic in them.
    pub mean_length: f64,
    /// Share of the tokens whose prediction counts.
    pub supervised: f64,
    /// Whether the vision tower trains.
    pub vision: bool,
    /// Whether the language model trains; a gradient passes through it in any case.
    pub language: bool,
    /// Share of the blocks that are computed again, 0 to 1.
    pub recomputed: f64,
    /// Whether moments and masters are f32.
    pub mixed: bool,
    /// Whether products of the language model are FP8.
    pub fp8: bool,
}

/// Operations of a step, TFLOP, those of recomputation among them.
pub fn step_tflop(config: &ModelConfig, work: &StepWork) -> f64 {
    let samples = work.tokens / work.mean_length.max(1.0);
    let language = samples * flops::language_model(config, &[work.mean_length.round() as usize]);
    let head = work.tokens * work.supervised * flops::read_rows(config, 1);
    let vision = work.images * flops::vision(config);
    // Forward; gradients of what comes in, gradients of weights; forward again.
    let weights = if work.language { 1.0 } else { 0.0 };
    let language = language * (2.0 + weights + work.recomputed) + head * (2.0 + weights);
    let vision = vision
        * if work.vision {
            3.0 + work.recomputed
        } else {
            1.0
        };
    (language + vision) / 1e12
}

/// Seconds of a step.
pub fn step_seconds(config: &ModelConfig, work: &StepWork, rates: &Rates) -> f64 {
    let recompute = match work.mixed {
        true => rates.mixed_recompute,
        false => rates.pure_recompute,
    };
    // No row has f32 states without recomputation: the difference is taken from the bf16 rows.
    let keep = rates.pure_keep * recompute / rates.pure_recompute;
    let rate = recompute * work.recomputed + keep * (1.0 - work.recomputed);
    let faster = if work.fp8 { rates.fp8 } else { 1.0 };
    step_tflop(config, work) / (rate * faster)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llavar_model::config::Preset;

    /// The step that was measured.
    fn work(recomputed: f64, mixed: bool) -> StepWork {
        StepWork {
            tokens: 6400.0,
            images: 8.0,
            mean_length: 800.0,
            supervised: 0.14,
            vision: true,
            language: true,
            recomputed,
            mixed,
            fp8: false,
        }
    }

    #[test]
    fn measured_steps_come_out_again() {
        let config = Preset::Phi35Mini.config(None).unwrap();
        let rates = Rates::measured();
        for (recomputed, mixed, ms) in
            [(1.0, true, 406.5), (1.0, false, 388.2), (0.0, false, 325.1)]
        {
            let seconds = step_seconds(&config, &work(recomputed, mixed), &rates);
            assert!((seconds * 1e3 / ms - 1.0).abs() < 0.02, "{seconds} {ms}");
        }
        for (recomputed, ratio) in [(1.0, 20_379.0 / 16_488.0), (0.0, 24_213.0 / 19_685.0)] {
            let bf16 = work(recomputed, false);
            let fp8 = StepWork { fp8: true, ..bf16 };
            let [bf16, fp8] = [bf16, fp8].map(|work| step_seconds(&config, &work, &rates));
            assert!((bf16 / fp8 / ratio - 1.0).abs() < 0.006, "{bf16} {fp8}");
        }
        let tflop = step_tflop(&config, &work(0.0, false));
        assert!((tflop / 169.3 - 1.0).abs() < 0.01, "{tflop}");
        let tflop = step_tflop(&config, &work(1.0, false));
        assert!((tflop / 225.3 - 1.0).abs() < 0.01, "{tflop}");
    }

    #[test]
    fn less_to_train_is_less_work() {
        let config = Preset::Phi35Mini.config(None).unwrap();
        let all = step_tflop(&config, &work(1.0, false));
        let frozen = |vision, language| {
            let work = StepWork {
                vision,
                language,
                ..work(1.0, false)
            };
            step_tflop(&config, &work)
        };
        assert!(frozen(false, true) < all && frozen(false, false) < frozen(false, true));
        assert!(frozen(false, false) > 0.5 * all);
    }

    #[test]
    fn rates_are_read_from_a_report() {
        let row = |work: &str, mfu| crate::Row {
            work: work.into(),
            rate: 1.0,
            unit: "tok/s".into(),
            ms: 1.0,
            floor_ms: 1.0,
            floor: String::new(),
            mfu_percent: Some(mfu),
            peak_gib: 1.0,
            note: String::new(),
        };
        let mut report = Report {
            machine: crate::Machine {
                gpu: "X".into(),
                memory_gib: 80.0,
                driver_cuda: String::new(),
                driver: None,
                cublaslt: 1,
                cudnn: None,
                nvrtc: String::new(),
                matmul_tflops: 1.0,
                copy_tbs: 1.0,
            },
            unix_time: 0,
            shape: "phi3.5-3.8b".into(),
            rows: vec![
                row("SFT step, batch 8 x 800, bf16-pure, full recompute", 41.0),
                row("SFT step, batch 8 x 800, bf16-pure, no recompute", 50.5),
            ],
        };
        let rates = Rates::of_report(&report, "x.json").unwrap();
        let expected = 0.41 * 989.0 * 4.0 / 3.0;
        assert!((rates.pure_recompute - expected).abs() < 1e-6);
        assert_eq!(rates.mixed_recompute, rates.pure_recompute);
        assert!((rates.pure_keep - 0.505 * 989.0).abs() < 1e-6);
        assert_eq!(rates.fp8, 1.0);
        let fp8 = "SFT step, batch 8 x 800, bf16-pure, full recompute, FP8 products";
        report.rows.push(row(fp8, 51.25));
        let with_fp8 = Rates::of_report(&report, "x.json").unwrap();
        assert!((with_fp8.fp8 - 1.25).abs() < 1e-9, "{}", with_fp8.fp8);
        assert_eq!(with_fp8.pure_recompute, rates.pure_recompute);
        report.rows.clear();
        assert!(Rates::of_report(&report, "x.json").is_none());
    }
}
