//! Which split of a benchmark is read.

use super::error::TaskError;
use super::tree::Tree;

/// The split that `wanted` names, or the first of `order` that is there. `locate` says where a split
/// lies, if it does.
pub(super) fn choose<T>(
    task: &'static str,
    layout: &'static str,
    tree: &Tree,
    wanted: Option<&str>,
    order: &[&'static str],
    locate: impl Fn(&'static str) -> Option<T>,
) -> Result<(&'static str, T), TaskError> {
    let canonical = wanted.map(canonical);
    // A file given by name says itself which split it is.
    let named = tree.file.as_deref().and_then(|file| of_file(file, order));
    if let (Some(named), Some(wanted), Some(canonical)) = (named, wanted, &canonical)
        && canonical != named
    {
        return Err(TaskError::NoSplit {
            task,
            split: wanted.to_string(),
            folder: tree.root.clone(),
            found: vec![named],
        });
    }
    for &split in order {
        if canonical.as_deref().is_none_or(|wanted| wanted == split)
            && let Some(place) = locate(split)
        {
            return Ok((named.unwrap_or(split), place));
        }
    }
    let found: Vec<_> = order
        .iter()
        .copied()
        .filter(|split| locate(split).is_some())
        .collect();
    match wanted {
        Some(split) if !found.is_empty() => Err(TaskError::NoSplit {
            task,
            split: split.to_string(),
            folder: tree.root.clone(),
            found,
        }),
        _ => Err(TaskError::NoLayout {
            task,
            folder: tree.root.clone(),
            layout,
        }),
    }
}

/// `train`, `val`, `test` for the many words for them.
pub(super) fn canonical(split: &str) -> String {
    let lower = split.trim().to_lowercase();
    match lower.as_str() {
        "validation" | "dev" => "val".into(),
        "training" | "training_data" => "train".into(),
        "testing" | "testing_data" => "test".into(),
        _ => lower,
    }
}

fn of_file(file: &std::path::Path, order: &[&'static str]) -> Option<&'static str> {
    let name = file.file_stem()?.to_str()?.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphabetic()).collect();
    order.iter().copied().find(|split| words.contains(split))
}
