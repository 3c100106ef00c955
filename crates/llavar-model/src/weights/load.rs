//! Matching the tensors of one or several sources to the parameters of a configuration.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt,
    path::PathBuf,
};

use super::{Dtype, WeightFiles, WeightsError, int8, names, names::TowerPrefixes};
use crate::config::Parameter;

/// What a source of weights holds, which decides how its names are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A whole model, or a plain language model: a tensor that is neither a parameter nor known to be
    /// unused is an error.
    Model,
    /// A CLIP of transformers; its text tower and projections are passed over.
    Clip,
    /// A ConvNeXt of timm or open_clip; what is not ConvNeXt is passed over.
    ConvNext,
    /// PEFT's file of adapters: weights that were trained whole, the adapters themselves passed over.
    Adapter,
    /// A stage-1 file: strict for the projector, fusion tensors where given, the rest passed over.
    Projector,
}

/// One source of weights.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The open files.
    pub files: &'a WeightFiles,
    /// What they hold.
    pub role: Role,
}

/// A tensor found in a source, under its published name.
#[derive(Debug, Clone)]
pub struct Located<'a> {
    /// Published name.
    pub name: String,
    /// The files that hold it.
    pub files: &'a WeightFiles,
    /// Its name in those files.
    pub stored: &'a str,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: &'a [usize],
}

impl<'a> Located<'a> {
    /// The elements in row-major order, little-endian.
    ///
    /// # Errors
    /// As [`WeightFiles::bytes`].
    pub fn bytes(&self) -> Result<Cow<'a, [u8]>, WeightsError> {
        self.files.bytes(self.stored)
    }

    /// The elements as `f32`.
    ///
    /// # Errors
    /// As [`WeightFiles::read_f32`].
    pub fn read_f32(&self) -> Result<Vec<f32>, WeightsError> {
        self.files.read_f32(self.stored)
    }

    /// The elements as `f32`, into a buffer.
    ///
    /// # Errors
    /// As [`WeightFiles::read_f32_into`].
    pub fn read_f32_into(&self, out: &mut [f32]) -> Result<(), WeightsError> {
        self.files.read_f32_into(self.stored, out)
    }
}

/// The result of matching.
#[derive(Debug)]
pub struct Matched<'a> {
    /// One for each parameter in the order given; `None` only where `may_be_missing` said so.
    pub found: Vec<Option<Located<'a>>>,
    /// Tensors that nothing uses but that a saved folder should have again.
    pub kept: Vec<Located<'a>>,
}

impl Matched<'_> {
    /// Names of the parameters (as given to [`match_parameters`]) that no source has.
    pub fn missing<'p>(&self, parameters: &'p [Parameter]) -> Vec<&'p str> {
        let pairs = parameters.iter().zip(&self.found);
        pairs
            .filter(|(_, found)| found.is_none())
            .map(|(p, _)| p.name.as_str())
            .collect()
    }
}

/// Everything that does not fit, every tensor by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatches {
    /// The sources.
    pub paths: Vec<PathBuf>,
    /// Parameters that no source has.
    pub missing: Vec<String>,
    /// Tensors that are no parameter, by their stored names.
    pub unexpected: Vec<String>,
    /// `name: expected [..], got [..]`.
    pub misshaped: Vec<String>,
    /// `name: expected a float type, got ..`, or 8-bit codes without scales.
    pub mistyped: Vec<String>,
    /// Tensors that mean the same parameter: `name: stored names`.
    pub ambiguous: Vec<String>,
}

impl Mismatches {
    fn is_empty(&self) -> bool {
        self.groups().iter().all(|(_, names)| names.is_empty())
    }

    fn groups(&self) -> [(&'static str, &[String]); 5] {
        [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.misshaped),
            ("of another type", &self.mistyped),
            ("given twice", &self.ambiguous),
        ]
    }
}

impl fmt::Display for Mismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<String> = self.paths.iter().map(|p| p.display().to_string()).collect();
        write!(
            f,
            "the weights in {} do not fit the configuration",
            paths.join(" + ")
        )?;
        for (what, names) in self.groups() {
            if !names.is_empty() {
                write!(f, "\n{} {what}:", names.len())?;
                names.iter().try_for_each(|name| write!(f, "\n  {name}"))?;
            }
        }
        Ok(())
    }
}

/// Whether the files prove that the adapters between the two paths exist, whatever `freeze_vision` says.
pub fn adapters_present(files: &WeightFiles) -> bool {
    files
        .entries()
        .any(|entry| entry.name.contains("align_stages_latent"))
}

