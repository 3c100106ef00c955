//! A model put together from plain parts: a language model, a CLIP and a ConvNeXt as they are published.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    LlavaModel, ModelError, Result,
    config::{
        GenerationConfig, LlmFamily, ModelConfig, VisionConfig, parameters, read_object,
        vision_keys,
    },
    init::Initializer,
    weights::{
        Dtype, FolderWriter, Role, SaveError, SaveOptions, Source, TensorSpec, WeightFiles,
        match_parameters, of_clip, of_convnext,
    },
};

const LLM: &str = "a language model";
const CLIP: &str = "a CLIP of transformers";
const CONVNEXT: &str = "a ConvNeXt of timm or open_clip";

/// What every ConvNeXt has and nothing else.
const FIRST_BLOCK: &str = "stages.0.blocks.0.conv_dw.weight";

/// Side of the picture where none is given, pixels; that of the published recipes.
const IMAGE_SIZE: usize = 768;

/// Heads of every published CLIP are so wide.
const HEAD_DIM: usize = 64;

/// Open parts.
///
/// Projector, fusion and adapters are new; everything else must be in the parts. Sizes of the towers are those of
/// their tensors; heads and activation of the CLIP come from the `config.json` beside its weights.
#[derive(Debug)]
pub struct Parts {
    config: ModelConfig,
    folder: PathBuf,
    llm: WeightFiles,
    towers: Vec<(WeightFiles, Role)>,
    notes: Vec<String>,
}

/// What [`Parts::write`] has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartsReport {
    /// Elements of all weights.
    pub parameters: usize,
    /// Elements of those that no part has.
    pub new_parameters: usize,
    /// Element type of the weights.
    pub dtype: Dtype,
}

impl Parts {
    /// Opens `llm`, a folder of transformers (Llama or Phi-3), `tower`, a folder or weight file of a CLIP or of a
    /// ConvNeXt, and beside a CLIP `slow`, those of the ConvNeXt of the slow path; without it the tower sees alone.
    /// `image_size` is the side of the picture in pixels where a ConvNeXt sees it (768 where it is not given); a CLIP
    /// alone takes its own.
    ///
    /// # Errors
    /// [`ModelError::Part`] that names the part, or what its configuration and files say.
    pub fn open(
        llm: &Path,
        tower: &Path,
        slow: Option<&Path>,
        image_size: Option<usize>,
    ) -> Result<Self> {
        let mut keys = llm_keys(llm)?;
        let llm_files = WeightFiles::open(llm)?;
        let files = WeightFiles::open(tower)?;
        let length = keys.get("max_position_embeddings").and_then(Value::as_u64);
        let length = length.map_or(4096, |n| n.min(4096)) as usize;
        let vision = vision_keys(image_size.unwrap_or(IMAGE_SIZE), 0, length);
        keys.extend(vision.as_object().cloned().unwrap_or_default());
        let mut notes = Vec::new();
        let mut towers = Vec::new();
        if is_convnext(&files) {
            if slow.is_some() {
                return Err(part(
                    tower,
                    CLIP,
                    "it is a ConvNeXt; a ConvNeXt that sees alone takes no other beside it",
                ));
            }
            let (name, config) = convnext_config(tower, &files)?;
            keys.insert("mm_vision_tower".into(), name.into());
            keys.insert("mm_hidden_size".into(), config["dims"][3].clone());
            keys.insert("convnext_config".into(), config);
            keys.insert("is_multipath_encoder".into(), false.into());
            keys.remove("vision_tower_slow");
            towers.push((files, Role::ConvNext));
        } else {
            let clip = clip_config(tower, &files, &mut notes)?;
            keys.insert("mm_vision_tower".into(), clip_name(tower, &clip).into());
            keys.insert("mm_hidden_size".into(), clip["hidden_size"].clone());
            towers.push((files, Role::Clip));
            if let Some(path) = slow {
                let files = WeightFiles::open(path)?;
                let (name, config) = convnext_config(path, &files)?;
                keys.insert("vision_tower_slow".into(), name.into());
                keys.insert("convnext_config".into(), config);
                // Stage 1 of the reference has no adapters; stage 2 adds them.
                keys.insert("freeze_vision".into(), true.into());
                towers.push((files, Role::ConvNext));
            } else {
                keys.insert("is_multipath_encoder".into(), false.into());
                for key in ["vision_tower_slow", "input_image_size", "freeze_vision"] {
                    keys.remove(key);
                }
                let own = clip["image_size"].as_u64().unwrap_or_default();
                if let Some(size) = image_size.filter(|size| *size as u64 != own) {
                    notes.push(format!(
                        "a CLIP alone sees {own} px, not the {size} px asked for"
                    ));
                }
            }
            keys.insert("clip_vision_config".into(), clip);
        }
        Ok(Self {
            config: ModelConfig::from_map(&llm.join("config.json"), keys)?,
            folder: llm.to_owned(),
            llm: llm_files,
            towers,
            notes,
        })
    }

