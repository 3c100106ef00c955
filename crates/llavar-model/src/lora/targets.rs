//! Which layers carry an adapter.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::{config::Parameter, glob::glob};

/// The word for every linear layer of the language model but its head, as in PEFT.
pub const ALL_LINEAR: &str = "all-linear";

/// A pattern that no layer fits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no linear layer fits the target `{pattern}`: {reason}")]
pub struct TargetError {
    /// The pattern.
    pub pattern: String,
    /// What there is instead.
    pub reason: String,
}

/// Layers that can carry an adapter: linear layers of language model, towers, fusion and projector. Not
/// embeddings and `lm_head` (the loss never computes their product whole), not convolutions, not the second
/// layer of a ConvNeXt block, which is one product with its layer scale.
pub fn linear_modules(parameters: &[Parameter]) -> Vec<String> {
    parameters
        .iter()
        .filter(|p| p.shape.len() == 2)
        .filter_map(|p| super::module_of(&p.name))
        .filter(|name| {
            let scaled = name.contains(".blocks.") && name.ends_with(".mlp.fc2");
            !scaled && !name.ends_with("_embedding") && !name.ends_with("embed_tokens")
        })
        .filter(|name| *name != "lm_head")
        .map(str::to_owned)
        .collect()
}

/// Whether a layer is one of the language model's.
pub(crate) fn is_language(module: &str) -> bool {
    module.starts_with("model.layers.")
}

/// The layers of `modules` that `patterns` name, in the order of `modules`.
///
/// - `all-linear`: every linear layer of the language model;
/// - a name (`q_proj`, `self_attn.qkv_proj`): the language model's layers whose names end with it, or, where
///   it has none, those of other parts; a whole name stands for that layer alone;
/// - with `*` or `?`: without a dot the last part of the name in the language model, with one the whole name in
///   any part (`*.vision_model.*.fc1`).
///
/// # Errors
/// For the first pattern that fits none, with the nearest name.
pub fn select_targets(modules: &[String], patterns: &[String]) -> Result<Vec<String>, TargetError> {
    let mut chosen = BTreeSet::new();
    for pattern in patterns {
        let before = chosen.len();
        let found: Vec<usize> = (0..modules.len())
            .filter(|&i| fits(pattern, &modules[i]))
            .collect();
        let language: Vec<usize> = found
            .iter()
            .copied()
            .filter(|&i| is_language(&modules[i]))
            .collect();
        let wide = pattern.contains(['*', '?']) && pattern.contains('.');
        let whole = modules.contains(pattern);
        match (wide || whole, language.is_empty()) {
            (false, false) => chosen.extend(language),
            _ => chosen.extend(found.iter().copied()),
        }
        if found.is_empty() && chosen.len() == before {
            return Err(unmatched(pattern, modules));
        }
    }
    Ok(chosen.into_iter().map(|i| modules[i].clone()).collect())
}

fn fits(pattern: &str, module: &str) -> bool {
    if pattern == ALL_LINEAR {
        return is_language(module);
    }
    match (pattern.contains(['*', '?']), pattern.contains('.')) {
        (true, true) => glob(pattern, module),
        (true, false) => is_language(module) && glob(pattern, last_part(module)),
        (false, _) => {
            module == pattern
                || module
                    .strip_suffix(pattern)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn unmatched(pattern: &str, modules: &[String]) -> TargetError {
    let reason = match pattern {
        "lm_head" | "embed_tokens" => {
            "embeddings and the output matrix carry no adapter; train them whole with train.trainable".into()
        }
        _ => {
            let names: BTreeSet<&str> = modules
                .iter()
                .filter(|m| is_language(m))
                .map(|m| last_part(m))
                .collect();
            let nearest = names.iter().max_by(|a, b| {
                let score = |name: &str| strsim::jaro_winkler(last_part(pattern), name);
                score(a).total_cmp(&score(b))
            });
            format!(
                "did you mean `{}`? the language model has {}, or give {ALL_LINEAR} or a pattern such as \
                 `*.vision_model.*.q_proj`",
                nearest.unwrap_or(&""),
                names.iter().copied().collect::<Vec<_>>().join(", ")
            )
        }
    };
    TargetError {
        pattern: pattern.to_owned(),
        reason,
    }
}

/// The shortest list of names that stands for `chosen` under PEFT's rule (a layer whose name ends with one),
/// with a pattern of what it must leave out, if anything.
pub(crate) fn peft_targets(
    chosen: &[String],
    modules: &[String],
) -> (Vec<String>, Option<&'static str>) {
    let names: BTreeSet<&str> = chosen.iter().map(|m| last_part(m)).collect();
    let with = |module: &&String| names.contains(last_part(module));
    let list = || names.iter().map(|n| (*n).to_owned()).collect();
    if modules.iter().filter(with).count() == chosen.len() {
        return (list(), None);
    }
    let language = modules.iter().filter(with).filter(|m| is_language(m));
    if chosen.iter().all(|m| is_language(m)) && language.count() == chosen.len() {
        return (list(), Some(r".*\.(vision_tower|mm_projector)\..*"));
    }
    (chosen.to_vec(), None)
}
