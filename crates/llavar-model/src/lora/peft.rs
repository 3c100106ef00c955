//! Adapter folders in PEFT's layout.
//!
//! ```text
//! adapter_config.json              rank, alpha, targets, the base model
//! adapter_model.safetensors        base_model.model.LAYER.lora_A.weight, .lora_B.weight,
//!                                  .lora_magnitude_vector; .bin is read too
//! non_lora_trainables.safetensors  what was trained beside adapters (projector, fusion, ..), as
//!                                  base_model.model.NAME; LLaVA's .bin is read too
//! config.json, tokenizer files     of the model as a whole
//! ```
//!
//! # Source
//! PEFT's documentation of its checkpoint format; LLaVA for the second file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use llavar_tensor::Tensor;
use serde_json::{Map, Value, json};

use super::{Adapters, LoraConfig};
use crate::{
    ModelError, Result,
    config::{ModelConfig, Parameter, read_object},
    weights::{Role, Source, WeightFiles, of_model},
};

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_MODEL: &str = "adapter_model.safetensors";
pub(crate) const OTHERS: &str = "non_lora_trainables.safetensors";

/// A parameter's name in both files.
pub(crate) fn wraps(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// An open adapter folder.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    config: LoraConfig,
    /// Alphas of single layers, by the end of their names.
    alphas: Vec<(String, f64)>,
    base: Option<String>,
    files: WeightFiles,
    others: Option<WeightFiles>,
    /// Stored names of A, B and magnitude by layer.
    tensors: BTreeMap<String, [Option<String>; 3]>,
    modules: Vec<String>,
    model_config: Option<ModelConfig>,
}

/// The tensors of one layer.
#[derive(Debug)]
pub(crate) struct AdapterTensors {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    pub(crate) magnitude: Option<Tensor>,
    pub(crate) scaling: f32,
}