    /// Whether a folder is a plain language model.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn is_plain(folder: &Path) -> Result<bool> {
        let raw = read_object(&folder.join("config.json"))?;
        Ok(!raw.contains_key("mm_vision_tower"))
    }

    /// Configuration of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What was assumed where the parts do not say.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The parts as sources of [`LlavaModel::from_sources`], which may initialise what [`Parts::is_new`] names.
    pub fn sources(&self) -> Vec<Source<'_>> {
        let source = |files, role| Source { files, role };
        let mut sources = vec![source(&self.llm, Role::Model)];
        sources.extend(self.towers.iter().map(|(files, role)| source(files, *role)));
        sources
    }

    /// Whether a weight is one that no part has.
    pub fn is_new(name: &str) -> bool {
        name.contains("mm_projector") || name.contains("align_stages")
    }

    /// The model in memory, in f32, with adapters between the paths where `adapters` says so.
    ///
    /// # Errors
    /// As [`LlavaModel::load`].
    pub fn load(&self, adapters: bool, seed: u64) -> Result<LlavaModel> {
        let config = self.config.clone();
        LlavaModel::from_sources(config, adapters, &self.sources(), Self::is_new, seed)
    }

    /// Writes the model folder, tensor by tensor: tokenizer and generation settings are the language model's, as is
    /// the element type where none is given. New weights depend on `seed` and their names only.
    ///
    /// # Errors
    /// When the parts do not fit their configuration, with every tensor that does not, or `out` cannot be written.
    pub fn write(
        &self,
        out: &Path,
        adapters: bool,
        dtype: Option<Dtype>,
        seed: u64,
    ) -> Result<PartsReport> {
        let list = parameters(&self.config, adapters);
        let sources = self.sources();
        let tied = self.config.llm.tie_word_embeddings;
        let matched = match_parameters(&list, &sources, tied, Self::is_new)?;
        let own = self.llm.main_dtype().filter(|d| d.is_float());
        let dtype = dtype.or(own).unwrap_or(Dtype::F32);
        let initializer = Initializer::new(&self.config, &list, seed);
        let specs: Vec<TensorSpec> = list
            .iter()
            .map(|p| TensorSpec::new(&p.name, dtype, p.shape.as_slice()))
            .chain(
                matched
                    .kept
                    .iter()
                    .map(|k| TensorSpec::new(&k.name, k.dtype, k.shape)),
            )
            .collect();
        let found: BTreeMap<&str, _> = list
            .iter()
            .zip(&matched.found)
            .map(|(p, found)| (p.name.as_str(), (p, found)))
            .collect();
        let kept: BTreeMap<&str, _> = matched.kept.iter().map(|k| (k.name.as_str(), k)).collect();

        let mut writer = FolderWriter::create(out, SaveOptions::default())?;
        let name = match dtype {
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            _ => "float32",
        };
        let changes = [
            ("torch_dtype".to_owned(), name.into()),
            ("freeze_vision".to_owned(), (!adapters).into()),
        ];
        let vision = self.config.vision.as_ref();
        let multipath = vision.is_some_and(VisionConfig::is_multipath);
        let changes = changes
            .into_iter()
            .filter(|(key, _)| multipath || key != "freeze_vision");
        writer.write_config(&self.config.with(changes)?)?;
        if let Some(generation) = GenerationConfig::read(&self.folder)? {
            writer.write_generation_config(&generation)?;
        }
        writer.copy_companions(&self.folder)?;
        let mut failure = None;
        let written = writer.write_weights(&specs, |spec, sink| {
            let name = spec.name.as_str();
            let mut write = || -> Result<()> {
                match (found.get(name), kept.get(name)) {
                    (Some((_, Some(located))), _) if located.dtype == spec.dtype => {
                        sink.write(&located.bytes()?)?
                    }
                    (Some((_, Some(located))), _) => sink.write_f32(&located.read_f32()?)?,
                    (Some((parameter, None)), _) => {
                        sink.write_f32(&initializer.value(parameter)?.to_f32_vec()?)?
                    }
                    (None, Some(located)) => sink.write(&located.bytes()?)?,
                    (None, None) => {
                        return Err(ModelError::MissingParameter {
                            name: name.to_owned(),
                        });
                    }
                }
                Ok(())
            };
            write().map_err(|error| match error {
                ModelError::Save(error) => error,
                other => {
                    failure = Some(other);
                    SaveError::FileName {
                        name: name.to_owned(),
                    }
                }
            })
        });
        if let Some(error) = failure {
            return Err(error);
        }
        written?;
        writer.finish()?;
        let count = |new: bool| {
            let counted = list.iter().filter(|p| !new || Self::is_new(&p.name));
            counted.map(|p| p.numel()).sum()
        };
        Ok(PartsReport {
            parameters: count(false),
            new_parameters: count(true),
            dtype,
        })
    }
}

