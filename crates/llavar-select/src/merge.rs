//! Joining the score files of all ranks.

use std::{collections::HashSet, path::PathBuf};

use crate::{Part, ScoreTable, SelectError};

/// Joins score files, whose rows come out in the order of the data set whatever the number of parts.
///
/// # Errors
/// [`SelectError::Merge`] for files of different settings or data, a part that is missing or given twice,
/// and samples without a row; besides as [`ScoreTable::read`].
pub fn merge(paths: &[PathBuf]) -> Result<ScoreTable, SelectError> {
    let mut whole: Option<ScoreTable> = None;
    let mut parts = HashSet::new();
    for path in paths {
        let fail = |reason: String| SelectError::Merge {
            path: path.clone(),
            reason,
        };
        let table = ScoreTable::read(path)?;
        let (Some(info), Some(part)) = (&table.info, &table.part) else {
            return Err(fail("it does not say which part it is".to_owned()));
        };
        if !parts.insert(part.part) {
            return Err(fail(format!("part {} is given twice", part.part)));
        }
        let Some(first) = &mut whole else {
            whole = Some(table);
            continue;
        };
        if let Some((field, here, first)) =
            first.info.as_ref().and_then(|first| info.difference(first))
        {
            return Err(fail(format!(
                "{field} is {here}, in the first file {first}"
            )));
        }
        let of = |part: &Part| (part.of, part.samples);
        if first.part.as_ref().map(of) != Some(of(part)) {
            let reason = format!("it is one of {} parts of {} samples", part.of, part.samples);
            return Err(fail(format!("{reason}, the first file is not")));
        }
        first.rows.extend(table.rows);
    }
    let last = paths.last().cloned().unwrap_or_default();
    let fail = |reason: String| SelectError::Merge { path: last, reason };
    let Some(mut whole) = whole else {
        return Err(fail("no file was given".to_owned()));
    };
    if let Some(part) = &mut whole.part {
        let missing: Vec<String> = (0..part.of)
            .filter(|k| !parts.contains(k))
            .map(|k| k.to_string())
            .collect();
        if !missing.is_empty() {
            let of = part.of;
            return Err(fail(format!(
                "of {of} parts (numbered from 0) these are missing: {}",
                missing.join(", ")
            )));
        }
        let scored: HashSet<u64> = whole.rows.iter().map(|row| row.record).collect();
        if scored.len() != part.samples {
            let gap = part.samples.saturating_sub(scored.len());
            return Err(fail(format!(
                "{gap} of {} samples have no row",
                part.samples
            )));
        }
        (part.part, part.of) = (0, 1);
    }
    whole.rows.sort_by_key(|row| (row.record, row.qa_id));
    Ok(whole)
}