impl Adapter {
    /// Whether a folder holds an adapter.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(ADAPTER_CONFIG).is_file()
    }

    /// Opens a folder of PEFT, of LLaVA, or of a run.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for what is no LoRA or DoRA, and unreadable files.
    pub fn open(folder: &Path) -> Result<Self> {
        let bad = |reason: String| ModelError::Adapter {
            path: folder.to_owned(),
            reason,
        };
        if !folder.is_dir() {
            let what = match folder.exists() {
                true => "it is a file and no folder",
                false => "there is no such folder",
            };
            return Err(bad(what.to_owned()));
        }
        let path = folder.join(ADAPTER_CONFIG);
        if !path.is_file() {
            return Err(bad(format!("it has no {ADAPTER_CONFIG}")));
        }
        let raw = read_object(&path)?;
        let (config, alphas) = read_config(&raw).map_err(bad)?;
        let file = |name: &str| {
            [format!("{name}.safetensors"), format!("{name}.bin")]
                .map(|name| folder.join(name))
                .into_iter()
                .find(|path| path.is_file())
        };
        let Some(weights) = file("adapter_model") else {
            return Err(bad(format!(
                "it has no {ADAPTER_MODEL} or adapter_model.bin"
            )));
        };
        let files = WeightFiles::open(&weights)?;
        let others = file("non_lora_trainables");
        let others = others.map(|path| WeightFiles::open(&path)).transpose()?;
        let mut tensors: BTreeMap<String, [Option<String>; 3]> = BTreeMap::new();
        for entry in files.entries() {
            let Some((module, part)) = part_of(&entry.name) else {
                continue;
            };
            let Some(part) = part else {
                return Err(bad(format!(
                    "`{}` is a kind of adapter that is not known here",
                    entry.name
                )));
            };
            let slot = &mut tensors.entry(module).or_default()[part];
            if let Some(first) = slot.replace(entry.name.clone()) {
                return Err(bad(format!(
                    "`{first}` and `{}` are the same tensor",
                    entry.name
                )));
            }
        }
        let model_config = match folder.join("config.json").is_file() {
            true => Some(ModelConfig::read(folder)?),
            false => None,
        };
        let base = raw.get("base_model_name_or_path").and_then(Value::as_str);
        Ok(Self {
            folder: folder.to_owned(),
            config,
            alphas,
            base: base.map(str::to_owned),
            files,
            others,
            modules: tensors.keys().cloned().collect(),
            tensors,
            model_config,
        })
    }

    /// How it was made.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The layers that have an adapter.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// The model's configuration, where the folder has it.
    pub(crate) fn model_config(&self) -> Option<&ModelConfig> {
        self.model_config.as_ref()
    }

    /// The folder of the model that it was trained on.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] when it names none that is there.
    pub fn base(&self) -> Result<PathBuf> {
        let bad = |reason: String| ModelError::Adapter {
            path: self.folder.clone(),
            reason,
        };
        let Some(base) = self.base.as_deref().filter(|b| !b.is_empty()) else {
            return Err(bad(
                "it does not name its base model; give the base with the adapter".into(),
            ));
        };
        [PathBuf::from(base), self.folder.join(base)]
            .into_iter()
            .find(|path| path.is_dir())
            .ok_or_else(|| {
                bad(format!(
                    "its base model `{base}` is not there; give the base with the adapter"
                ))
            })
    }

    /// Its files as sources that win over the base's: weights that were trained whole.
    pub(crate) fn sources(&self) -> Vec<Source<'_>> {
        let own = Source {
            files: &self.files,
            role: Role::Adapter,
        };
        let others = self.others.as_ref().map(|files| Source {
            files,
            role: Role::Model,
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Refuses layers that the model does not have, all at once.
    pub(crate) fn check(&self, parameters: &[Parameter]) -> Result<()> {
        let missing: Vec<&str> = self
            .modules
            .iter()
            .filter(|module| weight_of(module, parameters).is_none())
            .map(String::as_str)
            .collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(ModelError::Adapter {
                path: self.folder.clone(),
                reason: format!(
                    "it was made for another model: {} of its layers are not in this one: {}",
                    missing.len(),
                    missing.join(", ")
                ),
            }),
        }
    }

    /// The tensors of a layer, f32, with the shapes that its weight asks for.
    pub(crate) fn read(&self, module: &str, parameters: &[Parameter]) -> Result<AdapterTensors> {
        let bad = |reason: String| ModelError::Adapter {
            path: self.folder.clone(),
            reason,
        };
        let [n, k] = weight_of(module, parameters)
            .ok_or_else(|| bad(format!("the model has no linear layer `{module}`")))?;
        let stored = self.tensors.get(module).cloned().unwrap_or_default();
        let [a, b, m] = stored;
        let read =
            |name: Option<String>, what: &str, shape: [Option<usize>; 2]| -> Result<Tensor> {
                let Some(name) = name else {
                    return Err(bad(format!("the layer `{module}` has no {what}")));
                };
                let got = self
                    .files
                    .get(&name)
                    .map(|e| e.shape.clone())
                    .unwrap_or_default();
                let want: Vec<Option<usize>> = match what {
                    "lora_magnitude_vector" => vec![shape[0]],
                    _ => shape.to_vec(),
                };
                // PEFT wrote magnitudes as a column for a while.
                let trimmed = match what {
                    "lora_magnitude_vector" => vec![got.iter().product()],
                    _ => got.clone(),
                };
                let fits = trimmed.len() == want.len()
                    && trimmed
                        .iter()
                        .zip(&want)
                        .all(|(got, want)| want.is_none_or(|w| w == *got));
                if !fits {
                    return Err(bad(format!(
                        "`{name}` has the shape {got:?}, which does not fit the layer [{n}, {k}]"
                    )));
                }
                Ok(Tensor::from_vec(self.files.read_f32(&name)?, &trimmed)?)
            };
        let a = read(a, "lora_A", [None, Some(k)])?;
        let rank = a.shape()[0];
        let b = read(b, "lora_B", [Some(n), Some(rank)])?;
        let magnitude = match (self.config.use_dora, m) {
            (false, None) => None,
            (true, m) => Some(read(m, "lora_magnitude_vector", [Some(n), None])?),
            (false, Some(name)) => {
                return Err(bad(format!(
                    "`{name}` is there, but use_dora is not set in {ADAPTER_CONFIG}"
                )));
            }
        };
        let alpha = self.alphas.iter().find(|(end, _)| {
            module
                .strip_suffix(end.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let alpha = alpha.map_or(self.config.lora_alpha, |(_, alpha)| *alpha);
        Ok(AdapterTensors {
            a,
            b,
            magnitude,
            scaling: self.config.scaling(rank, alpha),
        })
    }
}

/// Rows and columns of a layer's weight.
fn weight_of(module: &str, parameters: &[Parameter]) -> Option<[usize; 2]> {
    let name = format!("{module}.weight");
    let found = parameters.iter().find(|p| p.name == name)?;
    found.shape.as_slice().try_into().ok()
}

/// Layer and part (A, B, magnitude) of a stored tensor; no part for a kind that is not known, `None` for what
/// belongs to no adapter.
fn part_of(stored: &str) -> Option<(String, Option<usize>)> {
    let (module, rest) = stored.split_once(".lora_")?;
    // `.weight`, and the adapter's name in files that were not written by PEFT's own saving.
    let part = match rest.split('.').next() {
        Some("A") => Some(0),
        Some("B") => Some(1),
        Some("magnitude_vector") => Some(2),
        _ => None,
    };
    let known = rest.split('.').count() <= 3;
    Some((of_model(module), part.filter(|_| known)))
}

fn read_config(
    raw: &Map<String, Value>,
) -> std::result::Result<(LoraConfig, Vec<(String, f64)>), String> {
    let set = |key: &str| raw.get(key).filter(|v| !v.is_null());
    let text = |key: &str| set(key).and_then(Value::as_str);
    let flag = |key: &str| set(key).and_then(Value::as_bool).unwrap_or(false);
    let wrong = |key: &str, why: &str| {
        Err(format!(
            "{key} = {} in {ADAPTER_CONFIG}: {why}",
            raw.get(key).unwrap_or(&Value::Null)
        ))
    };
    if text("peft_type").is_some_and(|t| t != "LORA") {
        return wrong("peft_type", "only LORA is known here");
    }
    if text("bias").is_some_and(|b| b != "none") {
        return wrong("bias", "only \"none\" is known here");
    }
    if flag("fan_in_fan_out") {
        return wrong("fan_in_fan_out", "weights here are [outputs, inputs]");
    }
    if flag("lora_bias") {
        return wrong("lora_bias", "adapters with a bias are not known here");
    }
    let init = text("init_lora_weights").unwrap_or_default();
    if ["pissa", "olora", "corda"]
        .iter()
        .any(|kind| init.starts_with(kind))
    {
        return wrong(
            "init_lora_weights",
            "it changed the base weights; convert it to a plain LoRA with PEFT first",
        );
    }
    let number = |key: &str| set(key).and_then(Value::as_f64).filter(|x| x.is_finite());
    let Some(r) = set("r")
        .and_then(Value::as_u64)
        .filter(|r| (1..=1 << 16).contains(r))
    else {
        return wrong("r", "expected a rank from 1 to 65536");
    };
    let Some(lora_alpha) = number("lora_alpha") else {
        return wrong("lora_alpha", "expected a number");
    };
    let lora_dropout = number("lora_dropout").unwrap_or(0.0);
    if !(0.0..1.0).contains(&lora_dropout) {
        return wrong("lora_dropout", "expected 0 to below 1");
    }
    let target_modules = match set("target_modules") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    let mut alphas = Vec::new();
    for (key, value) in set("alpha_pattern")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let plain = key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        match value.as_f64().filter(|_| plain) {
            Some(alpha) => alphas.push((key.clone(), alpha)),
            None => return wrong("alpha_pattern", "expected names of layers with numbers"),
        }
    }
    let config = LoraConfig {
        r: r as usize,
        lora_alpha,
        lora_dropout,
        use_dora: flag("use_dora"),
        use_rslora: flag("use_rslora"),
        target_modules,
    };
    Ok((config, alphas))
}

/// `adapter_config.json` of a model's adapters.
pub(crate) fn config_json(
    adapters: &Adapters,
    modules: &[String],
    base: &str,
) -> Map<String, Value> {
    let config = &adapters.config;
    let (targets, exclude) = super::targets::peft_targets(&adapters.modules, modules);
    // PEFT's alpha is a whole number.
    let alpha = match config.lora_alpha.fract() == 0.0 {
        true => json!(config.lora_alpha as i64),
        false => json!(config.lora_alpha),
    };
    let mut object = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": targets,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    });
    match object.as_object_mut() {
        Some(map) => {
            if let Some(exclude) = exclude {
                map.insert("exclude_modules".into(), exclude.into());
            }
            std::mem::take(map)
        }
        None => Map::new(),
    }
}
