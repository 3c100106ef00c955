//! What one GPU holds, and what to change where it does not fit.

use llavar_tensor::optim::Precision;
use llavar_train::{MemoryPlan, Planner, Recipe, Spread, recipe::GradientCheckpointing};
use serde::Serialize;

/// What one GPU holds, bytes.
#[derive(Debug, Serialize)]
pub(super) struct Stage {
    pub(super) zero_stage: u8,
    pub(super) weights: usize,
    pub(super) gradients: usize,
    pub(super) optimizer_states: usize,
    pub(super) activations: usize,
    pub(super) workspace: usize,
    pub(super) together: usize,
    pub(super) fits: bool,
    pub(super) kept_blocks: usize,
    pub(super) blocks: usize,
    /// Largest micro-batch, tokens, with everything recomputed and with nothing.
    pub(super) most_tokens: Option<usize>,
    pub(super) most_tokens_kept: Option<usize>,
}

impl Stage {
    pub(super) fn of(zero_stage: u8, plan: &MemoryPlan) -> Self {
        Self {
            zero_stage,
            weights: plan.weights,
            gradients: plan.gradients,
            optimizer_states: plan.optimizer_states,
            activations: plan.activations,
            workspace: plan.workspace,
            together: plan.on_device(),
            fits: plan.fits_safely(),
            kept_blocks: plan.kept_blocks,
            blocks: plan.blocks,
            most_tokens: None,
            most_tokens_kept: None,
        }
    }
}

/// ZeRO's highest stage that a recipe can take: weights of 4 bits are not cut into parts.
pub(super) fn highest_stage(recipe: &Recipe) -> u8 {
    if recipe.lora.bits == 4 { 2 } else { 3 }
}

/// Changes with which it fits, the cheapest first; none where it fits.
pub(super) fn suggestions(
    recipe: &Recipe,
    planner: &Planner,
    stages: &[Stage],
    own_stage: u8,
    spread: &impl Fn(u8) -> Spread,
) -> Vec<String> {
    let own = stages.iter().find(|s| s.zero_stage == own_stage);
    if own.is_some_and(|s| s.fits) {
        return Vec::new();
    }
    let (train, highest) = (&recipe.train, highest_stage(recipe));
    let all = GradientCheckpointing::Switch(true);
    let batch = planner.micro_batch();
    let fits = |spread: &Spread, batch, keep| planner.plan(spread, batch, keep).fits_safely();
    let mut ways = Vec::new();
    if train.gradient_checkpointing != all && fits(&spread(own_stage), batch, Some(all)) {
        ways.push("--set gradient_checkpointing=true".to_owned());
    }
    let samples = train.per_device_train_batch_size;
    let smaller = (1..samples).rev().find(|n| {
        let part = |all: usize| all * n / samples;
        samples.is_multiple_of(*n) && fits(&spread(own_stage), (part(batch.0), part(batch.1)), None)
    });
    if let Some(n) = smaller.filter(|_| train.max_tokens_per_micro_batch == 0) {
        ways.push(format!(
            "--set per_device_train_batch_size={n} --set gradient_accumulation_steps={}: the same step in smaller \
             parts",
            train.gradient_accumulation_steps * samples / n
        ));
    }
    if let Some(stage) = stages.iter().find(|s| s.fits && s.zero_stage > own_stage) {
        ways.push(format!("--set zero_stage={}", stage.zero_stage));
    }
    let pure = Spread {
        precision: Precision::PureBf16,
        ..spread(own_stage)
    };
    if planner.precision() != Precision::PureBf16 && fits(&pure, batch, None) {
        ways.push("--set precision=bf16-pure: 8 bytes a parameter instead of 18".into());
    }
    let more = [2usize, 4, 8, 16, 32, 64, 128, 256]
        .into_iter()
        .find(|gpus| {
            let sharded = Spread {
                gpus: *gpus,
                ..spread(highest)
            };
            *gpus > spread(0).gpus && fits(&sharded, batch, None)
        });
    if let Some(gpus) = more {
        ways.push(format!("--gpus {gpus} --set zero_stage={highest}"));
    }
    if planner.trains().0 {
        ways.push("--set 'freeze=[\"model.vision_tower.*\"]': the towers stay as they are".into());
    }
    ways
}
