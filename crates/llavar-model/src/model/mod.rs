//! The whole model: vision tower, projector, language model.

mod forward;

use std::path::Path;

use llavar_tensor::{DType, Device, Param, Tensor, optim::Precision};
use rayon::prelude::*;

use crate::{
    Result,
    config::{self, ModelConfig, Parameter, parameters},
    init::Initializer,
    int8,
    language_model::LanguageModel,
    layers::ParamSet,
    lora::{self, Adapter, Adapters, Deltas, Quantization},
    mm_projector::MmProjector,
    vision_tower::VisionTower,
    weights::{
        Dtype, FolderWriter, Located, Role, SaveError, SaveOptions, Source, TensorEntry,
        TensorSpec, WeightFiles, WeightFormat, adapters_present, match_parameters,
    },
};

pub use forward::expand_image_tokens;

/// A LLaVA model, or a plain language model where the vision tower is absent.
#[derive(Debug)]
pub struct LlavaModel {
    /// The configuration, with the keys that this crate does not know.
    pub config: ModelConfig,
    /// Pictures to features; absent in a plain language model.
    pub vision_tower: Option<VisionTower>,
    /// Features to embeddings; present exactly when the vision tower is.
    pub mm_projector: Option<MmProjector>,
    /// The language model.
    pub language_model: LanguageModel,
    params: Vec<Param>,
    kept: Vec<Kept>,
    pub(crate) adapters: Option<Adapters>,
}

/// A tensor of the files that the forward pass does not use; written back when saving.
#[derive(Debug)]
struct Kept {
    entry: TensorEntry,
    bytes: Vec<u8>,
}

impl LlavaModel {
    /// Reads a published model folder: `config.json` and safetensors or PyTorch weights. Weights become
    /// f32. Whether the vision tower has adapters is decided by the tensors, not by `freeze_vision`. An adapter
    /// folder (LoRA, DoRA) that names its base is read as the model that both make, merged.
    ///
    /// # Errors
    /// An unusable configuration, unreadable weights, or everything about them that does not fit the
    /// configuration in one message.
    pub fn load(folder: &Path) -> Result<Self> {
        if Adapter::is_at(folder) {
            let adapter = Adapter::open(folder)?;
            return Self::load_merged(&adapter.base()?, &adapter, |_| Ok(()));
        }
        let config = ModelConfig::read(folder)?;
        let files = WeightFiles::open(folder)?;
        let source = Source {
            files: &files,
            role: Role::Model,
        };
        Self::from_sources(config, adapters_present(&files), &[source], |_| false, 0)
    }