fn part(path: &Path, what: &'static str, reason: impl Into<String>) -> ModelError {
    ModelError::Part {
        path: path.to_owned(),
        what,
        reason: reason.into(),
    }
}

/// The keys of a language model's configuration, its type and class those of the model that it becomes part of.
fn llm_keys(folder: &Path) -> Result<Map<String, Value>> {
    if !folder.is_dir() {
        return Err(part(
            folder,
            LLM,
            "it is no folder with config.json and weights",
        ));
    }
    let path = folder.join("config.json");
    let mut raw = read_object(&path)?;
    if raw.contains_key("mm_vision_tower") {
        let reason = "it has a vision tower already: train from this folder itself";
        return Err(part(folder, LLM, reason));
    }
    let llm = ModelConfig::from_map(&path, raw.clone())?.llm;
    let (model_type, class) = match llm.family {
        LlmFamily::Phi3 => ("llava_phi", "LlavaPhiForCausalLM"),
        // As the published folders have it: those of Llama 3 under the newer name.
        LlmFamily::Llama if llm.vocab_size > 100_000 => ("llava_llama", "LlavaLlamaForCausalLM"),
        LlmFamily::Llama => ("llava", "LlavaLlamaForCausalLM"),
    };
    raw.insert("model_type".into(), model_type.into());
    raw.insert("architectures".into(), json!([class]));
    // It names code that is not copied.
    raw.remove("auto_map");
    Ok(raw)
}

/// Sizes of a CLIP from its tensors; heads, activation and epsilon from its configuration, whose defaults are those
/// of transformers' `CLIPVisionConfig`.
fn clip_config(path: &Path, files: &WeightFiles, notes: &mut Vec<String>) -> Result<Value> {
    let mut shapes = BTreeMap::new();
    for entry in files.entries() {
        if let Some(name) = of_clip(&entry.name, "") {
            shapes.insert(name, entry.shape.clone());
        }
    }
    let shape = |name: &str| {
        let found = shapes.get(&format!("vision_model.{name}"));
        found.ok_or_else(|| {
            let other = files
                .entries()
                .any(|e| e.name.contains("transformer.resblocks"));
            let why = match other {
                true => {
                    "it is laid out as open_clip has it; convert it to transformers' layout first"
                        .to_owned()
                }
                false => format!("it has no tensor `vision_model.{name}`"),
            };
            part(path, CLIP, why)
        })
    };
    let side = |shape: &[usize], at: usize| shape.get(at).copied().unwrap_or(0);
    let patch = shape("embeddings.patch_embedding.weight")?;
    let (hidden, patch_size) = (side(patch, 0), side(patch, 3));
    let positions = side(shape("embeddings.position_embedding.weight")?, 0);
    let grid = positions.saturating_sub(1).isqrt();
    if grid * grid + 1 != positions {
        let reason = format!("its {positions} position embeddings are no square and a class token");
        return Err(part(path, CLIP, reason));
    }
    let intermediate = side(shape("encoder.layers.0.mlp.fc1.weight")?, 0);
    let layers = count(
        shapes.keys().map(String::as_str),
        "vision_model.encoder.layers.",
    );
    let file = match path.is_dir() {
        true => path.join("config.json"),
        false => path.with_file_name("config.json"),
    };
    let own = match file.is_file() {
        true => read_object(&file)?,
        false => Map::new(),
    };
    let nested = own.get("vision_config").and_then(Value::as_object);
    let own = nested.unwrap_or(&own);
    let is_clip = [
        "num_attention_heads",
        "hidden_act",
        "patch_size",
        "model_type",
    ];
    let known = is_clip.iter().any(|key| own.contains_key(*key)) || nested.is_some();
    let heads = match own.get("num_attention_heads").and_then(Value::as_u64) {
        Some(heads) => heads as usize,
        // Files of transformers leave its default away.
        None if known => 12,
        None => (hidden / HEAD_DIM).max(1),
    };
    let activation = own.get("hidden_act").and_then(Value::as_str);
    let epsilon = own.get("layer_norm_eps").and_then(Value::as_f64);
    if !known {
        notes.push(format!(
            "{} is not there: the CLIP is taken to have {heads} heads and the activation quick_gelu, as OpenAI's",
            file.display()
        ));
    }
    Ok(json!({
        "hidden_act": activation.unwrap_or("quick_gelu"),
        "hidden_size": hidden,
        "image_size": grid * patch_size,
        "intermediate_size": intermediate,
        "layer_norm_eps": epsilon.unwrap_or(1e-5),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "patch_size": patch_size,
    }))
}

