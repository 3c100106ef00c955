//! From TOML text and `--set` words to one table with known keys only.

use toml::{Table, Value};

use super::{NamedRecipe, Problem, Recipe};
use crate::TrainError;

/// Parses `text`, lays it over the recipe that it `extends`, applies `sets`, and refuses unknown keys.
pub(super) fn resolve_table(
    origin: &str,
    text: &str,
    sets: &[String],
) -> Result<Table, TrainError> {
    let mut table: Table = text.parse().map_err(|source| TrainError::RecipeSyntax {
        origin: origin.to_owned(),
        source,
    })?;
    let mut problems = Vec::new();
    let known: Vec<String> = Recipe::default()
        .keys()
        .into_iter()
        .map(|(k, _)| k)
        .collect();
    if let Some(base) = table.remove("extends") {
        let name = base.as_str().unwrap_or_default();
        // A built-in recipe extends nothing itself, so this cannot go in circles.
        let named = NamedRecipe::find(name).ok_or_else(|| NamedRecipe::unknown(name))?;
        let mut merged = resolve_table(named.name, named.toml, &[])?;
        lay_over(&mut merged, table);
        table = merged;
    }
    for set in sets {
        match parse_set(set, &known) {
            Ok((section, key, value)) => {
                let entry = table
                    .entry(section)
                    .or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(entry) = entry {
                    entry.insert(key, value);
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    unknown_keys(&table, &known, &mut problems);
    if problems.is_empty() {
        Ok(table)
    } else {
        Err(TrainError::Recipe {
            origin: origin.to_owned(),
            problems,
        })
    }
}

fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => base.extend(over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// `section.key=value`, or `key=value` where only one section has the key. A value that is no TOML
/// (a path, a name) is taken as text.
fn parse_set(set: &str, known: &[String]) -> Result<(String, String, Value), Problem> {
    let Some((path, text)) = set.split_once('=') else {
        return Err(Problem::new("--set", set, "key=value"));
    };
    let (path, text) = (path.trim(), text.trim());
    let full = if path.contains('.') {
        path.to_owned()
    } else {
        let ends: Vec<&String> = known
            .iter()
            .filter(|k| k.split_once('.').is_some_and(|(_, key)| key == path))
            .collect();
        match ends.as_slice() {
            [one] => (*one).clone(),
            _ => return Err(unknown(path, known)),
        }
    };
    let Some((section, key)) = full.split_once('.').filter(|_| known.contains(&full)) else {
        return Err(unknown(path, known));
    };
    let value = format!("x = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    Ok((section.to_owned(), key.to_owned(), value))
}

fn unknown_keys(table: &Table, known: &[String], problems: &mut Vec<Problem>) {
    for (section, value) in table {
        match value {
            Value::Table(keys) if known.iter().any(|k| k.split('.').next() == Some(section)) => {
                for key in keys.keys() {
                    let path = format!("{section}.{key}");
                    if !known.contains(&path) {
                        problems.push(unknown(&path, known));
                    }
                }
            }
            _ => problems.push(unknown(section, known)),
        }
    }
}

/// The nearest known key, by its own name first: a right key in the wrong section is the commonest slip.
fn unknown(path: &str, known: &[String]) -> Problem {
    let name = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let nearest = known
        .iter()
        .max_by(|a, b| {
            let score = |k: &str| {
                strsim::jaro_winkler(&name(path), &name(k)) + 0.01 * strsim::jaro_winkler(path, k)
            };
            score(a).total_cmp(&score(b))
        })
        .map(String::as_str)
        .unwrap_or_default();
    Problem::unknown(path, nearest)
}