    /// An untrained model with the default initialisations of the reference's modules; adapters unless
    /// `freeze_vision` is true or absent. The values depend on `seed` and the names of the parameters only.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn init(config: ModelConfig, seed: u64) -> Result<Self> {
        let adapters = config.vision.as_ref().is_some_and(|vision| {
            matches!(
                vision.tower,
                config::VisionTower::Multipath {
                    freeze_vision: Some(false),
                    ..
                }
            )
        });
        Self::from_sources(config, adapters, &[], |_| true, seed)
    }

    /// A model put together from several sources (a language model, a CLIP, a ConvNeXt, a stage-1 file),
    /// a later one winning over an earlier one. Parameters that no source has are initialised as in
    /// [`LlavaModel::init`] where `may_be_missing` allows it.
    ///
    /// # Errors
    /// As [`LlavaModel::load`].
    pub fn from_sources(
        config: ModelConfig,
        adapters: bool,
        sources: &[Source<'_>],
        may_be_missing: impl Fn(&str) -> bool,
        seed: u64,
    ) -> Result<Self> {
        Self::from_sources_placed(
            config,
            adapters,
            sources,
            may_be_missing,
            seed,
            (None, None),
            |_| Ok(()),
        )
    }

    /// As [`LlavaModel::from_sources`], the language model's linear layers rounded to 4 bits as soon as each is
    /// read: the model is never whole in memory.
    ///
    /// # Errors
    /// As [`LlavaModel::load`].
    pub fn from_sources_quantized(
        config: ModelConfig,
        adapters: bool,
        sources: &[Source<'_>],
        may_be_missing: impl Fn(&str) -> bool,
        seed: u64,
        quantization: Quantization,
    ) -> Result<Self> {
        let config = quantization.written_in(&config)?;
        let reading = (None, Some(quantization));
        Self::from_sources_placed(
            config,
            adapters,
            sources,
            may_be_missing,
            seed,
            reading,
            |_| Ok(()),
        )
    }

    /// As [`LlavaModel::from_sources`]; each weight is rounded to few bits and merged with what an adapter has for
    /// it, then `place` receives it.
    pub(crate) fn from_sources_placed(
        config: ModelConfig,
        adapters: bool,
        sources: &[Source<'_>],
        may_be_missing: impl Fn(&str) -> bool,
        seed: u64,
        (adapter, quantization): (Option<&Adapter>, Option<Quantization>),
        place: impl Fn(&Param) -> Result<()> + Sync,
    ) -> Result<Self> {
        let config = int8::widened(config);
        let list = parameters(&config, adapters);
        let matched = match_parameters(
            &list,
            sources,
            config.llm.tie_word_embeddings,
            may_be_missing,
        )?;
        let initializer = Initializer::new(&config, &list, seed);
        let deltas = Deltas {
            adapter,
            quantization,
            parameters: &list,
        };
        let params = list
            .par_iter()
            .zip(&matched.found)
            .map(|(parameter, found)| {
                let value = match found {
                    Some(located) => read(parameter, located)?,
                    None => initializer.value(parameter)?,
                };
                let value = deltas.apply(&parameter.name, value)?;
                let param = Param::new(parameter.name.clone(), value);
                place(&param)?;
                Ok(param)
            })
            .collect::<Result<Vec<_>>>()?;
        let kept = matched
            .kept
            .iter()
            .map(|located| {
                let entry = TensorEntry {
                    name: located.name.clone(),
                    dtype: located.dtype,
                    shape: located.shape.to_vec(),
                };
                Ok(Kept {
                    entry,
                    bytes: located.bytes()?.into_owned(),
                })
            })
            .collect::<Result<_>>()?;
        Self::build(config, params, kept, None)
    }

    fn build(
        config: ModelConfig,
        mut params: Vec<Param>,
        kept: Vec<Kept>,
        adapters: Option<Adapters>,
    ) -> Result<Self> {
        let mut set = ParamSet::new(&params);
        if let Some(adapters) = &adapters {
            set = set.with_adapters(adapters.by_module.clone());
            let all = adapters
                .modules
                .iter()
                .filter_map(|m| adapters.by_module.get(m));
            params.extend(all.flat_map(|lora| lora.params().cloned()));
        }
        Ok(Self {
            vision_tower: config
                .vision
                .as_ref()
                .map(|v| VisionTower::new(&set, v))
                .transpose()?,
            mm_projector: config
                .projector
                .as_ref()
                .map(|p| MmProjector::new(&set, p))
                .transpose()?,
            language_model: LanguageModel::new(&set, &config.llm)?,
            config,
            params,
            kept,
            adapters,
        })
    }

    /// The same model with adapters on its linear layers, in place of those that it had.
    pub(crate) fn with_adapter_set(self, adapters: Adapters) -> Result<Self> {
        let params = self
            .params
            .into_iter()
            .filter(|p| !lora::is_adapter(p.name()));
        Self::build(self.config, params.collect(), self.kept, Some(adapters))
    }

    /// The same model with freshly initialised adapters, which change no value until they are trained:
    /// the step from stage 1 to stage 2. Nothing happens where they exist already or the tower has one
    /// path.
    ///
    /// # Errors
    /// None that a built model can give.
    pub fn with_adapters(self, seed: u64) -> Result<Self> {
        let list = parameters(&self.config, true);
        let initializer = Initializer::new(&self.config, &list, seed);
        let set = ParamSet::new(&self.params);
        let params = list
            .iter()
            .map(|parameter| match set.get(&parameter.name) {
                Ok(param) => Ok(param),
                Err(_) => Ok(Param::new(
                    parameter.name.clone(),
                    initializer.value(parameter)?,
                )),
            })
            .collect::<Result<Vec<_>>>()?;
        Self::build(self.config, params, self.kept, self.adapters)
    }

    /// Every weight that the forward pass uses, by the names and in the order of
    /// [`config::parameters`]; a tied head once, as the embedding. Those of adapters come last.
    pub fn params(&self) -> Vec<Param> {
        self.params.clone()
    }

    /// Reads a published model folder as [`LlavaModel::load`] does, every weight going to `device` in
    /// `dtype` as soon as it is read: the model is never whole in main memory.
    ///
    /// # Errors
    /// As [`LlavaModel::load`], and when the device has no room.
    pub fn load_on(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let place = |param: &Param| Ok(param.to_device(device, dtype, DType::F32)?);
        if Adapter::is_at(folder) {
            let adapter = Adapter::open(folder)?;
            return Self::load_merged(&adapter.base()?, &adapter, place);
        }
        let config = ModelConfig::read(folder)?;
        let files = WeightFiles::open(folder)?;
        let source = Source {
            files: &files,
            role: Role::Model,
        };
        let adapters = adapters_present(&files);
        Self::from_sources_placed(
            config,
            adapters,
            &[source],
            |_| false,
            0,
            (None, None),
            place,
        )
    }

    /// Moves all weights to a device, one after the other, in the element types of `precision`; gradients
    /// are forgotten.
    ///
    /// # Errors
    /// When the device has no room; some weights have moved then.
    pub fn to_device(&self, device: &Device, precision: Precision) -> Result<()> {
        for param in &self.params {
            param.to_device(device, precision.weights(), precision.grads())?;
        }
        // What the weights took in main memory is of no more use there.
        if device.is_cuda() {
            llavar_tensor::memory::trim();
        }
        Ok(())
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.params.first().map_or(Device::Cpu, Param::device)
    }

    /// Element type of its weights.
    pub fn dtype(&self) -> DType {
        self.params.first().map_or(DType::F32, Param::dtype)
    }

    /// Element type of what it computes: that of the weights on a GPU, f32 on the CPU.
    pub fn activation_dtype(&self) -> DType {
        match self.device() {
            Device::Cpu => DType::F32,
            Device::Cuda(_) => self.dtype(),
        }
    }

    /// Blocks that [`crate::Checkpointing`] counts: language model, CLIP, adapters, ConvNeXt.
    pub fn blocks(&self) -> usize {
        let tower = self.vision_tower.as_ref().map_or(0, VisionTower::blocks);
        self.language_model.depth() + tower
    }

    /// Writes a model folder with f32 weights: `config.json`, safetensors (sharded where large) and,
    /// from another folder, the tokenizer's files. A model folder that is there already is replaced in
    /// one step; nothing is lost when writing fails.
    ///
    /// # Errors
    /// [`SaveError`], [`SaveError::DiskFull`] among them.
    pub fn save(&self, folder: &Path, tokenizer_files_from: Option<&Path>) -> Result<()> {
        self.save_as(folder, tokenizer_files_from, Dtype::F32)
    }

    /// As [`LlavaModel::save`] with weights rounded to `dtype`, one of F32, BF16 and F16.
    ///
    /// # Errors
    /// As [`LlavaModel::save`].
    pub fn save_as(
        &self,
        folder: &Path,
        tokenizer_files_from: Option<&Path>,
        dtype: Dtype,
    ) -> Result<()> {
        self.save_with(folder, tokenizer_files_from, dtype, |param| param.value())
    }

    /// As [`LlavaModel::save_as`] in any format, adapters merged into their weights, with the values that `value`
    /// gives for the weights, such as the f32 master weights of a mixed-precision run. Values on a GPU are fetched
    /// one by one.
    ///
    /// # Errors
    /// As [`LlavaModel::save`].
    pub fn save_with(
        &self,
        folder: &Path,
        tokenizer_files_from: Option<&Path>,
        format: impl Into<WeightFormat>,
        value: impl Fn(&Param) -> Tensor,
    ) -> Result<()> {
        let format = format.into();
        let mut writer = FolderWriter::create(
            folder,
            SaveOptions {
                overwrite: true,
                max_shard_bytes: format.max_shard_bytes,
                ..Default::default()
            },
        )?;
        writer.write_config(&lora::unquantized(&self.config_to_save(format.dtype)?))?;
        if let Some(from) = tokenizer_files_from {
            writer.copy_companions(from)?;
        }
        let specs: Vec<TensorSpec> =
            self.params
                .iter()
                .filter(|p| !lora::is_adapter(p.name()))
                .map(|p| TensorSpec::new(p.name(), format.dtype_of(p.shape()), p.shape()))
                .chain(self.kept.iter().map(|k| {
                    TensorSpec::new(&k.entry.name, k.entry.dtype, k.entry.shape.as_slice())
                }))
                .collect();
        let set = ParamSet::new(&self.params);
        writer.write_weights(&specs, |spec, sink| {
            if let Some(kept) = self.kept.iter().find(|k| k.entry.name == spec.name) {
                return sink.write(&kept.bytes);
            }
            let found = set.get(&spec.name);
            match found.and_then(|p| self.with_delta(&p, &value)) {
                Ok(value) => match value.data::<f32>() {
                    Ok(values) => sink.write_f32(values),
                    Err(_) => sink.write_f32(&value.to_f32_vec().map_err(SaveError::Tensor)?),
                },
                // The list was made from the same parameters.
                Err(_) => Err(SaveError::FileName {
                    name: spec.name.clone(),
                }),
            }
        })?;
        Ok(writer.finish()?)
    }

    /// The configuration with the keys that follow from the weights.
    pub(crate) fn config_to_save(&self, dtype: Dtype) -> Result<ModelConfig> {
        let mut changes = vec![("torch_dtype".to_owned(), dtype.torch_name().into())];
        if let Some(tower) = self.vision_tower.as_ref().filter(|t| t.is_multipath()) {
            changes.push(("freeze_vision".to_owned(), (!tower.has_adapters()).into()));
        }
        Ok(self.config.with(changes)?)
    }

    /// Positions of one picture in the text; `None` for a plain language model.
    pub fn tokens_per_image(&self) -> Option<usize> {
        self.vision_tower
            .as_ref()
            .map(VisionTower::tokens_per_image)
    }

    /// Side in pixels of the pictures it takes; `None` for a plain language model.
    pub fn image_size(&self) -> Option<usize> {
        self.vision_tower.as_ref().map(VisionTower::image_size)
    }

    /// Longest sequence in generation, tokens: `max_position_embeddings`, or `max_sequence_length` where
    /// the configuration gives a smaller one.
    pub fn context_length(&self) -> usize {
        let positions = self.config.llm.max_position_embeddings;
        self.config
            .max_sequence_length
            .map_or(positions, |n| n.min(positions))
    }
}

fn read(parameter: &Parameter, located: &Located<'_>) -> Result<Tensor> {
    let mut value = Tensor::zeros(&parameter.shape);
    located.read_f32_into(value.data_mut::<f32>()?)?;
    Ok(value)
}
