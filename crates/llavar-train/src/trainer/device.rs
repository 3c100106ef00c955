//! Where a run trains, in which element types, and what that takes.

use llavar_model::{Checkpointing, LlavaModel, has_layer_scale};
use llavar_tensor::{DType, Device, DeviceKind, Param, optim::Precision};

use super::Trainer;
use crate::{
    MemoryPlan, Recipe, TrainError,
    error::out_of_memory,
    memory_plan::{Activations, USABLE, gpu_workspace, micro_batch, state_bytes},
    recipe::{GradientCheckpointing, PrecisionName, TrainSection},
};

/// Device and element types of a run.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) precision: Precision,
    /// Why it is not what a person might expect.
    pub(super) note: Option<String>,
}

impl Place {
    /// What the recipe asks for; `before` is the precision of the checkpoint that the run goes on from, for
    /// a recipe that leaves it open.
    pub(super) fn choose(
        recipe: &Recipe,
        before: Option<PrecisionName>,
    ) -> Result<Self, TrainError> {
        let setting = |key: &'static str| {
            move |e: llavar_tensor::Error| TrainError::Setting {
                key,
                reason: e.to_string(),
            }
        };
        let train = &recipe.train;
        let kind: DeviceKind = train.device.parse().map_err(setting("train.device"))?;
        let (device, why) = Device::open(kind).map_err(setting("train.device"))?;
        let mut note = why.map(|e| e.to_string());
        let precision = match (train.precision.or(before), device.as_cuda()) {
            (None, None) => Precision::F32,
            (None, Some(cuda)) => match cuda.check_dtype(DType::BF16) {
                Ok(()) => Precision::MixedBf16,
                Err(error) => {
                    note = Some(error.to_string());
                    Precision::F32
                }
            },
            (Some(name), Some(cuda)) => {
                let precision = Precision::from(name);
                cuda.check_dtype(precision.weights())
                    .map_err(setting("train.precision"))?;
                precision
            }
            (Some(PrecisionName::F32), None) => Precision::F32,
            (Some(name), None) => {
                return Err(TrainError::Setting {
                    key: "train.precision",
                    reason: format!(
                        "{} needs a GPU; the CPU trains in f32{}",
                        Precision::from(name),
                        note.map_or(String::new(), |why| format!(" ({why})"))
                    ),
                });
            }
        };
        if train.fp8 {
            check_fp8(&device, precision, note.as_deref()).map_err(|reason| {
                TrainError::Setting {
                    key: "train.fp8",
                    reason,
                }
            })?;
        }
        Ok(Self {
            device,
            precision,
            note,
        })
    }

    /// Device with its name and size, and the element types.
    pub(super) fn describe(&self, fp8: bool) -> String {
        let products = if fp8 { " with FP8 products" } else { "" };
        format!("{}, {}{products}", self.device.describe(), self.precision)
    }

    /// Bytes that a run may use on the device, where that is known.
    fn capacity(&self) -> Option<usize> {
        match self.device.as_cuda() {
            Some(cuda) => Some(cuda.memory().total),
            None => llavar_model::memory::available_bytes(),
        }
    }
}

/// Whether products can be FP8, or why not and what to do.
fn check_fp8(device: &Device, precision: Precision, note: Option<&str>) -> Result<(), String> {
    const OTHERWISE: &str = "set train.fp8=false (--set train.fp8=false) to train in";
    let Some(cuda) = device.as_cuda() else {
        let why = note.map_or(String::new(), |why| format!(" ({why})"));
        return Err(format!(
            "FP8 products need a GPU from Ada or Hopper on, and this run is on the CPU{why}; {OTHERWISE} f32"
        ));
    };
    if precision == Precision::F32 {
        return Err(format!(
            "FP8 products are made from bf16, and this run is in f32; set train.precision=bf16, or {OTHERWISE} f32"
        ));
    }
    let checked = cuda.check_fp8();
    checked.map_err(|e| format!("{e}; {OTHERWISE} {precision}"))
}

/// Bytes of the FP8 copies of weights of so many elements: as they lie and transposed.
pub(crate) fn fp8_bytes(elements: usize) -> usize {
    2 * elements
}

