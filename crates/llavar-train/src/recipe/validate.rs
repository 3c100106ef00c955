//! All problems of a recipe at once.

use std::fmt;

use super::{LrSchedulerType, PrecisionName, Recipe};

/// One thing wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key, `section.key`.
    pub key: String,
    /// The value given, or "unknown key".
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl Problem {
    pub(super) fn new(key: &str, value: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            allowed: allowed.to_string(),
        }
    }

    pub(super) fn unknown(key: &str, nearest: &str) -> Self {
        Self::new(key, "unknown key", format!("did you mean `{nearest}`?"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == "unknown key" {
            write!(f, "`{}` is an unknown key; {}", self.key, self.allowed)
        } else {
            write!(
                f,
                "`{}` = {}, allowed: {}",
                self.key, self.value, self.allowed
            )
        }
    }
}

/// Written as one line each.
pub(crate) fn recipe_list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Recipe {
    /// Every value out of its range. Paths are checked when the run starts, not here.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, value: &dyn fmt::Display, allowed: &str| {
            if !ok {
                problems.push(Problem::new(key, value, allowed));
            }
        };
        let t = &self.train;
        let positive = "a finite number above 0";
        check(
            t.learning_rate.is_finite() && t.learning_rate >= 0.0,
            "train.learning_rate",
            &t.learning_rate,
            "a finite number, 0 or above",
        );
        let modules = [
            ("train.mm_projector_lr", t.mm_projector_lr),
            ("train.mm_vision_tower_lr", t.mm_vision_tower_lr),
        ];
        let modules = modules.into_iter().filter_map(|(key, lr)| Some((key, lr?)));
        let patterns = t.learning_rates.values();
        for (key, lr) in modules.chain(patterns.map(|lr| ("train.learning_rates", *lr))) {
            check(
                lr.is_finite() && lr >= 0.0,
                key,
                &lr,
                "a finite number, 0 or above",
            );
        }
        for (key, decay) in [
            ("train.llm_layer_decay", t.llm_layer_decay),
            ("train.vision_layer_decay", t.vision_layer_decay),
        ] {
            check(
                decay > 0.0 && decay <= 1.0,
                key,
                &decay,
                "above 0, at most 1 (no decay)",
            );
        }
        if let Some(decay) = t.ema_decay {
            check(
                (0.0..1.0).contains(&decay),
                "train.ema_decay",
                &decay,
                "0 to below 1",
            );
        }
        check(
            (4..=100_000).contains(&t.spike_window),
            "train.spike_window",
            &t.spike_window,
            "4 to 100000 steps",
        );
        for (key, z) in [
            ("train.spike_z_loss", t.spike_z_loss),
            ("train.spike_z_grad_norm", t.spike_z_grad_norm),
        ] {
            check(
                z.is_finite() && z >= 0.0,
                key,
                &z,
                "standard deviations above 0, or 0 for no guard",
            );
        }
        for (key, value) in [
            ("train.adam_beta1", t.adam_beta1),
            ("train.adam_beta2", t.adam_beta2),
        ] {
            check((0.0..1.0).contains(&value), key, &value, "0 to below 1");
        }
        check(
            t.adam_epsilon.is_finite() && t.adam_epsilon > 0.0,
            "train.adam_epsilon",
            &t.adam_epsilon,
            positive,
        );
        check(
            t.weight_decay.is_finite() && t.weight_decay >= 0.0,
            "train.weight_decay",
            &t.weight_decay,
            "a finite number, 0 or above",
        );
        check(
            t.max_grad_norm.is_finite() && t.max_grad_norm >= 0.0,
            "train.max_grad_norm",
            &t.max_grad_norm,
            "a finite number above 0, or 0 for no clipping",
        );
        check(
            (0.0..=1.0).contains(&t.warmup_ratio),
            "train.warmup_ratio",
            &t.warmup_ratio,
            "0 to 1",
        );
        check(
            t.max_steps > 0 || (1..=100_000).contains(&t.num_train_epochs),
            "train.num_train_epochs",
            &t.num_train_epochs,
            "1 to 100000 (or set train.max_steps)",
        );
        check(
            t.max_steps <= 1 << 40,
            "train.max_steps",
            &t.max_steps,
            "0 (use num_train_epochs) to 2^40",
        );
        for (key, value, most) in [
            (
                "train.per_device_train_batch_size",
                t.per_device_train_batch_size,
                1 << 16,
            ),
            (
                "train.gradient_accumulation_steps",
                t.gradient_accumulation_steps,
                1 << 16,
            ),
            ("train.model_max_length", t.model_max_length, 1 << 24),
        ] {
            check(
                (1..=most).contains(&value),
                key,
                &value,
                &format!("1 to {most}"),
            );
        }
        check(
            t.max_tokens_per_micro_batch == 0 || t.layout == super::Layout::Packed,
            "train.max_tokens_per_micro_batch",
            &t.max_tokens_per_micro_batch,
            "0 with layout = \"padded\"",
        );
        check(
            t.pack_tokens == 0
                || (t.layout == super::Layout::Packed
                    && !t.group_by_modality_length
                    && t.max_tokens_per_micro_batch == 0),
            "train.pack_tokens",
            &t.pack_tokens,
            "0 with layout = \"padded\", group_by_modality_length or max_tokens_per_micro_batch",
        );
        check(
            t.pack_tokens <= 1 << 24,
            "train.pack_tokens",
            &t.pack_tokens,
            "0 (off) to 2^24",
        );
        check(
            t.lr_scheduler_type != LrSchedulerType::Constant || t.warmup_steps == 0,
            "train.warmup_steps",
            &t.warmup_steps,
            "0 with lr_scheduler_type = \"constant\" (use \"constant_with_warmup\")",
        );
        check(
            t.device.parse::<llavar_tensor::DeviceKind>().is_ok(),
            "train.device",
            &t.device,
            "auto, cpu, cuda, cuda:N",
        );
        check(
            !t.greater_is_better
                || t.metric_for_best_model
                    .as_deref()
                    .is_some_and(|m| m != "loss"),
            "train.greater_is_better",
            &t.greater_is_better,
            "false without train.metric_for_best_model and with \"loss\"",
        );
        check(
            t.max_shard_bytes.is_none_or(|bytes| bytes >= 1 << 16),
            "train.max_shard_bytes",
            &t.max_shard_bytes.unwrap_or_default(),
            "65536 bytes or more",
        );
        check(
            !t.fp8 || t.precision != Some(PrecisionName::F32),
            "train.fp8",
            &t.fp8,
            "false with train.precision = \"f32\"; true with bf16 or bf16-pure",
        );
        check(
            t.zero_stage <= 3,
            "train.zero_stage",
            &t.zero_stage,
            "0 to 3",
        );
        let m = &self.model;
        let template: Result<llavar_data::TemplateName, _> = m.version.parse();
        check(
            template.is_ok(),
            "model.version",
            &m.version,
            &llavar_data::TemplateName::ALL
                .map(|t| t.as_str())
                .join(", "),
        );
        check(
            m.vision_tower_slow.is_none() || m.vision_tower.is_some(),
            "model.vision_tower_slow",
            &m.vision_tower_slow.as_deref().unwrap_or_default(),
            "none without model.vision_tower: the slow path stands beside a CLIP",
        );
        check(
            m.vision_tower.is_none() || !self.lora.lora_enable,
            "model.vision_tower",
            &m.vision_tower.as_deref().unwrap_or_default(),
            "none with lora.lora_enable: adapters name the folder that they stand on, so make it first (llavar init \
             --from-llm DIR --vision-tower DIR --vision-tower-slow FILE --out MODEL)",
        );
        if let Some(size) = m.input_image_size {
            check(
                (32..=8192).contains(&size),
                "model.input_image_size",
                &size,
                "32 to 8192 px",
            );
        }
        let d = &self.data;
        check(
            ["pad", "fit", "square"].contains(&d.image_aspect_ratio.as_str()),
            "data.image_aspect_ratio",
            &d.image_aspect_ratio,
            "pad, fit, square",
        );
        check(
            d.mask_compat.parse::<llavar_data::MaskMode>().is_ok(),
            "data.mask_compat",
            &d.mask_compat,
            "exact, llavar2",
        );
        check(
            d.dataloader_num_workers <= 1024,
            "data.dataloader_num_workers",
            &d.dataloader_num_workers,
            "0 to 1024",
        );
        let (files, folders) = (d.data_path.list().len(), d.image_folder.list().len());
        check(
            folders <= 1 || folders == files,
            "data.image_folder",
            &format!("{folders} folders"),
            &format!("one for all files, or one for each of the {files} of data.data_path"),
        );
        check(
            d.weights.is_empty() || d.weights.len() == files,
            "data.weights",
            &format!("{} weights", d.weights.len()),
            &format!("one for each of the {files} entries of data.data_path"),
        );
        for weight in &d.weights {
            check(
                weight.is_finite() && *weight > 0.0 && *weight <= 1e6,
                "data.weights",
                weight,
                "passes over the set in an epoch: above 0, at most 1000000",
            );
        }
        check(
            d.max_consecutive_bad_samples > 0,
            "data.max_consecutive_bad_samples",
            &d.max_consecutive_bad_samples,
            "1 or above",
        );
        check(
            self.log.worst_samples <= 10_000,
            "log.worst_samples",
            &self.log.worst_samples,
            "0 (off) to 10000",
        );
        if let Some(rate) = self.log.peak_tflops {
            check(
                rate.is_finite() && rate > 0.0,
                "log.peak_tflops",
                &rate,
                positive,
            );
        }
        check(
            self.log.logging_steps > 0,
            "log.logging_steps",
            &self.log.logging_steps,
            "1 or above",
        );
        problems.extend(self.lora.validate());
        problems
    }
}
