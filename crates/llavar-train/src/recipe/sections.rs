//! The sections of a recipe. Names are the flags of LLaVA and of the transformers' trainer where those
//! have one; values are in their units.

use std::collections::BTreeMap;

use llavar_model::weights::{Dtype, WeightFormat};
use llavar_tensor::{compact::WHOLE_BELOW, optim::Precision};
use serde::{Deserialize, Serialize};

/// Which of the two training stages runs (spec 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Stage 1: projector and final fusion learn to read the towers (`tune_mm_mlp_adapter`).
    Pretrain,
    /// Stage 2: everything learns.
    Sft,
}

/// `[model]`: what is trained, from which weights, with which conversation template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Folder of the model to start from.
    pub model_name_or_path: Option<String>,
    /// For a plain language model in `model_name_or_path`: the CLIP beside it, a folder or weight file of
    /// transformers, or a ConvNeXt that sees alone. Projector and fusion are then new. A folder that has its
    /// towers takes none.
    pub vision_tower: Option<String>,
    /// The same for the ConvNeXt of the slow path, a folder or weight file of timm or open_clip.
    pub vision_tower_slow: Option<String>,
    /// Conversation template: `plain`, `v1`, `llava_v1`, `phi3_instruct`, `llama3`.
    pub version: String,
    /// Stage-1 weights (`mm_projector.safetensors` or a run folder that holds them) to load first.
    pub pretrain_mm_mlp_adapter: Option<String>,
    /// Side of the square input, px. None: as the model's configuration has it.
    pub input_image_size: Option<usize>,
    /// Whether no adapters are put between the towers; stage 2 has `false`. What trains is `train.stage`'s and
    /// `train.freeze`'s to say: `train.freeze=["model.vision_tower.*vision_tower.*"]` keeps the towers as they are.
    pub freeze_vision: bool,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            model_name_or_path: None,
            vision_tower: None,
            vision_tower_slow: None,
            version: "v1".into(),
            pretrain_mm_mlp_adapter: None,
            input_image_size: None,
            freeze_vision: false,
        }
    }
}

/// One or more paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// None given.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Paths {
    /// As a list.
    pub fn list(&self) -> Vec<&str> {
        match self {
            Self::None => Vec::new(),
            Self::One(path) => vec![path],
            Self::Many(paths) => paths.iter().map(String::as_str).collect(),
        }
    }
}

/// What happens when a sample cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadSample {
    /// The run stops with an error that names sample and path.
    Stop,
    /// The sample is written to `quarantine.jsonl` and the next one of the epoch's order stands in.
    Skip,
}

/// `[data]`: which samples, and how they reach the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// LLaVA JSON or JSONL, Parquet, WebDataset tar; `dir/part-*.parquet` stands for all files that fit. A
    /// list is trained on as one set.
    #[serde(skip_serializing_if = "is_none")]
    pub data_path: Paths,
    /// Passes over each entry of `data_path` in one epoch: 1 takes every sample once, 0.5 half of them
    /// (the other half in the next epoch), 2 twice. None given: 1 for all.
    pub weights: Vec<f64>,
    /// Folder below which the images lie; one for all files, or one a file.
    #[serde(skip_serializing_if = "is_none")]
    pub image_folder: Paths,
    /// `pad`, `fit` or `square`; see `Aspect` of `llavar-image`.
    pub image_aspect_ratio: String,
    /// `exact`, or `llavar2` for the release's labels that start one or two tokens early.
    pub mask_compat: String,
    /// Whether the key `cells` of a sample is trained on where there is one: the letters of its picture on a grid,
    /// one an image token, each predicted from its own token.
    pub cells: bool,
    /// Whether samples are drawn in a new random order each epoch.
    pub shuffle: bool,
    /// Threads that read, decode and tokenize; 0 does it between the steps.
    pub dataloader_num_workers: usize,
    /// Samples that are ready or in work may hold this many bytes.
    pub prefetch_bytes: usize,
    /// Resized pictures kept in memory for the next epoch, bytes; 0 keeps none.
    pub image_cache_bytes: usize,
    /// Folder for what a frozen vision tower makes of each picture, so that it is computed once: stage 1, or a run
    /// that freezes the tower. The results are the same. None: nothing is kept on disk.
    pub vision_features_cache: Option<String>,
    /// `stop` or `skip`.
    pub on_bad_sample: OnBadSample,
    /// With `skip`: the run stops once more samples than this were bad.
    pub max_bad_samples: usize,
    /// With `skip`: the run stops when more samples than this are bad one after the other, as when a disk
    /// is gone.
    pub max_consecutive_bad_samples: usize,
}