impl Trainer {
    /// Estimated memory. A micro-batch is taken as full: the samples of the recipe, each of an image and
    /// a quarter of the longest text, or its token budget.
    pub fn memory_plan(&self) -> MemoryPlan {
        let (train, data) = (&self.recipe.train, &self.recipe.data);
        let precision = self.place.precision;
        let all: usize = self.model.params().iter().map(Param::numel).sum();
        // Weights of 4 bits have their own bytes, and are widened one at a time.
        let (coded, coded_bytes) = self.model.quantized();
        let elements = all - coded;
        let trainable = self.optimizer.numel();
        let image_tokens = self.model.tokens_per_image().unwrap_or(0);
        let batch = micro_batch(image_tokens, train, self.orders.epoch_len());
        let activations = Activations::of(&self.model, batch);
        let size = precision.weights().size();
        let workspace = match self.place.device {
            Device::Cpu => 2 * 4 * 256 * self.model.config.llm.vocab_size,
            Device::Cuda(_) => {
                let params = self.model.params().into_iter();
                let scaled = params.filter(|p| has_layer_scale(p.name()));
                let scaled: usize = scaled.map(|p| p.numel()).sum();
                gpu_workspace(&self.model.config.llm, size) + size * scaled
            }
        };
        let workspace = workspace + size * self.largest_coded();
        let (weights, gradients) = self.zero.held(elements, self.trainable());
        let fp8 = self.model.fp8_elements().min(weights);
        let mut plan = MemoryPlan {
            device: self.place.device.to_string(),
            precision,
            capacity: self.place.capacity(),
            weights: size * weights + coded_bytes + fp8_bytes(fp8),
            gradients: precision.grads().size() * gradients,
            optimizer_states: (state_bytes(precision) + train.average_bytes()) * trainable,
            activations: 0,
            workspace,
            // Pictures of one step, and of the micro-batches that are put together ahead.
            data: data.prefetch_bytes
                + data.image_cache_bytes
                + (train.gradient_accumulation_steps + 3)
                    * batch.images
                    * self.model.image_size().map_or(0, |size| 3 * size * size),
            kept_blocks: 0,
            blocks: activations.blocks(),
        };
        plan.kept_blocks = match train.gradient_checkpointing {
            _ if self.zero.recomputes_all() => 0,
            GradientCheckpointing::Switch(true) => 0,
            GradientCheckpointing::Switch(false) => plan.blocks,
            GradientCheckpointing::Keep(count) => count.min(plan.blocks),
            GradientCheckpointing::Auto => match plan.capacity {
                Some(capacity) => {
                    let usable = (capacity as f64 * USABLE) as usize;
                    activations.most_kept(usable.saturating_sub(plan.on_device()) / size)
                }
                None => 0,
            },
        };
        plan.activations = size * activations.peak(plan.kept_blocks);
        plan
    }

    /// Elements of the largest weight in 4 bits.
    fn largest_coded(&self) -> usize {
        let params = self.model.params();
        let coded = params.iter().filter(|p| p.dtype() == DType::Nf4);
        coded.map(Param::numel).max().unwrap_or(0)
    }

    /// Which blocks compute their activations again.
    pub(super) fn checkpointing(&self) -> Checkpointing {
        match self.recipe.train.gradient_checkpointing {
            _ if self.zero.recomputes_all() => Checkpointing::ALL,
            GradientCheckpointing::Switch(on) => on.into(),
            _ => Checkpointing::keeping(self.memory_plan().kept_blocks),
        }
    }

    /// The error that a person should see: one that says what to change, where the GPU's memory is full.
    pub(super) fn explained(&self, error: TrainError) -> TrainError {
        let Some(source) = out_of_memory(&error) else {
            return error;
        };
        let plan = self.memory_plan();
        TrainError::OutOfMemory {
            source: source.clone(),
            advice: advice(&self.recipe.train, &plan, &self.model),
            plan: Box::new(plan),
        }
    }
}

/// What to change so that less memory is needed, the cheapest first.
fn advice(train: &TrainSection, plan: &MemoryPlan, model: &LlavaModel) -> String {
    let mut ways = Vec::new();
    if plan.kept_blocks > 0 {
        ways.push("train.gradient_checkpointing=true".to_owned());
    }
    match (train.max_tokens_per_micro_batch, train.per_device_train_batch_size) {
        (0, 1) => {}
        (0, samples) => ways.push(format!(
            "train.per_device_train_batch_size={} with train.gradient_accumulation_steps={}, the same step in \
             smaller parts",
            samples / 2,
            2 * train.gradient_accumulation_steps
        )),
        (tokens, _) => ways.push(format!("train.max_tokens_per_micro_batch={}", tokens / 2)),
    }
    match plan.precision {
        Precision::F32 => ways.push("train.precision=bf16 or bf16-pure".into()),
        Precision::MixedBf16 => ways.push("train.precision=bf16-pure".into()),
        Precision::PureBf16 => {}
    }
    if model.vision_tower.is_some() {
        ways.push("train.freeze=[\"model.vision_tower.*\"]".into());
    }
    format!("change one or more of: {}", ways.join("; "))
}
