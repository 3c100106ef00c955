//! How long a run takes and what it costs.

use llavar_bench::{
    Report as BenchReport,
    estimate::{Rates, StepWork, step_seconds},
};
use llavar_tensor::optim::Precision;
use llavar_train::{Planner, Recipe, schedule::StepPlan};
use serde::Serialize;

use super::{Args, data::Data, fit::Stage};
use crate::{
    commands::no_pipe,
    failure::{Class, Failure, Outcome},
};

#[derive(Debug, Serialize)]
pub(super) struct Time {
    pub(super) rates: Rates,
    pub(super) steps: u64,
    pub(super) tokens_per_step: f64,
    pub(super) step_seconds: f64,
    pub(super) tokens_per_second: f64,
    pub(super) images_per_second: f64,
    pub(super) hours: f64,
    pub(super) gpu_hours: f64,
    pub(super) cost: Option<f64>,
}

/// Steps, seconds, hours and cost.
pub(super) fn time(
    args: &Args,
    recipe: &Recipe,
    planner: &Planner,
    data: &Data,
    own: Option<&Stage>,
) -> Outcome<Time> {
    let rates = match &args.rates {
        None => Rates::measured(),
        Some(path) => {
            no_pipe(path)?;
            let wrong = |why: String| {
                Failure::new(Class::Data, format!("{}: {why}", path.display()))
                    .hint("make it with `llavar bench gpu --work train,master --out FILE`")
            };
            let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
            let report: BenchReport =
                serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
            Rates::of_report(&report, &path.display().to_string())
                .ok_or_else(|| wrong("it holds no row of a training step".into()))?
        }
    };
    let gpus = args.gpus as usize;
    let units = data.packs.unwrap_or(data.samples).max(1);
    let micro_batches = recipe.train.gradient_accumulation_steps * gpus;
    let steps = StepPlan::with_micro_batches(&recipe.train, units, micro_batches);
    let per_step = recipe.train.per_device_train_batch_size * micro_batches;
    let share = per_step.min(units) as f64 / units as f64;
    let (tokens, images) = (share * data.tokens, share * data.images);
    let (vision, language) = planner.trains();
    let recomputed = own.map_or(1.0, |s| 1.0 - s.kept_blocks as f64 / s.blocks.max(1) as f64);
    let work = StepWork {
        tokens: tokens / gpus as f64,
        images: images / gpus as f64,
        mean_length: data.tokens / data.samples.max(1) as f64,
        supervised: data.supervised,
        vision,
        language,
        recomputed,
        mixed: planner.precision() != Precision::PureBf16,
        fp8: recipe.train.fp8,
    };
    let step_seconds = step_seconds(planner.config(), &work, &rates);
    let hours = steps.total_steps() as f64 * step_seconds / 3600.0;
    Ok(Time {
        rates,
        steps: steps.total_steps(),
        tokens_per_step: tokens,
        step_seconds,
        tokens_per_second: tokens / step_seconds,
        images_per_second: images / step_seconds,
        hours,
        gpu_hours: hours * gpus as f64,
        cost: args
            .price_per_gpu_hour
            .map(|price| price * hours * gpus as f64),
    })
}
