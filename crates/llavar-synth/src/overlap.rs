//! What two sets share: a check that a held-out set is held out.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::SynthError;

/// One line of `facts.jsonl`: a question of the containment evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactRecord {
    /// Id of the picture's record in `data.json`.
    pub id: String,
    /// Path of the picture below the set's folder.
    pub image: String,
    /// Extractive question.
    pub question: String,
    /// Short answer that a right reply contains.
    pub gold: String,
    /// What is asked for.
    pub field: String,
}

/// How much of a second set occurs in a first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Pictures of the second set that have facts.
    pub pictures: usize,
    /// Those whose complete list of (field, gold) is that of a picture of the first set.
    pub shared_pictures: usize,
    /// Facts of the second set.
    pub facts: usize,
    /// Those whose (field, gold) occurs anywhere in the first set. Near `facts` for a closed vocabulary.
    pub shared_facts: usize,
}

/// Compares the facts of a first set (training) with those of a second (held-out), by field and gold.
///
/// A training set and a held-out set of one config have no content in common; pictures with very few
/// facts asked for may still agree in those, which `shared_pictures` counts. It is 0 where
/// everything printed is asked for, and says nothing for the `quickstart` profile, which asks one fact a
/// picture.
pub fn overlap(first: &[FactRecord], second: &[FactRecord]) -> Overlap {
    let facts: HashSet<(&str, &str)> = first
        .iter()
        .map(|f| (f.field.as_str(), f.gold.as_str()))
        .collect();
    let seen: HashSet<Vec<(&str, &str)>> = pictures(first).into_values().collect();
    let pictures = pictures(second);
    Overlap {
        pictures: pictures.len(),
        shared_pictures: pictures.values().filter(|p| seen.contains(*p)).count(),
        facts: second.len(),
        shared_facts: second
            .iter()
            .filter(|f| facts.contains(&(f.field.as_str(), f.gold.as_str())))
            .count(),
    }
}

/// The sorted facts of each picture.
fn pictures(facts: &[FactRecord]) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut map: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for fact in facts {
        map.entry(&fact.id)
            .or_default()
            .push((&fact.field, &fact.gold));
    }
    map.values_mut().for_each(|list| list.sort_unstable());
    map
}

/// Reads a `facts.jsonl`.
///
/// # Errors
/// [`SynthError::Io`] and [`SynthError::Json`], both naming the file.
pub fn read_facts(path: &Path) -> Result<Vec<FactRecord>, SynthError> {
    let file = std::fs::File::open(path).map_err(|e| SynthError::io("open", path, e))?;
    let mut facts = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|e| SynthError::io("read", path, e))?;
        if !line.trim().is_empty() {
            let fact = serde_json::from_str(&line).map_err(|source| SynthError::Json {
                path: path.to_owned(),
                source,
            })?;
            facts.push(fact);
        }
    }
    Ok(facts)
}