/// Finds for each parameter its tensor. A later source wins over an earlier one.
///
/// `tied` says that the language model's head is its embedding: a stored `lm_head.weight` is then passed
/// over. When it is not tied and no source has `lm_head.weight`, that is a missing tensor.
/// `may_be_missing` names the parameters that the caller will initialise itself.
///
/// # Errors
/// [`WeightsError::Mismatch`] with every missing, unexpected, mis-shaped, mistyped and doubly given
/// tensor.
pub fn match_parameters<'a>(
    parameters: &[Parameter],
    sources: &[Source<'a>],
    tied: bool,
    may_be_missing: impl Fn(&str) -> bool,
) -> Result<Matched<'a>, WeightsError> {
    let index: HashMap<&str, usize> = parameters
        .iter()
        .enumerate()
        .map(|(i, p)| (p.name.as_str(), i))
        .collect();
    let prefixes = TowerPrefixes::of(parameters);
    let mut wrong = Mismatches::default();
    let mut matched = Matched {
        found: vec![None; parameters.len()],
        kept: Vec::new(),
    };

    for source in sources {
        wrong.paths.push(source.files.path().to_owned());
        let mut seen: HashMap<String, &str> = HashMap::new();
        for entry in source.files.entries() {
            let stored = entry.name.as_str();
            let Some(name) = canonical(source.role, stored, prefixes, &index) else {
                continue;
            };
            if tied && name == names::LM_HEAD {
                continue;
            }
            if let Some(first) = seen.insert(name.clone(), stored) {
                wrong
                    .ambiguous
                    .push(format!("{name}: `{first}` and `{stored}`"));
                continue;
            }
            let located = Located {
                name,
                files: source.files,
                stored,
                dtype: entry.dtype,
                shape: &entry.shape,
            };
            match index.get(located.name.as_str()) {
                Some(&i) => {
                    let expected = &parameters[i].shape;
                    if entry.shape != *expected {
                        wrong.misshaped.push(format!(
                            "{stored}: expected {expected:?}, got {:?}",
                            entry.shape
                        ));
                    } else if entry.dtype == Dtype::I8 {
                        wrong.mistyped.push(format!(
                            "{stored}: I8 without its scales, expected `{}` beside it",
                            int8::scale_name(stored)
                        ));
                    } else if !entry.dtype.is_float() {
                        wrong.mistyped.push(format!(
                            "{stored}: expected a float type, got {}",
                            entry.dtype
                        ));
                    }
                    matched.found[i] = Some(located);
                }
                None if names::is_unused(&located.name) => matched.kept.push(located),
                // A stage-1 file may come from a model with adapters; they are no concern of ours.
                None if source.role == Role::Projector
                    && !located.name.contains("mm_projector") => {}
                None => wrong.unexpected.push(stored.to_owned()),
            }
        }
        if source.role == Role::Projector {
            // A projector file replaces the whole projector: half of one is an error, even when the
            // other half could come from the model below.
            for (p, found) in parameters.iter().zip(&matched.found) {
                let half = p.name.contains("mm_projector") && found.is_some();
                if half && !seen.contains_key(&p.name) {
                    wrong.missing.push(format!(
                        "{} (in {})",
                        p.name,
                        source.files.path().display()
                    ));
                }
            }
        }
    }
    let pairs = parameters.iter().zip(&matched.found);
    wrong.missing.extend(
        pairs
            .filter(|(p, found)| found.is_none() && !may_be_missing(&p.name))
            .map(|(p, _)| p.name.clone()),
    );
    // Of a tensor kept from two sources the later one counts, as for parameters.
    let mut last = HashSet::new();
    matched.kept.reverse();
    matched
        .kept
        .retain(|located| last.insert(located.name.clone()));
    matched.kept.reverse();
    if wrong.is_empty() {
        Ok(matched)
    } else {
        Err(WeightsError::Mismatch(Box::new(wrong)))
    }
}

/// The published name under the rules of a role; `None` for what the role passes over.
fn canonical(
    role: Role,
    stored: &str,
    prefixes: TowerPrefixes,
    index: &HashMap<&str, usize>,
) -> Option<String> {
    match role {
        // An exact name is always right, also where the rules below would rewrite it.
        _ if index.contains_key(stored) => Some(stored.to_owned()),
        Role::Model => Some(names::of_model(stored)),
        Role::Adapter => (!stored.contains(".lora_")).then(|| names::of_model(stored)),
        Role::Clip => names::of_clip(stored, prefixes.clip),
        Role::ConvNext => names::of_convnext(stored, prefixes.convnext),
        Role::Projector => names::of_projector(stored),
    }
}