fn is_none(paths: &Paths) -> bool {
    *paths == Paths::None
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            data_path: Paths::None,
            weights: Vec::new(),
            image_folder: Paths::None,
            image_aspect_ratio: "square".into(),
            mask_compat: "exact".into(),
            cells: true,
            shuffle: true,
            dataloader_num_workers: 4,
            prefetch_bytes: 256 << 20,
            image_cache_bytes: 0,
            vision_features_cache: None,
            on_bad_sample: OnBadSample::Stop,
            max_bad_samples: 100,
            max_consecutive_bad_samples: 20,
        }
    }
}

/// Shape of the learning rate over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// Warm-up, then half a cosine to 0.
    Cosine,
    /// Warm-up, then a straight line to 0.
    Linear,
    /// The same rate throughout; no warm-up, as in transformers.
    Constant,
    /// Warm-up, then the same rate.
    ConstantWithWarmup,
}

/// How tokens of one optimizer step are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeighting {
    /// Mean over all supervised tokens of the global batch.
    Token,
    /// Mean of the micro-batches' means, as the reference.
    MicroBatch,
}

/// How the samples of a micro-batch lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One after the other, no padding.
    Packed,
    /// Rows as long as the longest, as the reference.
    Padded,
}

/// What happens when a checkpoint cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSaveError {
    /// The run stops; all earlier checkpoints stay.
    Stop,
    /// The run goes on and tries again at the next save.
    Continue,
}

/// What happens at a step whose loss or gradient norm is a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSpike {
    /// It is told and logged.
    Warn,
    /// Weights and moments stay as they are.
    Skip,
    /// The run goes back to its newest checkpoint and on with the data after those of the spike.
    Rollback,
}

/// Which layers keep their activations from the forward to the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawCheckpointing", into = "RawCheckpointing")]
pub enum GradientCheckpointing {
    /// None of them (`true`), or all (`false`).
    Switch(bool),
    /// So many, counted from the end of the forward pass.
    Keep(usize),
    /// As many as the memory plan says fit.
    Auto,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum RawCheckpointing {
    Switch(bool),
    Keep(i64),
    Word(String),
}

impl TryFrom<RawCheckpointing> for GradientCheckpointing {
    type Error = String;

    fn try_from(raw: RawCheckpointing) -> Result<Self, String> {
        let wrong = |value: String| {
            format!(
                "gradient_checkpointing = {value}, allowed: true, false, \"auto\", or the number of layers that \
                 keep their activations"
            )
        };
        match raw {
            RawCheckpointing::Switch(on) => Ok(Self::Switch(on)),
            RawCheckpointing::Keep(count) => usize::try_from(count)
                .map(Self::Keep)
                .map_err(|_| wrong(count.to_string())),
            RawCheckpointing::Word(word) if word == "auto" => Ok(Self::Auto),
            RawCheckpointing::Word(word) => Err(wrong(word)),
        }
    }
}

impl From<GradientCheckpointing> for RawCheckpointing {
    fn from(value: GradientCheckpointing) -> Self {
        match value {
            GradientCheckpointing::Switch(on) => Self::Switch(on),
            GradientCheckpointing::Keep(count) => {
                Self::Keep(i64::try_from(count).unwrap_or(i64::MAX))
            }
            GradientCheckpointing::Auto => Self::Word("auto".into()),
        }
    }
}

/// Element types of weights, gradients and moments, as a recipe names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrecisionName {
    /// All f32.
    #[serde(rename = "f32")]
    F32,
    /// Weights bf16; gradients, moments and master weights f32.
    #[serde(rename = "bf16")]
    Bf16,
    /// All bf16.
    #[serde(rename = "bf16-pure")]
    Bf16Pure,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::Bf16 => Self::MixedBf16,
            PrecisionName::Bf16Pure => Self::PureBf16,
        }
    }
}

impl From<Precision> for PrecisionName {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::MixedBf16 => Self::Bf16,
            Precision::PureBf16 => Self::Bf16Pure,
        }
    }
}

/// Element type of a trained model's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// f32.
    F32,
    /// bf16; weights of fewer than 4,096 elements (norms, biases) f32.
    Bf16,
}

/// Largest file of a compact checkpoint where the recipe does not say.
const COMPACT_SHARD_BYTES: u64 = 16 << 20;

