//! A model folder with its matrices in 8 bits.
//!
//! The form is that of [`crate::weights::Int8Error`]'s module: codes and one scale a row. What is stored so and what
//! is not is decided by shape and name, is written into `config.json` under transformers' key, and is proven by the
//! tensors when the folder is read.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    ModelError, Result,
    config::{GenerationConfig, ModelConfig, Parameter, parameters},
    lora::{Adapter, QUANTIZATION_KEY, unquantized},
    weights::{
        Dtype, FolderWriter, Located, Piece, Role, SaveOptions, Source, TensorSpec, WeightFiles,
        adapters_present, int8, match_parameters, write_pieces,
    },
};

/// Rows and columns below which a scale for each row saves too little, and the layers that have so few (gates, the
/// kernels of depthwise convolutions) act on everything.
const LEAST: (usize, usize) = (32, 50);

/// Layers that see pixels or places: small, and an error in them is one in all that follows.
const KEPT: [&str; 2] = [".embeddings.", ".stem."];

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Report {
    /// Weights in 8 bits: tensors.
    pub tensors: usize,
    /// Their elements.
    pub elements: usize,
    /// Elements of all others.
    pub others: usize,
    /// Root of the mean squared error of the weights in 8 bits over that of their values.
    pub relative_error: f64,
    /// Size of the weight files before, bytes.
    pub bytes_before: u64,
    /// Size of the written folder, bytes.
    pub bytes: u64,
}

/// Whether a weight is stored in 8 bits.
fn covers(parameter: &Parameter) -> bool {
    let rows = parameter.shape.first().copied().unwrap_or(0);
    parameter.shape.len() >= 2
        && rows >= LEAST.0
        && parameter.numel() / rows >= LEAST.1
        && !KEPT.iter().any(|part| parameter.name.contains(part))
}

/// Whether `quantization_config` describes weights of this form.
pub(crate) fn says_so(value: &Value) -> bool {
    let is = |key: &str, text: &str| value.get(key).and_then(Value::as_str) == Some(text);
    is("quant_method", "compressed-tensors") && is("format", "int-quantized")
}

/// The configuration of a model whose 8-bit weights have been widened.
pub(crate) fn widened(config: ModelConfig) -> ModelConfig {
    match config.as_json().get(QUANTIZATION_KEY) {
        Some(value) if says_so(value) => unquantized(&config),
        _ => config,
    }
}

/// What `config.json` says of the form; `ignore` names the layers with a matrix that is not in 8 bits.
fn described(list: &[Parameter]) -> Value {
    let ignore: Vec<&str> = list
        .iter()
        .filter(|p| p.shape.len() >= 2 && !covers(p))
        .map(|p| p.name.strip_suffix(".weight").unwrap_or(&p.name))
        .collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": { "group_0": {
            "targets": ["Linear", "Conv2d", "Embedding"],
            "weights": {
                "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "dynamic": false
            },
            "input_activations": null,
            "output_activations": null
        } },
        "ignore": ignore,
    })
}

/// Writes a model folder with its matrices in 8 bits and everything else as it is stored; complete or not at all,
/// in files of at most `max_shard_bytes`.
///
/// # Errors
/// As [`crate::LlavaModel::load`]; for an adapter folder; [`ModelError::NotFinite`];
/// [`crate::weights::SaveError::Exists`] when `out` is there already.
pub fn quantize_folder(folder: &Path, out: &Path, max_shard_bytes: u64) -> Result<Int8Report> {
    if Adapter::is_at(folder) {
        return Err(ModelError::Adapter {
            path: folder.to_owned(),
            reason: "only a whole model is stored in 8 bits; merge it first".into(),
        });
    }
    let config = ModelConfig::read(folder)?;
    let files = WeightFiles::open(folder)?;
    let source = Source {
        files: &files,
        role: Role::Model,
    };
    let list = parameters(&config, adapters_present(&files));
    let tied = config.llm.tie_word_embeddings;
    let matched = match_parameters(&list, &[source], tied, |_| false)?;
    let found: Vec<(&Parameter, &Located<'_>)> = list
        .iter()
        .zip(&matched.found)
        .filter_map(|(parameter, found)| Some((parameter, found.as_ref()?)))
        .collect();

    let mut report = Int8Report {
        tensors: 0,
        elements: 0,
        others: 0,
        relative_error: 0.0,
        bytes_before: 0,
        bytes: 0,
    };
    let (mut specs, mut pieces) = (Vec::new(), HashMap::new());
    for &(parameter, located) in &found {
        let shape = parameter.shape.as_slice();
        if covers(parameter) {
            let scale = int8::scale_name(&parameter.name);
            specs.push(TensorSpec::new(&scale, Dtype::F32, [shape[0], 1]));
            pieces.insert(scale, (located, Made::Scales));
            specs.push(TensorSpec::new(&parameter.name, Dtype::I8, shape));
            pieces.insert(parameter.name.clone(), (located, Made::Codes));
            report.tensors += 1;
            report.elements += parameter.numel();
        } else {
            specs.push(TensorSpec::new(&parameter.name, located.dtype, shape));
            pieces.insert(parameter.name.clone(), (located, Made::Copy));
            report.others += parameter.numel();
        }
    }
    for located in &matched.kept {
        specs.push(TensorSpec::new(&located.name, located.dtype, located.shape));
        pieces.insert(located.name.clone(), (located, Made::Copy));
    }

    let options = SaveOptions {
        max_shard_bytes,
        ..SaveOptions::default()
    };
    let mut writer = FolderWriter::create(out, options)?;
    writer.write_config(&config.with([(QUANTIZATION_KEY.to_owned(), described(&list))])?)?;
    if let Some(generation) = GenerationConfig::read(folder)? {
        writer.write_generation_config(&generation)?;
    }
    writer.copy_companions(folder)?;
    let (mut error, mut power) = (0.0, 0.0);
    write_pieces(&mut writer, &specs, |spec| {
        // The list was made of the same tensors.
        let Some(&(located, made)) = pieces.get(&spec.name) else {
            return Ok(None);
        };
        if made == Made::Copy {
            return Ok(Some(Piece::Stored(located)));
        }
        let values = located.read_f32()?;
        if !values.iter().all(|v| v.is_finite()) {
            return Err(ModelError::NotFinite {
                name: located.name.clone(),
            });
        }
        let scales = int8::scales(&values, located.shape[0]);
        if made == Made::Scales {
            return Ok(Some(Piece::Values(scales)));
        }
        let codes = int8::codes(&values, &scales);
        let mut back = vec![0.0; values.len()];
        int8::widen(&codes, &scales, &mut back);
        for (value, back) in values.iter().zip(&back) {
            error += f64::from(value - back).powi(2);
            power += f64::from(*value).powi(2);
        }
        Ok(Some(Piece::Bytes(codes)))
    })?;
    writer.finish()?;
    report.relative_error = (error / f64::max(power, f64::MIN_POSITIVE)).sqrt();
    report.bytes_before = files.size();
    report.bytes = folder_bytes(out);
    Ok(report)
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Copy,
    Scales,
    Codes,
}

/// Size of the files of a folder.
fn folder_bytes(folder: &Path) -> u64 {
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    let sizes = files.iter().filter_map(|path| path.metadata().ok());
    sizes.map(|m| m.len()).sum()
}
