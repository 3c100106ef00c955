//! Adapters merged into the weights that they stand on.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use llavar_tensor::{DType, LoraAdapter, Param, Tensor};

use super::{Adapter, Quantization, module_of, unquantized};
use crate::{
    Result,
    config::{GenerationConfig, ModelConfig, Parameter, parameters},
    weights::{
        Dtype, FolderWriter, Piece, Role, SaveOptions, Source, TensorSpec, WeightFiles,
        adapters_present, match_parameters, write_pieces,
    },
};

/// What happens to weights as they are read: rounded to few bits, merged with an adapter folder.
pub(crate) struct Deltas<'a> {
    pub(crate) adapter: Option<&'a Adapter>,
    /// Of the base that the adapter was trained on.
    pub(crate) quantization: Option<Quantization>,
    pub(crate) parameters: &'a [Parameter],
}

impl Deltas<'_> {
    /// Whether a parameter's value is another than the file's.
    fn touches(&self, name: &str) -> bool {
        let rounded = self.quantization.is_some() && Quantization::covers(name);
        rounded || self.module(name).is_some()
    }

    fn module<'n>(&self, name: &'n str) -> Option<(&Adapter, &'n str)> {
        let (adapter, module) = (self.adapter?, module_of(name)?);
        let own = adapter.modules().iter().any(|own| own == module);
        own.then_some((adapter, module))
    }

    /// The value that a parameter has: rounded to 4 bits, or, where an adapter is merged, with it in f32.
    pub(crate) fn apply(&self, name: &str, value: Tensor) -> Result<Tensor> {
        let value = match self.quantization {
            Some(quantization) => quantization.apply(name, value)?,
            None => value,
        };
        if self.adapter.is_none() {
            return Ok(value);
        }
        let Some((adapter, module)) = self.module(name) else {
            return Ok(value.cast(DType::F32)?);
        };
        let lora = adapter.read(module, self.parameters)?;
        Ok(value.merge_lora(&lora.a, &lora.b, lora.magnitude.as_ref(), lora.scaling)?)
    }
}

/// A weight with the adapter that stands on it, of the values that `value` gives.
pub(crate) fn merged(
    weight: &Tensor,
    lora: &LoraAdapter,
    value: &dyn Fn(&Param) -> Tensor,
) -> Result<Tensor> {
    let here = |t: Tensor| t.to_device(&llavar_tensor::Device::Cpu);
    let magnitude = lora
        .magnitude
        .as_ref()
        .map(|m| here(value(m)))
        .transpose()?;
    let (a, b) = (here(value(&lora.a))?, here(value(&lora.b))?);
    let weight = here(weight.clone())?;
    Ok(weight.merge_lora(&a, &b, magnitude.as_ref(), lora.scaling)?)
}

/// What was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeReport {
    /// The base model.
    pub base: PathBuf,
    /// Layers that had an adapter.
    pub layers: usize,
    /// Whether they were DoRAs.
    pub dora: bool,
    /// Parameters that were trained whole and replace those of the base.
    pub replaced: usize,
    /// Whether the language model's layers are those of the 4-bit base that the adapter was trained on.
    pub dequantized: bool,
    /// Element type of most of the written weights.
    pub dtype: Dtype,
}

/// Merges an adapter into its base and writes a plain model folder, tensor by tensor: neither model is ever whole
/// in memory. Weights keep the element type that they have in the base unless `dtype` names one. What was trained on
/// a 4-bit base is merged into that base's values, which are what its adapters correct; `original_weights` takes the
/// base's own instead.
///
/// # Errors
/// As [`Adapter::open`] and [`crate::LlavaModel::load`]; [`crate::weights::SaveError::Exists`] when `out` is there already.
pub fn merge_folder(
    base: &Path,
    adapter: &Adapter,
    out: &Path,
    dtype: Option<Dtype>,
    original_weights: bool,
) -> Result<MergeReport> {
    let config = match adapter.model_config() {
        Some(config) => config.clone(),
        None => ModelConfig::read(base)?,
    };
    let files = WeightFiles::open(base)?;
    let mut sources = vec![Source {
        files: &files,
        role: Role::Model,
    }];
    sources.extend(adapter.sources());
    let latent = sources.iter().any(|s| adapters_present(s.files));
    let list = parameters(&config, latent);
    adapter.check(&list)?;
    let matched = match_parameters(&list, &sources, config.llm.tie_word_embeddings, |_| false)?;
    let quantization = Quantization::of(&config)?.filter(|_| !original_weights);
    let deltas = Deltas {
        adapter: Some(adapter),
        quantization,
        parameters: &list,
    };
    let main = files
        .main_dtype()
        .filter(|d| d.is_float())
        .unwrap_or(Dtype::F32);
    let of = |stored: Dtype, own: bool| match dtype {
        Some(dtype) => dtype,
        // What was trained whole is saved in f32; beside a base of 16 bits it is stored like that.
        None if own => stored,
        None => main,
    };
    let mut replaced = 0;
    let mut specs = Vec::with_capacity(list.len() + matched.kept.len());
    for (parameter, found) in list.iter().zip(&matched.found) {
        let Some(found) = found else { continue };
        let own = std::ptr::eq(found.files, &files);
        replaced += usize::from(!own);
        specs.push(TensorSpec::new(
            &parameter.name,
            of(found.dtype, own),
            parameter.shape.as_slice(),
        ));
    }
    specs.extend(
        matched
            .kept
            .iter()
            .map(|k| TensorSpec::new(&k.name, k.dtype, k.shape)),
    );
    let mut writer = FolderWriter::create(out, SaveOptions::default())?;
    let written = dtype.unwrap_or(main);
    let name = written.torch_name();
    let config = unquantized(&config).with([("torch_dtype".to_owned(), name.into())])?;
    writer.write_config(&config)?;
    if let Some(generation) = GenerationConfig::read(base)? {
        writer.write_generation_config(&generation)?;
    }
    let own_tokenizer = adapter.folder().join("tokenizer.json").is_file();
    writer.copy_companions(if own_tokenizer {
        adapter.folder()
    } else {
        base
    })?;
    let located: HashMap<&str, _> = matched
        .found
        .iter()
        .flatten()
        .chain(&matched.kept)
        .map(|located| (located.name.as_str(), located))
        .collect();
    write_pieces(&mut writer, &specs, |spec| {
        // The list was made of the same tensors.
        let Some(&found) = located.get(spec.name.as_str()) else {
            return Ok(None);
        };
        if !deltas.touches(&spec.name) && spec.dtype == found.dtype {
            return Ok(Some(Piece::Stored(found)));
        }
        let value = Tensor::from_vec(found.read_f32()?, &spec.shape)?;
        let value = deltas.apply(&spec.name, value)?;
        Ok(Some(Piece::Values(value.data::<f32>()?.to_vec())))
    })?;
    writer.finish()?;
    Ok(MergeReport {
        base: base.to_owned(),
        layers: adapter.modules().len(),
        dora: adapter.config().use_dora,
        replaced,
        dequantized: quantization.is_some(),
        dtype: written,
    })
}