/// Whether the weights are those of a ConvNeXt.
fn is_convnext(files: &WeightFiles) -> bool {
    let mut names = files.entries().filter_map(|e| of_convnext(&e.name, ""));
    names.any(|name| name == FIRST_BLOCK)
}

/// Name and sizes of a ConvNeXt from its tensors.
fn convnext_config(path: &Path, files: &WeightFiles) -> Result<(String, Value)> {
    let mut shapes = BTreeMap::new();
    for entry in files.entries() {
        if let Some(name) = of_convnext(&entry.name, "") {
            shapes.insert(name, entry.shape.clone());
        }
    }
    let (mut dims, mut depths) = ([0; 4], [0; 4]);
    for (stage, (dim, depth)) in dims.iter_mut().zip(&mut depths).enumerate() {
        let blocks = format!("stages.{stage}.blocks.");
        let first = FIRST_BLOCK.replacen('0', &stage.to_string(), 1);
        let Some(&[width, ..]) = shapes.get(&first).map(Vec::as_slice) else {
            return Err(part(path, CONVNEXT, format!("it has no tensor `{first}`")));
        };
        *dim = width;
        *depth = count(shapes.keys().map(String::as_str), &blocks);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // timm gives its largest ConvNeXt another epsilon than all others.
    let largest = (dims, depths) == ([384, 768, 1536, 3072], [3, 4, 30, 3]);
    let epsilon = if largest || stem.contains("xxlarge") {
        1e-5
    } else {
        1e-6
    };
    let name = match (dims, depths) {
        ([192, 384, 768, 1536], [3, 3, 27, 3]) => "convnext_large_mlp".to_owned(),
        _ if largest => "convnext_xxlarge".to_owned(),
        _ if stem.to_ascii_lowercase().contains("convnext") => stem.into_owned(),
        _ => format!("convnext_{stem}"),
    };
    let config = json!({"depths": depths, "dims": dims, "layer_norm_eps": epsilon});
    Ok((name, config))
}

/// The published name where the sizes are those of the published tower, else that of the folder.
fn clip_name(path: &Path, config: &Value) -> String {
    let published = [
        "hidden_size",
        "num_hidden_layers",
        "patch_size",
        "image_size",
    ];
    match published.map(|key| config[key].as_u64().unwrap_or_default()) {
        [1024, 24, 14, 336] => "openai/clip-vit-large-patch14-336".to_owned(),
        _ => {
            let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let name = whole.file_stem().unwrap_or_default().to_string_lossy();
            format!("clip-{}", name.trim_start_matches("clip-"))
        }
    }
}

/// Numbered children of a module: one more than the largest number.
fn count<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let numbers = names.filter_map(|name| {
        let rest = name.strip_prefix(prefix)?;
        rest.split('.').next()?.parse::<usize>().ok()
    });
    numbers.map(|n| n + 1).max().unwrap_or(0)
}