/// `[train]`: the optimisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// `pretrain` or `sft`.
    pub stage: Stage,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Own rate of the projector; None: the same.
    pub mm_projector_lr: Option<f64>,
    /// Own rate of the vision tower with its adapters and fusion; None: the same.
    pub mm_vision_tower_lr: Option<f64>,
    /// Rates by pattern (`*`, `?`) of weight names; the longest that fits a weight wins over its module's rate.
    pub learning_rates: BTreeMap<String, f64>,
    /// Layer-wise decay of the rate in the language model: each block below another has this times its rate.
    pub llm_layer_decay: f64,
    /// The same in the towers, each counted from its own end.
    pub vision_layer_decay: f64,
    /// Passes over the data.
    pub num_train_epochs: u64,
    /// Optimizer steps; above 0 it replaces `num_train_epochs`.
    pub max_steps: u64,
    /// Samples in one micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches in one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Packed layout only: the samples of a step are cut into micro-batches of at most this many
    /// tokens instead of a fixed number of samples; 0 keeps the fixed number.
    pub max_tokens_per_micro_batch: usize,
    /// Above 0: samples are planned into packs of at most this many tokens, images counted in full, before
    /// the run begins, and `per_device_train_batch_size` counts packs. A sample that is longer is cut; an
    /// image is never cut, it stays or goes.
    pub pack_tokens: usize,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Steps that warm up; above 0 it replaces `warmup_ratio`.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Shape of the learning rate.
    pub lr_scheduler_type: LrSchedulerType,
    /// Largest gradient norm; 0 never clips.
    pub max_grad_norm: f64,
    /// Steps that say what is usual, for the two guards below; they end two steps before the one judged.
    pub spike_window: usize,
    /// Standard deviations above its mean from which on a loss is a spike; 0: none is.
    pub spike_z_loss: f64,
    /// The same for the gradient norm before clipping.
    pub spike_z_grad_norm: f64,
    /// `warn`, `skip` or `rollback`.
    pub on_spike: OnSpike,
    /// Times that a run may go back before it stops.
    pub max_rollbacks: u32,
    /// Decay of a moving average of the weights, by update; None: none is kept. The average begins with the weights
    /// of the start and is saved beside the model, as `model-ema`.
    pub ema_decay: Option<f64>,
    /// Decay of AdamW's first moment.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    pub adam_beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub adam_epsilon: f64,
    /// Batches of one modality and of similar length.
    pub group_by_modality_length: bool,
    /// Longest text, tokens, an image counting as one.
    pub model_max_length: usize,
    /// Weighting of the loss.
    pub loss_weighting: LossWeighting,
    /// Layout of a micro-batch.
    pub layout: Layout,
    /// Which activations are computed again in the backward pass: `true` all, `false` none, a number: all
    /// but those of so many layers (language model first, then the towers), `auto`: as few as the memory
    /// plan allows.
    pub gradient_checkpointing: GradientCheckpointing,
    /// `auto` (the first GPU that can be used, else the CPU), `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `f32`, `bf16` (with f32 gradients, moments and master weights) or `bf16-pure`; None: `bf16` on a GPU,
    /// `f32` on the CPU, which has nothing else.
    pub precision: Option<PrecisionName>,
    /// Matrix products of the language model's layers in FP8, forward and backward (weights and activations E4M3, gradients
    /// E5M2, each tensor scaled by its own largest value); everything else, the weights themselves and their
    /// updates stay as `precision` has them, `bf16` or `bf16-pure`. Needs a GPU from Ada or Hopper on.
    pub fp8: bool,
    /// ZeRO stage of a run on several ranks: 0 keeps everything on each, 1 shards moments and master weights,
    /// 2 gradients too, 3 weights too (2 all the same with `lora.bits = 4`).
    pub zero_stage: u8,
    /// Steps between checkpoints; 0 saves only at the end and when interrupted.
    pub save_steps: u64,
    /// Checkpoints kept; 0 keeps all. Pinned ones and the best stay and do not count.
    pub save_total_limit: usize,
    /// Checkpoints of about 4 bytes a weight: weights in bf16, moments in 8 bits ([`crate::checkpoint`]). The run takes
    /// over what it has rounded, so that one that resumes ends in the bits of one that went on; each save, one after an
    /// interruption too, is thereby part of what is computed. Adapters are saved whole, as PEFT has them.
    pub compact_checkpoints: bool,
    /// Largest file of a checkpoint, bytes; a single weight that is larger is a file of its own. None: 16 MiB with
    /// `compact_checkpoints`, else 5 GB for weights and one file for the moments.
    pub max_shard_bytes: Option<u64>,
    /// Element type of the trained model's folder, `f32` or `bf16`; None: `bf16` with `compact_checkpoints`, else `f32`.
    pub save_dtype: Option<SaveDtype>,
    /// What makes a checkpoint the best, which is kept: `loss` (training loss, smoothed over 50 steps) or the
    /// name of a number that an evaluation records with `llavar checkpoint note`. None: no best one.
    pub metric_for_best_model: Option<String>,
    /// Whether a larger number is better.
    pub greater_is_better: bool,
    /// `stop` or `continue`.
    pub on_save_error: OnSaveError,
    /// Seed of the sample order and of new weights.
    pub seed: u64,
    /// Patterns (`*`, `?`) of weights that train beside those of the stage.
    pub trainable: Vec<String>,
    /// Patterns of weights that do not train; wins over everything else.
    pub freeze: Vec<String>,
    /// Resume although the recipe differs from the checkpoint's; the result is no longer that of an
    /// unbroken run.
    pub allow_recipe_change: bool,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            stage: Stage::Sft,
            learning_rate: 2e-5,
            mm_projector_lr: None,
            mm_vision_tower_lr: None,
            learning_rates: BTreeMap::new(),
            llm_layer_decay: 1.0,
            vision_layer_decay: 1.0,
            num_train_epochs: 1,
            max_steps: 0,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            max_tokens_per_micro_batch: 0,
            pack_tokens: 0,
            warmup_ratio: 0.03,
            warmup_steps: 0,
            weight_decay: 0.0,
            lr_scheduler_type: LrSchedulerType::Cosine,
            max_grad_norm: 1.0,
            spike_window: 128,
            spike_z_loss: 0.0,
            spike_z_grad_norm: 0.0,
            on_spike: OnSpike::Warn,
            max_rollbacks: 3,
            ema_decay: None,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            group_by_modality_length: false,
            model_max_length: 2048,
            loss_weighting: LossWeighting::Token,
            layout: Layout::Packed,
            gradient_checkpointing: GradientCheckpointing::Switch(true),
            device: "auto".into(),
            precision: None,
            fp8: false,
            zero_stage: 0,
            save_steps: 500,
            save_total_limit: 2,
            compact_checkpoints: false,
            max_shard_bytes: None,
            save_dtype: None,
            metric_for_best_model: None,
            greater_is_better: false,
            on_save_error: OnSaveError::Stop,
            seed: 42,
            trainable: Vec::new(),
            freeze: Vec::new(),
            allow_recipe_change: false,
        }
    }
}

impl TrainSection {
    /// Largest file of the optimizer's state, where there is a limit.
    pub(crate) fn max_shard_bytes(&self) -> Option<u64> {
        let small = self.compact_checkpoints.then_some(COMPACT_SHARD_BYTES);
        self.max_shard_bytes.or(small)
    }

    /// How the weights of a checkpoint are stored, or those of the trained model.
    pub(crate) fn weight_format(&self, checkpoint: bool) -> WeightFormat {
        let dtype = match (self.compact_checkpoints, self.save_dtype) {
            (true, _) if checkpoint => Dtype::BF16,
            (false, _) if checkpoint => Dtype::F32,
            (_, Some(SaveDtype::F32)) | (false, None) => Dtype::F32,
            (_, Some(SaveDtype::Bf16)) | (true, None) => Dtype::BF16,
        };
        let own = WeightFormat::from(dtype);
        WeightFormat {
            f32_below: WHOLE_BELOW,
            max_shard_bytes: self.max_shard_bytes().unwrap_or(own.max_shard_bytes),
            ..own
        }
    }

    /// Bytes of the moving average of a weight that trains.
    pub(crate) fn average_bytes(&self) -> usize {
        self.ema_decay.map_or(0, |_| size_of::<f32>())
    }
}

/// `[log]`: what is written about the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Steps between lines of `train.jsonl`.
    pub logging_steps: u64,
    /// A step whose work on the GPU is written to `trace-STEP-rank-RANK.json`, with its exchanges between
    /// ranks (0 for none). Open it with Perfetto.
    pub trace_step: u64,
    /// Whether event files for TensorBoard are written to `tb/`.
    pub tensorboard: bool,
    /// Samples of the highest loss that are kept in `worst_samples.jsonl`; 0 keeps none.
    pub worst_samples: usize,
    /// Rate of the device by its data sheet, TFLOP/s, for `mfu_percent`; None: that of known GPUs.
    pub peak_tflops: Option<f64>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            logging_steps: 1,
            trace_step: 0,
            tensorboard: true,
            worst_samples: 32,
            peak_tflops: None,
        }
    }
}
